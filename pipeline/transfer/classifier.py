"""The network that is trained and shipped: a backbone, one linear head, and what is frozen of it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from pipeline.backbone import features
from pipeline.transfer.feeds import Feed
from pipeline.transfer.stages import Standardised, joined

__all__ = ["Classifier", "logits_of"]


class Classifier(nn.Module):
    """Images [n, 3, H, W] to logits [n, classes] and the pooled features [n, width] that they come from.

    Args:
        stages: the features of these stages count, too, and all are standardised (see stages.py); None: the last alone.
    """

    def __init__(
        self, backbone: nn.Module, width: int, classes: int, stages: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(width, classes)
        self.stages = None if stages is None else tuple(stages)
        self.standard = Standardised(width) if stages is not None else None
        self.still: list[nn.Module] = []

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # Its own shape, but with the width as a constant: the exporter loses sight of it in attention pooling.
        if self.stages is None or self.standard is None:
            embedding = features(self.backbone, pixels).reshape(-1, self.head.in_features)
        else:
            embedding = self.standard(joined(self.backbone, self.stages, pixels))
        return self.head(embedding), embedding

    def keep_still(self, modules: Sequence[nn.Module]) -> None:
        """These modules stay in eval mode from now on, whatever ``train()`` says: their statistics are frozen."""
        self.still = list(modules)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        for module in self.still:
            module.eval()
        return self


@torch.inference_mode()
def logits_of(network: nn.Module, feed: Feed, rows: np.ndarray, batch: int = 32) -> np.ndarray:
    """float32 [len(rows), classes] of the plain images, where the network is; its modes are the caller's affair."""
    place = next(network.parameters()).device
    parts = [
        network(feed.plain(rows[start : start + batch]).to(place))[0].float().cpu().numpy()
        for start in range(0, len(rows), batch)
    ]
    return np.concatenate(parts)
