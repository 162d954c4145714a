"""Rows of one shape on disk, by name, append-only: decoded views and cached features live in these.

``rows`` holds the rows one after the other, ``names.txt`` the name of each and the CRC-32 of its bytes. Rows are
written first, the list is replaced atomically after: a kill -9 at any moment loses at most the rows since the last
commit. What a disk or a person has damaged is found by the sums and made anew, never answered with.
Writers hold a lock that the kernel releases with the process, so a second process waits and then finds
the work done. A store's folder may be deleted at any time that nobody writes to it.

    store = RowStore(folder, shape=(1280,), dtype=np.float32)
    if not store.holds(names):
        with store.writing(names) as writer:
            for name, row in work(missing=[n for n in names if n not in writer.known]):
                writer.append(name, row)
    store.read(names)                            # [n, 1280], in the order asked
"""

import contextlib
import fcntl
import mmap
import os
import sys
import tempfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.artifacts import write_text
from pipeline.errors import StateError

__all__ = ["RowStore", "Writer"]

COMMIT_EVERY = 512  # rows between two commits of the list
IN_MEMORY = 1 << 30  # bytes; a larger selection out of order is gathered into an unlinked file instead


class RowStore:
    """The rows in ``folder``, each of ``shape`` and ``dtype``."""

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self.folder = folder
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.stride = int(np.prod(shape)) * self.dtype.itemsize
        self.data = folder / "rows"
        self.names = folder / "names.txt"

    def known(self) -> dict[str, int]:
        """name → row; empty where the two files don't belong together (somebody cut one)."""
        return {name: row for row, name in enumerate(self._sums())}

    def _sums(self) -> dict[str, int]:
        """name → CRC-32 of its row, in the order of the rows."""
        try:
            lines = [line.split(" ") for line in self.names.read_text(encoding="ascii").splitlines()]
            sums = {name: int(total, 16) for name, total in lines}
            if len(sums) == len(lines) and self.data.stat().st_size >= len(sums) * self.stride:
                return sums
        except (FileNotFoundError, NotADirectoryError, ValueError):
            pass
        return {}

    def intact(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that have a row, and every byte of it as it was written."""
        sums = self._sums()
        place = {name: row for row, name in enumerate(sums)}
        asked = [name for name in dict.fromkeys(names) if name in place]
        if not asked:
            return []
        try:
            file = self.data.open("rb")
        except FileNotFoundError:  # another process is making the store anew
            return []
        with file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stored, memoryview(stored) as view:
            starts = {name: place[name] * self.stride for name in asked}
            return [
                name
                for name, start in starts.items()
                if zlib.crc32(view[start : start + self.stride]) == sums[name]
            ]

    def holds(self, names: Collection[str]) -> bool:
        """Whether each of ``names`` has an intact row."""
        return len(self.intact(names)) == len(set(names))

    def read(self, names: Sequence[str]) -> np.ndarray:
        """The named rows, in that order: memory-mapped where they lie in the store like that.

        Raises:
            KeyError: a name has no row.
            StateError: the disk is too full to gather a large selection.
        """
        known = self.known()
        rows = np.array([known[name] for name in names], dtype=np.int64)
        if len(rows) == 0:
            return np.empty((0, *self.shape), dtype=self.dtype)
        stored = np.memmap(self.data, dtype=self.dtype, mode="r", shape=(len(known), *self.shape))
        if np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
            return stored[rows[0] : rows[0] + len(rows)]
        if len(rows) * self.stride <= IN_MEMORY:
            return np.asarray(stored[rows])
        with _writable(self.folder), tempfile.TemporaryFile(dir=self.folder) as file:
            for start in range(0, len(rows), COMMIT_EVERY):  # nameless file: gone with the process
                file.write(stored[rows[start : start + COMMIT_EVERY]].tobytes())
            file.flush()
            return np.memmap(file, dtype=self.dtype, mode="r", shape=(len(rows), *self.shape))

    @contextlib.contextmanager
    def writing(self, names: Collection[str] = ()) -> Iterator["Writer"]:
        """The only writer of this store, until the block ends; what it appended by then is kept.

        Where a row of ``names`` is damaged, the store starts afresh.
        """
        with _writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            sums = self._sums()
            if sums and len(self.intact(names)) < len(sums.keys() & set(names)):
                print(f"warning: {self.folder} is damaged: its rows are made anew", file=sys.stderr)
                sums = {}
            if not sums:  # unlinked, not cut: a process that has an old file mapped keeps it
                self.names.unlink(missing_ok=True)
                self.data.unlink(missing_ok=True)
            descriptor = os.open(self.data, os.O_RDWR | os.O_CREAT, 0o644)
            writer = Writer(self, descriptor, sums)
            try:
                yield writer
            finally:
                writer.commit()
                os.close(descriptor)


class Writer:
    """Appends rows; commits every few hundred."""

    def __init__(self, store: RowStore, descriptor: int, known: dict[str, int]) -> None:
        self.known = known  # name → CRC-32 of its row
        self._store = store
        self._descriptor = descriptor
        self._committed = len(known)

    def append(self, name: str, row: np.ndarray) -> None:
        """Add one row; a name that is known keeps the row it has.

        Raises:
            StateError: the disk is full; what was committed before stays.
        """
        store = self._store
        if row.shape != store.shape or row.dtype != store.dtype:
            raise ValueError(f"a row is {row.dtype} {row.shape}, the store holds {store.dtype} {store.shape}")
        if name in self.known:
            return
        data, offset = memoryview(row.tobytes()), len(self.known) * store.stride
        total = zlib.crc32(data)
        with _writable(store.folder):  # written, not mapped: a full disk is an error and not a crash
            while data:
                count = os.pwrite(self._descriptor, data, offset)
                data, offset = data[count:], offset + count
        self.known[name] = total
        if len(self.known) - self._committed >= COMMIT_EVERY:
            self.commit()

    def commit(self) -> None:
        """Make what was appended durable."""
        if len(self.known) > self._committed:
            with _writable(self._store.folder):
                os.fsync(self._descriptor)
                lines = (f"{name} {total:08x}\n" for name, total in self.known.items())
                write_text(self._store.names, "".join(lines))
            self._committed = len(self.known)


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(
            f"{folder} can't be written ({error.strerror}): free space or move VISIONLOOP_HOME"
        ) from error
