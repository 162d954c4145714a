"""One window to draw, and what each of its columns may differ by without drift."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from pipeline.artifacts import STATISTICS

__all__ = ["NUMBERS", "Point", "moved", "thresholds"]

NUMBERS = (*STATISTICS, "confidence")
NULL_DRAWS = 200
NULL_LEVEL = 0.99


@dataclass(frozen=True)
class Point:
    """One window to draw.

    Attributes:
        current, reference: column -> values; those of ``NUMBERS``, and ``predicted``.
        figures: our own, one for the window each; a panel draws their course.
        correct: the champion's hits on the window's labelled random images.
        sheet: where the contact sheet of the episode lies that the window opened, if it did.
        says: what the journal says of the window.
    """

    name: str
    time: datetime
    current: dict[str, list[Any]]
    reference: dict[str, list[Any]]
    figures: Mapping[str, float]
    correct: list[bool] = field(default_factory=list)
    sheet: str | None = None
    says: str = ""


def thresholds(point: Point) -> dict[str, float]:
    """Per column, the distance that samples of these sizes exceed in one of a hundred cases without drift.

    By permuting who is who. Evidently's own constant (0.1) is passed by most windows of a hundred images.
    """
    rng = np.random.default_rng(len(point.current["predicted"]))
    found = {}
    for name in (*NUMBERS, "predicted"):
        current, reference = np.array(point.current[name]), np.array(point.reference[name])
        pooled = np.concatenate([current, reference])
        draws = []
        for _ in range(NULL_DRAWS):
            mixed = rng.permutation(pooled)
            draws.append(_distance(mixed[: len(current)], mixed[len(current) :]))
        found[name] = float(np.quantile(draws, NULL_LEVEL))
    return found


def moved(point: Point, name: str) -> float:
    return _distance(np.array(point.current[name]), np.array(point.reference[name]))


def _distance(current: np.ndarray, reference: np.ndarray) -> float:
    """Evidently's normed Wasserstein distance of numbers, Jensen and Shannon's of classes."""
    if current.dtype.kind == "f":
        from scipy.stats import wasserstein_distance  # a second to import, and only a drawing asks

        return float(wasserstein_distance(current, reference)) / max(float(np.std(reference)), 1e-3)
    names = np.unique(np.concatenate([current, reference]))
    p, q = (np.array([np.mean(side == name) for name in names]) for side in (current, reference))
    middle = (p + q) / 2
    divergence = 0.5 * sum(
        float(np.sum(side[side > 0] * np.log2(side[side > 0] / middle[side > 0]))) for side in (p, q)
    )
    return float(np.sqrt(max(divergence, 0.0)))
