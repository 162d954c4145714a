"""Keeps the prediction log within its bounds: images for a time, everything within a size, oldest first.

Any number of processes may call it: one works at a time, the others leave it to that one. A segment
that a living process writes is locked and stays.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ABANDONED_SECONDS = 3600.0  # a temporary file this old belongs to a process that was killed


@dataclass(frozen=True)
class Kept:
    """One file of the log: when it was last written, and its size in bytes."""

    modified: float
    size: int
    path: Path

    @property
    def image(self) -> bool:
        """Whether its time is up after ``keep_days``: rows, in segments or in the archive, only go for want of room."""
        return self.path.suffix not in (".log", ".parquet")


def prune(folder: Path, *, keep_days: float, max_bytes: int, now: float | None = None) -> list[Path]:
    """Remove images older than ``keep_days``, then the oldest files until at most ``max_bytes`` remain.

    Returns:
        What was removed; nothing where another process is at it.
    """
    now = time.time() if now is None else now
    with _alone(folder / ".retention.lock") as alone:
        if not alone:
            return []
        files = sorted(_files(folder), key=lambda file: file.modified)
        expired = [
            file
            for file in files
            if (file.image and file.modified < now - keep_days * 86_400)
            or (file.path.suffix == ".tmp" and file.modified < now - ABANDONED_SECONDS)
        ]
        removed = [file.path for file in expired if _remove(file.path)]
        gone = set(removed)
        total = sum(file.size for file in files if file.path not in gone)
        for file in files:
            if total <= max_bytes:
                break
            if file.path not in gone and _remove(file.path):
                removed.append(file.path)
                total -= file.size
        today = datetime.fromtimestamp(now, UTC).date().isoformat()
        for day in folder.glob("????-??-??"):
            if day.name < today:
                with contextlib.suppress(OSError):  # not empty
                    day.rmdir()
        return removed


def _files(folder: Path) -> Iterator[Kept]:
    for path, _, names in os.walk(folder):
        for name in names:
            file = Path(path, name)
            if path == str(folder):
                continue  # the lock
            with contextlib.suppress(FileNotFoundError):
                status = file.stat()
                yield Kept(status.st_mtime, status.st_size, file)


def _remove(path: Path) -> bool:
    """Whether ``path`` could go: a segment that is still being written can't."""
    with contextlib.suppress(OSError), path.open("rb") as stream:
        if path.suffix == ".log":
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        return True
    return False


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)
