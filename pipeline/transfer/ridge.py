"""Weighted ridge regression to one-hot labels, in closed form: the probe's head where logistic takes too long.

One eigendecomposition of the features' second moments serves every penalty (Hastie, Tibshirani and Friedman
2009, section 3.4.1). The scores rank classes, but they are no logits: the probe scales them by a temperature
that is fitted on held-out scores.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["DEFAULT_PENALTY", "PENALTIES", "ridge_path"]

# Of the squared weights, as a share of the sum of the images' weights, from the most to the least regularised:
# scikit-learn's alpha is this x the sum of sample_weight.
PENALTIES = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 3e-4, 1e-4)
DEFAULT_PENALTY = 1.0  # where the classes are too small for folds


def ridge_path(
    rows: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    log_prior: np.ndarray,
    strengths: Sequence[float],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """A (weight [classes, d], bias [classes]) for each penalty: scores near 1 for the right class, near 0 for others.

    Args:
        rows: [n, d] features.
        labels: [n] codes.
        weights: [n]: how much each row's squared error counts.
        log_prior: [classes]; only its length is used, a squared error has no place for it.
        strengths: penalties, each relative to the sum of ``weights``.
    """
    total = float(weights.sum())
    mean = (weights @ rows) / total
    root = np.sqrt(weights).astype(rows.dtype)[:, None]
    centred = (rows - mean.astype(rows.dtype)) * root
    target = np.eye(len(log_prior))[labels]
    share = (weights @ target) / total
    cross = centred.T @ ((target - share) * root).astype(rows.dtype)
    values, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    rotated = vectors.T @ cross.astype(np.float64)  # [d, classes]
    heads = []
    for strength in strengths:
        weight = (vectors @ (rotated / (np.maximum(values, 0) + strength * total)[:, None])).T
        heads.append((weight, share - weight @ mean))
    return heads
