"""The shape of every table: its columns, in order, and what they hold."""

import pyarrow as pa

MANIFEST = pa.schema(
    [
        ("image_id", pa.string()),  # sha256 of the file's bytes, hex
        ("path", pa.string()),  # relative to the workspace where it lies inside it, else absolute
        ("label", pa.string()),
        ("domain", pa.string()),
        ("group", pa.string()),  # never null: the image's own id where no pattern gives one
        ("split", pa.string()),  # the official split (train | validation | test), null where there is none
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),
        ("format", pa.string()),
        ("orientation", pa.int8()),  # EXIF's, 1 to 8; 1 where there is none
        ("bits", pa.int8()),  # a channel or palette index, as stored
        ("bytes", pa.int64()),
        ("dhash", pa.string()),  # 256-bit difference hash, 64 hex digits
        ("thumbnail", pa.binary()),  # 16 x 16 luma, row by row: confirms what near hashes suggest
        ("border", pa.binary()),  # 4 x 16 RGB cells around the outermost edge: edges.py
        ("corners", pa.binary()),  # 4 x 4 x 4 RGB cells: edges.py
        ("brightness", pa.float32()),  # mean luma, 0 to 1
        ("contrast", pa.float32()),  # standard deviation of luma, 0 to 1
        ("sharpness", pa.float32()),  # log10 of 1 + variance of the Laplacian of luma in 0..255
        ("saturation", pa.float32()),  # mean of (max - min) / max over the channels, 0 to 1
        ("error", pa.string()),  # null where the image decoded
    ]
)
SPLIT = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("label", pa.string()),
        ("domain", pa.string()),
        ("group", pa.string()),  # after near-duplicates have joined one group
        ("split", pa.string()),  # train | validation | test | excluded
        ("reason", pa.string()),  # official | kept | assigned | joined | conflict | undecodable | duplicate
    ]
)
PREDICTIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("label", pa.string()),
        ("domain", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("predicted", pa.string()),
        ("confidence", pa.float32()),
        ("correct", pa.bool_()),
        ("probabilities", pa.list_(pa.float32())),  # calibrated, in the order of the bundle's classes
    ]
)
STRESS = pa.schema(
    [
        ("bundle", pa.string()),  # digest
        ("image_id", pa.string()),  # null for an image that was made
        ("kind", pa.string()),  # corruption | foreign
        ("name", pa.string()),  # of the corruption, clean, or the kind of foreign image
        ("severity", pa.int8()),  # 0 where there is none
        ("predicted", pa.string()),
        ("confidence", pa.float32()),
        ("correct", pa.bool_()),  # null where there is no right class
    ]
)
REFERENCE = pa.schema(
    [
        ("image_id", pa.string()),
        ("domain", pa.string()),
        ("group", pa.string()),  # as in the split: near-alike shots count once in a drift test
        ("label", pa.string()),
        ("predicted", pa.string()),
        ("probabilities", pa.list_(pa.float32())),
        ("embedding", pa.list_(pa.float32())),
        ("brightness", pa.float32()),
        ("contrast", pa.float32()),
        ("sharpness", pa.float32()),
        ("saturation", pa.float32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        (
            "look",
            pa.list_(pa.float32()),
        ),  # pipeline.look's LOOKS; null where not measured: of many images, a few hundred are
        ("thumbnail", pa.binary()),  # JPEG, 96 px, for contact sheets beside production images
    ]
)
STRESS_TABLE = "artifacts/stress.parquet"  # below the workspace, and in a recipe
# The file of that shape in a bundle, by serve.format: each network has embeddings of its own.
REFERENCES = {"onnx": "reference.parquet", "int8": "reference.int8.parquet"}
STATISTICS = ("brightness", "contrast", "sharpness", "saturation")
