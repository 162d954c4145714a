"""How sure a number is: intervals and exact tests for images that come in groups of near-alike shots.

    wilson(18, 20)                                   # a proportion over independent images
    proportion(correct, groups)                      # the same where images share groups
    percentile(resample(statistics, groups, ...))    # anything that is a function of sums over images
    paired_intervals(difference, groups, ...)        # challenger minus champion on the same images
    sign_flip(difference, groups)                    # p-value of "the challenger is not worse"

Six shots of one part are not six independent images. Proportions use Wilson's interval on the effective
sample size, since the bootstrap says [1, 1] of 20 right out of 20; what is no proportion is bootstrapped by
group. Everything is deterministic for a seed.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

Z95 = 1.959963984540054
CELLS = 20_000_000  # drawn group numbers held at once while resampling; bounds memory at some 200 MB

Interval = tuple[float, float]


def codes(groups: list[str]) -> np.ndarray:
    """[n] integers 0..G-1 for [n] group names."""
    return np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)[1]


def wilson(successes: float, n: float, z: float = Z95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927); [0, 1] where there is nothing to count.

    ``successes`` and ``n`` may be fractional: an effective sample size is.
    """
    if n <= 0:
        return 0.0, 1.0
    share, square = successes / n, z * z
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    low = 0.0 if successes <= 0 else max(0.0, middle - half)
    high = 1.0 if successes >= n else min(1.0, middle + half)
    return low, high


def intraclass(values: np.ndarray, groups: np.ndarray) -> float:
    """How alike images of one group are in ``values``: 0 independent, 1 copies of one another.

    The one-way ANOVA estimate (Ridout, Demetrio and Firth 1999), clipped to [0, 1]. Where the values don't
    vary at all it can't be estimated and is 1: a group then counts as one image, the careful side.
    """
    groups = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(groups)
    n, count = len(values), len(sizes)
    if n == count:
        return 0.0
    if count < 2 or np.ptp(values) == 0:
        return 1.0
    means = np.bincount(groups, weights=values) / sizes
    between = float(np.sum(sizes * (means - values.mean()) ** 2)) / (count - 1)
    within = float(np.sum((values - means[groups]) ** 2)) / (n - count)
    typical = (n - float(np.sum(sizes.astype(float) ** 2)) / n) / (count - 1)
    total = between + (typical - 1) * within
    return float(np.clip((between - within) / total, 0.0, 1.0)) if total > 0 else 1.0


def effective_size(groups: np.ndarray, correlation: float) -> float:
    """Independent images that ``groups`` [n] are worth, by Kish's design effect 1 + (m - 1) * correlation."""
    if len(groups) == 0:
        return 0.0
    sizes = np.bincount(groups)
    sizes = sizes[sizes > 0].astype(float)
    return float(len(groups) / (1 + (np.sum(sizes**2) / np.sum(sizes) - 1) * correlation))


def proportion(hits: np.ndarray, groups: np.ndarray, correlation: float | None = None) -> Interval:
    """95 % interval of the share of ``hits`` [n, bool] in ``groups`` [n]; plain Wilson for groups of one.

    ``correlation`` is :func:`intraclass` of a larger set that these images are part of, where they
    are too few to estimate their own.
    """
    if len(hits) == 0:
        return 0.0, 1.0
    values = hits.astype(float)
    worth = effective_size(groups, intraclass(values, groups) if correlation is None else correlation)
    return wilson(float(values.mean()) * worth, worth)


def resample(statistics: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """[resamples, k] sums of ``statistics`` [n, k] over whole groups drawn with replacement.

    Every metric that is a function of sums over images (accuracy, F1, NLL, ECE over fixed bins) follows
    from these without touching the images again. Efron and Tibshirani 1993, by cluster.
    """
    groups = np.unique(groups, return_inverse=True)[1]
    count = int(groups.max()) + 1
    by_group = np.zeros((count, statistics.shape[1]))
    np.add.at(by_group, groups, statistics)
    generator = np.random.default_rng(seed)
    step = max(1, CELLS // count)
    parts = []
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(0, count, size=(rows, count), dtype=np.int64)
        drawn += np.arange(rows, dtype=np.int64)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        parts.append(times @ by_group)
    return np.concatenate(parts)


def standard_error(values: np.ndarray, groups: np.ndarray, labels: np.ndarray | None = None) -> float:
    """Standard error of the mean of ``values`` [n]; with ``labels`` [n], of the mean over classes of class means.

    Images of one group count as one observation (the cluster-robust estimate, Liang and Zeger 1986), and each
    class's deviations are enlarged for the degree of freedom that its own mean took. Infinite where all images,
    or all of a class, are of one group.
    """
    members = np.unique(groups, return_inverse=True)[1]
    strata = np.zeros(len(values), dtype=int) if labels is None else labels
    present = np.unique(strata)
    parts = np.zeros(len(values))
    for stratum in present:
        rows = strata == stratum
        number = len(np.unique(members[rows]))
        if number < 2:
            return math.inf
        deviation = values[rows] - values[rows].mean()
        parts[rows] = deviation / rows.sum() / len(present) * math.sqrt(number / (number - 1))
    return float(np.sqrt((np.bincount(members, weights=parts) ** 2).sum()))


def percentile(values: np.ndarray, level: float = 0.95) -> Interval:
    """The middle ``level`` of bootstrap ``values`` [resamples]."""
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def calibration_interval(gaps: np.ndarray, observed: np.ndarray, level: float = 0.95) -> Interval:
    """Interval of sum |gap| over bins, from ``observed`` [bins] and its bootstrap ``gaps`` [resamples, bins].

    Noise only ever adds to a sum of absolute values: the percentile interval of a perfectly calibrated
    model's ECE never reaches 0. The lower end is therefore the estimate less the size of the noise itself
    (by the triangle inequality at least ``level`` sure); the upper end is the percentile's.
    """
    noise = np.abs(gaps - observed).sum(axis=1)
    low = float(np.abs(observed).sum() - np.quantile(noise, level))
    return max(0.0, low), percentile(np.abs(gaps).sum(axis=1), level)[1]


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
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) > target else (low, middle)
        return (low + high) / 2

    estimate = (wins - losses) / n
    return solve(-1.0, estimate, z), solve(estimate, 1.0, -z)


def paired_intervals(
    difference: np.ndarray, groups: np.ndarray, resamples: int, seed: int, levels: Sequence[float] = (0.95,)
) -> list[Interval]:
    """For each level, the interval of the mean of ``difference`` [n, of -1, 0, 1]: challenger less champion.

    The wider, on each side, of the paired bootstrap by group, which knows of the groups, and of Tango's
    score interval, which knows that few disagreements say little.
    """
    sums = resample(np.stack([difference, np.ones(len(difference))], axis=1), groups, resamples, seed)
    wins, losses = float((difference > 0).sum()), float((difference < 0).sum())
    found = []
    for level in levels:
        low, high = percentile(sums[:, 0] / sums[:, 1], level)
        score = tango(wins, losses, len(difference), NormalDist().inv_cdf((1 + level) / 2))
        found.append((min(low, score[0]), max(high, score[1])))
    return found


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


def binomial_below(successes: float, n: float, bound: float) -> float:
    """P(at most ``successes`` of ``n``) where the true share is ``bound``; both may be fractional."""
    if successes >= n or bound <= 0:
        return 1.0
    if bound >= 1:
        return 0.0
    from scipy.special import betainc  # half a second to import, and only the gate asks

    return float(betainc(n - successes, successes + 1, 1 - bound))


def holm(p_values: list[float]) -> list[float]:
    """Adjusted p-values: the chance of any false alarm among them stays below the level (Holm 1979)."""
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
