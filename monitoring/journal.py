"""What the watch saw and decided: ``var/journal.sqlite``, one row for each wake-up and each step of an episode.

``python -m monitoring why`` reads it. Three tables: ``steps`` (append-only, the reasons), ``episodes``
(compare-and-set on a version, so that of two processes one wins and the other is told), ``streams``
(per champion: how far the log is read and the evidence so far). One transaction moves the cursor, the
evidence and the row that explains them, so a kill leaves all three or none.
"""

import contextlib
import dataclasses
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import StateError

OPEN_STATES = ("drift_open", "awaiting_labels", "training", "rejected", "failed")
"""drift_open (alarm, the queue is being written) → awaiting_labels → training → promoted; a verdict against
the challenger gives rejected, an exception failed: both stay open, since the drift is still there."""
CLOSED_STATES = ("promoted", "dismissed", "superseded")

SCHEMA = """
CREATE TABLE IF NOT EXISTS steps (
    id INTEGER PRIMARY KEY, time TEXT NOT NULL, champion TEXT, episode TEXT, window TEXT, images INTEGER NOT NULL,
    statistic REAL, log10_e REAL, decision TEXT NOT NULL, reason TEXT NOT NULL, evidence TEXT, detail TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS episodes (
    id TEXT PRIMARY KEY, version INTEGER NOT NULL, state TEXT NOT NULL, champion TEXT NOT NULL, reference TEXT NOT NULL,
    window TEXT NOT NULL, since TEXT NOT NULL, opened TEXT NOT NULL, changed TEXT NOT NULL, why TEXT NOT NULL,
    queue TEXT, labels_used INTEGER NOT NULL, retrain_started TEXT, challenger TEXT
);
CREATE TABLE IF NOT EXISTS streams (champion TEXT PRIMARY KEY, cursor TEXT NOT NULL, evidence TEXT NOT NULL);
"""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One row of the journal. ``statistic`` is the window's MMD; ``log10_e`` the evidence after it."""

    time: datetime
    decision: str
    reason: str
    champion: str | None = None
    episode: str | None = None
    window: str | None = None
    images: int = 0
    statistic: float | None = None
    log10_e: float | None = None
    evidence: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One drift from its alarm to a new champion. ``since`` is the time of the first image that moved."""

    id: str
    version: int
    state: str
    champion: str
    reference: str
    window: str
    since: datetime
    opened: datetime
    changed: datetime
    why: str
    queue: str | None = None
    labels_used: int = 0
    retrain_started: datetime | None = None
    challenger: str | None = None

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES


class Journal:
    """The journal at ``path``; made when missing. Use as a context manager.

    Raises:
        StateError: the file is not a journal, is damaged, or stays locked for longer than ten seconds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._translated():
            self._db = sqlite3.connect(path, timeout=10.0, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.executescript(SCHEMA)
            except sqlite3.Error:
                self._db.close()
                raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StateError(
                f"{self.path}: {error}; is another process holding it, or the disk full?"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StateError(
                f"{self.path} is not a readable journal ({error}): move it away and start anew"
            ) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is written, or nothing. Blocks may nest; the outermost one commits."""
        if self._db.in_transaction:
            yield
            return
        with self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def record(self, step: Step) -> None:
        """Append one row."""
        row = dataclasses.asdict(step)
        row["detail"] = json.dumps(step.detail)
        self._insert("steps", {name: _stored(value) for name, value in row.items()})

    def steps(self, limit: int | None = None) -> list[Step]:
        """The last ``limit`` rows (all by default), oldest first."""
        query = "SELECT * FROM (SELECT * FROM steps ORDER BY id DESC LIMIT ?) ORDER BY id"
        with self._translated():
            rows = self._db.execute(query, (-1 if limit is None else limit,)).fetchall()
        return [_step(row) for row in rows]

    def stream(self, champion: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """(cursor, evidence) of a champion's stream, both empty before its first window."""
        with self._translated():
            row = self._db.execute(
                "SELECT cursor, evidence FROM streams WHERE champion = ?", (champion,)
            ).fetchone()
        return (json.loads(row["cursor"]), json.loads(row["evidence"])) if row else ({}, {})

    def save_stream(self, champion: str, cursor: dict[str, Any], evidence: dict[str, Any]) -> None:
        """Move the stream on; call it inside ``transaction`` with the row that says why."""
        values = (champion, json.dumps(cursor), json.dumps(evidence))
        with self._translated():
            self._db.execute("INSERT OR REPLACE INTO streams VALUES (?, ?, ?)", values)

    def episode(self, episode_id: str) -> Episode:
        """Raises StateError where there is none of that id."""
        with self._translated():
            row = self._db.execute("SELECT * FROM episodes WHERE id = ?", (episode_id,)).fetchone()
        if row is None:
            raise StateError(f"{self.path} holds no episode {episode_id}: see `python -m monitoring status`")
        return _episode(row)

    def episodes(self) -> list[Episode]:
        """All episodes, oldest first."""
        with self._translated():
            rows = self._db.execute("SELECT * FROM episodes ORDER BY opened, rowid").fetchall()
        return [_episode(row) for row in rows]

    def open_episode(self) -> Episode | None:
        """The one episode that is open, if any."""
        found = [episode for episode in self.episodes() if episode.is_open]
        return found[-1] if found else None

    def begin(self, episode: Episode) -> Episode:
        """Open an episode; the same id a second time changes nothing and returns what is there.

        Raises:
            StateError: another episode is open.
        """
        with self.transaction():
            known = [one for one in self.episodes() if one.id == episode.id]
            if known:
                return known[0]
            other = self.open_episode()
            if other is not None:
                raise StateError(f"the episode {other.id} is open ({other.state}); one at a time")
            self._insert(
                "episodes", {name: _stored(value) for name, value in dataclasses.asdict(episode).items()}
            )
        return episode

    def move(self, episode: Episode, state: str, *, now: datetime, **changes: Any) -> Episode:
        """Compare-and-set: to ``state`` if nobody moved the episode since it was read.

        Raises:
            StateError: somebody did; nothing was changed.
        """
        after = dataclasses.replace(episode, state=state, changed=now, version=episode.version + 1, **changes)
        values = {name: _stored(value) for name, value in dataclasses.asdict(after).items()}
        names = ", ".join(f"{name} = :{name}" for name in values)
        with self._translated():
            moved = self._db.execute(
                f"UPDATE episodes SET {names} WHERE id = :id AND version = :before",  # noqa: S608 - our own field names
                {**values, "before": episode.version},
            ).rowcount
        if moved != 1:
            raise StateError(f"episode {episode.id} was moved by another process: run the command again")
        return after

    def _insert(self, table: str, values: dict[str, Any]) -> None:
        names = ", ".join(values)
        marks = ", ".join(f":{name}" for name in values)
        with self._translated():
            self._db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)  # noqa: S608 - our own names


def mark_retrain_started(journal: Journal, episode_id: str, *, now: datetime, labels: int) -> bool:
    """A retrain for the episode begins with ``labels`` labelled images; call it before the work.

    Returns:
        False where the episode is training already, or closed: a duplicated event does nothing.
    """
    with journal.transaction():
        episode = journal.episode(episode_id)
        if episode.state not in ("awaiting_labels", "rejected", "failed"):
            return False
        journal.move(episode, "training", now=now, retrain_started=now, labels_used=labels)
        reason = f"retraining started with {labels} labelled images of episode {episode_id}"
        journal.record(dataclasses.replace(_of(episode, now, "training", reason), detail={"started": True}))
    return True


def retrains_since(journal: Journal, since: datetime) -> int:
    """How many retrains have started since then."""
    return sum(step.time >= since and bool(step.detail.get("started")) for step in journal.steps())


def mark_promoted(journal: Journal, episode_id: str, *, challenger: str, now: datetime) -> bool:
    """The challenger became champion; closes the episode. False where it is closed already."""
    why = f"the challenger {challenger[:12]} was promoted"
    return _end(journal, episode_id, "promoted", why, now, challenger)


def mark_rejected(journal: Journal, episode_id: str, *, challenger: str, why: str, now: datetime) -> bool:
    """The verdict was not PROMOTE: the episode stays open and waits for more labels or a person."""
    return _end(journal, episode_id, "rejected", f"the challenger was not promoted: {why}", now, challenger)


def mark_failed(journal: Journal, episode_id: str, *, why: str, now: datetime) -> bool:
    """The retrain broke (an exception, not a verdict): it may be started again after the cooldown."""
    return _end(journal, episode_id, "failed", f"the retrain broke: {why}", now, None)


def dismiss(journal: Journal, episode_id: str, *, why: str, now: datetime) -> bool:
    """A person says that the drift needs no new model; closes the episode."""
    return _end(journal, episode_id, "dismissed", f"dismissed: {why}", now, None)


def supersede(journal: Journal, episode_id: str, *, champion: str, now: datetime) -> bool:
    """Somebody else became champion meanwhile (a rollback, a release by hand); closes the episode."""
    return _end(journal, episode_id, "superseded", f"{champion[:12]} became champion meanwhile", now, None)


def _end(
    journal: Journal, episode_id: str, state: str, why: str, now: datetime, challenger: str | None
) -> bool:
    with journal.transaction():
        episode = journal.episode(episode_id)
        if not episode.is_open or episode.state == state:
            return False
        journal.move(episode, state, now=now, challenger=challenger or episode.challenger)
        journal.record(_of(episode, now, state, why))
    return True


def _of(episode: Episode, now: datetime, decision: str, reason: str) -> Step:
    return Step(time=now, champion=episode.champion, episode=episode.id, decision=decision, reason=reason)


def _stored(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return value


def _step(row: sqlite3.Row) -> Step:
    values = {name: row[name] for name in row.keys() if name != "id"}  # noqa: SIM118 - a Row iterates over its values
    return Step(
        **values | {"time": datetime.fromisoformat(values["time"]), "detail": json.loads(values["detail"])}
    )


def _episode(row: sqlite3.Row) -> Episode:
    values = dict(row)
    for name in ("since", "opened", "changed", "retrain_started"):
        values[name] = values[name] and datetime.fromisoformat(values[name])
    return Episode(**values)
