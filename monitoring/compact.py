"""``python -m monitoring compact``: the prediction log's closed segments into the archive.

A segment goes when its rows are durable in the archive, and not before: killed anywhere, the next run goes on, no
row is lost and none is in the archive twice. Between the two steps a row lies in both; readers take the segment's.
A segment that a living service writes is locked and stays.
"""

import contextlib
import fcntl
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any

from monitoring.archive import Archive, alone
from monitoring.archived_rows import typed
from pipeline.artifacts import Workspace, decode_log_line, sync_folder
from pipeline.params import Log


@dataclass
class Compacted:
    """What a run came to.

    Attributes:
        damaged: whole lines whose checksum or content is wrong; they are not archived.
        torn: segments whose last line was cut off by a kill; what is left of it goes with the segment.
        open: segments that a living process writes.
        expired: parts that were older than ``log.archive_days``.
    """

    place: str
    segments: int = 0
    rows: int = 0
    damaged: int = 0
    torn: int = 0
    open: int = 0
    expired: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        lines = [f"{self.rows} rows of {self.segments} segments are in {self.place} now."]
        notes = [
            (self.open, "segments are being written and stay"),
            (self.damaged, "damaged lines were dropped: their checksum or content is wrong"),
            (self.torn, "segments ended in a torn line, never acknowledged, and dropped"),
            (len(self.expired), "parts were older than log.archive_days and are removed"),
        ]
        return "\n".join([*lines, *(f"{count} {what}." for count, what in notes if count)])


def compact(workspace: Workspace, params: Log, *, now: datetime) -> Compacted:
    """Archive every closed segment, then remove parts past ``log.archive_days``.

    Raises:
        StateError: another compaction or deletion is at work, or the archive did not keep what was written.
        ParamsError, OSError: the archive can't be reached or written; the segment stays.
    """
    log = workspace.log
    archive = Archive(log, params.archive)
    done = Compacted(params.archive or archive.root)
    with alone(log):
        for path in sorted(log.glob("[0-9]*/*.log")):
            with _closed(path) as stream:
                if stream is None:
                    done.open += 1
                else:
                    _segment(path, path.relative_to(log).as_posix(), stream, archive, done)
        if params.archive_days is not None:
            oldest = f"{now - timedelta(days=params.archive_days):%Y-%m-%d}"
            for part in archive.parts():
                if part.date < oldest:
                    archive.remove(part)
                    done.expired.append(part.path)
    today = f"{now:%Y-%m-%d}"
    for day in log.glob("[0-9]*"):
        if day.name < today:  # a service writes today's
            with contextlib.suppress(OSError):  # not empty
                day.rmdir()
    return done


@contextlib.contextmanager
def _closed(path: Path) -> Iterator[IO[bytes] | None]:
    """The segment, locked against retention and readable; None where its writer lives, or it is gone."""
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(path.open("rb"))
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, FileNotFoundError):
            yield None
        else:
            yield stream


def _segment(path: Path, name: str, stream: IO[bytes], archive: Archive, done: Compacted) -> None:
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    end = 0
    for line in stream:
        if not line.endswith(b"\n"):
            done.torn += 1
            break
        row = decode_log_line(line)
        entry = typed(row, end) if row is not None else None
        if entry is not None and row is not None:
            rows[str(row["model"])].append(entry)
        elif not line.isspace():  # blank: erased by `forget`
            done.damaged += 1
        end += len(line)
    modified = os.fstat(stream.fileno()).st_mtime
    for model, entries in sorted(rows.items()):
        archive.write(name, model, end, entries, modified)
        done.rows += len(entries)
    path.unlink(missing_ok=True)
    sync_folder(path.parent)
    done.segments += 1
