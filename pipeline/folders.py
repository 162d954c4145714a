"""A folder that appears whole or not at all: built beside its place, then swapped in."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.artifacts import sync_folder

__all__ = ["replaced_folder"]


@contextlib.contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside ``target`` that replaces it when the block ends without an error.

    A kill -9 leaves the old folder, the new one or, between two renames, none: never a mixture. What an
    earlier killed run left beside ``target`` is removed; only one process may build it at a time.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{target.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.new.", suffix=".tmp"))
    try:
        yield fresh
        fresh.chmod(0o755)
        for path in sorted(fresh.iterdir()):
            path.chmod(0o644)
            with path.open("rb") as written:
                os.fsync(written.fileno())
        sync_folder(fresh)
        if target.exists():
            old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old.", suffix=".tmp"))
            target.rename(old / target.name)
            fresh.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            fresh.rename(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
