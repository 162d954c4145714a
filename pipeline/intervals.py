"""How sure a number is: intervals for images that come in groups of near-alike shots.

    wilson(18, 20)                             # a proportion over independent images
    proportion(correct, groups)                # the same where images share groups
    jackknife(value, without)                  # a mean of proportions or of F1, left out group by group
    studentised(losses, groups, ...)           # a mean of skewed values
    calibration_interval(gaps, observed)       # a sum of absolute gaps

Six shots of one part are not six independent images. What lies between 0 and 1 has a score interval on the
effective sample size, since the plain bootstrap says [1, 1] of 20 right out of 20; the rest is bootstrapped by
group. Everything is deterministic for a seed. How often each interval holds the truth is measured:
`python -m benchmarks.gate`.
"""

import math

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


def totals(statistics: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """[groups, k] sums of ``statistics`` [n, k] over each group."""
    members = np.unique(groups, return_inverse=True)[1]
    by_group = np.zeros((int(members.max()) + 1, statistics.shape[1]))
    np.add.at(by_group, members, statistics)
    return by_group


def resample(by_group: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """[resamples, k] sums over as many rows of ``by_group`` [groups, k] as there are, drawn with replacement.

    Every metric that is a function of sums over images (NLL, ECE over fixed bins) follows from these
    without touching the images again. Efron and Tibshirani 1993, by cluster.
    """
    count = len(by_group)
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


def jackknife(value: float, without: np.ndarray) -> Interval | None:
    """95 % interval of a ``value`` in 0..1 from what it is ``without`` [groups] each of the groups.

    The jackknife's variance (Quenouille and Tukey; Efron and Stein 1981: it errs on the careful side) says how
    many independent images the value is worth; Wilson's interval is taken on those, with Student's quantile, as
    for complex surveys (Korn and Graubard 1998, Dean and Pagano 2015). A percentile bootstrap of macro-F1 or
    balanced accuracy lies beside the truth up to three times as often as it says. None where no group
    makes a difference: then nothing is known of the doubt.
    """
    from scipy.special import stdtrit  # as in binomial_below

    count = len(without)
    variance = (count - 1) / count * float(((without - without.mean()) ** 2).sum())
    if variance <= 1e-18 or not 0 < value < 1:
        return None
    worth = value * (1 - value) / variance
    return wilson(value * worth, worth, float(stdtrit(count - 1, 0.975)))


def studentised(values: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> Interval:
    """95 % interval of the mean of ``values`` [n, not negative], bootstrapped by group as a t statistic.

    For skewed values, such as an image's log loss, whose few large ones a sample mostly lacks: the percentile
    interval then ends too low (bootstrap-t; Efron 1981, Hall 1988).
    """
    sums = totals(np.stack([values, np.ones(len(values))], axis=1), groups)
    total, size = sums.T
    columns = np.stack([total, size, total**2, total * size, size**2], axis=1)
    mean, error = _ratio(columns.sum(axis=0)[None], len(sums))
    means, errors = _ratio(resample(columns, resamples, seed), len(sums))
    known = errors > 1e-12  # not where one group alone was drawn
    if error[0] <= 1e-12 or not known.any():
        return float(mean[0]), float(mean[0])
    low, high = np.quantile((means[known] - mean[0]) / errors[known], [0.025, 0.975])
    return max(0.0, float(mean[0] - high * error[0])), float(mean[0] - low * error[0])


def _ratio(sums: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and cluster-robust standard error from [m, 5] sums over ``count`` groups (total t, size s, tt, ts, ss)."""
    total, size, square, mixed, sizes = sums.T
    mean = total / size
    residual = np.maximum(square - 2 * mean * mixed + mean**2 * sizes, 0)
    return mean, np.sqrt(residual * count / (count - 1)) / size


def calibration_interval(gaps: np.ndarray, observed: np.ndarray) -> Interval:
    """95 % interval of sum |gap| over bins, from ``observed`` [bins] and its bootstrap ``gaps`` [resamples, bins].

    Noise only ever adds to a sum of absolute values, so a percentile interval of a perfectly calibrated
    model's ECE never reaches 0. Instead, the true sums are taken under which what was observed is neither among
    the lowest nor among the highest 2.5 % of outcomes (test inversion; Neyman 1937). For the upper end the gaps
    behind a true sum are each as many standard errors wide; for the lower end they lie as the observed ones do, less
    what noise added to them (Kumar, Liang and Ma 2019): a few bins that are truly off let the noise of the others
    add more.
    """
    noise = gaps - observed
    errors = noise.std(axis=0)
    sum_seen = float(np.abs(observed).sum())
    if errors.sum() <= 1e-12:
        return sum_seen, sum_seen
    signs = np.where(observed < 0, -1.0, 1.0)
    even = signs * errors / errors.sum()
    likely = np.sqrt(np.maximum(observed**2 - errors**2, 0))
    uneven = signs * likely / likely.sum() if likely.any() else even

    def truth(share: float, shape: np.ndarray) -> float:
        """The true sum under which this share of the outcomes is at most what was seen."""

        def below(true: float) -> float:
            return float((np.abs(true * shape + noise).sum(axis=1) <= sum_seen).mean())

        low, high = 0.0, 1.0  # no ECE is above 1
        if below(low) <= share:
            return low
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if below(middle) > share else (low, middle)
        return high

    # Even where as little as was seen is rare without any true gap, there may be one within the noise; and what was
    # seen is itself never ruled out.
    return min(truth(0.975, uneven), sum_seen), max(truth(0.025, even), float(errors.max()), sum_seen)


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


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided p-value of "neither is better", exact, over the images on which they disagree (McNemar 1947)."""
    return min(
        1.0, 2 * sum(math.comb(wins + losses, k) for k in range(min(wins, losses) + 1)) / 2 ** (wins + losses)
    )
