"""The direction in which production has moved so far, and whether the next images lie further along it than they may.

What moves the embedding a little, but always the same way (strong JPEG compression, a lower resolution), is strange in
no single image: distance to the known ones doesn't tell. So a direction is learned from the images before (the
difference of means, as linear discriminant analysis weighs it), and held fixed for the images that come next: a
predictable bet, as in Podkopaev and Ramdas, "Sequential predictive two-sample and independence testing", NeurIPS 2023.
How often known images lie that far along it is bounded by the reference's calibrating part, which no direction is
learned from; every direction has its own share of delta, so the bounds hold for all of them together.
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
"""Images for which a direction is kept, at most."""
HALF_LIFE = 100
"""Images after which one counts half in the mean that the direction leads to."""
FADE = 0.5 ** (1 / HALF_LIFE)
RIDGE = 0.01
"""Of the largest component's variance, added to all: what the known images don't span is no surer than that."""
MOST = 1000
"""Known images that the spread is taken from; more are thinned evenly."""


@dataclass
class Direction:
    """State, so that a killed watch goes on where its last transaction stood.

    Attributes:
        total: (d,) sum of the images' differences from the known ones, and ``weight`` of how much each counts in it.
        learned: directions so far, each of which has spent a share of delta.
    """

    measure: Yardstick
    total: np.ndarray
    weight: float = 0.0
    learned: int = 0

    @classmethod
    def of(cls, measure: Yardstick) -> "Direction":
        return cls(measure, np.zeros(measure.reference.embeddings.shape[1]))

    def take(self, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, d) of the next images, in order -> (n, TAILS) who lies beyond each threshold, and the most that may.

        The chance is 1, and nobody lies beyond, as long as nothing is learned.
        """
        points = self._relative(embeddings)
        beyond = np.zeros((len(points), len(TAILS)), dtype=bool)
        chances = np.ones((len(points), len(TAILS)))
        for start in range(0, len(points), REFIT):
            part = points[start : start + REFIT]
            if self.weight > 0:
                self.learned += 1
                axis = self._axis()
                for index, (threshold, chance) in enumerate(self._bounds(axis)):
                    along = part @ axis - threshold > 1e-5 * (1.0 + abs(threshold))
                    beyond[start : start + REFIT, index], chances[start : start + REFIT, index] = (
                        along,
                        chance,
                    )
            fade = FADE ** np.arange(len(part) - 1, -1, -1)
            self.total = self.total * FADE ** len(part) + fade @ part
            self.weight = self.weight * FADE ** len(part) + float(fade.sum())
        return beyond, chances

    def _axis(self) -> np.ndarray:
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
        _, sizes, axes = np.linalg.svd(points / np.sqrt(len(points)), full_matrices=False)
        power = sizes**2
        return axes, power / (power + RIDGE * max(float(power[0]), 1e-12))

    def to_dict(self) -> dict[str, Any]:
        total = base64.b64encode(self.total.astype("<f8").tobytes()).decode("ascii")
        return {"total": total, "weight": self.weight, "learned": self.learned}

    @classmethod
    def from_dict(cls, measure: Yardstick, raw: dict[str, Any]) -> "Direction":
        """What ``to_dict`` wrote; a fresh start where that is nothing."""
        if not raw:
            return cls.of(measure)
        total = np.frombuffer(base64.b64decode(raw["total"]), dtype="<f8")
        return cls(measure, total, raw["weight"], raw["learned"])
