"""Years of watching: how often an alarm comes without drift, and how many images it takes with drift.

The stream must not be a finite pool resampled: its repeats would flatter or hurt us. So a density is fitted to each
set's clean images (a Gaussian mixture over the leading principal components of embeddings, ranks of the statistics
and log odds), and both a finite reference and an endless stream are drawn from it: a world in which the null is true
exactly and no image comes twice. A drift is the same world with a share of the images moved as a corruption moved
the real ones (the mean difference in those coordinates). The alarm is the product's: ``monitoring.evidence`` and
``monitoring.wealth``, image by image, for a champion's life of one year.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.mixture import GaussianMixture

from benchmarks.drift_draws import Stack
from benchmarks.drift_images import CHANGED, KINDS, Measured
from benchmarks.drift_ours import Columns, reference_of
from monitoring.direction import Direction
from monitoring.drift import compared, log10_threshold, seen, yardstick
from monitoring.evidence import BLOCK, FAMILIES, ODDS, Yardstick
from monitoring.wealth import gains, prior
from pipeline.intervals import wilson

LEVEL = 0.05
REFERENCE = 200
DIMENSIONS = 24
COMPONENTS = 8
HOURLY = (8760, 1)
"""Looks a year and images between two looks."""
WEEKLY = (52, 100)
QUIET = 500
"""Images before a drift begins."""
DELAY = 600
"""Images after which it counts as not seen."""
LOOK = 50


@dataclass(frozen=True)
class World:
    """An endless source of images like a set's, as the watch sees them."""

    classes: tuple[str, ...]
    mixture: GaussianMixture
    centre: np.ndarray
    axes: np.ndarray  # (k, d)
    statistics: np.ndarray  # (n, 4) the set's own: quantiles
    spread: np.ndarray  # (k + 4 + classes,) of the coordinates, before they were scaled
    middle: np.ndarray

    @classmethod
    def like(cls, part: Measured, classes: tuple[str, ...], seed: int = 0) -> "World":
        embeddings = part.embeddings.astype(np.float64)
        centre = embeddings.mean(axis=0)
        axes = np.linalg.svd(embeddings - centre, full_matrices=False)[2][:DIMENSIONS]
        raw = cls._raw(part, centre, axes)
        middle, spread = raw.mean(axis=0), raw.std(axis=0) + 1e-9
        mixture = GaussianMixture(COMPONENTS, covariance_type="full", reg_covar=1e-2, random_state=seed)
        mixture.fit((raw - middle) / spread)
        return cls(classes, mixture, centre, axes, np.sort(part.statistics, axis=0), spread, middle)

    @staticmethod
    def _raw(part: Measured, centre: np.ndarray, axes: np.ndarray) -> np.ndarray:
        odds = np.log(np.clip(part.probabilities, 1e-4, 1)).astype(np.float64)
        return np.concatenate(
            [(part.embeddings.astype(np.float64) - centre) @ axes.T, part.statistics, odds], axis=1
        )

    def move(self, clean: Measured, moved: Measured) -> np.ndarray:
        """The mean difference that a corruption made to the same images, in this world's coordinates."""
        gap = self._raw(moved, self.centre, self.axes) - self._raw(clean, self.centre, self.axes)
        return np.asarray(gap.mean(axis=0) / self.spread)

    def draw(
        self, n: int, rng: np.random.Generator, move: np.ndarray | None = None, share: float = 1.0
    ) -> Measured:
        """n fresh images, a share of them moved."""
        which = rng.choice(COMPONENTS, n, p=self.mixture.weights_ / self.mixture.weights_.sum())
        roots = np.linalg.cholesky(self.mixture.covariances_)
        points = rng.standard_normal((n, roots.shape[1]))
        for component, root in enumerate(roots):
            own = which == component
            points[own] = self.mixture.means_[component] + points[own] @ root.T
        if move is not None:
            points[rng.random(n) < share] += move
        raw = points * self.spread + self.middle
        k = len(self.axes)
        odds = raw[:, k + 4 :]
        chances = np.exp(odds - odds.max(axis=1, keepdims=True))
        return Measured(
            embeddings=(raw[:, :k]).astype(np.float32),
            statistics=raw[:, k : k + 4].astype(np.float32),
            probabilities=(chances / chances.sum(axis=1, keepdims=True)).astype(np.float32),
            sizes=np.full((n, 2), 128),
            labels=np.zeros(n, dtype=int),
        )


def first_crossing(measure: Yardstick, happened: np.ndarray, chance: np.ndarray, bar: float) -> int | None:
    """How many images, rows of (n, events), it takes until the evidence is ``bar`` (natural logarithm).

    The average of ``monitoring.wealth`` over starting times, for all images at once: the same sums in another order
    (a test holds the two together). Images are independent here, so no burst is thinned.
    """
    n = len(happened)
    weights = np.array([prior(block + 1) for block in range(-(-n // BLOCK))])
    rest = np.repeat(1.0 - np.cumsum(weights), BLOCK)[:n]
    families = [event.family for event in measure.events]
    total = np.zeros(n)
    for index, event in enumerate(measure.events):
        share = 1.0 / (len(FAMILIES) * families.count(event.family) * len(ODDS))
        for log_gains in _gains(happened[:, index], chance[:, index]).T:
            path = np.cumsum(log_gains)
            starts = np.concatenate([[0.0], path])[:-1][::BLOCK]  # before the first image of each block
            stakes = np.logaddexp.accumulate(np.log(weights) - starts)
            # Far past any alarm: no overflow.
            total += share * (rest + np.exp(np.minimum(path + np.repeat(stakes, BLOCK)[:n], 600.0)))
    crossed = np.flatnonzero(np.log(total) >= bar)
    return int(crossed[0]) + 1 if len(crossed) else None


def _gains(happened: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """(n, bets) of one event; where its chance never changes there are but two values of each bet."""
    if np.any(chance != chance[0]):
        return gains(happened, chance)
    won, lost = gains(np.array([True, False]), chance[[0, 0]])
    return np.where(happened[:, None], won, lost)


@dataclass
class Year:
    """A reference, and what a stream of images does to its evidence."""

    world: World
    rng: np.random.Generator
    alpha: float

    def __post_init__(self) -> None:
        part = self.world.draw(REFERENCE, self.rng)
        self.reference = reference_of(part, self.world.classes, ("world",) * len(part))
        self.measure = yardstick(self.reference, self.alpha)
        self.bar = log10_threshold(self.alpha) * np.log(10)

    def alarm(self, part: Measured) -> int | None:
        """How many images the product's evidence takes to alarm; None where it doesn't."""
        direction = Direction.of(self.measure)
        stream = Columns.of(part, self.world.classes)
        return first_crossing(self.measure, *seen(self.measure, direction, stream), self.bar)

    def called(self, part: Measured) -> bool:
        """Whether one look at a window, at a level of .05, calls it drift."""
        window = Columns.of(part, self.world.classes)
        return min(compared(self.reference, window, 200, self.rng).adjusted.values()) <= LEVEL


def quiet_years(stack: Stack, years: int, alpha: float, seed: int) -> dict[str, Any]:
    """Alarms without drift in so many years, a fresh reference each: hourly one image, weekly 100 (its first 5,200)."""
    world = World.like(stack.watched.parts["clean"], stack.watched.classes)
    hourly = weekly = 0
    for year in range(years):
        life = Year(world, np.random.default_rng([seed, year]), alpha)
        at = life.alarm(world.draw(HOURLY[0] * HOURLY[1], life.rng))
        hourly += at is not None
        weekly += at is not None and at <= WEEKLY[0] * WEEKLY[1]
    return {"hourly": [hourly, years], "weekly": [weekly, years]}


def checked_years(stack: Stack, years: int, seed: int) -> list[int]:
    """Years without drift in which some weekly window of 100 is called drift by one look at .05; of how many."""
    world = World.like(stack.watched.parts["clean"], stack.watched.classes)
    called = 0
    for year in range(years):
        life = Year(world, np.random.default_rng([seed, year, 1]), 0.01)
        called += any(life.called(world.draw(WEEKLY[1], life.rng)) for _ in range(WEEKLY[0]))
    return [called, years]


def delays(stack: Stack, runs: int, alpha: float, seed: int) -> list[dict[str, Any]]:
    """Images from the drift's begin to the alarm, after 500 quiet ones; beside one look at .05 every 50 images."""
    clean = stack.watched.parts["clean"]
    world = World.like(clean, stack.watched.classes)
    found = []
    for kind in KINDS:
        for share in (0.3, 1.0):
            move = world.move(clean.take(np.arange(CHANGED)), stack.watched.parts[f"{kind}-3"])
            ours, looks = [], []
            for run in range(runs):
                life = Year(world, np.random.default_rng([seed, run, 2]), alpha)
                drifted = world.draw(DELAY, life.rng, move, share)
                at = life.alarm(joined(world.draw(QUIET, life.rng), drifted))
                ours.append(None if at is None else at - QUIET)
                starts = range(0, DELAY, LOOK)
                hit = (s for s in starts if life.called(drifted.take(np.arange(s, s + LOOK))))
                first = next(hit, None)
                looks.append(None if first is None else first + LOOK)
            found.append({"set": stack.watched.name, "shift": f"{kind}-3", "share": share,
                          "alarm": _spread(ours), "one look at .05 every 50": _spread(looks)})  # fmt: skip
    return found


def joined(first: Measured, second: Measured) -> Measured:
    return Measured(
        **{
            name: np.concatenate([getattr(first, name), getattr(second, name)])
            for name in Measured.__dataclass_fields__
        }
    )


def _spread(images: list[int | None]) -> dict[str, Any]:
    """Median and largest delay; an alarm before the drift began is false and counted, not averaged."""
    seen = [at for at in images if at is not None and at > 0]
    return {
        "runs": len(images),
        "seen": len(seen),
        "false": sum(at is not None and at <= 0 for at in images),
        "median": float(np.median(seen)) if seen else None,
        "largest": max(seen, default=None),
    }


def bounded(hits: int, years: int) -> dict[str, Any]:
    """A rate with Wilson's upper 95 % bound."""
    low, high = wilson(hits, years)
    return {
        "alarms": hits,
        "years": years,
        "rate": hits / years,
        "low": round(low, 4),
        "high": round(high, 4),
    }
