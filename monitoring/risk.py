"""Whether a drift does harm: the labels that were asked at random, against the accuracy that the champion was judged by.

The interval is a confidence sequence: it holds at every number of labels at once, so one may look after each and
stop when it decides. Hedged betting on every mean that is possible (Waudby-Smith and Ramdas, "Estimating means of
bounded random variables by betting", JRSS B 2024): a mean is ruled out once betting against it has multiplied a
stake by 1 / alpha.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from monitoring import label_queue
from monitoring.journal import Episode
from monitoring.labels import read_labels
from monitoring.reference import Reference
from pipeline.artifacts import Workspace

ALPHA = 0.05
GRID = np.linspace(0.0, 1.0, 1001)[1:-1]
MOST_STAKED = 0.5
"""Of the wealth, in the worst case of a single bet."""

Harm = Literal["harmful", "harmless", "unknown"]


@dataclass(frozen=True)
class Labelled:
    """Accuracy on n randomly asked images, with an interval that holds at every n; ``least`` is what is demanded."""

    n: int
    accuracy: float
    low: float
    high: float
    least: float
    harm: Harm

    @property
    def words(self) -> str:
        said = {
            "harmful": "the drift does harm",
            "harmless": "the drift does no harm",
            "unknown": "too few labels to say whether the drift does harm",
        }[self.harm]
        return (
            f"of {self.n} randomly asked labels {self.accuracy:.0%} agree with the champion ({self.low:.0%} to "
            f"{self.high:.0%}; {self.least:.0%} is demanded): {said}"
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def labelled(workspace: Workspace, episode: Episode, reference: Reference, margin: float) -> Labelled | None:
    """The episode's random labels so far, in the order in which they came; None before the first.

    Args:
        margin: accuracy under the held-out one that is still no harm (``gate.noninferiority_margin``).
    """
    asked = {item.image_id: item for item in label_queue.items_of(workspace, episode.id) if item.random}
    came = sorted(
        (label for label in read_labels(workspace.labels) if label.image_id in asked),
        key=lambda label: (label.time, label.image_id),
    )
    if not came or reference.correct is None:
        return None
    right = [asked[label.image_id].predicted == label.label for label in came]
    return judged(right, float(reference.correct[reference.representatives].mean()) - margin)


def judged(right: Sequence[bool], least: float) -> Labelled:
    """harmful where the whole interval lies under ``least``, harmless where none of it does."""
    low, high = confidence_sequence(right)[-1]
    harm: Harm = "harmful" if high < least else "harmless" if low >= least else "unknown"
    return Labelled(len(right), float(np.mean(right)), low, high, least, harm)


def confidence_sequence(values: Sequence[float], alpha: float = ALPHA) -> list[tuple[float, float]]:
    """After each of n values in 0..1 an interval of their mean; all n hold together with chance 1 - alpha.

    The bets follow the paper's predictable plug-in: only what came before decides what is staked.
    """
    total, squares, log_up, log_down = 0.5, 0.25, np.zeros_like(GRID), np.zeros_like(GRID)
    low, high = 0.0, 1.0
    found = []
    for t, value in enumerate((float(v) for v in values), start=1):
        spread = squares / t
        stake = np.sqrt(2 * np.log(2 / alpha) / (spread * t * np.log(1 + t)))
        log_up += np.log1p(np.minimum(stake, MOST_STAKED / GRID) * (value - GRID))
        log_down += np.log1p(-np.minimum(stake, MOST_STAKED / (1 - GRID)) * (value - GRID))
        total += value
        squares += (value - total / (t + 1)) ** 2
        alive = GRID[np.maximum(log_up, log_down) + np.log(0.5) < np.log(1 / alpha)]
        if len(alive):
            # The grid's neighbours, so that its step can't cut the mean off; 0 and 1 are never ruled out by it.
            step = GRID[1] - GRID[0]
            low = max(low, float(alive[0] - step))
            high = min(high, float(alive[-1] + step))
        found.append((max(0.0, low), min(1.0, high)))
    return found
