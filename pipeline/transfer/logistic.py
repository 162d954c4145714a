"""Multinomial logistic regression with an L2 penalty, by L-BFGS: the probe's head where there is time for it.

C follows scikit-learn's meaning: C x sum of losses + half the squared weights, the bias not penalised.
scikit-learn's own has no offset in the loss, which logit adjustment (Menon et al. 2021) needs.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["DEFAULT_STRENGTH", "STRENGTHS", "logistic", "logistic_path"]

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C, from the most to the least regularised
DEFAULT_STRENGTH = 1e-2  # where the classes are too small for folds
ITERATIONS = 300
TOLERANCE = 1e-7  # relative decrease of the loss at which L-BFGS stops
ROUGH = 1e-6  # the same in float32, whose sums tell no more: moves held-out losses by less than .001


def logistic_path(
    rows: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    log_prior: np.ndarray,
    strengths: Sequence[float],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """A (weight [classes, d], bias [classes]) for each C; each solution is the next one's start."""
    heads = []
    start: np.ndarray | None = None
    for strength in strengths:
        weight, bias, start = logistic(rows, labels, weights, log_prior, strength, start)
        heads.append((weight, bias))
    return heads


def logistic(
    rows: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    log_prior: np.ndarray,
    strength: float,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight [classes, d], bias [classes] and the solver's vector, for rows [n, d] of ``labels`` [n].

    Products are of the rows' own precision (float32 is twice as fast as float64), sums are float64.

    Args:
        weights: [n]: how much each row's loss counts.
        log_prior: [classes], or [n, classes], added to the logits in the loss only.
        strength: C.
        start: the vector of an earlier solution to go on from.
    """
    from scipy.optimize import minimize

    d, count = rows.shape[1], log_prior.shape[-1]
    own = rows.dtype
    each = np.arange(len(labels))
    scale = (strength * weights).astype(own)[:, None]
    prior = log_prior.astype(own)
    share = strength * float(weights.sum())

    def objective(vector: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = vector[: count * d].reshape(count, d), vector[count * d :]
        logits = rows @ weight.astype(own).T + (bias.astype(own) + prior)
        logits -= logits.max(axis=1, keepdims=True)
        right = logits[each, labels]
        residual = np.exp(logits, out=logits)
        total = residual.sum(axis=1, keepdims=True)
        loss = (scale[:, 0] * (np.log(total[:, 0]) - right)).sum(dtype=np.float64)
        residual /= total
        residual[each, labels] -= 1
        residual *= scale
        slope = (residual.T @ rows).astype(np.float64) + weight
        gradient = np.concatenate([slope.ravel(), residual.sum(axis=0, dtype=np.float64)])
        # Over the sum of weights, so that the tolerance means the same for few and for many images.
        return float(loss + 0.5 * (weight**2).sum()) / share, gradient / share

    first = np.zeros(count * d + count) if start is None else start
    tolerance = TOLERANCE if own == np.float64 else ROUGH
    options = {"maxiter": ITERATIONS, "ftol": tolerance, "gtol": 1e-7}
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options=options).x
    return found[: count * d].reshape(count, d), found[count * d :], found
