"""What the network says of held-out images: what production is compared with later.

Validation and test images only, never training images: fitted embeddings differ from unseen ones, and a
drift test against them would fire on the first quiet day.
"""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.artifacts import REFERENCE, STATISTICS
from pipeline.bundle import Prediction
from pipeline.errors import DataError
from pipeline.images import LOOKS, decode, look

__all__ = ["HELD_OUT", "held_out", "looks", "reference_table"]

HELD_OUT = ("validation", "test")
THUMBNAIL = 96  # px
LOOKED_AT = 400  # images whose look is measured, at most, evenly spread: some 5 ms each
_MEASURED = (*STATISTICS, "width", "height")


def held_out(manifest: pa.Table, split: pa.Table) -> list[dict[str, Any]]:
    """Rows of split.parquet that are held out, in its order, with the manifest's statistics joined on.

    Raises:
        DataError: there are none, or the two tables are not of the same images.
    """
    measured = {row["image_id"]: row for row in manifest.select(["image_id", *_MEASURED]).to_pylist()}
    rows = [row for row in split.to_pylist() if row["split"] in HELD_OUT]
    if not rows:
        raise DataError("artifacts/split.parquet has no validation or test image: see `split` in params.yaml")
    missing = [row["path"] for row in rows if row["image_id"] not in measured]
    if missing:
        raise DataError(
            f"{len(missing)} images of split.parquet are not in manifest.parquet ({missing[0]}): run `dvc repro`"
        )
    return [row | {name: measured[row["image_id"]][name] for name in _MEASURED} for row in rows]


def looks(
    root: Path, rows: Sequence[dict[str, Any]], *, max_pixels: int, max_bytes: int
) -> list[list[float] | None]:
    """``LOOKS`` of the images of ``rows`` [n] below ``root``, None for those beyond ``LOOKED_AT``.

    Raises:
        ImageError, OSError: an image has gone or no longer decodes.
    """

    def one(place: int) -> list[float]:
        data = (root / rows[place]["path"]).read_bytes()
        numbers = look(decode(data, max_pixels=max_pixels, max_bytes=max_bytes).image)
        return [numbers[name] for name in LOOKS]

    found: list[list[float] | None] = [None] * len(rows)
    places = np.linspace(0, len(rows) - 1, min(len(rows), LOOKED_AT)).astype(int)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for place, numbers in zip(places, pool.map(one, places), strict=True):
            found[place] = numbers
    return found


def reference_table(
    rows: Sequence[dict[str, Any]],
    prediction: Prediction,
    views: np.ndarray,
    classes: Sequence[str],
    looks: Sequence[list[float] | None] | None = None,
) -> pa.Table:
    """The REFERENCE table of ``rows`` [n], from their prediction, uint8 views [n, H, W, 3] and ``looks`` [n]."""
    columns: dict[str, Any] = {
        name: [row[name] for row in rows] for name in ("image_id", "domain", "group", "label", *_MEASURED)
    }
    columns["predicted"] = [classes[winner] for winner in prediction.probabilities.argmax(axis=1)]
    columns["probabilities"] = list(prediction.probabilities)
    columns["embedding"] = list(prediction.embedding)
    columns["look"] = list(looks) if looks is not None else [None] * len(rows)
    columns["thumbnail"] = [_thumbnail(view) for view in views]
    return pa.table(
        {name: pa.array(columns[name], REFERENCE.field(name).type) for name in REFERENCE.names}, REFERENCE
    )


def _thumbnail(view: np.ndarray) -> bytes:
    """What the network saw, as a JPEG of at most THUMBNAIL px."""
    image = Image.fromarray(np.ascontiguousarray(view))
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return stream.getvalue()
