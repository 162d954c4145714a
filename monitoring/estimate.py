"""How accurate the champion is on images without labels, from its own confidence.

Two estimates, both anchored in the held-out images, whose labels are known. *Difference of confidences*: the
held-out accuracy, moved by as much as the mean calibrated confidence has moved (Guillory et al., "Predicting with
confidence on unseen distributions", ICCV 2021). *Average thresholded confidence*: the share of images above the
confidence that leaves as many held-out images above it as were right (Garg et al., "Leveraging unlabeled data to
predict out-of-distribution performance", ICLR 2022). Their mean is reported.

A network that is confidently wrong about a new kind of image shows in neither: only labels do. So the interval holds more
than the noise of two samples and the two methods' disagreement. It reaches as far as such estimates were off where the
truth is known: on the corruptions of the champion's own held-out images, which its release kept (of 24 of them the worst:
a 25th of their kind is within it 24 times of 25), and without those on the ones recorded (``RECORDED``).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from monitoring.reference import Reference
from monitoring.window import Window

RESAMPLES = 400
LEAST = 10
"""Held-out images under which nothing is estimated."""
FEWEST = 19
"""Corruptions under which the worst one says too little: a further one is as bad in one case of 20."""


@dataclass(frozen=True)
class Error:
    """How far estimates were off on corrupted images: too high by ``over`` at most, too low by ``under``; ``mean`` of both.

    Attributes:
        corruptions: of the champion's own images; 0 for those of other champions.
    """

    over: float
    under: float
    mean: float
    corruptions: int = 0


RECORDED = Error(over=0.45, under=0.08, mean=0.10)
"""``benchmarks/results/drift.json``, details, estimates: 124 cells, clean images and 30 corruptions on each of four sets. 95 %
of the errors lie within. They are other champions' errors, most of the large ones a single set's: no promise for this one.
"""


@dataclass(frozen=True)
class Estimate:
    """Accuracy on the window's images, with a 95 % interval; ``before`` is that on the held-out images."""

    method: str
    accuracy: float
    low: float
    high: float
    before: float
    error: Error | None = None

    @property
    def words(self) -> str:
        told = (
            f"Without labels the accuracy on these images is guessed from the confidence at {self.accuracy:.2f} "
            f"({self.low:.2f} to {self.high:.2f}), {self.before:.2f} on the held-out ones"
        )
        if self.error is None:
            return told
        where = (
            f"{self.error.corruptions} corruptions of this champion's held-out images"
            if self.error.corruptions
            else "recorded corruptions of other champions' images"
        )
        return f"{told}; the interval is as wide as such guesses were off on {where} ({self.error.mean:.2f} on average)"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate(reference: Reference, window: Window) -> Estimate | None:
    """The accuracy on the window; None where the reference does not say what its images show."""
    everyone = reference.representatives
    if reference.correct is None or len(everyone) < LEAST or len(window) == 0:
        return None
    known, right = reference.confidence[everyone].astype(float), reference.correct[everyone]
    return estimated(
        known, right, window.confidence.astype(float), measured(known, right, reference.corrupted)
    )


def measured(
    known: np.ndarray, right: np.ndarray, corrupted: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Error:
    """How far estimates from (m,) confidences and what was right are off on corruptions whose truth is known."""
    if len(corrupted) < FEWEST:
        return RECORDED
    off = np.array([_point(known, right, sure) - truth.mean() for sure, truth in corrupted])
    return Error(
        over=max(0.0, float(off.max())),
        under=max(0.0, float(-off.min())),
        mean=float(np.abs(off).mean()),
        corruptions=len(corrupted),
    )


def estimated(
    known: np.ndarray, right: np.ndarray, unknown: np.ndarray, error: Error | None = None
) -> Estimate:
    """From confidences (m,) with what was right (m,), and confidences (n,) without; percentile bootstrap of both sides.

    Args:
        error: how far off it may be besides; without it the interval holds where nothing has changed.
    """
    rng = np.random.default_rng(0)
    own = rng.integers(0, len(known), (RESAMPLES, len(known)))
    new = rng.integers(0, len(unknown), (RESAMPLES, len(unknown)))
    drawn = np.stack(_both(known[own], right[own], unknown[new]))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    point = _point(known, right, unknown)
    off = error or Error(0.0, 0.0, 0.0)
    return Estimate(
        method="mean of difference of confidences and average thresholded confidence",
        accuracy=point,
        low=max(0.0, min(float(low.min()), point - off.over)),
        high=min(1.0, max(float(high.max()), point + off.under)),
        before=float(right.mean()),
        error=error,
    )


def _point(known: np.ndarray, right: np.ndarray, unknown: np.ndarray) -> float:
    return float(np.stack(_both(known[None], right[None], unknown[None])).mean())


def _both(known: np.ndarray, right: np.ndarray, unknown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(b,) difference of confidences and (b,) average thresholded confidence of (b, m), (b, m) and (b, n)."""
    accuracy = right.mean(axis=1)
    moved = np.clip(accuracy + unknown.mean(axis=1) - known.mean(axis=1), 0.0, 1.0)
    # As many held-out images lie under the threshold as were wrong.
    wrong = np.rint((1.0 - accuracy) * known.shape[1]).astype(int)
    ordered = np.concatenate([np.sort(known, axis=1), np.full((len(known), 1), np.inf)], axis=1)
    threshold = ordered[np.arange(len(known)), wrong]
    return moved, (unknown >= threshold[:, None]).mean(axis=1)
