"""Making labelled source images and unlabelled target images look alike to the head.

CORAL gives source features the target's mean and covariance; AdaBN gives the network the target's
BatchNorm statistics; DANN trains features that a discriminator can't tell apart.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.backbone import features
from pipeline.errors import ParamsError
from pipeline.transfer.feeds import Feed
from pipeline.transfer.objective import Alignment

__all__ = ["Adversary", "adapt_statistics", "coral"]

SHRINKAGE = 0.1  # of a covariance towards its diagonal, so that few images still give a regular one
HIDDEN = 128  # units of the discriminator
STRENGTH = 0.3  # of the adversary's gradient on the features, at the end of training
BATCH = 32


def coral(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Source features [n, d], whitened and recoloured to the target's [m, d] mean and covariance.

    Correlation alignment (Sun, Feng and Saenko 2016), with covariances shrunk towards their diagonals.
    """
    centred = source - source.mean(axis=0)
    whitened = centred @ _power(_covariance(source), -0.5)
    aligned = whitened @ _power(_covariance(target), 0.5) + target.mean(axis=0)
    return aligned.astype(np.float32)


@torch.no_grad()
def adapt_statistics(backbone: nn.Module, feed: Feed, rows: np.ndarray) -> int:
    """Replace every BatchNorm's statistics by those of the named images (AdaBN, Li et al. 2017); how many norms.

    Raises:
        ParamsError: the network has no BatchNorm.
    """
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        raise ParamsError(
            "train.adapt is adabn, but this backbone has no BatchNorm whose statistics could be adapted: set it to coral"
        )
    backbone.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        if len(part) > 1:
            features(backbone, feed.plain(part))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    backbone.eval()
    return len(norms)


class Adversary(Alignment):
    """Domain-adversarial training (DANN, Ganin et al. 2016): a discriminator behind a reversed gradient."""

    def __init__(self, width: int, feed: Feed, rows: np.ndarray, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.feed, self.rows = feed, rows
        self.scale = nn.LayerNorm(width, elementwise_affine=False)
        self.discriminator = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, source: torch.Tensor, target: torch.Tensor, progress: float) -> torch.Tensor:
        both = torch.cat([source, target])
        strength = STRENGTH * (2 / (1 + math.exp(-10 * progress)) - 1)  # the paper's schedule
        guess = self.discriminator(self.scale(_Reversed.apply(both, strength)))[:, 0]
        truth = torch.cat([torch.ones(len(source)), torch.zeros(len(target))]).to(guess.device)
        return functional.binary_cross_entropy_with_logits(guess, truth)


class _Reversed(torch.autograd.Function):
    """The same forwards, and the gradient times -strength backwards."""

    @staticmethod
    def forward(context, values: torch.Tensor, strength: float) -> torch.Tensor:  # type: ignore[no-untyped-def]
        context.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(context, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[no-untyped-def,override]
        return -context.strength * gradient, None


def _covariance(values: np.ndarray) -> np.ndarray:
    """[d, d], shrunk; plus a little of the mean variance, so that dead features don't make it singular."""
    covariance = np.cov(values.astype(np.float64), rowvar=False)
    diagonal = np.diag(np.diag(covariance))
    floor = 1e-3 * np.trace(covariance) / len(covariance) + 1e-12
    return (1 - SHRINKAGE) * covariance + SHRINKAGE * diagonal + floor * np.eye(len(covariance))


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A symmetric positive definite matrix to some power."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T
