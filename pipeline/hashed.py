"""md5 of a folder's files, as DVC has it, at the cost of what is new: the others were hashed at an earlier look.

md5s, read = hashed(files, place)      # place: where the earlier looks are kept
"""

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from pipeline.unchanged import recall, remember, stamp_of

__all__ = ["hashed"]

_FOUND = pa.schema([("md5", pa.string())])
_VERSION = "md5"
_SHARE = 64  # files that a thread takes at once; hashing lets the others run


def hashed(files: Sequence[str], place: Path) -> tuple[list[str], int]:
    """The md5 of each file, and how many were read for it."""
    memory, started = recall(place, _FOUND, _VERSION), time.time_ns()
    stamps = [stamp_of(file) for file in files]
    known = [memory.known(file, found) for file, found in zip(files, stamps, strict=True)]
    fresh = [file for file, row in zip(files, known, strict=True) if row is None]
    shares = [fresh[start : start + _SHARE] for start in range(0, len(fresh), _SHARE)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        new = [md5 for share in pool.map(_md5s, shares) for md5 in share]
    table = memory.joined(known, pa.table([new], schema=_FOUND))
    if fresh or len(files) != len(memory.places):
        remember(place, files, stamps, table, _VERSION, started)
    return table["md5"].to_pylist(), len(fresh)


def _md5s(files: Sequence[str]) -> list[str]:
    found = []
    for file in files:
        with Path(file).open("rb") as stream:
            found.append(hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest())
    return found
