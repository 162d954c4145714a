"""What the watch saw and decided: ``var/journal.sqlite``, one row for each wake-up and each step of an episode.

``python -m monitoring why`` reads it. Four tables: ``steps`` (append-only, the reasons), ``episodes``
(compare-and-set on a version, so that of two processes one wins and the other is told; moves as
``monitoring.states`` has them), ``leases`` (who works on an episode: ``monitoring.leases``), ``streams``
(per champion: how far the log is read and the evidence so far). One transaction moves the cursor, the
evidence and the row that explains them, so a kill leaves all three or none.
"""

import contextlib
import dataclasses
import json
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from monitoring import states
from monitoring.records import Episode, Step, episode_of, step_of, stored
from pipeline.errors import StateError

__all__ = ["Episode", "Journal", "Step"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS steps (
    id INTEGER PRIMARY KEY, time TEXT NOT NULL, champion TEXT, episode TEXT, window TEXT, images INTEGER NOT NULL,
    statistic REAL, log10_e REAL, decision TEXT NOT NULL, reason TEXT NOT NULL, evidence TEXT, detail TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS steps_by_decision ON steps (decision);
CREATE TABLE IF NOT EXISTS episodes (
    id TEXT PRIMARY KEY, version INTEGER NOT NULL, state TEXT NOT NULL, champion TEXT NOT NULL, reference TEXT NOT NULL,
    window TEXT NOT NULL, since TEXT NOT NULL, opened TEXT NOT NULL, changed TEXT NOT NULL, why TEXT NOT NULL,
    queue TEXT, labels_used INTEGER NOT NULL, retrain_started TEXT, challenger TEXT
);
CREATE TABLE IF NOT EXISTS leases (
    episode TEXT PRIMARY KEY, token INTEGER NOT NULL, owner TEXT, beat REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS streams (champion TEXT PRIMARY KEY, cursor TEXT NOT NULL, evidence TEXT NOT NULL);
"""
ADDED = {
    "trigger": "TEXT NOT NULL DEFAULT 'drift'", "signature": "TEXT", "configuration": "TEXT", "dataset": "TEXT",
    "asks": "TEXT", "approved": "TEXT", "refused": "TEXT", "promoted": "TEXT",
}  # fmt: skip
"""Columns of ``episodes`` that older journals lack; they are added when one is opened."""


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
                self._bring_up_to_date()
            except sqlite3.Error:
                self._db.close()
                raise

    def _bring_up_to_date(self) -> None:
        """Add the columns that an older journal lacks; there, ``promoted`` was the end."""
        if ADDED.keys() <= self._columns():
            return
        with self.transaction():
            before = self._columns()  # another process may just have done it
            for name in ADDED.keys() - before:
                self._db.execute(f"ALTER TABLE episodes ADD COLUMN {name} {ADDED[name]}")
            if "trigger" not in before:
                self._db.execute("UPDATE episodes SET state = 'monitoring' WHERE state = 'promoted'")

    def _columns(self) -> set[str]:
        return {row["name"] for row in self._db.execute("PRAGMA table_info(episodes)")}

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
        self._insert("steps", {name: stored(value) for name, value in row.items()})

    def steps(
        self, limit: int | None = None, *, champion: str | None = None, windows: bool = False
    ) -> list[Step]:
        """The last ``limit`` rows (all by default), oldest first; of one ``champion``, or those with a window, alone."""
        query = """
            SELECT * FROM (
                SELECT * FROM steps WHERE (?1 IS NULL OR champion = ?1) AND (window IS NOT NULL OR NOT ?2)
                ORDER BY id DESC LIMIT ?3
            ) ORDER BY id
        """
        with self._translated():
            rows = self._db.execute(query, (champion, windows, -1 if limit is None else limit)).fetchall()
        return [step_of(row) for row in rows]

    def retrains(self) -> list[datetime]:
        """When each retrain started.

        No later than the rows after it: one that was written while the clock stood in the future would otherwise
        count until then.
        """
        query = """
            SELECT CASE WHEN time > (SELECT time FROM steps ORDER BY id DESC LIMIT 1)
                THEN (SELECT min(time) FROM steps AS later WHERE later.id >= one.id) ELSE time END AS started
            FROM steps AS one WHERE decision IN ('dataset_frozen', 'training') AND detail LIKE '%"started": true%'
        """
        with self._translated():
            return [datetime.fromisoformat(row["started"]) for row in self._db.execute(query).fetchall()]

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
        return episode_of(row)

    def episodes(self) -> list[Episode]:
        """All episodes, oldest first."""
        with self._translated():
            rows = self._db.execute("SELECT * FROM episodes ORDER BY opened, rowid").fetchall()
        return [episode_of(row) for row in rows]

    def open_episode(self) -> Episode | None:
        """The one episode that is open, if any."""
        found = [episode for episode in self.episodes() if episode.is_open]
        return found[-1] if found else None

    def begin(self, episode: Episode) -> Episode:
        """Open an episode; the same id a second time, however late, changes nothing and returns what is there.

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
                "episodes", {name: stored(value) for name, value in dataclasses.asdict(episode).items()}
            )
        return episode

    def move(self, episode: Episode, state: str, *, now: datetime, **changes: Any) -> Episode:
        """Compare-and-set: to ``state`` if nobody moved the episode since it was read.

        To the state that it is in, only ``changes`` are written.

        Raises:
            StateError: somebody did, or ``monitoring.states`` has no such move; nothing was changed.
        """
        if state != episode.state and (not episode.is_open or not states.allowed(episode.state, state)):
            raise StateError(f"episode {episode.id} is {episode.state}: from there nothing leads to {state}")
        after = dataclasses.replace(episode, state=state, changed=now, version=episode.version + 1, **changes)
        values = {name: stored(value) for name, value in dataclasses.asdict(after).items()}
        names = ", ".join(f"{name} = :{name}" for name in values)
        with self._translated():
            moved = self._db.execute(
                f"UPDATE episodes SET {names} WHERE id = :id AND version = :before",  # noqa: S608 - our own field names
                {**values, "before": episode.version},
            ).rowcount
        if moved != 1:
            raise StateError(f"episode {episode.id} was moved by another process: run the command again")
        return after

    def lease(self, episode_id: str) -> tuple[int, str | None, float] | None:
        """(token, owner, last heartbeat) of an episode's lease: what ``monitoring.leases`` reads."""
        with self._translated():
            query = "SELECT token, owner, beat FROM leases WHERE episode = ?"
            row = self._db.execute(query, (episode_id,)).fetchone()
        return tuple(row) if row else None

    def save_lease(self, episode_id: str, token: int, owner: str | None, beat: float) -> None:
        """Write it; inside the transaction that has looked at it."""
        with self._translated():
            values = (episode_id, token, owner, beat)
            self._db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)", values)

    def _insert(self, table: str, values: dict[str, Any]) -> None:
        names = ", ".join(values)
        marks = ", ".join(f":{name}" for name in values)
        with self._translated():
            self._db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)  # noqa: S608 - our own names
