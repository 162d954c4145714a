"""One process at a time: a file lock that the kernel lets go of when its holder ends, however it ends."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import StateError


@contextlib.contextmanager
def alone(path: Path, *, seconds: float) -> Iterator[None]:
    """Hold the lock ``path``, waiting for it at most ``seconds``.

    Raises:
        StateError: another process has held it for all that time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + seconds
    try:
        while not _taken(descriptor):
            if time.monotonic() > deadline:
                raise StateError(
                    f"another process has held {path} for over {seconds:.0f} s: wait for it, or end it, then try again"
                )
            time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
