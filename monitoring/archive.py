"""The archive: the prediction log's closed segments as Parquet, ``date=<day written>/model=<digest>/`` below
``log.archive``, which any engine that knows Hive partitions reads as one table.

A part is one model's rows of one segment and is named after it, with the bytes that the segment had:
``<segment>.<bytes>.parquet``. Written again it is the same file, so no row is ever there twice; and a cursor in the
segment stays one in the part, since each row keeps its ``offset``.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import fsspec
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.local import LocalFileSystem

from monitoring.archived_rows import SCHEMA, encoded, parquet, rows_of
from pipeline.artifacts import atomic_path, decode_log_line
from pipeline.errors import DataError, ParamsError, StateError

_PART = re.compile(r"date=(?P<date>[^/]+)/model=(?P<model>[^/]+)/(?P<name>[^/]+)\.(?P<end>\d+)\.parquet$")


@dataclass(frozen=True)
class Part:
    """One model's rows of one segment; ``end`` is the segment's size in bytes, torn tail left out."""

    path: str
    segment: str  # <date>/<name>.log, as it lay below the log
    model: str
    end: int

    @property
    def date(self) -> str:
        return self.segment.partition("/")[0]


class Archive:
    """Parts below ``url`` (a path or any fsspec URL; None: ``archive/`` in the log's own folder).

    Raises:
        ParamsError: the URL can't be used here.
    """

    def __init__(self, log: Path, url: str | None) -> None:
        try:
            self._files, self.root = _file_system(url or str(log.absolute() / "archive"))
        except (ImportError, ValueError, OSError) as error:
            raise ParamsError(f"log.archive {url!r} can't be used: {error}") from error
        self._local = isinstance(self._files, LocalFileSystem)

    def parts(self, model: str | None = None, since: str = "") -> list[Part]:
        """Those of ``model`` (None: of all) that were written on the day ``since`` or later, oldest first.

        Raises:
            StateError: the archive can't be listed. It is not taken for empty: a watch would pass over its rows.
        """
        self._files.invalidate_cache()
        own = None if model is None else f"model={quote(model, safe='')}"
        days = [day for day in self._names(self.root, "date=") if day.rpartition("date=")[2] >= since]
        models = [
            path
            for day in days
            for path in self._names(day, "model=")
            if own in (None, path.rpartition("/")[2])
        ]
        found = []
        for path in (path for one in models for path in self._names(one, "")):
            if named := _PART.search(path):
                segment = f"{named['date']}/{named['name']}.log"
                found.append(Part(path, segment, unquote(named["model"]), int(named["end"])))
        return found

    def _names(self, folder: str, prefix: str) -> list[str]:
        """Paths in a folder, sorted. Not by ``glob``: it takes a store that does not answer for an empty one."""
        try:
            paths = [str(path).rstrip("/") for path in self._files.ls(folder, detail=False)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StateError(f"the archive {folder} (log.archive) can't be listed: {error}") from error
        return sorted(path for path in paths if path.rpartition("/")[2].startswith(prefix))

    def write(self, segment: str, model: str, end: int, rows: Sequence[dict[str, Any]], age: float) -> Part:
        """Write a part whole, or not at all, and read back what the store has of it. ``age``: its mtime, where local.

        Raises:
            StateError: the store holds another number of rows than was written.
        """
        date, name = segment.removesuffix(".log").split("/")
        path = f"{self.root}/date={date}/model={quote(model, safe='')}/{name}.{end}.parquet"
        self._put(path, parquet(rows))
        if self._local:
            Path(path).chmod(0o640)  # as a segment
            os.utime(path, (age, age))  # retention takes the oldest first
        with self._files.open(path, "rb") as stream:
            stored = pq.read_metadata(stream).num_rows
        if stored != len(rows):
            raise StateError(
                f"{path} holds {stored} rows instead of {len(rows)}: the segment stays, run it again"
            )
        return Part(path, segment, model, end)

    def read(self, part: Part, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """(offset in the segment, row as the log had it) of the rows from ``start`` on.

        Raises:
            DataError: the part can't be read.
        """
        for row in rows_of(self._table(part), part.model):
            if row["offset"] >= start:
                yield row.pop("offset"), row

    def drop(self, part: Part, requests: set[str]) -> int:
        """Take these requests' rows out of a part; how many there were."""
        table = self._table(part)
        kept = [row["request_id"] not in requests for row in table.select(["request_id"]).to_pylist()]
        if all(kept):
            return 0
        if not any(kept):
            self.remove(part)
            return len(kept)
        modified = Path(part.path).stat().st_mtime if self._local else 0.0
        self._put(part.path, encoded(table.filter(pa.array(kept))))
        if self._local:
            os.utime(part.path, (modified, modified))
        return kept.count(False)

    def remove(self, part: Part) -> None:
        self._files.rm_file(part.path)

    def _table(self, part: Part) -> pa.Table:
        try:
            with self._files.open(part.path, "rb") as stream:
                return pq.read_table(stream, schema=SCHEMA)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                f"{part.path} can't be read ({error}): restore it, or remove it to go on without"
            ) from error

    def _put(self, path: str, data: bytes) -> None:
        if self._local:
            with atomic_path(Path(path)) as temporary:
                temporary.write_bytes(data)
            return
        try:
            self._files.pipe_file(path, data)  # an object store shows an object when it is whole
        except FileNotFoundError:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, data)


def every_row(log: Path, url: str | None) -> Iterator[dict[str, Any] | None]:
    """All rows of segments and archive, each once, in no order; None for a damaged line. What was erased is passed over."""
    segments = sorted(log.glob("[0-9]*/*.log"))
    live = {path.relative_to(log).as_posix() for path in segments}
    archive = Archive(log, url)
    for part in archive.parts():
        if part.segment not in live:  # in both only where a compaction was killed
            yield from (row for _, row in archive.read(part))
    for path in segments:
        try:
            stream = path.open("rb")
        except FileNotFoundError:  # compacted, or removed, since it was listed
            name = path.relative_to(log).as_posix()
            for part in archive.parts():
                if part.segment == name:
                    yield from (row for _, row in archive.read(part))
            continue
        with stream:
            yield from (decode_log_line(line) for line in stream if not line.isspace())


@contextlib.contextmanager
def alone(log: Path) -> Iterator[None]:
    """One compaction or deletion at a time; the kernel lets go of the lock however its holder ends.

    Raises:
        StateError: another is at work.
    """
    log.mkdir(parents=True, exist_ok=True)
    with (log / ".archive.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(
                f"another compaction or deletion is at work in {log}: run the command again"
            ) from error
        yield


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's for ``url``; Arrow's own (s3, gs, hdfs) where fsspec wants a package that is not installed.

    Raises:
        ImportError: neither can; names the package.
        ValueError, OSError: the URL, or what it names, is not understood or not there.
    """
    try:
        files, root = fsspec.url_to_fs(url)
    except ImportError as missing:
        try:
            own, root = pyarrow.fs.FileSystem.from_uri(url)
        except (ValueError, OSError, NotImplementedError) as error:
            said = str(error).splitlines()[0]
            raise ImportError(f"{missing}; without it Arrow's own client was tried: {said}") from error
        files = ArrowFSWrapper(own)
    return files, root.rstrip("/")
