"""Random views of stored views, for training only: crop, flip, light colour changes, on whole batches.

Each draw depends on (seed, draw, row) alone: neither the batch, nor a resume after a kill, nor the number
of processes changes it. A crop is never smaller than half the view, so resizing it back only enlarges:
bilinear needs no antialiasing. On a CPU each crop is resized by torch's vectorised uint8 kernel; on a GPU
the whole batch is sampled at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from pipeline.transforms import Preprocessing

__all__ = ["Draws", "augmented", "draws", "standardised"]

SMALLEST_CROP = 0.5  # of the view's area
ASPECT = 4 / 3  # of the crop, at most, either way
COLOUR = 0.2  # brightness, contrast and saturation are scaled by 1 ± this, at most


@dataclass(frozen=True)
class Draws:
    """What was drawn for each of n images."""

    boxes: np.ndarray  # [n, 4] int: left, top, right, bottom, px
    flips: np.ndarray  # [n] bool
    colours: np.ndarray  # [n, 3] float32: brightness, contrast, saturation


def draws(rows: Sequence[int], seed: int, draw: int, height: int, width: int) -> Draws:
    """The ``draw``-th random view of each of the named rows."""
    boxes = np.empty((len(rows), 4), dtype=np.int64)
    flips = np.empty(len(rows), dtype=bool)
    colours = np.empty((len(rows), 3), dtype=np.float32)
    for place, row in enumerate(rows):
        generator = np.random.default_rng([seed, draw, int(row)])
        area = generator.uniform(SMALLEST_CROP, 1.0)
        aspect = np.exp(generator.uniform(-np.log(ASPECT), np.log(ASPECT)))
        across = max(1, round(min(1.0, np.sqrt(area * aspect)) * width))
        down = max(1, round(min(1.0, np.sqrt(area / aspect)) * height))
        left, top = generator.integers(0, [width - across + 1, height - down + 1])
        boxes[place] = left, top, left + across, top + down
        flips[place] = generator.random() < 0.5
        colours[place] = generator.uniform(1 - COLOUR, 1 + COLOUR, 3)
    return Draws(boxes, flips, colours)


def augmented(views: torch.Tensor, drawn: Draws) -> torch.Tensor:
    """float32 [n, 3, H, W], 0 to 255: the drawn views of uint8 [n, 3, H, W] ``views``."""
    cropped = _sampled(views, drawn) if views.is_cuda else _resized(views, drawn)
    return _coloured(cropped, torch.from_numpy(drawn.colours).to(views.device))


def standardised(pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """What ``Preprocessing.normalise`` gives, bit for bit, of [n, 3, H, W] pixels of 0 to 255, in place."""
    scale = np.float32(255)
    mean = torch.from_numpy(np.asarray(preprocessing.mean, dtype=np.float32) * scale)
    std = torch.from_numpy(np.asarray(preprocessing.std, dtype=np.float32) * scale)
    pixels = pixels if pixels.dtype == torch.float32 else pixels.to(torch.float32)
    pixels.sub_(mean.to(pixels.device)[:, None, None])
    return pixels.div_(std.to(pixels.device)[:, None, None])


def _resized(views: torch.Tensor, drawn: Draws) -> torch.Tensor:
    height, width = views.shape[2:]
    out = torch.empty_like(views, memory_format=torch.channels_last)
    for place, ((left, top, right, bottom), flip) in enumerate(zip(drawn.boxes, drawn.flips, strict=True)):
        crop = views[place : place + 1, :, top:bottom, left:right]
        resized = functional.interpolate(crop, size=(height, width), mode="bilinear")
        out[place] = (resized.flip(3) if flip else resized)[0]
    return out.to(torch.float32)


def _sampled(views: torch.Tensor, drawn: Draws) -> torch.Tensor:
    count, _, height, width = views.shape
    left, top, right, bottom = drawn.boxes.T
    theta = np.zeros((count, 2, 3), dtype=np.float32)
    theta[:, 0, 0] = (right - left) / width * np.where(drawn.flips, -1, 1)
    theta[:, 1, 1] = (bottom - top) / height
    theta[:, 0, 2] = (left + right) / width - 1
    theta[:, 1, 2] = (top + bottom) / height - 1
    grid = functional.affine_grid(
        torch.from_numpy(theta).to(views.device), [count, 3, height, width], align_corners=False
    )
    pixels = views.to(torch.float32)
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _coloured(pixels: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """Saturation about each pixel's grey, contrast about the image's mean, brightness: one affine map."""
    brightness, contrast, saturation = (column[:, None, None, None] for column in colours.T)
    grey = pixels.mean(dim=1, keepdim=True)
    level = grey.mean(dim=(2, 3), keepdim=True) * (1 - contrast) * brightness
    grey = grey.mul_((1 - saturation) * contrast * brightness).add_(level)
    return pixels.mul_(saturation * contrast * brightness).add_(grey).clamp_(0, 255)
