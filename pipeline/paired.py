"""Two models on the same images: how much better, how sure, and by chance alone?

    paired_intervals(difference, groups)       # challenger minus champion
    sign_flip(difference, groups)              # p-value of "the challenger is not worse"

Exact or by inversion of a score test, never by a bootstrap, which takes two that never disagreed for equal.
Shots of one part count for what they are worth (see intervals.py).
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from pipeline.intervals import Z95, Interval, effective_size, intraclass

PRECISE = 1e-9


def tango(wins: float, losses: float, n: float, z: float = Z95) -> Interval:
    """Score interval of the difference of two paired proportions, (wins - losses) / n (Tango 1998).

    Unlike a bootstrap it is not fooled where the two never disagree: no loss in 30 images still leaves
    room for a true loss of several points.
    """

    def excess(delta: float) -> float:
        linear = -wins - losses + (2 * n - wins + losses) * delta
        root = math.sqrt(max(linear * linear + 8 * n * losses * delta * (1 - delta), 0.0))
        share = (root - linear) / (4 * n)  # the share of losses, most likely under this delta
        variance = n * (2 * share + delta * (1 - delta))
        return (wins - losses - n * delta) / math.sqrt(max(variance, 1e-12))

    def solve(low: float, high: float, target: float) -> float:
        """Where ``excess``, which falls, is ``target``, to 1e-9: false position, halving the end that stays (Illinois)."""
        above, below = (
            min(excess(low) - target, z),
            max(excess(high) - target, -z),
        )  # near ±1 it goes to infinity
        if above <= 0 or below >= 0:
            return low if above <= 0 else high
        kept = 0
        for _ in range(64):
            point = high - below * (high - low) / (below - above)
            if high - low < PRECISE:
                break
            found = excess(point) - target
            if abs(found) < PRECISE:
                return point
            if found > 0:
                low, above, below = point, found, below / 2 if kept > 0 else below
                kept = 1
            else:
                high, below, above = point, found, above / 2 if kept < 0 else above
                kept = -1
        return point

    estimate = (wins - losses) / n
    return solve(-1.0, estimate, z), solve(estimate, 1.0, -z)


def paired_intervals(
    difference: np.ndarray, groups: np.ndarray, levels: Sequence[float] = (0.95,)
) -> list[Interval]:
    """For each level, the interval of the mean of ``difference`` [n, of -1, 0, 1]: challenger less champion.

    Tango's score interval on the effective sample size: counts and images divided by the design effect
    (Rao and Scott 1992), here by how alike the differences of one group are. For groups of one it is Tango's own.
    """
    worth = effective_size(groups, intraclass(difference.astype(float), groups))
    share = worth / len(difference)
    wins, losses = (share * float((sign * difference > 0).sum()) for sign in (1, -1))
    return [tango(wins, losses, worth, NormalDist().inv_cdf((1 + level) / 2)) for level in levels]


def sign_flip(difference: np.ndarray, groups: np.ndarray) -> float:
    """One-sided p-value of "the challenger is not worse", exact over all flips of the groups' signs.

    Under the null either model could have been the better one in each group. For groups of one image it
    is McNemar's exact test (McNemar 1947). ``difference`` [n] is of -1, 0, 1.
    """
    net = np.bincount(groups, weights=difference).round().astype(np.int64)
    sizes = np.abs(net[net != 0])
    reach = int(sizes.sum())
    chance = np.ones(1)  # distribution of the sum, one group after the other, from -reach to reach
    for size in sizes:
        longer = np.zeros(len(chance) + 2 * size)
        longer[: len(chance)] += chance / 2
        longer[2 * size :] += chance / 2
        chance = longer
    return float(min(1.0, chance[: int(net.sum()) + reach + 1].sum()))
