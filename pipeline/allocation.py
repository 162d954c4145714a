"""What the C library's allocator does with memory that is no longer needed.

glibc gives a large block back to the system as soon as it is freed, and each of its pages is fetched, and cleared, again
when the next one is asked for. Work that asks for the same blocks over and over waits for that: the description of a
picture for a sixth of its time, a step of training on a CPU for up to half of it, where its blocks are of 32 MiB or more
(of smaller ones glibc learns, unasked).
"""

import contextlib
import ctypes

__all__ = ["keep_memory"]

LARGE = 1 << 30  # bytes; a block up to which comes from what is kept
KEPT = 2**31 - 1  # bytes at the end of the heap: the most that mallopt takes
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_ALLOWED = 1 << 25  # bytes: the most of _MMAP_THRESHOLD where a glibc refuses more, as older ones do


def keep_memory(large: int = LARGE, kept: int = KEPT) -> None:
    """Keep freed memory in this process for what comes next.

    What it holds falls no more, and the most that it holds rises, since blocks of other sizes leave gaps: by a quarter to
    a half where MobileNetV2 is trained whole at 224 px. Other C libraries have no ``mallopt``: there, nothing changes.

    Args:
        large: bytes of the largest block that is kept.
        kept: bytes at the end of the heap, beyond which memory goes back all the same.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        if not mallopt(_MMAP_THRESHOLD, large):
            mallopt(_MMAP_THRESHOLD, min(large, _ALLOWED))
        mallopt(_TRIM_THRESHOLD, kept)
