"""How accurate the champion is on images without labels, from its own confidence.

Two estimates, both anchored in the held-out images, whose labels are known. *Difference of confidences*: the
held-out accuracy, moved by as much as the mean calibrated confidence has moved (Guillory et al., "Predicting with
confidence on unseen distributions", ICCV 2021). *Average thresholded confidence*: the share of images above the
confidence that leaves as many held-out images above it as were right (Garg et al., "Leveraging unlabeled data to
predict out-of-distribution performance", ICLR 2022). Their mean is reported, and the interval spans both: what it
holds is the noise of two samples and the two methods' disagreement. A network that is confidently wrong about a
new kind of image shows in neither: only labels do.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from monitoring.reference import Reference
from monitoring.window import Window

RESAMPLES = 400
LEAST = 10
"""Held-out images under which nothing is estimated."""


@dataclass(frozen=True)
class Estimate:
    """Accuracy on the window's images, with a 95 % interval; ``before`` is that on the held-out images."""

    method: str
    accuracy: float
    low: float
    high: float
    before: float

    @property
    def words(self) -> str:
        return (
            f"Without labels the accuracy on these images is estimated at {self.accuracy:.2f} "
            f"({self.low:.2f} to {self.high:.2f}), {self.before:.2f} on the held-out ones"
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate(reference: Reference, window: Window) -> Estimate | None:
    """The accuracy on the window; None where the reference does not say what its images show."""
    everyone = reference.representatives
    if reference.correct is None or len(everyone) < LEAST or len(window) == 0:
        return None
    known, right = reference.confidence[everyone], reference.correct[everyone]
    return estimated(known.astype(float), right, window.confidence.astype(float))


def estimated(known: np.ndarray, right: np.ndarray, unknown: np.ndarray) -> Estimate:
    """From confidences (m,) with what was right (m,), and confidences (n,) without; percentile bootstrap of both sides."""
    rng = np.random.default_rng(0)
    own = rng.integers(0, len(known), (RESAMPLES, len(known)))
    new = rng.integers(0, len(unknown), (RESAMPLES, len(unknown)))
    drawn = np.stack(_both(known[own], right[own], unknown[new]))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    point = np.stack(_both(known[None], right[None], unknown[None]))[:, 0]
    return Estimate(
        method="mean of difference of confidences and average thresholded confidence",
        accuracy=float(point.mean()),
        low=float(low.min()),
        high=float(high.max()),
        before=float(right.mean()),
    )


def _both(known: np.ndarray, right: np.ndarray, unknown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(b,) difference of confidences and (b,) average thresholded confidence of (b, m), (b, m) and (b, n)."""
    accuracy = right.mean(axis=1)
    moved = np.clip(accuracy + unknown.mean(axis=1) - known.mean(axis=1), 0.0, 1.0)
    # As many held-out images lie under the threshold as were wrong.
    wrong = np.rint((1.0 - accuracy) * known.shape[1]).astype(int)
    ordered = np.concatenate([np.sort(known, axis=1), np.full((len(known), 1), np.inf)], axis=1)
    threshold = ordered[np.arange(len(known)), wrong]
    return moved, (unknown >= threshold[:, None]).mean(axis=1)
