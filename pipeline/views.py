"""Decode once: a memory-mapped store of uint8 views, by image and by what makes the view.

``cache/views/<view key>/views.u8`` holds the views one after the other, ``ids.txt`` names the image of
each. The views are written first, the list is replaced atomically after: a kill -9 at any moment loses
at most the last few hundred decodes. Writers hold a lock that the kernel releases with the process, so
a second process waits and then finds the work done. The folder may be deleted at any time.
"""

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.artifacts import Workspace, write_text
from pipeline.errors import DataError, ImageError, StateError
from pipeline.images import decode
from pipeline.transforms import Preprocessing

__all__ = ["views"]

COMMIT_EVERY = 512  # images decoded between two commits of the list
IN_MEMORY = 1 << 30  # bytes; a larger selection out of order is gathered into an unlinked file instead
SHOW_FROM = 64  # images; fewer need no progress bar
NAMED = 5  # undecodable images named in an error


def views(
    workspace: Workspace,
    paths: Sequence[str],
    image_ids: Sequence[str],
    preprocessing: Preprocessing,
    *,
    max_pixels: int,
    max_bytes: int,
    workers: int | None = None,
) -> np.ndarray:
    """uint8 [n, H, W, 3] views of the images, rows in the order asked; only new images are decoded.

    Memory-mapped where the rows lie in the store in that order, as they do after a first call for
    them; gathered otherwise. ``paths`` are relative to the workspace's root, or absolute.

    Raises:
        DataError: a file is missing, no longer decodes, or is not the image that was ingested.
        StateError: the disk is full.
    """
    store = _Store(workspace.cache / "views" / preprocessing.view_key(), preprocessing.image_size)
    known = store.rows()
    if any(image_id not in known for image_id in image_ids):
        with store.locked():
            known = store.rows(repair=True)
            missing = {i: p for i, p in zip(image_ids, paths, strict=True) if i not in known}
            if missing:
                sources = {image_id: workspace.root / path for image_id, path in missing.items()}
                _fill(store, known, sources, preprocessing, max_pixels, max_bytes, workers)
                known = store.rows()
    return store.gather(np.array([known[image_id] for image_id in image_ids], dtype=np.int64))


class _Store:
    """One folder of views that share one shape."""

    def __init__(self, folder: Path, image_size: int) -> None:
        self.folder = folder
        self.shape = (image_size, image_size, 3)
        self.stride = image_size * image_size * 3
        self.data = folder / "views.u8"
        self.ids = folder / "ids.txt"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def rows(self, *, repair: bool = False) -> dict[str, int]:
        """image_id → row; empty where the two files don't belong together (somebody cut one)."""
        try:
            names = self.ids.read_text(encoding="ascii").split()
            if self.data.stat().st_size >= len(names) * self.stride:
                return {name: row for row, name in enumerate(names)}
        except (FileNotFoundError, UnicodeDecodeError):
            pass
        if repair:  # unlinked, not cut: a process that has the old file mapped keeps it
            self.ids.unlink(missing_ok=True)
            self.data.unlink(missing_ok=True)
        return {}

    def gather(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) == 0:
            return np.empty((0, *self.shape), dtype=np.uint8)
        stored = np.memmap(self.data, dtype=np.uint8, mode="r")
        whole = stored[: len(stored) // self.stride * self.stride].reshape(-1, *self.shape)
        if np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
            return whole[rows[0] : rows[0] + len(rows)]
        if len(rows) * self.stride <= IN_MEMORY:
            return np.asarray(whole[rows])
        with tempfile.TemporaryFile(dir=self.folder) as file:  # nameless: gone with the process
            for start in range(0, len(rows), COMMIT_EVERY):
                file.write(whole[rows[start : start + COMMIT_EVERY]].tobytes())
            file.flush()
            return np.memmap(file, dtype=np.uint8, mode="r", shape=(len(rows), *self.shape))


def _fill(
    store: _Store,
    known: dict[str, int],
    sources: dict[str, Path],
    preprocessing: Preprocessing,
    max_pixels: int,
    max_bytes: int,
    workers: int | None,
) -> None:
    """Append the views of ``sources`` to the store, committing as it goes."""

    def one(image_id: str, path: Path) -> np.ndarray | str:
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != image_id:
                return f"{path}: its bytes have changed since they were ingested"
            return preprocessing.view(decode(data, max_pixels=max_pixels, max_bytes=max_bytes).image)
        except (ImageError, OSError) as error:
            return f"{path}: {error}"

    names = list(known)
    pending = list(sources.items())
    failures: list[str] = []
    bar = tqdm(total=len(pending), desc="decode", unit="img", disable=len(pending) < SHOW_FROM)
    # Threads: Pillow decodes and resizes outside the interpreter's lock, and a kill leaves no orphan.
    with bar, ThreadPoolExecutor(workers or os.cpu_count()) as pool, _opened(store.data) as data:
        for start in range(0, len(pending), COMMIT_EVERY):
            chunk = pending[start : start + COMMIT_EVERY]
            for (image_id, _), view in zip(chunk, pool.map(lambda pair: one(*pair), chunk), strict=True):
                bar.update()
                if isinstance(view, str):
                    failures.append(view)
                    continue
                _write(data, view.tobytes(), len(names) * store.stride, store.data)
                names.append(image_id)
            os.fsync(data)
            write_text(store.ids, "\n".join(names) + "\n")
    if failures:
        more = f" and {len(failures) - NAMED} more" if len(failures) > NAMED else ""
        raise DataError(
            f"{len(failures)} of {len(pending)} images can't be used: {'; '.join(failures[:NAMED])}{more}. "
            "Mend or remove them and run `dvc repro`"
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes, offset: int, path: Path) -> None:
    """All of ``data`` at ``offset``; written, not mapped, so that a full disk is an error and not a crash."""
    try:
        while data:
            count = os.pwrite(descriptor, data, offset)
            data, offset = data[count:], offset + count
    except OSError as error:
        raise StateError(
            f"{path} can't grow ({error.strerror}): free space or move VISIONLOOP_HOME"
        ) from error
