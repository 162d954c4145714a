"""The journal's rows as values: a step, and an episode."""

import json
import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from monitoring import states


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
    """One drift from its alarm to a new champion, or what else asked for one.

    Attributes:
        id: the hash of champion, reference, window and configuration (``monitoring.episodes.identity``).
        since: the time of the first image that moved; of another trigger, of the champion's data.
        trigger: drift, or what else opened it: schedule, labels, accuracy, age.
        signature: of the drift: what kind, led by what moved most, in which direction.
        configuration: digest of the settings that it was opened under.
        dataset: digest of data/labels.csv when the retrain froze it.
        asks: what a person is asked in ``needs_human``, a key of ``monitoring.policy.ASKED``.
        approved: what a person said to that: who, when and why, in a sentence.
        refused: when its challenger was rejected or rolled back, unless a person has lifted that since.
        promoted: when the pointer moved to its challenger.
    """

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
    trigger: str = "drift"
    signature: str | None = None
    configuration: str | None = None
    dataset: str | None = None
    asks: str | None = None
    approved: str | None = None
    refused: datetime | None = None
    promoted: datetime | None = None

    @property
    def is_open(self) -> bool:
        return self.state in states.OPEN


def stored(value: Any) -> Any:
    """As SQLite keeps it: times are text, in UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return value


def step_of(row: sqlite3.Row) -> Step:
    """A row of ``steps``."""
    values = {name: row[name] for name in row.keys() if name != "id"}  # noqa: SIM118 - a Row iterates over its values
    return Step(
        **values | {"time": datetime.fromisoformat(values["time"]), "detail": json.loads(values["detail"])}
    )


def episode_of(row: sqlite3.Row) -> Episode:
    """A row of ``episodes``."""
    values = dict(row)
    for name in ("since", "opened", "changed", "retrain_started", "refused", "promoted"):
        values[name] = values[name] and datetime.fromisoformat(values[name])
    return Episode(**values)
