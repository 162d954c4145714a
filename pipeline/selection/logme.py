"""LogME: how well frozen features explain the labels, without fitting a head (You et al. 2021, ICML).

Each class's 0/1 labels y are regressed on the features F by a Bayesian linear model: weights w ~ N(0, I / alpha),
y ~ N(F w, I / beta). The score is the logarithm of the evidence p(y | F) at its maximum over alpha and beta,
per image, averaged over the classes. One singular value decomposition serves all classes and all iterations.
"""

import numpy as np

__all__ = ["logme", "max_log_evidence"]

LOG_BOUND = 23.0  # of |log(alpha / beta)|, for features of unit scale: labels that are explained exactly have no maximum
POINTS = 93
SMALLEST = 1e-12  # squared misfit; keeps the logarithm finite


def logme(features: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """The score in nats per image, the higher the better; comparable between networks on the same images only.

    Args:
        features: [n, width], any scale: a common factor changes nothing.
        labels: [n] codes 0 .. classes - 1.

    Raises:
        ValueError: there is no image.
    """
    if len(features) == 0:
        raise ValueError("LogME needs at least one image")
    values = features.astype(np.float64)
    values /= np.sqrt(np.mean(values**2)) or 1.0
    left, singular, _ = np.linalg.svd(values, full_matrices=False)
    scores = [max_log_evidence(left, singular, (labels == label).astype(float)) for label in range(classes)]
    return float(np.mean(scores)) / len(features)


def max_log_evidence(left: np.ndarray, singular: np.ndarray, targets: np.ndarray) -> float:
    """max over alpha, beta of log p(targets | F), F = left @ diag(singular) @ (anything orthonormal), in nats.

    With t = alpha / beta the targets are N(0, (I + F F^T / t) / beta), so the best beta follows from t and one
    dimension is left: a grid over log t, then Brent's method between the best point's neighbours. It is the
    maximum that the paper's fixed point (its algorithm 1) goes to, which takes hundreds of steps for wide features.
    """
    from scipy.optimize import minimize_scalar

    count, spectrum = len(targets), singular**2
    inside = (left.T @ targets) ** 2  # of the targets' squares, by direction of the features
    outside = max(float(targets @ targets - inside.sum()), 0.0)  # what no weights can explain

    def evidence(log_ratio: np.ndarray) -> np.ndarray:
        ratio = np.exp(log_ratio)[:, None]
        misfit = outside + (inside * ratio / (ratio + spectrum)).sum(axis=1)
        beta = count / np.maximum(misfit, SMALLEST)
        return 0.5 * (count * np.log(beta / (2 * np.pi)) - count - np.log1p(spectrum / ratio).sum(axis=1))

    grid = np.linspace(-LOG_BOUND, LOG_BOUND, POINTS)
    values = evidence(grid)
    best = int(values.argmax())
    near = (grid[max(best - 1, 0)], grid[min(best + 1, POINTS - 1)])
    found = minimize_scalar(
        lambda point: -float(evidence(np.array([point]))[0]),
        bounds=near,
        method="bounded",
        options={"xatol": 1e-6},
    )
    return max(-float(found.fun), float(values[best]))
