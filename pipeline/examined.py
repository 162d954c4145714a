"""What was found in files that have not changed since: a scan costs what is new, not what is there.

    memory = recall(file, data)                   # {} at first, and after the code or the limits have changed
    row = memory.row(path, os.stat(path))         # None where the file is new or another one
    remember(file, data, entries, started)

A file counts as unchanged when its size, inode, and the times of its last change of content and of status are the
same to the nanosecond, as for git's index. The status time can't be set back by a copy that keeps dates. What
changed within two seconds of the scan is not remembered: a second change could bear the same time.
This is a cache: removing it costs a scan and changes nothing else.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pyarrow as pa

from pipeline.artifacts import MANIFEST, digest_json, read_table, write_table
from pipeline.errors import DataError
from pipeline.params import Data

__all__ = ["EXAMINED", "Memory", "Stamp", "recall", "remember", "stamp"]

EXAMINED = (
    "image_id", "width", "height", "mode", "format", "orientation", "bits", "bytes", "dhash", "thumbnail", "border",
    "corners", "brightness", "contrast", "sharpness", "saturation", "error",
)  # fmt: skip
_STAMP = ("bytes", "inode", "mtime_ns", "ctime_ns")
_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("inode", pa.uint64()),
        ("mtime_ns", pa.int64()),
        ("ctime_ns", pa.int64()),
        *(MANIFEST.field(name) for name in EXAMINED),
    ]
)
_SETTLED = 2_000_000_000  # ns; the coarsest time stamps of a file system (FAT)
_CODE = ("examine.py", "images.py", "edges.py")

Stamp = tuple[int, int, int, int]


def stamp(status: os.stat_result) -> Stamp:
    """Size, inode, and nanoseconds of the last change of content and of status."""
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True)
class Memory:
    """Rows by file, each with the stamp that the file had."""

    places: dict[str, tuple[Stamp, int]]
    table: pa.Table

    def known(self, file: str, found: Stamp | None) -> int | None:
        """The row of ``file`` in the table, where it still is what it was."""
        then, row = self.places.get(file, (None, -1))
        return row if found is not None and then == found else None

    def rows(self, places: list[int]) -> list[dict[str, Any]]:
        """EXAMINED of these rows of the table."""
        return self.table.select(EXAMINED).take(pa.array(places, pa.int64())).to_pylist()


def recall(place: Path, data: Data) -> Memory:
    """What an earlier scan left at ``place``; empty where there is nothing, or nothing of use any more."""
    try:
        table = read_table(place, _SCHEMA) if place.exists() else _SCHEMA.empty_table()
    except DataError:
        table = _SCHEMA.empty_table()
    if table.num_rows and _written_by(place) != _version(data.max_pixels, data.max_bytes):
        table = _SCHEMA.empty_table()
    stamps = zip(*(table[name].to_pylist() for name in _STAMP), strict=True)
    files = table["file"].to_pylist()
    return Memory(
        {file: (found, row) for row, (file, found) in enumerate(zip(files, stamps, strict=True))}, table
    )


def remember(
    place: Path, data: Data, files: Iterable[tuple[str, Stamp | None, dict[str, Any]]], started: int
) -> None:
    """Keep the rows of ``files``, each with the stamp it had before it was read, for a scan that began at ``started``.

    Args:
        started: ns since the epoch.
    """
    kept = [
        row | {"file": file, "inode": found[1], "mtime_ns": found[2], "ctime_ns": found[3]}
        for file, found, row in files
        if found is not None and max(found[2:]) < started - _SETTLED and found[0] == row["bytes"]
    ]
    table = pa.Table.from_pylist(kept, schema=_SCHEMA)
    write_table(place, table.replace_schema_metadata({"version": _version(data.max_pixels, data.max_bytes)}))


def _written_by(place: Path) -> str:
    import pyarrow.parquet as pq

    return (pq.read_schema(place).metadata or {}).get(b"version", b"").decode(errors="replace")


@cache
def _version(max_pixels: int, max_bytes: int) -> str:
    """Whatever else a row follows from: limits, our code, the libraries that decode and compute."""
    folder = Path(__file__).parent
    code = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in _CODE]
    return digest_json([max_pixels, max_bytes, code, PIL.__version__, np.__version__])
