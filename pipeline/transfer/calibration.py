"""One temperature for all logits (Guo et al. 2017), and the log loss that goes with it.

With few validation images, all of them right, the likelihood alone would drive the temperature to zero.
A weak prior (its logarithm is normal with deviation 1, worth one observation) keeps it in reason.
"""

import numpy as np

__all__ = ["calibrated_losses", "fit_temperature", "log_losses"]

LOG_BOUND = 3.0  # |log temperature| at most


def log_losses(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """[n] negative log-likelihood in nats of ``labels`` [n] under softmax(logits [n, classes] / temperature)."""
    scaled = logits.astype(np.float64) / temperature
    top = scaled.max(axis=1, keepdims=True)
    return np.log(np.exp(scaled - top).sum(axis=1)) + top[:, 0] - scaled[np.arange(len(labels)), labels]


def fit_temperature(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The temperature that maximises the posterior of ``labels`` [n], to 6 digits.

    Args:
        logits: [n, classes] of images that the network was not fitted to.
        weights: [n], mean 1: how much each image counts; None: all alike.
    """
    from scipy.optimize import minimize_scalar

    each = np.ones(len(labels)) if weights is None else weights

    def objective(log_temperature: float) -> float:
        loss = each @ log_losses(logits, labels, float(np.exp(log_temperature)))
        return float(loss + 0.5 * log_temperature**2)

    found = minimize_scalar(
        objective, bounds=(-LOG_BOUND, LOG_BOUND), method="bounded", options={"xatol": 1e-6}
    )
    return round(float(np.exp(found.x)), 6)


def calibrated_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[n] log losses at the logits' own best temperature: what they know, whatever their scale."""
    return log_losses(logits, labels, fit_temperature(logits, labels))
