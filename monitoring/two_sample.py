"""One window against the reference: batch tests, to explain an alarm and to draw. They never trigger one.

A batch p-value is honest for a single look; watched hour by hour some window falls under any level. The
trigger is the sequential test of ``monitoring.evidence``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BANDWIDTHS = (0.5, 1.0, 2.0)
"""Of the RBF kernels that are averaged, in units of the median distance; each is twice the one before."""
COMPONENTS = 50
RIDGE = 0.005
"""Of the largest component's variance, so that mere noise is not blown up."""
SHARES = {"embedding": 0.3, "embedding_whitened": 0.3}
"""Of the level, spent on these tests; the others share the rest."""
MOST = 1000
"""Images a side in the kernel test; more are thinned evenly."""


@dataclass(frozen=True)
class Comparison:
    """Several tests of one window: ``p`` of each alone, ``adjusted`` for all of them together.

    Attributes:
        statistic: unbiased squared MMD of the embeddings.
    """

    statistic: float
    p: dict[str, float]
    adjusted: dict[str, float]


def compare(
    embeddings: tuple[np.ndarray, np.ndarray],
    numbers: dict[str, tuple[np.ndarray, np.ndarray]],
    classes: tuple[Sequence[str], Sequence[str]],
    *,
    permutations: int,
    rng: np.random.Generator,
) -> Comparison:
    """Embeddings (n, d), numbers (n,) and predicted classes (n) of a window against a reference's m.

    Kernel tests (of the embeddings as they are, and whitened: what moves along a quiet direction is lost among the
    loud ones otherwise), Kolmogorov and Smirnov's, and chi-squared, all on the same permutations of who is who: each p
    is exact at any n, and what the tests share is not paid for twice, as Holm's rule would (Westfall and Young,
    "Resampling-based multiple testing", 1993: step-down minP, weighted by ``SHARES``). ``min(adjusted) <= level`` is
    a test of that level.
    """
    n, m = (len(side) for side in embeddings)
    kept = np.concatenate([_kept(n), n + _kept(m)])
    signs = _signs(min(n, MOST), min(m, MOST), permutations, rng)
    points = _centred(*(side[_kept(len(side))] for side in embeddings))
    kernel = _kernel(points)
    found = {
        "embedding": _quadratic(signs, kernel),
        "embedding_whitened": _quadratic(signs, _kernel(_whitened(points))),
    }
    found |= {name: _largest_gap(signs, np.concatenate(pair)[kept]) for name, pair in numbers.items()}
    found["classes"] = _class_gap(signs, np.array([*classes[0], *classes[1]])[kept])
    ranks = {name: _ranked(values) for name, values in found.items()}
    return Comparison(
        statistic=_unbiased(kernel, min(n, MOST)),
        p={name: float(p[0]) for name, p in ranks.items()},
        adjusted=_together(ranks),
    )


def mmd(x: np.ndarray, y: np.ndarray, *, permutations: int, rng: np.random.Generator) -> tuple[float, float]:
    """Kernel two-sample test: (n, d) against (m, d) -> (unbiased squared MMD, p).

    An average of RBF kernels around the median heuristic; the null by permuting who is who, all
    permutations in one matrix product; p = (1 + k) / (1 + B), never 0 (Gretton et al., "A kernel
    two-sample test", JMLR 2012; Phipson and Smyth, 2010).
    """
    x, y = (side if len(side) <= MOST else side[_kept(len(side))] for side in (x, y))
    kernel = _kernel(_centred(x, y))
    values = _quadratic(_signs(len(x), len(y), permutations, rng), kernel)
    return _unbiased(kernel, len(x)), float(_ranked(values)[0])


def _signs(n: int, m: int, permutations: int, rng: np.random.Generator) -> np.ndarray:
    """(1 + permutations, n + m) float32: 1/n for who is on the first side, -1/m on the other; as observed in row 0."""
    signs = np.full((permutations + 1, n + m), np.float32(-1 / m))
    signs[0, :n] = np.float32(1 / n)
    # Who has the n smallest of random keys: a uniform draw of n, and less work than to put all in order.
    chosen = np.argpartition(rng.random((permutations, n + m)), n - 1, axis=1)[:, :n]
    np.put_along_axis(signs[1:], chosen, np.float32(1 / n), axis=1)
    return signs


def _quadratic(signs: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """(b,) biased squared MMD; every row carries the same diagonal, sum of signs squared = 1/n + 1/m."""
    return np.einsum("bi,bi->b", signs @ kernel, signs)


def _largest_gap(signs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(b,) largest gap between the two sides' distribution functions."""
    order = np.argsort(values, kind="stable")
    last = np.append(np.flatnonzero(np.diff(values[order]) > 0), len(values) - 1)  # of each run of ties
    return np.asarray(np.abs(np.cumsum(signs[:, order], axis=1, dtype=np.float64)[:, last]).max(axis=1))


def _class_gap(signs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(b,) chi-squared of the classes' shares, but for a factor that all rows share."""
    names, index = np.unique(labels, return_inverse=True)
    one_hot = np.eye(len(names), dtype=np.float32)[index]
    return np.asarray((np.square(signs @ one_hot) / one_hot.sum(axis=0)).sum(axis=1))


def _ranked(values: np.ndarray) -> np.ndarray:
    """(b,) for each row the share of rows, itself included, whose statistic is as large: its p."""
    rounded = np.round(
        values / max(float(np.abs(values).max()), 1e-30), 6
    )  # equal but for the order of a sum
    return np.asarray((len(values) - np.searchsorted(np.sort(rounded), rounded, side="left")) / len(values))


def _together(ranks: dict[str, np.ndarray]) -> dict[str, float]:
    """Westfall and Young's step-down: how often chance alone gives as small a weighted p in any test that is left."""
    others = [name for name in ranks if name not in SHARES]
    rest = (1.0 - sum(SHARES.values())) / max(1, len(others))
    weighted = {name: p / SHARES.get(name, rest) for name, p in ranks.items()}
    order = sorted(weighted, key=lambda name: float(weighted[name][0]))
    adjusted, largest = {}, 0.0
    for position, name in enumerate(order):
        least = np.min([weighted[other] for other in order[position:]], axis=0)
        largest = max(largest, float(np.mean(least <= weighted[name][0] + 1e-12)))
        adjusted[name] = largest
    return {name: adjusted[name] for name in ranks}


def _unbiased(kernel: np.ndarray, n: int) -> float:
    within = _off_diagonal(kernel[:n, :n]) + _off_diagonal(kernel[n:, n:])
    return within - 2 * float(kernel[:n, n:].mean())


def _centred(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, d) and (m, d) -> (n + m, d) float32 around some middle of both: distances lose no digits to an offset."""
    n, m = len(x), len(y)
    middle = (x.sum(axis=0, dtype=np.float32) + y.sum(axis=0, dtype=np.float32)) / np.float32(n + m)
    points = np.empty((n + m, x.shape[1]), dtype=np.float32)
    np.subtract(x, middle, out=points[:n])
    np.subtract(y, middle, out=points[n:])
    return points


def _whitened(points: np.ndarray) -> np.ndarray:
    """(n, d) centred -> (n, k): the leading principal components of both sides together, each near unit variance.

    A function of the pooled sample alone, so the permutation test of what comes of it is exact.
    """
    if len(points) < points.shape[1]:
        power, axes = np.linalg.eigh(points @ points.T)
        power, axes = power[::-1][:COMPONENTS], axes[:, ::-1][:, :COMPONENTS]
        scores = axes * np.sqrt(np.maximum(power, 0.0))
    else:
        power, axes = np.linalg.eigh(points.T @ points)
        power, axes = power[::-1][:COMPONENTS], axes[:, ::-1][:, :COMPONENTS]
        scores = points @ axes
    return np.asarray(scores / np.sqrt(np.maximum(power, 0.0) + RIDGE * max(float(power[0]), 1e-12)))


def _kernel(points: np.ndarray) -> np.ndarray:
    """(n, d) centred -> (n, n) float32: the average of the RBF kernels, without copies of the points."""
    squared = points @ points.T
    power = squared.diagonal().copy()
    squared *= np.float32(-2.0)
    squared += power[:, None]
    squared += power
    np.maximum(squared, 0.0, out=squared)
    median = _median(squared[np.tri(len(points), k=-1, dtype=bool)])
    squared *= np.float32(-0.5 / ((median if median > 0 else 1.0) * BANDWIDTHS[-1] ** 2))
    one = np.exp(squared, out=squared)
    kernel = one.copy()
    for _ in BANDWIDTHS[1:]:
        np.square(np.square(one, out=one), out=one)  # the fourth power: half the bandwidth
        kernel += one
    return np.divide(kernel, np.float32(len(BANDWIDTHS)), out=kernel)


def _median(values: np.ndarray) -> float:
    """As ``np.median``, which imports for 10 ms when it is first called, and asks for two places: five times as long."""
    high = len(values) // 2
    part = np.partition(values, high)
    return float(part[high] if len(values) % 2 else (part[:high].max() + part[high]) / 2)


def _off_diagonal(square: np.ndarray) -> float:
    n = len(square)
    return (
        float((square.sum(dtype=np.float64) - np.trace(square, dtype=np.float64)) / (n * (n - 1)))
        if n > 1
        else 1.0
    )


def _kept(count: int) -> np.ndarray:
    """Indices of at most MOST of ``count`` images, evenly spread."""
    return np.linspace(0, count - 1, min(count, MOST)).astype(int)


def kolmogorov_smirnov(x: np.ndarray, y: np.ndarray) -> float:
    """Asymptotic p of the two-sample test on one statistic: (n,) against (m,)."""
    from scipy.stats import ks_2samp  # a second to import, and only a new window asks

    return float(ks_2samp(x, y, method="asymp").pvalue)


def class_shares(
    x: Sequence[str], y: Sequence[str], classes: Sequence[str], *, permutations: int, rng: np.random.Generator
) -> float:
    """p of "both sides hold the classes in the same shares": chi-squared, its null by permutation.

    With the margins fixed a permuted table's first row is multivariate hypergeometric, so rare classes
    need no minimum count.
    """
    first = np.array([sum(label == name for label in x) for name in classes])
    total = first + np.array([sum(label == name for label in y) for name in classes])
    first, total = first[total > 0], total[total > 0]
    if len(total) < 2:
        return 1.0
    rows = rng.multivariate_hypergeometric(total, int(first.sum()), size=permutations, method="marginals")
    exceeding = int(np.sum(_chi_squared(rows, total) >= _chi_squared(first[None], total)[0] - 1e-9))
    return (1 + exceeding) / (1 + permutations)


def _chi_squared(rows: np.ndarray, total: np.ndarray) -> np.ndarray:
    """(b, classes) first rows of 2 x classes tables with column sums ``total`` -> (b,) statistics."""
    n, everything = rows.sum(axis=1, keepdims=True), total.sum()
    expected = n * total / everything
    other = (everything - n) * total / everything
    gap = (rows - expected) ** 2
    return np.asarray((gap / expected + gap / np.maximum(other, 1e-12)).sum(axis=1))


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment: below the level means so with all tests together."""
    adjusted, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, p * (len(p_values) - rank)))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
