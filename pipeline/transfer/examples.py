"""What a linear head is fitted to: frozen features in several views, their labels, and how each image counts."""

from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Examples", "Standard", "standardise"]


@dataclass(frozen=True)
class Examples:
    """n images; view 0 is the one that is classified later, the others are mirrored or otherwise varied."""

    features: np.ndarray  # [views, n, width] float32
    labels: np.ndarray  # [n] codes of the classes
    weights: np.ndarray  # [n], mean 1: how much each image's loss counts
    log_prior: np.ndarray  # [classes], added to the logits in the loss only
    prior: np.ndarray | None = None  # [classes, width] head that the penalty pulls towards; None: zero

    @property
    def classes(self) -> int:
        return len(self.log_prior)

    @property
    def plain(self) -> "Examples":
        """The same images in view 0 alone."""
        return replace(self, features=self.features[:1])

    def rows(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features [views * m, width], labels and weights [views * m] of the m named images; all of one view
        after all of another, an image's views together counting as much as one image."""
        views, _, width = self.features.shape
        return (
            self.features[:, index].reshape(-1, width),
            np.tile(self.labels[index], views),
            np.tile(self.weights[index], views) / views,
        )


@dataclass(frozen=True)
class Standard:
    """Features of mean 0 and deviation 1, in a basis of their span where they are fewer than wide."""

    values: np.ndarray  # [m, d]
    mean: np.ndarray  # [width] of the raw features
    deviation: np.ndarray  # [width]; infinite for a feature that never varies
    basis: np.ndarray | None  # [d, width]; None: d is the width

    def fold(self, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A head on ``values`` (weight [classes, d], bias [classes]) as the same head on raw features."""
        full = (weight if self.basis is None else weight @ self.basis) / self.deviation
        return full, bias - full @ self.mean


def standardise(raw: np.ndarray, dtype: type = np.float64) -> Standard:
    """Raw features [m, width] for a solver that penalises all of them alike, computed in ``dtype``."""
    mean = raw.mean(axis=0, dtype=np.float64)
    deviation = raw.std(axis=0, dtype=np.float64)
    dead = deviation <= 1e-6 * max(1.0, float(np.abs(raw).max()))
    deviation = np.where(dead, np.inf, deviation)
    values = (raw - mean.astype(dtype)) / deviation.astype(dtype)
    basis = None
    if len(values) < values.shape[1]:  # the penalised optimum lies in the span of the rows
        axes, coordinates = np.linalg.qr(values.T)  # any basis does: the solvers don't care how it is turned
        basis, values = axes.T, np.ascontiguousarray(coordinates.T)
    return Standard(values, mean, deviation, basis)
