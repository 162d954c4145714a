"""One window against the reference: batch tests, to explain an alarm and to draw. They never trigger one.

A batch p-value is honest for a single look; watched hour by hour some window falls under any level. The
trigger is the sequential test of ``monitoring.evidence``.
"""

from collections.abc import Sequence

import numpy as np

from monitoring.evidence import distances

BANDWIDTHS = (0.5, 1.0, 2.0)
"""Of the RBF kernels that are averaged, in units of the median distance."""
MOST = 1000
"""Images a side in the kernel test; more are thinned evenly."""


def mmd(x: np.ndarray, y: np.ndarray, *, permutations: int, rng: np.random.Generator) -> tuple[float, float]:
    """Kernel two-sample test: (n, d) against (m, d) -> (unbiased squared MMD, p).

    An average of RBF kernels around the median heuristic; the null by permuting who is who, all
    permutations in one matrix product; p = (1 + k) / (1 + B), never 0 (Gretton et al., "A kernel
    two-sample test", JMLR 2012; Phipson and Smyth, 2010).
    """
    x, y = _thinned(x), _thinned(y)
    n, m = len(x), len(y)
    kernel = _kernel(np.concatenate([x, y]).astype(np.float32))
    signs = np.where(np.arange(n + m) < n, np.float32(1 / n), np.float32(-1 / m))
    weights = np.tile(signs, (permutations + 1, 1))
    weights[1:] = rng.permuted(weights[1:], axis=1)
    # Both sides of the comparison carry the same diagonal, sum of signs² = 1/n + 1/m.
    values = np.einsum("bi,bi->b", weights @ kernel, weights)
    exceeding = int(np.sum(values[1:] >= values[0] - 1e-9))
    within_x, within_y = kernel[:n, :n], kernel[n:, n:]
    statistic = _off_diagonal(within_x) + _off_diagonal(within_y) - 2 * float(kernel[:n, n:].mean())
    return statistic, (1 + exceeding) / (1 + permutations)


def _kernel(points: np.ndarray) -> np.ndarray:
    points = points - points.mean(axis=0)
    squared = distances(points, points)
    median = float(np.median(squared[np.triu_indices(len(points), 1)]))
    scale = median if median > 0 else 1.0
    kernel = np.zeros_like(squared)
    for bandwidth in BANDWIDTHS:
        kernel += np.exp(squared * np.float32(-0.5 / (scale * bandwidth**2)))
    return kernel / np.float32(len(BANDWIDTHS))


def _off_diagonal(square: np.ndarray) -> float:
    n = len(square)
    return (
        float((square.sum(dtype=np.float64) - np.trace(square, dtype=np.float64)) / (n * (n - 1)))
        if n > 1
        else 1.0
    )


def _thinned(points: np.ndarray) -> np.ndarray:
    if len(points) <= MOST:
        return points
    return points[np.linspace(0, len(points) - 1, MOST).astype(int)]


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
