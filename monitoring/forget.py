"""``python -m monitoring forget <id> … --why``: requests and images out of log, archive and queues.

A row in a segment is overwritten where it stands, with blanks, so a service may go on writing the segment and a
cursor in it stays true; a part of the archive is replaced by one without the row. A kept image goes with the last row
that names it, and its copy in a label queue with it. ``log/deletions.jsonl`` has what was removed, when and why: the
ids as sha256, which shows that an id was forgotten to whoever brings it, and not otherwise.

Requests that come later are not covered, nor what was made of an image before: labelled images in data/ (DVC's), contact
sheets and reports.
"""

import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from monitoring.archive import Archive, Part, alone
from monitoring.labels import read_labels
from monitoring.queue_files import Item, withdraw
from monitoring.window import kept_path
from pipeline.artifacts import Workspace, decode_log_line, read_json, sync_folder
from pipeline.errors import DataError
from pipeline.params import Log

DELETIONS = "deletions.jsonl"
_ID = re.compile(r"[0-9A-Za-z_-]{8,64}")


@dataclass
class Forgotten:
    """What a run removed; ``left`` says what it could not, and why, in sentences."""

    rows: int = 0
    archived: int = 0
    images: int = 0
    asked: int = 0
    unknown: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        lines = [
            f"Removed: {self.rows} rows of the log, {self.archived} of the archive, {self.images} kept images, {self.asked} "
            "copies in label queues."
        ]
        lines += [f"{one} was forgotten before: nothing was left of it." for one in self.before]
        lines += [f"{one} is in neither log nor archive nor queue." for one in self.unknown]
        return "\n".join([*lines, *self.left])


@dataclass(frozen=True)
class _Line:
    """Where a row stands: a line of a segment, or in a part of the archive."""

    row: dict[str, Any]
    segment: Path | None = None
    offset: int = 0
    length: int = 0
    part: Part | None = None

    @property
    def names(self) -> set[str]:
        """The ids that it can be asked for by."""
        return {str(self.row["request_id"]), str(self.row["image_id"]), _kept_id(self.row)} - {""}


def forget(
    workspace: Workspace, params: Log, ids: Sequence[str], *, why: str, by: str, now: datetime
) -> Forgotten:
    """Remove everything of these request and image ids. Killed anywhere, the same command goes on.

    Raises:
        DataError: one of ``ids`` can't be an id; nothing was removed.
        StateError: a compaction or another deletion is at work.
    """
    for one in ids:
        if not _ID.fullmatch(one):
            raise DataError(
                f"{one!r} is no request_id and no image's sha256: both are in the service's log rows"
            )
    wanted, done = set(ids), Forgotten()
    log = workspace.log
    with alone(log):
        archive = Archive(log, params.archive)
        _finish(log)
        found: list[_Line] = []
        named: Counter[str] = Counter()  # rows of each kept image
        for line in _lines(log, archive):
            named[_kept_id(line.row)] += 1
            if line.names & wanted:
                found.append(line)
        gone = Counter(_kept_id(line.row) for line in found)
        images = {name for name, rows in gone.items() if name and rows == named[name]} | _kept_of(log, wanted)
        queues = {
            path.parent: _asked(path, wanted | images)
            for path in sorted(workspace.queue.glob("*/manifest.json"))
        }
        known = {name for line in found for name in line.names} | images
        known |= {
            name for items in queues.values() for item in items for name in (item.image_id, item.received)
        }
        missing = [one for one in ids if one not in known]
        earlier = {one for entry in _deletions(log) for one in entry["ids"]}
        done.before = [one for one in missing if _hash(one) in earlier]
        done.unknown = [one for one in missing if _hash(one) not in earlier]
        done.left = [
            f"The image {name[:12]} stays: {named[name] - rows} other requests sent it; `forget {name}` removes them all."
            for name, rows in gone.items()
            if name and name not in images
        ]
        if len(missing) < len(ids):
            entry = {
                "time": now.isoformat(),
                "by": by,
                "why": why,
                "ids": [_hash(one) for one in ids if one in known],
            }
            blanks = [
                [line.segment.relative_to(log).as_posix(), line.offset, line.length]
                for line in found
                if line.segment
            ]
            _note(log, entry | {"state": "begun", "blanks": blanks})
            for kept in sorted(
                path for name in images for path in (log / "images" / name[:2]).glob(f"{name}.*")
            ):
                kept.unlink(missing_ok=True)
                sync_folder(kept.parent)
                done.images += 1
            labelled = {label.image_id: label.path for label in read_labels(workspace.labels)}
            for folder, items in queues.items():
                done.asked += withdraw(folder, items, set(labelled))
            _erase(found, archive, done)  # last: by its rows the next run finds what is left to do
            done.left += [
                f"{labelled[name]} is labelled, and DVC's: remove its row from data/labels.csv and the file, `dvc add "
                "data/labelled`, then `dvc gc` where its copies are."
                for name in sorted((images | wanted) & labelled.keys())
            ]
            counts = {name: getattr(done, name) for name in ("rows", "archived", "images", "asked")}
            _note(log, entry | {"state": "done"} | counts)
            if any((workspace.home / "monitoring").glob("*/*.png")) or workspace.replay.exists():
                done.left.append(
                    f"Contact sheets below {workspace.relative(workspace.home / 'monitoring')} and reports/replay.html "
                    "were drawn before: remove those that show it."
                )
    return done


def _lines(log: Path, archive: Archive) -> Iterator[_Line]:
    """Every row of segments and archive; both where a compaction was killed in between."""
    for path in sorted(log.glob("[0-9]*/*.log")):
        offset = 0
        with contextlib.suppress(FileNotFoundError), path.open("rb") as stream:  # retention was faster
            for line in stream:
                row = decode_log_line(line)
                if row is not None:
                    yield _Line(row, segment=path, offset=offset, length=len(line))
                offset += len(line)
    for part in archive.parts():
        for _, row in archive.read(part):
            yield _Line(row, part=part)


def _erase(found: Sequence[_Line], archive: Archive, done: Forgotten) -> None:
    for line in found:
        if line.segment is not None:
            _blank(line.segment, line.offset, line.length)
            done.rows += 1
    for part in {line.part.path: line.part for line in found if line.part}.values():
        requests = {str(line.row["request_id"]) for line in found if line.part == part}
        done.archived += archive.drop(part, requests)


def _blank(segment: Path, offset: int, length: int) -> None:
    """Overwrite a line but for its end. No lock: a segment's writer appends, and never touches a whole line again."""
    with contextlib.suppress(FileNotFoundError), segment.open("r+b", buffering=0) as stream:
        stream.seek(offset)
        stream.write(b" " * (length - 1))
        os.fsync(stream.fileno())


def _finish(log: Path) -> None:
    """Blank what a killed run was at: of half a line nobody could tell any more whose it was."""
    entries = _deletions(log)
    finished = {entry["time"] for entry in entries if entry["state"] == "done"}
    for entry in entries:
        for name, offset, length in entry.get("blanks", ()) if entry["time"] not in finished else ():
            _blank(log / name, offset, length)


def _kept_id(row: dict[str, Any]) -> str:
    """The sha256 of the row's kept image, "" where none was kept."""
    name = re.fullmatch(r"(?:[0-9a-f]{2}/)?([0-9a-f]{64})\.[a-z]{3,4}", str(row["kept"] or ""))
    return name[1] if name else ""


def _kept_of(log: Path, wanted: set[str]) -> set[str]:
    """Images that are asked for by their own hash, and are there, whether a row names them or not."""
    return {
        one for one in wanted
        if re.fullmatch(r"[0-9a-f]{64}", one) and any(kept_path(log / "images", path.name) for path in (log / "images" / one[:2]).glob(f"{one}.*"))
    }  # fmt: skip


def _asked(manifest: Path, wanted: set[str]) -> list[Item]:
    items = [Item(**item) for item in read_json(manifest)["items"]]
    return [item for item in items if wanted & {item.image_id, item.received}]


def _hash(one: str) -> str:
    return hashlib.sha256(one.encode()).hexdigest()


def _deletions(log: Path) -> list[dict[str, Any]]:
    path = log / DELETIONS
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"}\n")]  # others: torn by a kill


def _note(log: Path, entry: dict[str, Any]) -> None:
    """Append a line, durably. Before and after the deletion: a run that was killed shows as begun."""
    path = log / DELETIONS
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("ab") as stream:
        stream.write(b"\n" * torn + json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(log)
