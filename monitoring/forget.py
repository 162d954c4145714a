"""``python -m monitoring forget <id> … --why``: requests and images out of log, archive and queues.

A row in a segment is overwritten where it stands, with blanks, so a service may go on writing the segment and a
cursor in it stays true; a part of the archive is replaced by one without the row. A kept image goes with the last row
that names it, and its copy in a label queue with it. ``log/deletions.jsonl`` has what was removed, when and why: the
ids as sha256, which shows that an id was forgotten to whoever brings it, and not otherwise.

Requests that come later are not covered, nor what was made of an image before: labelled images in data/ (DVC's), contact
sheets and reports. What a challenger answered in shadow is kept without the request's id; ids in the journal (its
cursor, where an episode began) name nothing any more. The evidence there is made of embeddings: a few of the last
images, and a fading sum of all; the command says so.
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
from monitoring.bursts import BURST
from monitoring.labels import read_labels
from monitoring.queue_files import Item, withdraw
from monitoring.window import kept_path
from pipeline.artifacts import Workspace, decode_log_line, read_json, sync_folder
from pipeline.errors import DataError
from pipeline.params import Log

DELETIONS = "deletions.jsonl"
_ID = re.compile(r"[0-9A-Za-z_.:-]{1,100}")


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


@dataclass(frozen=True)
class _Found:
    """All that the ids name.

    Attributes:
        images: sha256 of the kept images that no other row names.
        shared: kept image → how many other rows name it.
        queues: folder → items that ask for one of them.
        names: every id of it all.
    """

    lines: list[_Line]
    images: set[str]
    shared: dict[str, int]
    queues: dict[Path, list[Item]]
    names: set[str]


def forget(
    workspace: Workspace, params: Log, ids: Sequence[str], *, why: str, by: str, now: datetime
) -> Forgotten:
    """Remove everything of these request and image ids. Killed anywhere, the same command goes on.

    Raises:
        DataError: one of ``ids`` can't be an id; nothing was removed.
        StateError: a compaction or another deletion is at work, or the archive can't be reached.
    """
    for one in ids:
        if not _ID.fullmatch(one):
            raise DataError(
                f"{one!r} is no request_id and no image's sha256: an answer and a log row name both"
            )
    done, log = Forgotten(), workspace.log
    with alone(log):
        archive = Archive(log, params.archive)
        _finish(log)
        found = _find(workspace, archive, set(ids))
        missing = [one for one in ids if one not in found.names]
        earlier = {one for entry in _deletions(log) for one in entry["ids"]}
        done.before = [one for one in missing if _hash(one) in earlier]
        done.unknown = [one for one in missing if _hash(one) not in earlier]
        labelled = {label.image_id: label.path for label in read_labels(workspace.labels)}
        if len(missing) < len(ids):
            hashes = [_hash(one) for one in ids if one in found.names]
            entry = {"time": now.isoformat(), "by": by, "why": why, "ids": hashes}
            _note(log, entry | {"state": "begun", "blanks": _blanks(log, found)})
            _anonymise(workspace.shadow, {str(line.row["request_id"]) for line in found.lines})
            _remove(log, archive, found, set(labelled), done)
            counts = {name: getattr(done, name) for name in ("rows", "archived", "images", "asked")}
            _note(log, entry | {"state": "done"} | counts)
        _left(
            workspace,
            found,
            {one: labelled[one] for one in sorted((found.images | set(ids)) & labelled.keys())},
            done,
        )
    return done


def _find(workspace: Workspace, archive: Archive, wanted: set[str]) -> _Found:
    log = workspace.log
    lines: list[_Line] = []
    every: Counter[str] = Counter()  # rows of each kept image
    for line in _lines(log, archive):
        every[_kept_id(line.row)] += 1
        if line.names & wanted:
            lines.append(line)
    own = Counter(name for line in lines if (name := _kept_id(line.row)))
    images = {name for name, rows in own.items() if rows == every[name]} | _kept_of(log, wanted)
    shared = {name: every[name] - rows for name, rows in own.items() if name not in images}
    manifests = sorted(workspace.queue.glob("*/manifest.json"))
    queues = {path.parent: items for path in manifests if (items := _asked(path, wanted | images))}
    names = {name for line in lines for name in line.names} | images
    names |= {name for items in queues.values() for item in items for name in (item.image_id, item.received)}
    return _Found(lines, images, shared, queues, names)


def _remove(log: Path, archive: Archive, found: _Found, labelled: set[str], done: Forgotten) -> None:
    """Rows last: by them the next run finds what a killed one has left."""
    for kept in sorted(
        path for name in found.images for path in (log / "images" / name[:2]).glob(f"{name}.*")
    ):
        kept.unlink(missing_ok=True)
        sync_folder(kept.parent)
        done.images += 1
    for folder, items in found.queues.items():
        done.asked += withdraw(folder, items, labelled)
    _erase(found.lines, archive, done)


def _anonymise(shadow: Path, requests: set[str]) -> None:
    """Overwrite the ids in the rows of shadows by as many zeros, also where a service writes: it only appends."""
    for path in sorted(shadow.glob("*/*.jsonl")):
        with path.open("r+b", buffering=0) as stream:
            data = stream.read()
            for one in requests:
                named = f'"request_id": "{one}"'.encode()
                start = data.find(named)
                if start >= 0:
                    stream.seek(start + len(named) - len(one) - 1)
                    stream.write(b"0" * len(one))
            os.fsync(stream.fileno())


def _left(workspace: Workspace, found: _Found, labelled: dict[str, str], done: Forgotten) -> None:
    """Say what stays, and what to do about it."""
    done.left += [
        f"The image {name[:12]} stays: {others} other requests sent it; `forget {name}` removes them all."
        for name, others in found.shared.items()
    ]
    done.left += [
        f"{path} is labelled, and DVC's: remove its row from data/labels.csv and the file, `dvc add data/labelled`, then "
        "`dvc gc` where its copies are."
        for path in labelled.values()
    ]
    if found.lines and workspace.journal.exists():
        done.left.append(
            f"{workspace.relative(workspace.journal)} holds no picture and no answer of it, and the ids in its cursor name "
            f"nothing any more; but its evidence may hold the embeddings, numbers without an id: those of the last {BURST} "
            "images that counted, and a fading sum. Newer images displace them; what earlier champions' evidence holds "
            "stays until that file is moved away."
        )
    sheets = workspace.home / "monitoring"
    if done.images and (any(sheets.glob("*/*.png")) or workspace.replay.exists()):
        done.left.append(
            f"Contact sheets below {workspace.relative(sheets)} and reports/replay.html were drawn before: remove those "
            "that show it."
        )


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


def _blanks(log: Path, found: _Found) -> list[list[Any]]:
    """[segment, offset, length] of every line that is to be blanked."""
    return [
        [line.segment.relative_to(log).as_posix(), line.offset, line.length]
        for line in found.lines
        if line.segment
    ]


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
