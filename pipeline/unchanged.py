"""What was found in files that have not changed since: a later look costs what is new, not what is there.

    memory = recall(place, schema, version)       # empty at first, and after the version has changed
    row = memory.known(path, stamp_of(path))      # None where the file is new or another one
    remember(place, memory.files, memory.stamps, table, version, started)

A file counts as unchanged when its size, inode, and the times of its last change of content and of status are the
same to the nanosecond, as for git's index. The status time can't be set back by a copy that keeps dates, nor by
whoever writes through a link into DVC's cache. What changed within two seconds of the look is not remembered: a
second change could bear the same time. A disk that gives other bytes than were written to it changes no stamp.
This is a cache: removing it costs a look at every file and changes nothing else.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts import read_table, write_table
from pipeline.errors import DataError

__all__ = ["Memory", "Stamp", "recall", "remember", "stamp_of"]

Stamp = tuple[int, int, int, int]  # size, inode, and nanoseconds of the last change of content and of status

_STAMPS = pa.schema(
    [
        ("file", pa.string()),
        ("size", pa.int64()),
        ("inode", pa.uint64()),
        ("mtime_ns", pa.int64()),
        ("ctime_ns", pa.int64()),
    ]
)
_SETTLED = 2_000_000_000  # ns; the coarsest time stamps of a file system (FAT)


def stamp_of(file: str) -> Stamp | None:
    """The stamp of a file; None where there is none."""
    try:
        status = os.stat(file)  # noqa: PTH116  (a hundred thousand of them)
    except OSError:
        return None
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True)
class Memory:
    """By file the stamp that it had, and its row in the table of what was found."""

    places: dict[str, tuple[Stamp, int]]
    table: pa.Table

    def known(self, file: str, found: Stamp | None) -> int | None:
        """The row of ``file`` in the table, where it still is what it was."""
        then, row = self.places.get(file, (None, -1))
        return row if found is not None and then == found else None

    def joined(self, known: Sequence[int | None], new: pa.Table) -> pa.Table:
        """A row a file: the known one's, or where that is None the next one of ``new``."""
        following = iter(range(self.table.num_rows, self.table.num_rows + new.num_rows))
        order = [next(following) if row is None else row for row in known]
        return pa.concat_tables([self.table, new]).combine_chunks().take(pa.array(order, pa.int64()))


def recall(place: Path, schema: pa.Schema, version: str) -> Memory:
    """What an earlier look left at ``place``, a table of ``schema``; empty where there is nothing, or of another version."""
    whole = pa.schema([*_STAMPS, *schema])
    try:
        of_use = place.exists() and _written_by(place) == version
        table = read_table(place, whole) if of_use else whole.empty_table()
    except (DataError, pa.ArrowInvalid):
        table = whole.empty_table()
    stamps = zip(*(table[name].to_pylist() for name in _STAMPS.names[1:]), strict=True)
    files = table["file"].to_pylist()
    places = {file: (found, row) for row, (file, found) in enumerate(zip(files, stamps, strict=True))}
    return Memory(places, table.select(schema.names))


def remember(
    place: Path,
    files: Sequence[str],
    stamps: Sequence[Stamp | None],
    found: pa.Table,
    version: str,
    started: int,
) -> None:
    """Keep the rows of ``found``, one a file, each with the stamp that the file had before it was read.

    Args:
        started: when the look began, ns since the epoch.
    """
    kept = [row for row, one in enumerate(stamps) if one is not None and max(one[2:]) < started - _SETTLED]
    columns = [[files[row] for row in kept], *zip(*(stamps[row] for row in kept), strict=True)]  # type: ignore[misc]
    table = pa.table(columns if kept else [[]] * len(_STAMPS), schema=_STAMPS)
    rows = found.take(pa.array(kept, pa.int64()))
    for name in rows.column_names:
        table = table.append_column(rows.schema.field(name), rows[name])
    write_table(place, table.replace_schema_metadata({"version": version}))


def _written_by(place: Path) -> str:
    return (pq.read_schema(place).metadata or {}).get(b"version", b"").decode(errors="replace")
