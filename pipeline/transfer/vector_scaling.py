"""Vector scaling (Guo et al. 2017): a scale and a bias for each class, where one temperature is not enough.

The scales are held near the temperature's and the biases near zero by a normal prior on their deviations, so
that a class with few validation images keeps the temperature. What comes out is folded into the head's weight
and bias: the network stays a backbone under one linear layer.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.transfer.calibration import fit_temperature

__all__ = ["VectorScaling", "fit_vector"]

DEVIATION = 0.5  # of the prior, of a log scale from the temperature's and of a bias from none


@dataclass(frozen=True)
class VectorScaling:
    """Calibrated logits = logits * scale + bias."""

    scale: np.ndarray  # [classes], positive
    bias: np.ndarray  # [classes]

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """[n, classes] float64."""
        return logits.astype(np.float64) * self.scale + self.bias

    def fold(self, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The head (weight [classes, width], bias [classes]) whose logits are the calibrated ones; float32."""
        scaled = weight * self.scale[:, None], bias * self.scale + self.bias
        return scaled[0].astype(np.float32), scaled[1].astype(np.float32)


def fit_vector(logits: np.ndarray, labels: np.ndarray) -> VectorScaling:
    """The scales and biases that maximise the posterior of ``labels`` [n], by L-BFGS from the temperature."""
    from scipy.optimize import minimize

    count, each = logits.shape[1], np.arange(len(labels))
    temperature = fit_temperature(logits, labels)
    start = logits.astype(np.float64) / temperature

    def objective(vector: np.ndarray) -> tuple[float, np.ndarray]:
        stretched = start * np.exp(vector[:count])
        scores = stretched + vector[count:]
        scores -= scores.max(axis=1, keepdims=True)
        residual = np.exp(scores)
        total = residual.sum(axis=1, keepdims=True)
        loss = (np.log(total[:, 0]) - scores[each, labels]).sum() + 0.5 * (vector**2).sum() / DEVIATION**2
        residual /= total
        residual[each, labels] -= 1
        slope = np.concatenate([(residual * stretched).sum(axis=0), residual.sum(axis=0)])
        return float(loss), slope + vector / DEVIATION**2

    found = minimize(objective, np.zeros(2 * count), jac=True, method="L-BFGS-B", options={"ftol": 1e-10}).x
    return VectorScaling(np.exp(found[:count]) / temperature, found[count:])
