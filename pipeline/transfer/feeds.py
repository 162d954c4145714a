"""Where the training loop's batches come from: stored views, augmented on the fly, or cached activations.

A feed gives tensors on the training device. ``batch`` is for training and depends on (seed, epoch, row)
alone; ``plain`` is the unchanged image, for validation.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from pipeline.transfer.augment import augmented, draws, standardised
from pipeline.transforms import Preprocessing

__all__ = ["ActivationFeed", "Feed", "PixelFeed", "resident"]

RESIDENT_SHARE = 0.25  # of the GPU's free memory that the stored views may take


class Feed(Protocol):
    """Inputs of a network, by row."""

    def batch(self, rows: np.ndarray, epoch: int) -> torch.Tensor:
        """Training inputs of the named rows."""

    def plain(self, rows: np.ndarray) -> torch.Tensor:
        """Inputs of the named rows as they will be met in production."""


def resident(views: np.ndarray, device: str) -> torch.Tensor | None:
    """The whole set on the GPU, uint8, where it takes at most a quarter of what is free; else None."""
    if not device.startswith("cuda"):
        return None
    free = torch.cuda.mem_get_info(device)[0]
    return (
        torch.from_numpy(np.ascontiguousarray(views)).to(device)
        if views.nbytes <= RESIDENT_SHARE * free
        else None
    )


class PixelFeed:
    """uint8 [n, H, W, 3] views, augmented and standardised by the batch."""

    def __init__(
        self,
        views: np.ndarray,
        preprocessing: Preprocessing,
        *,
        seed: int,
        device: str = "cpu",
        augment: str = "crop",
    ) -> None:
        self.views = views
        self.preprocessing = preprocessing
        self.seed = seed
        self.device = device
        self.augment = augment
        self.resident = resident(views, device)

    def batch(self, rows: np.ndarray, epoch: int) -> torch.Tensor:
        """float32 [len(rows), 3, H, W]: each row's random view of this epoch, standardised."""
        height, width = self.views.shape[1:3]
        views = self._gathered(rows)
        if self.augment != "none":
            if self.augment != "crop":
                views = _policy(self.augment, views, rows, self.seed, epoch)
            views = augmented(views, draws(rows.tolist(), self.seed, epoch, height, width))
        return standardised(views, self.preprocessing)

    def plain(self, rows: np.ndarray) -> torch.Tensor:
        """float32 [len(rows), 3, H, W], exactly as the service standardises them."""
        return standardised(self._gathered(rows), self.preprocessing)

    def _gathered(self, rows: np.ndarray) -> torch.Tensor:
        """uint8 [len(rows), 3, H, W] on the device, in channels-last order as it is stored."""
        if self.resident is not None:
            return self.resident[torch.from_numpy(rows).to(self.device)].permute(0, 3, 1, 2)
        views = torch.from_numpy(self.views[rows])
        if self.device.startswith("cuda"):
            views = views.pin_memory().to(self.device, non_blocking=True)
        return views.permute(0, 3, 1, 2)


class ActivationFeed:
    """Stored activations at the freeze boundary, K views of each training row; view 0 is the plain one."""

    def __init__(self, stores: Sequence[np.ndarray], *, seed: int, device: str = "cpu") -> None:
        self.stores = (
            stores  # K arrays [n or more, ...]; the first holds every row, the others the training rows
        )
        self.seed = seed
        self.device = device

    def batch(self, rows: np.ndarray, epoch: int) -> torch.Tensor:
        """[len(rows), ...]: each row's activation of one of the stored views, drawn by (seed, epoch, row)."""
        count = len(self.stores)
        chosen = [int(np.random.default_rng([self.seed, epoch, int(row)]).integers(count)) for row in rows]
        values = np.stack([self.stores[view][row] for view, row in zip(chosen, rows, strict=True)])
        return torch.from_numpy(values).to(self.device)

    def plain(self, rows: np.ndarray) -> torch.Tensor:
        """[len(rows), ...] activations of the unchanged images."""
        return torch.from_numpy(np.ascontiguousarray(self.stores[0][rows])).to(self.device)


def _policy(name: str, views: torch.Tensor, rows: np.ndarray, seed: int, epoch: int) -> torch.Tensor:
    """torchvision's TrivialAugmentWide (Müller and Hutter 2021) or RandAugment (Cubuk et al. 2020), image by image."""
    from torchvision.transforms import v2

    policy = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment}[name]()
    kept = torch.get_rng_state()  # the transforms draw from torch's only generator
    changed = []
    for view, row in zip(views, rows, strict=True):
        torch.manual_seed(int(np.random.default_rng([seed, epoch, int(row), 1]).integers(2**31)))
        changed.append(policy(view))
    torch.set_rng_state(kept)
    return torch.stack(changed).contiguous(memory_format=torch.channels_last)
