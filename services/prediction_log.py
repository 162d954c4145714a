"""The prediction log: a row of every answer, on disk before the answer leaves.

One writer thread a process takes all the rows that wait, writes them with one system call and one fsync
(group commit), and only then lets their answers go: sixteen clients share one flush. Each process has
segments of its own, ``log/<UTC date>/<writer>-<sequence>.log``, so that workers never meet in a file and
nobody ever appends behind a torn tail. Rows are those of ``pipeline.artifacts.encode_log_row``.

``log.mode: durable`` withholds an answer whose row could not be written; ``lossy`` never waits and never
withholds, and counts what it lost.
"""

import contextlib
import fcntl
import logging
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifacts import encode_log_row, sync_folder
from pipeline.clock import now
from pipeline.errors import StateError
from pipeline.params import Log
from services.retention import prune

SEGMENT_BYTES = 16 * 1024 * 1024
BATCH = 256  # rows a flush, at most: bounds how long the first of them waits
WAITING = 1024  # rows that may wait for the writer
RETENTION_SECONDS = 60.0

logger = logging.getLogger("bentoml.visionloop")  # BentoML shows what hangs below its own

Observe = Callable[[str, int], None]


@dataclass(frozen=True)
class Entry:
    """One row on its way to disk; ``done`` resolves when it is there, or fails with StateError."""

    line: bytes
    name: str | None  # the image's, under log/images/, where it is kept
    image: bytes
    done: "Future[None]" = field(default_factory=Future)


class Segment:
    """One append-only file, locked for as long as it is open so that retention leaves it alone."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.size, self._durable = path, 0, durable
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        # Locked before it has its name: retention and compaction take a segment that they can lock for a closed one.
        unnamed = path.with_name(f".{path.name}.tmp")
        self._file = os.open(unnamed, flags, 0o640)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unnamed.rename(path)
            if durable:
                sync_folder(path.parent)
                sync_folder(
                    path.parent.parent
                )  # another worker may have made the day, and not flushed it yet
        except OSError:
            os.close(self._file)
            unnamed.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise

    def append(self, data: bytes) -> None:
        """Write ``data`` behind what is there, and flush it when durable.

        Raises:
            OSError: nothing of ``data`` is left in the file, as far as the disk still obeys.
        """
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._file, left) :]
            if self._durable:
                os.fdatasync(self._file)
        except OSError:
            # A full disk leaves part of a line; rows behind it would be lost with it.
            os.ftruncate(self._file, self.size)
            raise
        self.size += len(data)

    def close(self) -> None:
        os.close(self._file)


def keeps(image_id: str, rate: float) -> bool:
    """Whether an image is among the share ``rate`` that is kept: the same answer for the same image, always."""
    return int(image_id[:12], 16) < rate * 16**12


def kept_name(digest: str, extension: str) -> str:
    """The name under ``log/images/`` of kept bytes by their own sha256, never by text from a client."""
    return f"{digest[:2]}/{digest}{extension}"


class PredictionLog:
    """The log of one process, below ``folder``; ``observe`` hears of rows ``written``, ``failed``, ``lost``."""

    def __init__(
        self,
        folder: Path,
        params: Log,
        observe: Observe = lambda event, count: None,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        retention_seconds: float = RETENTION_SECONDS,
    ) -> None:
        self.folder, self.params, self._observe = folder, params, observe
        self._segment_bytes = min(segment_bytes, max(params.max_bytes // 8, 4096))
        self._retention_seconds = retention_seconds
        self._durable = params.mode == "durable"
        self._writer = f"{os.getpid()}-{int(time.time())}-{secrets.token_hex(4)}"
        self._sequence = 0
        self._segment: Segment | None = None
        self._flushed: set[Path] = set()  # image folders whose own entry is on disk
        self._waiting: queue.Queue[Entry | None] = queue.Queue(WAITING)
        self._wake = threading.Event()  # retention: much was written, or the end
        self._unchecked = 0  # bytes written since it looked
        self._door = threading.Lock()  # nobody comes in behind the last row
        self._closed = False
        self._threads = [
            threading.Thread(target=self._write, name="prediction-log", daemon=True),
            threading.Thread(target=self._retain, name="log-retention", daemon=True),
        ]
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        for thread in self._threads:
            thread.start()

    def append(self, row: dict[str, Any], image: bytes) -> "Future[None]":
        """Hand a row to the writer, and the image's bytes, which are kept where ``row["kept"]`` names them.

        Durable: the future resolves once row and image are on disk, and fails with StateError where they
        are not. Lossy: it has resolved already.
        """
        entry = Entry(encode_log_row(row), row["kept"], image)
        entry.done.set_running_or_notify_cancel()  # a client that hangs up can't take the row back
        try:
            with self._door:
                if self._closed:
                    raise StateError("the prediction log is closed: the service is stopping")
                self._waiting.put_nowait(entry)
        except (queue.Full, StateError) as error:
            self._observe("lost", 1)
            if self._durable:
                reason = f"{WAITING} rows wait for the disk" if isinstance(error, queue.Full) else str(error)
                entry.done.set_exception(StateError(reason))
        if not self._durable:
            entry.done.set_result(None)
        return entry.done

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._door:
            if self._closed:
                return
            self._closed = True
        self._wake.set()
        self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _write(self) -> None:
        running = True
        while running:
            batch = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < BATCH:
                    batch.append(self._waiting.get_nowait())
            running = None not in batch
            self._commit([entry for entry in batch if entry is not None])
        if self._segment is not None:
            self._segment.close()

    def _commit(self, batch: list[Entry]) -> None:
        """One flush. Whatever happens, every entry's future ends, and the writer goes on."""
        ready: list[Entry] = []
        try:
            folders = set()
            for entry in batch:
                try:
                    folders |= self._keep(entry)
                    ready.append(entry)
                except Exception as error:
                    self._fail([entry], error)
            for folder in folders:
                sync_folder(folder)
            if ready:
                self._rows(b"".join(entry.line for entry in ready))
        except Exception as error:
            self._flushed.clear()
            self._fail(ready, error)
            return
        self._observe("written", len(ready))
        self._unchecked += sum(len(entry.line) + len(entry.image) for entry in ready)
        if self._unchecked > self.params.max_bytes // 20:
            self._unchecked = 0
            self._wake.set()
        if self._durable:
            for entry in ready:
                entry.done.set_result(None)

    def _rows(self, data: bytes) -> None:
        date = now().date().isoformat()
        segment = self._segment
        if segment is not None and (segment.path.parent.name != date or segment.size >= self._segment_bytes):
            segment.close()
            segment = self._segment = None
        if segment is None:
            path = self.folder / date / f"{self._writer}-{self._sequence:06d}.log"
            self._sequence += 1
            segment = self._segment = Segment(path, durable=self._durable)
        try:
            segment.append(data)
        except OSError:
            # After a failed flush the kernel may have dropped the pages: this file is not trusted with more.
            segment.close()
            if segment.size == 0:
                segment.path.unlink(missing_ok=True)
            self._segment = None
            raise

    def _keep(self, entry: Entry) -> set[Path]:
        """Write the image under its hash; the folders that want a flush."""
        if entry.name is None:
            return set()
        target = self.folder / "images" / entry.name
        with contextlib.suppress(FileNotFoundError):
            os.utime(target)  # seen again: its time to live starts anew
            return {target.parent} if self._durable else set()  # another worker may have renamed it just now
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{self._writer}.tmp")
        try:
            with temporary.open("wb") as stream:
                stream.write(entry.image)
                stream.flush()
                if self._durable:
                    os.fsync(stream.fileno())
            temporary.replace(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if not self._durable:
            return set()
        if target.parent in self._flushed:
            return {target.parent}
        self._flushed.add(
            target.parent
        )  # made by this worker or by another, which may not have flushed it yet
        return {target.parent, target.parent.parent, self.folder}

    def _fail(self, entries: list[Entry], error: Exception) -> None:
        self._observe("failed", len(entries))
        logger.error("%d rows of the prediction log could not be written: %s", len(entries), error)
        if self._durable:
            reason = error.strerror if isinstance(error, OSError) else repr(error)
            for entry in entries:
                entry.done.set_exception(StateError(f"the prediction log can't be written ({reason})"))

    def _retain(self) -> None:
        """In a thread of its own: a walk over many images must not hold up the answers."""
        while True:
            try:
                prune(self.folder, keep_days=self.params.keep_days, max_bytes=self.params.max_bytes)
            except OSError as error:
                logger.error("the prediction log can't be kept within its bounds: %s", error)
            if self._closed:
                return
            self._wake.wait(self._retention_seconds)
            self._wake.clear()
