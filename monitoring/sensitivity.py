"""What so few images could have shown at all: the smallest change that the sequential test would sooner call than not.

Pure: from the events that are fixed before any image is seen. Evidence grows with each image by the share of
images that an event happens to; where the mean growth over n images reaches the alarm, half of such streams do.
"""

from dataclasses import dataclass

import numpy as np

from monitoring.drift import log10_threshold
from monitoring.evidence import FAMILIES, ODDS, Event, Yardstick
from monitoring.wealth import prior
from pipeline.artifacts import STATISTICS

STEPS = 60


@dataclass(frozen=True)
class Smallest:
    """For n images; None where no change of that kind, however large, could have shown.

    Attributes:
        strange: share of images that are further from the known ones than any held-out one.
        brighter, darker: change of the mean luma, of a range of 1; ``brightness`` is the held-out mean.
    """

    n: int
    strange: float | None
    brighter: float | None
    darker: float | None
    brightness: float

    @property
    def words(self) -> str:
        parts = []
        if self.strange is not None:
            parts.append(f"{self.strange:.0%} of the images being unlike any held-out one")
        for change, name in ((self.darker, "darker"), (self.brighter, "brighter")):
            if change is not None:
                parts.append(f"all of them {name} by {change:.2f} (usual is {self.brightness:.2f})")
        if not parts:
            return f"with {self.n} images no change, however large, would have shown"
        return f"with {self.n} images only a change as large as this would have shown: {', or '.join(parts)}"


def smallest(measure: Yardstick, n: int, alpha: float) -> Smallest:
    """The smallest changes that ``n`` images could have shown, all of them after the change."""
    column = STATISTICS.index("brightness")
    usual = measure.reference.statistics[measure.reference.representatives, column].astype(float)
    sizes = np.linspace(0, 1, STEPS + 1)[1:]

    def shift(sign: float) -> float | None:
        return _first(sizes, _shown(measure, n, alpha, "brightness", usual + sign * sizes[:, None]))

    most = float(np.max(measure.calibration_novelty))
    pair = np.tile([2 * most + 1, most / 2], (STEPS, 1))  # a strange image, and a usual one
    strange = _first(sizes, _shown(measure, n, alpha, "novelty", pair, np.stack([sizes, 1 - sizes], axis=1)))
    return Smallest(n, strange, shift(1.0), shift(-1.0), float(usual.mean()))


def _first(sizes: np.ndarray, shown: np.ndarray) -> float | None:
    return float(sizes[shown.argmax()]) if shown.any() else None


def _shown(
    measure: Yardstick,
    n: int,
    alpha: float,
    statistic: str,
    values: np.ndarray,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """(k,) whether n images whose ``statistic`` is drawn from a row of ``values`` (k, m) bring the alarm on average."""
    if n < 1:
        return np.zeros(len(values), dtype=bool)
    families = [event.family for event in measure.events]
    gains = []
    for event in measure.events:
        if event.of_class or event.statistic != statistic or event.chance >= 1 - 1e-9:
            continue
        sign = 1.0 if event.direction == "up" else -1.0
        shares = np.average(sign * (values - event.threshold) > 0, axis=1, weights=weights)
        weight = -np.log(len(FAMILIES) * families.count(event.family) * len(ODDS))
        gains.append(weight + n * _growth(event, shares))
    if not gains:
        return np.zeros(len(values), dtype=bool)
    total = np.logaddexp.reduce(np.concatenate(gains, axis=1), axis=1) + np.log(prior(1))
    return np.asarray(total >= log10_threshold(alpha) * np.log(10))


def _growth(event: Event, shares: np.ndarray) -> np.ndarray:
    """(k, odds) mean log gain an image of each bet on the event, where it happens to a share (k,) of the images."""
    odds, happens = np.array(ODDS), shares[:, None]
    win = np.log((event.chance + odds * (1 - event.chance)) / event.chance)
    return np.asarray(happens * win + (1 - happens) * np.log1p(-odds))
