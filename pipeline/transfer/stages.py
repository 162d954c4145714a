"""Features of every stage of a backbone, beside those of its last: what a linear probe of textures and small marks needs.

The last features of a pretrained network tell objects apart; scratches, grain and print live in the stages below, which
fine-tuning would bring up. Averaged over their places and joined, they let a linear head choose (Evci et al., "Head2Toe:
utilizing intermediate representations for better transfer learning", ICML 2022, without its selection of features: the
head's penalty does that). What the head sees, and what ships as the embedding, is standardised: the stages' scales differ.

timm's ``forward_intermediates`` names the stages. Of more than ``MOST``, as the blocks of a transformer are, those at the
end of each quarter count.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pipeline.errors import ParamsError

__all__ = ["EveryStage", "Standardised", "Taps", "every_stage", "joined"]

MOST = 6  # stages that are all taken
QUARTERS = 4


class EveryStage(nn.Module):
    """:func:`joined` as a module, to be traced."""

    def __init__(self, backbone: nn.Module, indices: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.indices = tuple(indices)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return joined(self.backbone, self.indices, pixels)


def joined(backbone: nn.Module, indices: Sequence[int], pixels: torch.Tensor) -> torch.Tensor:
    """Pixels [n, 3, H, W] to the pooled features of the stages ``indices``, then the last, [n, width]."""
    final, parts = backbone.forward_intermediates(pixels, indices=list(indices))  # type: ignore[operator]
    last = backbone.forward_head(final, pre_logits=True)  # type: ignore[operator]
    return torch.cat([*(part.mean((2, 3)) for part in parts), last.flatten(1)], 1)


class Standardised(nn.Module):
    """Features [n, width] to mean 0 and deviation 1 over the training images; 0 where they never varied."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, features: np.ndarray) -> "Standardised":
        """To the raw features [n, width] of the training images."""
        deviation = features.std(axis=0, dtype=np.float64)
        dead = deviation <= 1e-6 * max(1.0, float(np.abs(features).max()))
        scale = np.where(dead, 0.0, 1.0 / np.where(dead, 1.0, deviation))
        self.mean.copy_(torch.from_numpy(features.mean(axis=0, dtype=np.float64)))
        self.scale.copy_(torch.from_numpy(scale))
        return self

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (features - self.mean) * self.scale

    def numbers(self, features: np.ndarray) -> np.ndarray:
        """The same of an array, in float32."""
        return np.asarray((features - self.mean.numpy()) * self.scale.numpy())


@dataclass(frozen=True)
class Taps:
    """Where the stages are read, and how wide all features are together, the last among them."""

    indices: tuple[int, ...]
    width: int


@torch.inference_mode()
def every_stage(backbone: nn.Module, side: int) -> Taps:
    """Where to read ``backbone``, for images of ``side`` px. A stage that the last features are the average of is left out.

    Raises:
        ParamsError: the architecture gives no intermediate features.
    """
    if not hasattr(backbone, "forward_intermediates"):
        raise ParamsError(
            f"{type(backbone).__name__} has no forward_intermediates, by which timm's networks give the features of their "
            "stages: set train.features to last"
        )
    place = next(backbone.parameters()).device
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(place)
    final, parts = backbone.forward_intermediates(pixels)  # type: ignore[operator]
    last = backbone.forward_head(final, pre_logits=True).flatten(1)  # type: ignore[operator]
    count = len(parts)
    indices = (
        list(range(count)) if count <= MOST else [count * n // QUARTERS - 1 for n in range(1, QUARTERS + 1)]
    )
    top = parts[indices[-1]].mean((2, 3))
    if top.shape == last.shape and torch.allclose(top, last, rtol=1e-3, atol=1e-5):
        indices = indices[:-1]
    return Taps(tuple(indices), sum(parts[index].shape[1] for index in indices) + last.shape[1])
