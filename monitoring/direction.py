"""The direction in which production has moved so far, and whether the next images lie further along it than they may.

What moves the embedding a little, but always the same way (strong JPEG compression, a lower resolution), is strange in
no single image: distance to the known ones doesn't tell. So a direction is learned from the images before (the
difference of means, as linear discriminant analysis weighs it), and held fixed for the images that come next: a
predictable bet, as in Podkopaev and Ramdas, "Sequential predictive two-sample and independence testing", NeurIPS 2023.
How often known images lie that far along it is bounded by the reference's calibrating part, which no direction is
learned from; every direction has its own share of delta, so the bounds hold for all of them together. A restart of
the evidence goes on counting directions, so they hold from the champion's promotion to its end.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import betainccinv

from monitoring.evidence import TAILS, Yardstick, distances
from monitoring.wealth import prior

__all__ = ["Direction"]

REFIT = 25
"""Images for which a direction is kept, whatever windows they come in: each one costs a share of delta."""
HALF_LIFE = 100
"""Images after which one counts half in the mean that the direction leads to."""
FADE = 0.5 ** (1 / HALF_LIFE)
RIDGE = 0.01
"""Of the largest component's variance, added to all: what the known images don't span is no surer than that."""
SMALLEST = 1e-9
"""Of the largest component's variance; what varies less is no direction of the known images."""
MOST = 1000
"""Known images that the spread is taken from; more are thinned evenly."""


@dataclass
class Direction:
    """State, so that a killed watch goes on where its last transaction stood.

    Attributes:
        total: (d,) sum of the images' differences from the known ones, and ``weight`` of how much each counts in it.
        learned: directions so far, each of which has spent a share of delta.
        axis: (d,) the one in use, None before there is any, and how many images it has been ``used`` on.
    """

    measure: Yardstick
    total: np.ndarray
    weight: float = 0.0
    learned: int = 0
    axis: np.ndarray | None = None
    used: int = 0

    @classmethod
    def of(cls, measure: Yardstick, learned: int = 0) -> "Direction":
        """From the first image on; ``learned`` directions have spent their share before."""
        return cls(measure, np.zeros(measure.reference.embeddings.shape[1]), learned=learned)

    def take(self, embeddings: np.ndarray, counts: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(n, d) of the next images, in order -> (n, TAILS) who lies beyond each threshold, and the most that may.

        The chance is 1, and nobody lies beyond, as long as nothing is learned.

        Args:
            counts: (n,) bool, from which images a direction is learned: not from the rest of a burst.
        """
        counts = np.ones(len(embeddings), dtype=bool) if counts is None else counts
        points = self._relative(embeddings)
        beyond = np.zeros((len(points), len(TAILS)), dtype=bool)
        chances = np.ones((len(points), len(TAILS)))
        start = 0
        while start < len(points):
            if self.used == REFIT:
                self._turn()
            rows = slice(start, min(start + REFIT - self.used, len(points)))
            if self.axis is not None:
                along = points[rows] @ self.axis
                for index, (threshold, chance) in enumerate(self._bounds(self.axis)):
                    beyond[rows, index] = along - threshold > 1e-5 * (1.0 + abs(threshold))
                    chances[rows, index] = chance
            self._learn(points[rows][counts[rows]])
            self.used += rows.stop - rows.start
            start = rows.stop
        return beyond, chances

    def _turn(self) -> None:
        """To the direction that the images so far have taken."""
        self.used = 0
        if self.weight > 0:
            self.learned += 1
            self.axis = self._discriminant()

    def _learn(self, points: np.ndarray) -> None:
        fade = FADE ** np.arange(len(points) - 1, -1, -1)
        self.total = self.total * FADE ** len(points) + fade @ points
        self.weight = self.weight * FADE ** len(points) + float(fade.sum())

    def _discriminant(self) -> np.ndarray:
        """(d,) discriminant between the images so far and the known ones."""
        mean = self.total / self.weight
        axes, shares = self._spread
        return np.asarray(mean - axes.T @ (shares * (axes @ mean)))

    def _bounds(self, axis: np.ndarray) -> Iterator[tuple[float, float]]:
        """For each tail, what is extreme in every domain, and the most that lies beyond it in the worst one."""
        delta = self.measure.event_delta * prior(self.learned)
        by_domain = [np.sort(points @ axis)[::-1] for points in self._calibrating]
        for tail in TAILS:
            ranks = [max(1, round(tail * len(own))) for own in by_domain]
            yield (
                max(float(own[rank - 1]) for own, rank in zip(by_domain, ranks, strict=True)),
                max(
                    float(betainccinv(r, len(own) + 1 - r, delta))
                    for own, r in zip(by_domain, ranks, strict=True)
                ),
            )

    @cached_property
    def _centres(self) -> np.ndarray:
        """(domains, d) mean of the known images."""
        against, _ = self.measure.parts
        own = self._by_domain(against)
        return np.stack([points.mean(axis=0) for points in own])

    @cached_property
    def _calibrating(self) -> list[np.ndarray]:
        """By domain, the images that calibrate a direction, as ``_relative`` has them."""
        _, calibrating = self.measure.parts
        return [self._relative(points) for points in self._by_domain(calibrating)]

    def _by_domain(self, indices: np.ndarray) -> list[np.ndarray]:
        r = self.measure.reference
        return [
            r.embeddings[r.of_domain(name, indices)].astype(np.float64) for name in sorted(set(r.domains))
        ]

    def _relative(self, embeddings: np.ndarray) -> np.ndarray:
        """(n, d) differences from the nearest domain's mean, so that known domains in other shares are no direction."""
        points = embeddings.astype(np.float64)
        return points - self._centres[distances(points, self._centres).argmin(axis=1)]

    @cached_property
    def _spread(self) -> tuple[np.ndarray, np.ndarray]:
        """(k, d) axes along which the known images spread, and how much of each is taken out of the mean."""
        against, _ = self.measure.parts
        kept = against[np.linspace(0, len(against) - 1, min(len(against), MOST)).astype(int)]
        points = self._relative(self.measure.reference.embeddings[kept])
        power, axes = _principal(points / np.sqrt(len(points)))
        return axes, power / (power + RIDGE * power[0])

    def to_dict(self) -> dict[str, Any]:
        return {
            "total": _text(self.total),
            "weight": self.weight,
            "learned": self.learned,
            "axis": None if self.axis is None else _text(self.axis),
            "used": self.used,
        }

    @classmethod
    def from_dict(cls, measure: Yardstick, raw: dict[str, Any], *, fresh: bool = False) -> "Direction":
        """What ``to_dict`` wrote; where that is nothing, or ``fresh``, a new start that counts on from there."""
        if fresh or not raw:
            return cls.of(measure, raw.get("learned", 0))
        axis = None if raw["axis"] is None else _numbers(raw["axis"])
        return cls(measure, _numbers(raw["total"]), raw["weight"], raw["learned"], axis, raw["used"])


def _principal(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(k,) squared singular values of (n, d), the largest first, and (k, d) their right vectors.

    From the smaller of the two matrices of products, a tenth of the work of a decomposition of ``points`` itself. What
    that costs in digits is lost in directions that vary a billionth as much as the first; they are left out.
    """
    n, d = points.shape
    power, vectors = np.linalg.eigh(points @ points.T if n < d else points.T @ points)
    kept = np.flatnonzero(power > max(SMALLEST * float(power[-1]), 1e-12))[::-1]
    if not len(kept):
        return np.ones(1), np.zeros((1, d))
    power, vectors = power[kept], vectors[:, kept].T
    return power, vectors @ points / np.sqrt(power)[:, None] if n < d else vectors


def _text(numbers: np.ndarray) -> str:
    return base64.b64encode(numbers.astype("<f8").tobytes()).decode("ascii")


def _numbers(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f8")
