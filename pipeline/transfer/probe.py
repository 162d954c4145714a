"""The linear probe: a logistic head on frozen, standardised features, its strength by cross-validation.

Multinomial logistic regression with an L2 penalty, minimised by L-BFGS in float64. C follows
scikit-learn's meaning: C x sum of losses + half the squared weights. The folds keep groups together and
classes in proportion. The standardisation is folded into the head afterwards, so that what ships is one
linear layer on raw features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import DataError

__all__ = ["Head", "Views", "fit_probe", "logistic"]

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C, tried from the most to the least regularised
DEFAULT_STRENGTH = 1e-2  # where the classes are too small for folds
FOLDS = 5
MOST_IN_SEARCH = 5_000  # images; the search for C sees a sample of a larger set
ITERATIONS = 300
TOLERANCE = 1e-7  # relative decrease of the loss at which L-BFGS stops


@dataclass(frozen=True)
class Head:
    """Logits = features @ weight.T + bias."""

    weight: np.ndarray  # [classes, width] float32
    bias: np.ndarray  # [classes] float32
    strength: float  # C
    folds: int  # behind the choice of C; 0 where the classes are too small
    search: dict[str, float]  # C → mean held-out log loss over the folds
    kind: str = "logistic"

    def logits(self, features: np.ndarray) -> np.ndarray:
        """[n, classes] float32."""
        return (features @ self.weight.T + self.bias).astype(np.float32)


@dataclass(frozen=True)
class Views:
    """Features [views, n, width] of the same n images: as they are, and mirrored or otherwise varied."""

    values: np.ndarray

    def rows(self, index: np.ndarray) -> np.ndarray:
        """[views * len(index), width], all of one view after all of another."""
        return self.values[:, index].reshape(-1, self.values.shape[2])


def fit_probe(
    views: Views,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    groups: Sequence[str],
    weights: np.ndarray,
    log_prior: np.ndarray,
    seed: int,
) -> Head:
    """The best head for ``labels`` [n] (codes of ``classes``); view 0 is the one that is classified later.

    Args:
        groups: [n]; images of one group are never on both sides of a fold.
        weights: [n], mean 1: how much each image's loss counts.
        log_prior: [classes], added to the logits in the loss only.

    Raises:
        DataError: fewer than two classes, or no more images than classes.
    """
    count = len(classes)
    if count < 2:
        raise DataError(
            f"the training images are all of one class ({', '.join(classes)}): there is nothing to tell apart"
        )
    if len(labels) <= count:
        raise DataError(f"{len(labels)} training images for {count} classes: collect at least two a class")
    from threadpoolctl import threadpool_limits

    folds = _folds(labels, groups, count, seed)
    search: dict[str, float] = {}
    strength = DEFAULT_STRENGTH
    # Thousands of small products: on a busy machine, threads that wait for each other cost ten times the work.
    with threadpool_limits(1):
        if folds:
            losses = _search(views, labels, count, weights, log_prior, folds)
            search = {f"{c:g}": round(float(loss), 6) for c, loss in zip(STRENGTHS, losses, strict=True)}
            strength = STRENGTHS[int(np.argmin(losses))]
        everything = np.arange(len(labels))
        weight, bias = _fit(views, everything, labels, count, weights, log_prior, [strength])[0]
    return Head(weight.astype(np.float32), bias.astype(np.float32), strength, len(folds), search)


def _folds(
    labels: np.ndarray, groups: Sequence[str], count: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, held out) rows, each class and no group on both sides; [] where a class has one group only."""
    from sklearn.model_selection import StratifiedGroupKFold

    codes = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)[1]
    rows = np.arange(len(labels))
    if len(rows) > MOST_IN_SEARCH:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_IN_SEARCH, replace=False))
    in_class = [len(np.unique(codes[rows][labels[rows] == label])) for label in range(count)]
    folds = min(FOLDS, *in_class)
    if folds < 2:
        return []
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    pairs = [(rows[a], rows[b]) for a, b in splitter.split(rows, labels[rows], codes[rows])]
    return [(a, b) for a, b in pairs if len(b) and len(np.unique(labels[a])) == count]


def _search(
    views: Views,
    labels: np.ndarray,
    count: int,
    weights: np.ndarray,
    log_prior: np.ndarray,
    folds: list[tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """[len(STRENGTHS)] mean held-out log loss."""
    losses = np.zeros((len(folds), len(STRENGTHS)))
    for fold, (fitted, held) in enumerate(folds):
        heads = _fit(views, fitted, labels, count, weights, log_prior, STRENGTHS)
        for place, (weight, bias) in enumerate(heads):
            logits = views.values[0, held] @ weight.T + bias + log_prior
            losses[fold, place] = np.average(_log_loss(logits, labels[held]), weights=weights[held])
    return losses.mean(axis=0)


def _fit(
    views: Views,
    rows: np.ndarray,
    labels: np.ndarray,
    count: int,
    weights: np.ndarray,
    log_prior: np.ndarray,
    strengths: Sequence[float],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """One (weight, bias) on raw features for each C, from one standardisation of the named rows."""
    number = len(views.values)
    raw = views.rows(rows).astype(np.float64)
    mean, deviation = raw.mean(axis=0), raw.std(axis=0)
    deviation = np.where(
        deviation > 1e-6 * max(1.0, float(np.abs(raw).max())), deviation, np.inf
    )  # dead features
    standard = (raw - mean) / deviation
    basis = None
    if len(standard) < standard.shape[1]:  # the penalised optimum lies in the span of the rows
        basis = np.linalg.svd(standard, full_matrices=False)[2]
        standard = standard @ basis.T
    repeated = np.tile(labels[rows], number)
    shares = np.tile(weights[rows], number) / number
    heads = []
    start: np.ndarray | None = None
    for strength in strengths:  # each solution is the next one's start
        weight, bias, start = logistic(standard, repeated, count, strength, shares, log_prior, start)
        full = (weight if basis is None else weight @ basis) / deviation
        heads.append((full, bias - full @ mean))
    return heads


def logistic(
    rows: np.ndarray,
    labels: np.ndarray,
    count: int,
    strength: float,
    weights: np.ndarray,
    log_prior: np.ndarray,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight [count, d], bias [count] and the solver's vector, for rows [n, d] of ``labels`` [n]."""
    from scipy.optimize import minimize

    d = rows.shape[1]
    target = np.eye(count)[labels]
    scale = (strength * weights)[:, None]

    def objective(vector: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = vector[: count * d].reshape(count, d), vector[count * d :]
        logits = rows @ weight.T + bias + log_prior
        logits -= logits.max(axis=1, keepdims=True)
        exponent = np.exp(logits)
        total = exponent.sum(axis=1, keepdims=True)
        loss = (scale * (np.log(total) - (logits * target).sum(axis=1, keepdims=True))).sum()
        residual = (exponent / total - target) * scale
        gradient = np.concatenate([(residual.T @ rows + weight).ravel(), residual.sum(axis=0)])
        # Over the sum of weights, so that the tolerance means the same for few and for many images.
        share = strength * weights.sum()
        return (loss + 0.5 * (weight**2).sum()) / share, gradient / share

    first = np.zeros(count * d + count) if start is None else start
    options = {"maxiter": ITERATIONS, "ftol": TOLERANCE, "gtol": 1e-7}
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options=options).x
    return found[: count * d].reshape(count, d), found[count * d :], found


def _log_loss(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[n] negative log-likelihood in nats."""
    top = logits.max(axis=1, keepdims=True)
    return np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0] - logits[np.arange(len(labels)), labels]
