"""What the soaked year came to: alarms true and false, delays, accuracy with and without the loop, promotions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from flows.soak_pool import Pools
from flows.soak_world import START, STATIONS, Change, Request, World
from monitoring.journal import Step
from pipeline.intervals import wilson
from pipeline.paired import paired_intervals

__all__ = ["Account", "Alarm", "Promotion", "Retrain", "cause_of", "day_of", "suppressions"]


@dataclass(frozen=True)
class Alarm:
    """One episode that opened. ``cause`` is None for a false alarm; ``repeat``: not the first of its change."""

    day: float
    episode: str
    cause: str | None
    kind: str
    repeat: bool
    delay_days: float | None
    images: int | None
    words: str


@dataclass(frozen=True)
class Retrain:
    """One retrain that was started: what came of it is a state of the episode, or "killed"."""

    day: float
    episode: str
    reason: str
    outcome: str
    says: str


@dataclass(frozen=True)
class Promotion:
    """A new champion, and how it and the one before name the images of these days, whose truth is known here.

    ``wrong``: worse by more than the 95 % interval of the difference. ``shadow``: how it did beside it before, in words.
    """

    day: float
    champion: str
    before: str
    n: int
    accuracy: float
    accuracy_before: float
    difference_ci95: tuple[float, float]
    wrong: bool
    shadow: str


def day_of(time: datetime) -> float:
    """Days since the year began."""
    return round((time - START) / timedelta(days=1), 2)


def cause_of(world: World, known: datetime, time: datetime) -> Change | None:
    """The last change that began after ``known`` (when the champion's labels were drawn), or was still under way then."""
    found = []
    for change in world.begun(known, time):
        if change.kind == "bad source" and not world.is_dirty(time - timedelta(days=1), change):
            continue
        found.append(change)
    return max(found, key=lambda change: change.day) if found else None


def suppressions(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """What could have been done and was not: runs of ``suppressed`` for one reason, with their first sentence."""
    kinds = {"cooldown": "cooldown", "not promoted": "rejected", "budget": "budget", "dismissed": "dismissed"}
    runs: list[dict[str, Any]] = []
    before: tuple[str | None, str] | None = None
    for step in steps:
        if step.decision != "suppressed":
            before = None if step.decision in ("retrain", "labelled", "promoted") else before
            continue
        why = next((kind for word, kind in kinds.items() if word in step.reason), "other")
        if (step.episode, why) == before:
            runs[-1]["until_day"] = day_of(step.time)
            runs[-1]["wake_ups"] += 1
            continue
        before = (step.episode, why)
        day = day_of(step.time)
        runs.append(
            {"day": day, "until_day": day, "why": why, "episode": step.episode, "wake_ups": 1, "says": step.reason}
        )  # fmt: skip
    return runs


@dataclass
class Account:
    """Written while the year goes by; :meth:`report` at its end."""

    world: World
    pools: Pools
    first: Path
    known: dict[str, datetime] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    retrains: list[Retrain] = field(default_factory=list)
    promotions: list[Promotion] = field(default_factory=list)
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    decisions: Counter[str] = field(default_factory=Counter)
    failed_wake_ups: list[dict[str, Any]] = field(default_factory=list)

    def alarm(
        self, time: datetime, champion: str, episode: str, words: str, sent: Sequence[Request]
    ) -> Alarm:
        """An episode opened at ``time``; ``sent`` are all acknowledged requests so far."""
        cause = cause_of(self.world, self.known.get(champion, START), time)
        began = START + timedelta(days=cause.day) if cause else None
        alarm = Alarm(
            day=day_of(time),
            episode=episode,
            cause=cause.name if cause else None,
            kind=cause.kind if cause else "false",
            repeat=bool(cause) and any(alarm.cause == cause.name for alarm in self.alarms if cause),
            delay_days=round((time - began) / timedelta(days=1), 2) if began else None,
            images=sum(request.time >= began for request in sent) if began else None,
            words=words,
        )
        self.alarms.append(alarm)
        return alarm

    def promotion(self, time: datetime, before: Path, after: Path, known: datetime, shadow: str) -> Promotion:
        """The pointer moved at ``time`` to a champion whose labels were drawn until ``known``."""
        regimes = {name for station in STATIONS for name in self.world.shares(time, station)}
        old = np.concatenate(
            [self.pools.right(before, name)[self.world.left(name)] for name in sorted(regimes)]
        )
        new = np.concatenate(
            [self.pools.right(after, name)[self.world.left(name)] for name in sorted(regimes)]
        )
        difference = new.astype(int) - old.astype(int)
        ((low, high),) = paired_intervals(difference, np.arange(len(difference)))
        promotion = Promotion(
            day_of(time), after.name, before.name, len(new), round(float(new.mean()), 4), round(float(old.mean()), 4),
            (round(low, 4), round(high, 4)), high < 0, shadow,
        )  # fmt: skip
        self.promotions.append(promotion)
        self.known[after.name] = known
        return promotion

    def accuracy(self, answered: Sequence[tuple[Request, str]], bundles: Path) -> dict[str, Any]:
        """By week and by stretch between changes: the champion of the time, and the first one, on the same images."""
        pairs = [
            (
                day_of(request.time),
                bool(self.pools.right(bundles / model, request.regime)[request.index]),
                bool(self.pools.right(self.first, request.regime)[request.index]),
            )
            for request, model in answered
        ]
        weeks = [(day, day + 7.0) for day in np.arange(0, self.world.days, 7.0)]
        bounds = [0.0, *(change.day for change in self.world.changes), float(self.world.days)]
        names = ["before any change", *(f"after {change.name}" for change in self.world.changes)]
        stretches = zip(names, bounds[:-1], bounds[1:], strict=True)
        return {
            "weeks": [row for low, high in weeks if (row := _both(pairs, low, high))],
            "stretches": [
                {"name": name} | row for name, low, high in stretches if (row := _both(pairs, low, high))
            ],
            "year": _both(pairs, 0.0, float(self.world.days) + 1),
        }

    def report(self) -> dict[str, Any]:
        """Alarms, promotions, retrains and decisions."""
        caught = {alarm.cause for alarm in self.alarms}
        ended = [change for change in self.world.changes if change.day < self.world.days]
        return {
            "changes": [asdict(change) for change in ended],
            "alarms": [asdict(alarm) for alarm in self.alarms],
            "alarms_by_kind": dict(Counter(alarm.kind for alarm in self.alarms)),
            "false_alarms": sum(alarm.cause is None for alarm in self.alarms),
            "without_alarm": {
                kind: [change.name for change in ended if change.kind == kind and change.name not in caught]
                for kind in ("real", "harmless", "bad source")
            },
            "retrains": [asdict(retrain) for retrain in self.retrains],
            "promotions": [asdict(promotion) for promotion in self.promotions],
            "rollbacks": self.rollbacks,
            "wrong_promotions": sum(promotion.wrong for promotion in self.promotions),
            "wake_ups": sum(self.decisions.values()),
            "decisions": dict(self.decisions),
            "failed_wake_ups": self.failed_wake_ups,
        }


def _both(pairs: Sequence[tuple[float, bool, bool]], low: float, high: float) -> dict[str, Any]:
    """Accuracy with its interval of both, over the images of days ``low`` to ``high``; {} where there are none."""
    own = [(loop, alone) for day, loop, alone in pairs if low <= day < high]
    if not own:
        return {}
    found: dict[str, Any] = {"from_day": low, "to_day": high, "n": len(own)}
    for column, name in enumerate(("with_loop", "without_loop")):
        hits = sum(pair[column] for pair in own)
        found[name] = round(hits / len(own), 4)
        found[f"{name}_ci95"] = [round(bound, 4) for bound in wilson(hits, len(own))]
    return found
