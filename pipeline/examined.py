"""What examine() says of a file, as a table; remembered (unchanged.py) as long as code and limits are the same."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa

from pipeline.artifacts import MANIFEST, digest_json
from pipeline.params import Data

__all__ = ["EXAMINED", "version"]

EXAMINED = pa.schema(
    [
        MANIFEST.field(name)
        for name in (
            "image_id", "width", "height", "mode", "format", "orientation", "bits", "bytes", "dhash", "thumbnail",
            "border", "corners", "brightness", "contrast", "sharpness", "saturation", "error",
        )
    ]
)  # fmt: skip
_CODE = ("examine.py", "images.py", "edges.py")


def version(data: Data) -> str:
    """Whatever else a row follows from: limits, our code, the libraries that decode and compute."""
    return _version(data.max_pixels, data.max_bytes)


@cache
def _version(max_pixels: int, max_bytes: int) -> str:
    folder = Path(__file__).parent
    code = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in _CODE]
    return digest_json([max_pixels, max_bytes, code, PIL.__version__, np.__version__])
