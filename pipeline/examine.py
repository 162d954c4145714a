"""What a file's bytes say: digest, sizes, statistics and hash from one decode, on all cores.

Workers import this module alone, so it stays light: Pillow and numpy, no tables.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from pipeline.allocation import keep_memory
from pipeline.edges import border, corners
from pipeline.errors import DataError, ImageError
from pipeline.images import decode, describe
from pipeline.params import Data

__all__ = ["KEPT", "examine"]

CHUNK = 32  # files a worker takes at once
KEPT = 1 << 27  # bytes that a worker keeps for the next picture, at most
SERIAL_FILES = 200  # below both, starting workers costs more than it saves
SERIAL_BYTES = 16_000_000
_FROM_PIXELS = (
    "width",
    "height",
    "mode",
    "format",
    "orientation",
    "bits",
    "dhash",
    "thumbnail",
    "border",
    "corners",
    "brightness",
    "contrast",
    "sharpness",
    "saturation",
)


def examine(files: list[str], data: Data, *, title: str) -> Iterator[list[dict[str, Any]]]:
    """What each file's bytes say, in the order of ``files``, some at a time: image_id, bytes, sizes, statistics, hash, error.

    Args:
        files: absolute paths.
        data: the limits on bytes and pixels.
        title: of the progress bar.
    """
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    small = len(files) < SERIAL_FILES and sum(_size(file) for file in files) < SERIAL_BYTES
    workers = 1 if small else min(_cores(), len(chunks))
    with tqdm(total=len(files), desc=title, unit="img", disable=small, mininterval=0.5) as bar:
        for part in _examined(chunks, data, workers):
            yield part
            bar.update(len(part))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _size(file: str) -> int:
    try:
        return Path(file).stat().st_size
    except OSError:
        return 0


def _examined(chunks: list[list[str]], data: Data, workers: int) -> Iterator[list[dict[str, Any]]]:
    limits = [(data.max_pixels, data.max_bytes)] * len(chunks)
    if workers <= 1:
        yield from map(_examine_chunk, chunks, limits)
        return
    # Not fork: the progress bar and pyarrow have threads, whose locks a forked child would inherit held.
    context = get_context("forkserver")
    context.set_forkserver_preload(["pipeline.examine"])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin) as pool:
        try:
            yield from pool.map(_examine_chunk, chunks, limits)
        except BrokenProcessPool as error:
            raise DataError(
                "a worker was killed while decoding, probably for want of memory: lower data.max_pixels "
                f"(now {data.max_pixels:,}) in params.yaml or free memory, then run it again"
            ) from error


def _begin() -> None:
    """A worker is one thread: each with a pool of its own for small products spent four fifths of its time waiting.

    And it ends with its parent: where that was killed it would wait for work for ever.
    """
    threadpool_limits(1)
    keep_memory(KEPT // 4, KEPT)
    parent = parent_process()
    if parent is not None:
        sentinel = parent.sentinel

        def watch() -> None:
            connection.wait([sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def _examine_chunk(files: list[str], limits: tuple[int, int]) -> list[dict[str, Any]]:
    return [_examine(Path(file), *limits) for file in files]


def _examine(file: Path, max_pixels: int, max_bytes: int) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_FROM_PIXELS)
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would keep a reader waiting for ever
            raise FileNotFoundError(f"{file.name} is not a regular file")
        size = status.st_size
        if size > max_bytes:  # hashed in a stream: nobody needs its bytes in memory
            with file.open("rb") as stream:
                row |= {"image_id": hashlib.file_digest(stream, "sha256").hexdigest(), "bytes": size}
            raise ImageError(
                "too_many_bytes", f"{size:,} bytes, over the limit of {max_bytes:,} bytes (data.max_bytes)"
            )
        data = file.read_bytes()
        row |= {"image_id": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        decoded = decode(data, max_pixels=max_pixels, max_bytes=max_bytes, whole=False)
        statistics, dhash, thumbnail, colours = describe(decoded)
        cells = np.asarray(colours)
    except ImageError as error:
        return row | {"error": f"{error.reason}: {error}"}
    except OSError as error:
        # No bytes, no digest: the id is made from the path, so that two missing files don't count as alike.
        image_id = hashlib.sha256(f"unreadable {file}".encode()).hexdigest()
        return row | {"image_id": image_id, "bytes": 0, "error": f"unreadable: {error.strerror or error}"}
    return (
        row
        | statistics
        | {
            "width": decoded.width,
            "height": decoded.height,
            "mode": decoded.mode,
            "format": decoded.format,
            "orientation": decoded.orientation,
            "bits": decoded.bits,
            "dhash": dhash,
            "thumbnail": thumbnail,
            "border": border(cells),
            "corners": corners(cells),
            "error": None,
        }
    )
