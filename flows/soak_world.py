"""What happens in the year of ``make soak``: regimes, the changes between them, and how many images come when.

A regime is a camera and a mixture of classes, a *change* leads from one to the next. Everything follows from the
seed, and nothing here knows of the loop that is soaked.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Literal

import numpy as np

from pipeline.cameras import CAMERAS, Camera

__all__ = ["START", "STATIONS", "Change", "Regime", "Request", "World"]

Kind = Literal["real", "harmless", "bad source"]

START = datetime(2027, 1, 1, tzinfo=UTC)
STATIONS = ("station-1", "station-2", "station-3")
DIRTY = "station-2"
"""The station whose lens gets dirty."""
USUAL = {"clean": 0.31, "scratch": 0.19, "pit": 0.16, "patch": 0.13, "crack": 0.11, "inclusion": 0.10}
OTHER = {"clean": 0.52, "scratch": 0.07, "pit": 0.18, "patch": 0.11, "crack": 0.07, "inclusion": 0.05}
BY_HOUR = (1, 1, 1, 1, 1, 2, 5, 8, 9, 9, 8, 6, 7, 9, 9, 8, 6, 4, 3, 2, 2, 2, 1, 1)
"""Images an hour, on average, on a weekday; a third of it on weekends."""

_OLD = CAMERAS["line-a"]
_NEW = replace(CAMERAS["line-b"], exposure=(0.22, 0.34), tone=(1.35, 1.0, 0.5), zoom=0.55)
_BRIGHT = replace(_NEW, exposure=(0.32, 0.44))
_PRODUCT = replace(_BRIGHT, finishes=("blasted", "blasted", "turned"), texture=0.12, blotches=0.10, zoom=0.85)


@dataclass(frozen=True)
class Regime:
    """How images look for a time; ``dirty``: through a smeared lens."""

    name: str
    camera: Camera
    mix: dict[str, float]
    dirty: bool = False


@dataclass(frozen=True)
class Change:
    """Something that happens at ``day``; from ``day + days`` on all images are of the last of ``regimes``.

    A bad source ends when somebody mends it, or after ``days``; the others stay.
    """

    name: str
    kind: Kind
    says: str
    day: float
    regimes: tuple[str, ...]
    days: float = 0.0


@dataclass(frozen=True)
class Request:
    """One image that a station sends."""

    id: str
    time: datetime
    station: str
    regime: str
    index: int


def _dimmed(camera: Camera, share: float) -> Camera:
    """Winter light: darker, warmer, lower, with more noise."""
    low, high = camera.exposure
    warm = tuple(
        gain * (1 + share * shift) for gain, shift in zip(camera.tone, (0.15, 0.0, -0.3), strict=True)
    )
    return replace(
        camera, exposure=(low * (1 - 0.5 * share), high * (1 - 0.5 * share)), tone=(warm[0], warm[1], warm[2]),
        gradient=camera.gradient + 0.3 * share, noise=camera.noise + 0.012 * share,
    )  # fmt: skip


REGIMES = {
    regime.name: regime
    for regime in (
        Regime("first", _OLD, USUAL),
        Regime("camera", _NEW, USUAL),
        Regime("dirty", _OLD, USUAL, dirty=True),
        Regime("bright", _BRIGHT, USUAL),
        Regime("product", _PRODUCT, USUAL),
        Regime("mix", _PRODUCT, OTHER),
        Regime("autumn", _dimmed(_PRODUCT, 0.4), OTHER),
        Regime("november", _dimmed(_PRODUCT, 0.75), OTHER),
        Regime("winter", _dimmed(_PRODUCT, 1.0), OTHER),
    )
}


def _year(days: int) -> list[Change]:
    at = days / 365
    return [
        Change("lens", "bad source", f"the lens of {DIRTY} is smeared", 25 * at, ("dirty",), 12 * at),
        Change("camera", "real", "all stations get another camera", 60 * at, ("camera",)),
        Change("brightness", "harmless", "brighter lamps", 120 * at, ("bright",)),
        Change("product", "real", "another product: rougher, blotched, shown smaller", 180 * at, ("product",)),
        Change("mix", "harmless", "more clean parts, fewer scratches and cracks", 235 * at, ("mix",)),
        Change(
            "season", "real", "the light fades over two weeks", 290 * at,
            ("autumn", "november", "winter"), 15 * at,
        ),
    ]  # fmt: skip


class World:
    """The truth that the loop does not see: which regime holds when, and which images come."""

    def __init__(self, days: int, seed: int, pool: int) -> None:
        self.days, self.seed, self.pool = days, seed, pool
        # A short soak has time for one turn of the loop.
        self.changes = _year(days) if days >= 180 else _year(days * 2)[1:2]
        self.mended: datetime | None = None
        self._rng = np.random.default_rng([seed, 7])
        self._decks: dict[str, list[int]] = {}
        self._gone: dict[str, set[int]] = {}
        self._sent = 0

    @cached_property
    def regimes(self) -> list[Regime]:
        """Those that this year needs, in order."""
        names = ["first", *(name for change in self.changes for name in change.regimes)]
        return [REGIMES[name] for name in names]

    def shares(self, time: datetime, station: str) -> dict[str, float]:
        """The regimes that an image of ``station`` may be of, with their probabilities."""
        day = (time - START) / timedelta(days=1)
        now = {"first": 1.0}
        for change in self.changes:
            if day < change.day:
                break
            if change.kind == "bad source":
                if station == DIRTY and self.is_dirty(time, change):
                    now = {change.regimes[0]: 1.0}
                continue
            now = _between([next(iter(now)), *change.regimes], day - change.day, change.days)
        return now

    def is_dirty(self, time: datetime, change: Change) -> bool:
        """Whether the bad source is bad now."""
        day = (time - START) / timedelta(days=1)
        return change.day <= day < change.day + change.days and (self.mended is None or time < self.mended)

    def begun(self, since: datetime, until: datetime) -> list[Change]:
        """The changes that were under way at some time between the two."""
        after, before = (since - START) / timedelta(days=1), (until - START) / timedelta(days=1)
        return [
            change for change in self.changes if change.day <= before and change.day + change.days >= after
        ]

    def requests(self, hour: datetime) -> Iterator[Request]:
        """The images of one hour, in order of time, no two at the same time."""
        rate = BY_HOUR[hour.hour] / (3 if hour.weekday() >= 5 else 1)
        count = int(self._rng.poisson(rate))
        seconds = np.sort(self._rng.choice(3600, size=count, replace=False))
        for second in seconds:
            station = str(self._rng.choice(STATIONS))
            time = hour + timedelta(seconds=int(second))
            shares = self.shares(time, station)
            regime = str(self._rng.choice(list(shares), p=list(shares.values())))
            self._sent += 1
            yield Request(f"request-{self._sent:06d}", time, station, regime, self._draw(regime))

    def retire(self, regime: str, index: int) -> None:
        """An image that was labelled does not come again: a stream of images trained on would be no production."""
        self._gone.setdefault(regime, set()).add(index)

    def left(self, regime: str) -> np.ndarray:
        """(n,) the indices that may still come."""
        gone = self._gone.get(regime, set())
        return np.array([index for index in range(self.pool) if index not in gone])

    def _draw(self, regime: str) -> int:
        """Every image of a regime once, in a new order, before any comes again."""
        deck, gone = self._decks.setdefault(regime, []), self._gone.get(regime, set())
        while deck and deck[-1] in gone:
            deck.pop()
        if not deck:
            deck.extend(int(index) for index in self._rng.permutation(self.left(regime)))
        return deck.pop()


def _between(names: list[str], passed: float, length: float) -> dict[str, float]:
    """The probabilities of regimes that follow each other evenly over ``length`` days, ``passed`` days after the first."""
    steps = len(names) - 1
    at = steps if length == 0 else min(steps, steps * passed / length)
    lower = min(int(at), steps - 1)
    share = at - lower
    found = {names[lower]: 1 - share, names[lower + 1]: share}
    return {name: value for name, value in found.items() if value > 0}
