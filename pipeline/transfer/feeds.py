"""Where the training loop's batches come from: stored views, augmented on the fly, or cached activations.

A feed gives tensors on the training device. ``batch`` is for training and depends on (seed, epoch, row)
alone; ``plain`` is the unchanged image, for validation.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from pipeline.transfer.augment import augmented, draws, standardised, uniforms
from pipeline.transfer.device import sent
from pipeline.transforms import Preprocessing

__all__ = ["ActivationFeed", "Feed", "PixelFeed", "resident"]

RESIDENT_SHARE = 0.25  # of the GPU's free memory that stored views or activations may take


class Feed(Protocol):
    """Inputs of a network, by row."""

    def batch(self, rows: np.ndarray, epoch: int) -> torch.Tensor:
        """Training inputs of the named rows."""

    def plain(self, rows: np.ndarray) -> torch.Tensor:
        """Inputs of the named rows as they will be met in production."""


def resident(stored: Sequence[np.ndarray], device: str) -> torch.Tensor | None:
    """All rows of the arrays, one behind the other, on the GPU, where they take at most a quarter of what is free."""
    if not device.startswith("cuda"):
        return None
    if sum(part.nbytes for part in stored) > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    return torch.cat([torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in stored])


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
        self.resident = resident([views], device)

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
            return self.resident[sent(rows, self.device)].permute(0, 3, 1, 2)
        return sent(self.views[rows], self.device).permute(0, 3, 1, 2)


class ActivationFeed:
    """Stored activations at the freeze boundary, K views of each training row; view 0 is the plain one."""

    def __init__(self, stores: Sequence[np.ndarray], *, seed: int, device: str = "cpu") -> None:
        self.stores = (
            stores  # K arrays [n or more, ...]; the first holds every row, the others the training rows
        )
        self.seed = seed
        self.device = device
        self.resident = resident(stores, device)
        self.starts = np.cumsum([0, *(len(store) for store in stores[:-1])])  # of each store's rows there

    def batch(self, rows: np.ndarray, epoch: int) -> torch.Tensor:
        """[len(rows), ...]: each row's activation of one of the stored views, drawn by (seed, epoch, row)."""
        drawn = uniforms(rows.tolist(), self.seed, epoch, 1)[:, 0]
        return self._gathered((drawn * len(self.stores)).astype(np.int64), rows)

    def plain(self, rows: np.ndarray) -> torch.Tensor:
        """[len(rows), ...] activations of the unchanged images."""
        return self._gathered(np.zeros(len(rows), dtype=np.int64), rows)

    def _gathered(self, chosen: np.ndarray, rows: np.ndarray) -> torch.Tensor:
        """[len(rows), ...] on the device: of each row the activation of its ``chosen`` view."""
        if self.resident is not None:
            return self.resident[sent(self.starts[chosen] + rows, self.device)]
        values = np.stack([self.stores[view][row] for view, row in zip(chosen, rows, strict=True)])
        return sent(values, self.device)


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
