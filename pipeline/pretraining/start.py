"""Where pretraining starts: filters that every vision system ends up with, and blocks that pass them on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.pretraining.pictures import Pictures


def filter_bank() -> Tensor:
    """64 filters for a 7 x 7 stem, (64, 3, 7, 7): ridges, edges, spots, saddles and colour contrasts.

    A network this small, trained for minutes, would spend them on finding these. Each grey filter sums to
    zero over space; a ridge or spot comes as a pair of both signs, since what follows keeps the positive part.
    """
    y, x = np.mgrid[-3:4, -3:4].astype(float)
    square = x * x + y * y
    grey: list[np.ndarray] = []
    for width in (0.8, 1.3):
        for angle in np.arange(8) * np.pi / 8:
            across, along = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
            window = np.exp(-(across**2) / (2 * width**2) - along**2 / (2 * (2.2 * width) ** 2))
            ridge = (1 - (across / width) ** 2) * window
            grey += [ridge, -ridge]
    for angle in np.arange(8) * np.pi / 4:
        grey.append((x * np.cos(angle) + y * np.sin(angle)) * np.exp(-square / (2 * 1.2**2)))
    for width in (0.8, 1.1, 1.6, 2.2, 3.0):
        spot = (1 - square / (2 * width**2)) * np.exp(-square / (2 * width**2))
        grey += [spot, -spot]
    for saddle in (x * y, (x * x - y * y) / 2):
        grey += [saddle * np.exp(-square / 3), -saddle * np.exp(-square / 3)]
    grey = [kernel - kernel.mean() for kernel in grey]
    filters = [np.multiply.outer([0.4, 0.4, 0.2], kernel / np.abs(kernel).sum()) for kernel in grey]
    patch = np.exp(-square / (2 * 2.0**2))
    contrasts = ([1 / 3, 1 / 3, 1 / 3], [0.5, 0, -0.5], [0.25, -0.5, 0.25], [0, 0.5, -0.5], [0.5, -0.5, 0])
    for contrast in contrasts:
        filters += [sign * np.multiply.outer(contrast, patch / patch.sum()) for sign in (1, -1)]
    return torch.tensor(np.stack(filters), dtype=torch.float32)


def start(network: nn.Module) -> None:
    """Put the filter bank into the stem and make every block hand on what it receives."""
    bank = filter_bank()
    network.conv1.weight.data.copy_(bank)
    network.conv1.weight.requires_grad_(False)
    for module in network.modules():
        # A shortcut that widens keeps its old channels as they are and mixes the new ones at random.
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            kept = min(module.in_channels, module.out_channels)
            module.weight.data[:kept] = torch.eye(kept, module.in_channels)[:, :, None, None]
    # Random logits would cost the first steps; the classifier starts undecided instead.
    nn.init.zeros_(network.get_classifier().weight)


@torch.no_grad()
def settle_statistics(network: nn.Module, pictures: Pictures, side: int) -> None:
    """Set every BatchNorm's running statistics to plain averages over pictures of `side` pixels."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    network.train()
    for _ in range(16):
        network(pictures.batch(64, side)[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
