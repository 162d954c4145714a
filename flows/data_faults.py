"""Faults of images, labels and splits, for the fire drill."""

import io
import json
import re
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from PIL import Image

from flows.drill_workspace import Drill, Fault
from pipeline.artifacts import MANIFEST, SPLIT, digest_file, read_table, write_table

__all__ = ["FAULTS"]


def _corrupt(drill: Drill) -> None:
    """The header's tables are noise; a broken scan alone still decodes, to grey."""
    path = drill.images("pit")[0]
    data = bytearray(path.read_bytes())
    data[4:600] = np.random.default_rng(0).bytes(596)
    drill.replace(path, bytes(data))


def _half(drill: Drill) -> None:
    path = drill.images("crack")[3]
    data = path.read_bytes()
    drill.replace(path, data[: len(data) // 2])


def _empty(drill: Drill) -> None:
    drill.replace(drill.images("crack")[5], b"")


def _bomb(drill: Drill) -> None:
    """A PNG of some hundred bytes that claims 60,000 x 60,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 64))
        + chunk(b"IEND", b"")
    )
    drill.replace(drill.images("clean")[0], data)


def _conflict(drill: Drill) -> None:
    image = drill.images("scratch")[0]
    drill.replace(image.parent.parent / "clean" / "part-9000_1.jpg", image.read_bytes())


def _two_splits(drill: Drill) -> None:
    """An official split that someone filled by copying."""
    folder = drill.workspace.root / "data/sample/line-a/clean"
    image = drill.images("clean")[0].read_bytes()
    for number, split in ((9001, "train"), (9002, "test")):
        drill.replace(folder / f"{split}-part-{number}_1.jpg", image)
    drill.params(split={"pattern": "(train|test)-part"})


def _in_train(change: Callable[[Image.Image], Image.Image] | None, count: int = 1) -> Callable[[Drill], None]:
    """Test images, changed or not, that also stand in the split as ones to train on."""

    def plant(drill: Drill) -> None:
        workspace = drill.workspace
        split, manifest = read_table(workspace.split, SPLIT), read_table(workspace.manifest, MANIFEST)
        measured = {entry["path"]: entry for entry in manifest.to_pylist()}
        for row in [row for row in split.to_pylist() if row["split"] == "test"][:count]:
            target = workspace.root / row["path"].replace("part-", "copy-part-")
            data = (workspace.root / row["path"]).read_bytes()
            entry = measured[row["path"]]
            if change is not None:
                stream = io.BytesIO()
                change(Image.open(io.BytesIO(data))).save(stream, "JPEG", quality=80)
                data = stream.getvalue()
                entry = entry | _described(data)
            drill.replace(target, data)
            new = {"path": workspace.relative(target), "image_id": digest_file(target), "group": "part-9999"}
            _extend(drill, row | new | {"split": "train"}, entry | new)

    return plant


def _described(data: bytes) -> dict[str, object]:
    from pipeline.images import decode, describe

    statistics, dhash, thumbnail, _ = describe(decode(data))
    return {**statistics, "dhash": dhash, "thumbnail": thumbnail, "bytes": len(data)}


def _extend(drill: Drill, row: dict[str, object], measured: dict[str, object]) -> None:
    workspace = drill.workspace
    for path, schema, entry in ((workspace.split, SPLIT, row), (workspace.manifest, MANIFEST, measured)):
        table = pa.concat_tables([read_table(path, schema), pa.Table.from_pylist([entry], schema=schema)])
        path.unlink()
        write_table(path, table)


def _resized(image: Image.Image) -> Image.Image:
    return image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.BICUBIC)


def _cropped(image: Image.Image) -> Image.Image:
    across, down = image.width // 12, image.height // 12
    part = image.crop((across, down, image.width - across // 2, image.height - down // 2))
    return part.resize(image.size, Image.Resampling.BICUBIC).point(lambda value: int(value * 0.85))


def _mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _relabel(change: Callable[[list[dict[str, object]]], None]) -> Callable[[Drill], None]:
    """Rows of the split, changed in place."""

    def plant(drill: Drill) -> None:
        path = drill.workspace.split
        rows = read_table(path, SPLIT).to_pylist()
        change(rows)
        path.unlink()
        write_table(path, pa.Table.from_pylist(rows, schema=SPLIT))

    return plant


def _shuffled(rows: list[dict[str, object]]) -> None:
    train = [row for row in rows if row["split"] == "train"]
    labels = np.random.default_rng(0).permutation([str(row["label"]) for row in train])
    for row, label in zip(train, labels, strict=True):
        row["label"] = str(label)


def _without_class(rows: list[dict[str, object]]) -> None:
    for row in rows:
        if row["label"] == "pit" and row["split"] == "train":
            row["split"] = "excluded"


def _collapsed(rows: list[dict[str, object]]) -> None:
    kept = 0
    for row in rows:
        if row["label"] == "inclusion" and row["split"] == "train":
            kept += 1
            row["split"] = "train" if kept <= 4 else "excluded"


def _few_tests(rows: list[dict[str, object]]) -> None:
    for number, row in enumerate(row for row in rows if row["split"] == "test"):
        row["split"] = "test" if number % 12 == 0 else "excluded"


def _wrong_in_both(rows: list[dict[str, object]]) -> None:
    """A tenth of the images of a class under another name, in training and test alike: nobody knows better."""
    for row in rows:
        part = re.search(r"part-(\d+)", str(row["path"]))
        if row["label"] == "pit" and part and int(part[1]) % 10 == 0:
            row["label"] = "patch"


def _swapped(rows: list[dict[str, object]]) -> None:
    """Two classes under each other's name everywhere, test images included."""
    names = {"pit": "inclusion", "inclusion": "pit"}
    for row in rows:
        row["label"] = names.get(str(row["label"]), row["label"])


def _class_renamed(drill: Drill) -> None:
    """A class that production knows has vanished: its images lie under another name."""
    root = drill.workspace.root / "data/sample/line-a"
    (root / "scratch").rename(root / "abrasion")


def _edited_validation(drill: Drill) -> None:
    path = drill.workspace.validation
    report = json.loads(path.read_text(encoding="utf-8")) | {"success": False}
    drill.replace(path, json.dumps(report).encode())


FAULTS = [
    Fault("corrupt_jpeg", "a corrupt JPEG", _corrupt, "scan", "validate: decodable", "1 of"),
    Fault("half_written", "a half-written image", _half, "scan", "validate: decodable", "1 of"),
    Fault("empty_file", "an empty file", _empty, "scan", "validate: decodable", "1 of"),
    Fault("image_bomb", "an image bomb", _bomb, "scan", "validate: decodable", "1 of"),
    Fault("label_conflict", "the same bytes under two labels", _conflict, "scan", "validate: label_conflicts", "scratch"),
    Fault("copied_across_splits", "one file in two official splits", _two_splits, "scan",
          "validate: exact_duplicates_across_splits", "part-900"),
    Fault("failed_validation", "data that failed their validation", _edited_validation, "gate", "gate: integrity_data",
          "the data failed"),
    Fault("shuffled_labels", "shuffled training labels", _relabel(_shuffled), "balance", "gate: accuracy", "more correct"),
    Fault("missing_class", "a class without a training image", _relabel(_without_class), "balance", "balance", "pit"),
    Fault("class_collapsed", "a class of four training images", _relabel(_collapsed), "balance", "balance", "inclusion"),
    Fault("few_tests", "a dozen test images", _relabel(_few_tests), "bundle", "gate: noninferiority", "more test images"),
    Fault("class_renamed", "a class that the champion knows is gone", _class_renamed, "scan", "gate: classes", "scratch"),
    Fault("classes_swapped", "two classes under each other's name, in training and test alike", _relabel(_swapped),
          "balance", "gate: relabelled", "from"),
    Fault("wrong_in_both", "a tenth of a class under another name, in training and test alike", _relabel(_wrong_in_both),
          "balance", None, escapes="the model learns them and the test confirms them; only a person who looks at what `python -m "
          "pipeline suspects` lists may know better"),
    Fault("test_image_in_train", "a test image copied into the training images", _in_train(None), "balance",
          "gate: integrity_leak", "exact"),
    Fault("resized_copy", "a resized and re-encoded copy of a test image in train", _in_train(_resized), "balance",
          "gate: integrity_leak", "perceptual"),
    Fault("mirrored_copy", "mirrored copies of sixteen test images in train", _in_train(_mirrored, 16), "balance",
          "gate: integrity_leak", "perceptual"),
    Fault("cropped_copy", "cropped and darkened copies of sixteen test images in train", _in_train(_cropped, 16), "balance",
          "gate: integrity_leak", "embedding"),
    Fault("one_cropped_copy", "one cropped and darkened copy of a test image in train", _in_train(_cropped), "balance", None,
          escapes="it is found, set aside and left out of the count, as is a mirrored one; up to a twentieth of the test images may "
          "be, since two shots of one part look no different"),
]  # fmt: skip
