"""Probe or fine-tuned? The fine-tuned network ships only when it is better by more than its noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.transfer.calibration import calibrated_losses

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same validation images; differences are the second minus the first."""

    accuracy: tuple[float, float]
    loss: tuple[float, float]  # mean log loss in nats, each at its own best temperature
    gain: float  # loss[0] - loss[1]
    error: float  # standard error of the gain, over groups
    second_wins: bool


def compare(first: np.ndarray, second: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> Comparison:
    """Compare logits [n, classes] of two networks on n validation images.

    The second wins where its log loss is lower by more than one standard error of the paired difference
    and its accuracy is not lower. The log loss sees far smaller differences than counting errors does, and
    each network's own temperature keeps mere overconfidence out of it. Images of one group count once.
    """
    losses = [calibrated_losses(logits, labels) for logits in (first, second)]
    accuracy = [float((logits.argmax(axis=1) == labels).mean()) for logits in (first, second)]
    difference = losses[0] - losses[1]
    gain = float(difference.mean())
    error = _clustered_error(difference, groups)
    wins = gain > error and accuracy[1] >= accuracy[0]
    loss = (float(losses[0].mean()), float(losses[1].mean()))
    return Comparison((accuracy[0], accuracy[1]), loss, gain, error, wins)


def _clustered_error(values: np.ndarray, groups: Sequence[str]) -> float:
    """Standard error of the mean of values [n] whose groups are independent, their members not."""
    codes = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)[1]
    count = int(codes.max()) + 1
    if count < 2:
        return float("inf")
    sums = np.bincount(codes, weights=values - values.mean(), minlength=count)
    return float(np.sqrt((sums**2).sum() * count / (count - 1)) / len(values))
