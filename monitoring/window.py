"""The prediction log since a cursor, in time order, cut into windows.

A cursor says per log segment up to which byte it was read. Segments are merged by time while each is
consumed from front to back, so a cursor is exact: every row enters one window, once, however often and
whenever the watch is woken or killed.
"""

import binascii
import hashlib
import heapq
import math
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from monitoring.archive import Archive
from monitoring.strangers import Strangers
from pipeline.artifacts import STATISTICS, decode_embedding, decode_log_line

_KEPT = re.compile(r"(?:[0-9a-f]{2}/)?([0-9a-f]{64})(\.[a-z]{3,4})")
REMEMBERED = 2000
"""Request ids kept in a cursor, to drop a row that the service wrote twice across two windows."""
WRITTEN_WITHIN = timedelta(minutes=10)
"""A row is written at most so long after its time: the segments of later days hold none that is older."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One answered image, checked. ``embedding`` (d,) float32; ``probabilities`` (classes,) float32.

    ``seconds`` is what the service worked on it: decoding, network, no waiting.
    """

    request_id: str
    time: datetime
    image_id: str
    label: str
    source: str
    kept: str | None
    probabilities: np.ndarray
    embedding: np.ndarray
    statistics: np.ndarray
    size: tuple[int, int]
    abstained: bool = False
    seconds: float = 0.0

    @property
    def kept_id(self) -> str:
        """What the kept image is asked and labelled under, the sha256 of the file; ``image_id`` where none was kept."""
        name = _KEPT.fullmatch(self.kept or "")
        return name[1] if name else self.image_id


@dataclass(frozen=True)
class Window:
    """Rows of one champion in time order, as columns. ``classes`` order the probabilities."""

    rows: tuple[Row, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def name(self) -> str:
        """A folder name: when the window starts, and a digest of what it holds."""
        digest = hashlib.sha256("\n".join(row.request_id for row in self.rows).encode()).hexdigest()
        return f"{self.rows[0].time:%Y%m%dT%H%M%S}-{digest[:8]}"

    @property
    def embeddings(self) -> np.ndarray:
        """(n, d) float32."""
        return np.stack([row.embedding for row in self.rows])

    @property
    def statistics(self) -> np.ndarray:
        """(n, 4) float32, in the order of ``pipeline.artifacts.STATISTICS``."""
        return np.stack([row.statistics for row in self.rows])

    @property
    def probabilities(self) -> np.ndarray:
        """(n, classes) float32; a class that the log left out has 0."""
        return np.stack([row.probabilities for row in self.rows])

    @property
    def confidence(self) -> np.ndarray:
        """(n,) the largest probability of each row."""
        return self.probabilities.max(axis=1)

    @property
    def labels(self) -> list[str]:
        return [row.label for row in self.rows]

    def take(self, indices: Sequence[int]) -> "Window":
        return Window(tuple(self.rows[i] for i in indices), self.classes)


@dataclass
class Log:
    """The rows of ``champion`` that ``cursor`` has not passed; iterate with ``next_window``.

    What was compacted is read from ``archive`` (``log.archive``), from where the segment's cursor stands.

    Attributes:
        damaged: lines whose checksum or content is wrong, dropped.
        torn: segments that end in a line without its end: being written, or cut off by a kill.
        duplicates: rows whose request id was read before, dropped.
        others: rows that another model answered, passed over.
        strangers: what a service that was not restarted answers with another model.
    """

    folder: Path
    champion: str
    classes: tuple[str, ...]
    embedding_size: int
    cursor: dict[str, Any] = field(default_factory=dict)
    since: datetime | None = None
    archive: str | None = None
    damaged: int = 0
    torn: int = 0
    duplicates: int = 0
    others: int = 0

    def __post_init__(self) -> None:
        self._recent: deque[str] = deque(self.cursor.get("recent", ()), maxlen=REMEMBERED)
        self._seen = set(self._recent)
        self._offsets: dict[str, int] = {}
        self._heap: list[tuple[datetime, str, int, Row, Iterator[tuple[int, Row]]]] = []
        self._waiting: deque[tuple[str, int, Row]] = deque()
        self.strangers = Strangers(self.since)
        before = self.cursor.get("segments", {})
        self._archive = Archive(self.folder, self.archive)
        self._unopened = deque(self._segments())
        for name in self._unopened:
            self._offsets[name] = before.get(name, 0)

    def _segments(self) -> list[str]:
        """Names of the segments, those that lie in the archive by now included, day by day."""
        first = f"{self.since:%Y-%m-%d}" if self.since else ""
        # Day folders are named by date; images/ lies beside them and sorts after every digit.
        days = [day for day in self.folder.glob("[0-9]*") if day.name >= first]
        found = {path.relative_to(self.folder).as_posix() for day in days for path in day.glob("*.log")}
        # Listed second: a segment is in the archive before it goes.
        self._parts = {part.segment: part for part in self._archive.parts(self.champion, first)}
        return sorted(found | self._parts.keys())

    def _open(self) -> None:
        """Open what may hold a row before the first of those that are open: memory holds a day or two, not all."""
        while self._unopened:
            if self._heap and self._unopened[0][:10] > f"{self._heap[0][0] + WRITTEN_WITHIN:%Y-%m-%d}":
                return
            name = self._unopened.popleft()
            self._advance(name, self._read(name))

    def _read(self, name: str) -> Iterator[tuple[int, Row]]:
        """(offset of the line, row) of the champion's rows; moves the segment's offset past all others."""
        offset = self._offsets[name]
        try:
            stream = (self.folder / name).open("rb")
        except FileNotFoundError:
            yield from self._read_archived(name)
            return
        with stream:
            stream.seek(offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    self.torn += 1
                    break
                row = self._accept(line)
                if row is not None:
                    yield offset, row
                offset += len(line)
                self._offsets[name] = offset

    def _read_archived(self, name: str) -> Iterator[tuple[int, Row]]:
        """The same from the archive; nothing where retention has removed the segment."""
        if name not in self._parts:  # it was there a moment ago
            self._parts |= {part.segment: part for part in self._archive.parts(self.champion, name[:10])}
        part = self._parts.get(name)
        if part is None or part.end <= self._offsets[name]:
            return
        for offset, raw in self._archive.read(part, self._offsets[name]):
            row = self._wanted(raw)
            if row is not None:
                yield offset, row
            self._offsets[name] = offset + 1
        self._offsets[name] = part.end

    def _accept(self, line: bytes) -> Row | None:
        if line.isspace():  # erased by `python -m monitoring forget`
            return None
        raw = decode_log_line(line)
        if raw is None:
            self.damaged += 1
            return None
        return self._wanted(raw)

    def _wanted(self, raw: dict[str, Any]) -> Row | None:
        if raw["model"] != self.champion:
            self.others += 1
            self.strangers.add(raw)
            return None
        row = _row(raw, self.classes, self.embedding_size)
        if row is None:
            self.damaged += 1
            return None
        if self.since is not None and row.time < self.since:
            return None
        self.strangers.own(row.time)
        return row

    def _advance(self, name: str, rows: Iterator[tuple[int, Row]]) -> None:
        for offset, row in rows:
            heapq.heappush(self._heap, (row.time, name, offset, row, rows))
            return

    def _next(self) -> tuple[str, int, Row] | None:
        while True:
            self._open()
            if not self._heap:
                return None
            _, name, offset, row, rows = heapq.heappop(self._heap)
            self._advance(name, rows)
            if row.request_id in self._seen:
                self.duplicates += 1
                continue
            if len(self._recent) == REMEMBERED:
                self._seen.discard(self._recent[0])
            self._recent.append(row.request_id)
            self._seen.add(row.request_id)
            return name, offset, row

    def waiting(self, size: int) -> int:
        """How many new rows there are, counted up to ``size``."""
        while len(self._waiting) < size and (found := self._next()) is not None:
            self._waiting.append(found)
        return min(len(self._waiting), size)

    def next_window(self, size: int, least: int) -> Window | None:
        """The next up to ``size`` rows, or None where fewer than ``least`` are there: they wait."""
        count = self.waiting(size)
        if count < max(1, least):
            return None
        return Window(tuple(self._waiting.popleft()[2] for _ in range(count)), self.classes)

    @property
    def dropped(self) -> dict[str, int]:
        """What did not enter a window, by reason."""
        return {
            "damaged": self.damaged,
            "torn": self.torn,
            "duplicates": self.duplicates,
            "others": self.others,
        }

    def position(self) -> dict[str, Any]:
        """The cursor after the windows taken so far: what was looked at but not taken comes again."""
        segments = dict(self._offsets)
        ahead = [(name, offset) for _, name, offset, _, _ in self._heap]
        ahead += [(name, offset) for name, offset, _ in self._waiting]
        for name, offset in ahead:
            segments[name] = min(segments[name], offset)
        untaken = {row.request_id for _, _, row in self._waiting}
        return {
            "segments": segments,
            "recent": [request for request in self._recent if request not in untaken],
        }


def kept_file(images: Path, row: Row) -> Path | None:
    """Where the row's image is kept under ``log/images``, None where it isn't (any more)."""
    return kept_path(images, row.kept)


def kept_path(images: Path, kept: object) -> Path | None:
    """Where the image is kept, by what a line of the log says of it, None where it isn't (any more).

    The name comes from a file on disk: it is a path only if it is a hash and an extension. The hash is that
    of the file itself, which is the request's image without its metadata: check it where it matters.
    """
    name = _KEPT.fullmatch(str(kept or ""))
    if name is None:
        return None
    path = images / name[1][:2] / (name[1] + name[2])
    return path if path.is_file() else None


def _row(raw: dict[str, Any], classes: tuple[str, ...], embedding_size: int) -> Row | None:
    """The row with every field of the right kind and size, or None."""
    try:
        time = datetime.fromisoformat(raw["time"])
        values = raw["statistics"]
        embedding = decode_embedding(raw["embedding"])
        statistics = np.array([values[name] for name in STATISTICS], dtype=np.float32)
        given = raw["probabilities"]
        probabilities = np.array([given.get(name, 0.0) for name in classes], dtype=np.float32)
        row = Row(
            request_id=str(raw["request_id"]),
            time=time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC),
            image_id=str(raw["image_id"]),
            label=str(raw["label"]),
            source=str(raw["source"] or ""),
            kept=None if raw["kept"] is None else str(raw["kept"]),
            probabilities=probabilities,
            embedding=embedding,
            statistics=statistics,
            size=(int(values["width"]), int(values["height"])),
            abstained=bool(raw["abstain"]),
            seconds=float(raw["seconds"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error):
        return None
    finite = (
        np.isfinite(embedding).all()
        and np.isfinite(statistics).all()
        and np.isfinite(probabilities).all()
        and math.isfinite(row.seconds)
    )
    return row if finite and embedding.shape == (embedding_size,) and row.label in classes else None
