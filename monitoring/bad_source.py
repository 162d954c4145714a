"""Is it one source alone that sends other images, or have all changed?"""

import numpy as np

from monitoring.drift import matched
from monitoring.evidence import Yardstick
from monitoring.two_sample import holm, kolmogorov_smirnov
from monitoring.window import Window
from pipeline.artifacts import STATISTICS

__all__ = ["bad_source"]

LEVEL = 0.001
"""Of "differs from the held-out images", after Holm: with several sources some one falls under a higher one by chance."""
APART = 0.01
"""Of "differs from the other sources"."""
LEAST = 8
"""Images of one source under which nothing is said about it."""


def bad_source(measure: Yardstick, window: Window) -> str | None:
    """The one source that differs from the held-out images and from the other sources, of which none does.

    That the others don't differ surely is not enough: where all have changed, a few images of each leave it to chance
    which one is noticed first.
    """
    by_source: dict[str, list[int]] = {}
    for index, row in enumerate(window.rows):
        by_source.setdefault(row.source, []).append(index)
    judged = {name: indices for name, indices in by_source.items() if len(indices) >= LEAST}
    differing = [name for name, indices in judged.items() if _differs(measure, window.take(indices))]
    if len(differing) != 1 or len(judged) < 2:
        return None
    (name,) = differing
    others = [index for index, row in enumerate(window.rows) if row.source != name]
    return name if _apart(measure, window.take(judged[name]), window.take(others)) else None


def _differs(measure: Yardstick, window: Window) -> bool:
    """Whether the window differs from the held-out images that it resembles."""
    reference = measure.reference
    like = matched(reference, window)
    return _moved(window, reference.statistics[like], measure, measure.calibration_novelty) <= LEVEL


def _apart(measure: Yardstick, one: Window, other: Window) -> bool:
    """Whether two parts of a window differ from each other."""
    return _moved(one, other.statistics, measure, measure.novelty(other.embeddings)) <= APART


def _moved(window: Window, statistics: np.ndarray, measure: Yardstick, novelty: np.ndarray) -> float:
    """The least p, after Holm, that image statistics and novelty are those of other images."""
    p_values = {
        name: kolmogorov_smirnov(window.statistics[:, column], statistics[:, column])
        for column, name in enumerate(STATISTICS)
    }
    p_values["novelty"] = kolmogorov_smirnov(measure.novelty(window.embeddings), novelty)
    return min(holm(p_values).values())
