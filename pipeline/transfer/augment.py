"""Random views of stored views, for training only: crop, flip, light colour changes, on whole batches.

Each draw depends on (seed, draw, row) alone: neither the batch, nor a resume after a kill, nor the number
of processes changes it. The numbers are SplitMix64's (Steele, Lea and Flood 2014), whose n-th one is a function
of n: each row reads its own stretch, all rows at once, where a generator for each took longer than a GPU's step.
A crop is never smaller than half the view, so resizing it back only enlarges: bilinear needs no antialiasing. On
a CPU each crop is resized by torch's vectorised uint8 kernel; on a GPU the whole batch is sampled at once.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from pipeline.transfer.device import sent
from pipeline.transforms import Preprocessing

__all__ = ["Draws", "augmented", "draws", "standardised", "uniforms"]

SMALLEST_CROP = 0.5  # of the view's area
ASPECT = 4 / 3  # of the crop, at most, either way
COLOUR = 0.2  # brightness, contrast and saturation are scaled by 1 ± this, at most
NUMBERS = 8  # that a view takes


@dataclass(frozen=True)
class Draws:
    """What was drawn for each of n images."""

    boxes: np.ndarray  # [n, 4] int: left, top, right, bottom, px
    flips: np.ndarray  # [n] bool
    colours: np.ndarray  # [n, 3] float32: brightness, contrast, saturation


def uniforms(rows: Sequence[int], seed: int, draw: int, numbers: int) -> np.ndarray:
    """float64 [len(rows), numbers] in [0, 1): the ``draw``-th numbers of each of the named rows."""
    start: np.ndarray = np.random.SeedSequence([seed, draw]).generate_state(1, np.uint64)
    row = np.asarray(rows, dtype=np.uint64)[:, None]
    place = row * np.uint64(numbers) + np.arange(1, numbers + 1, dtype=np.uint64)
    mixed: np.ndarray = start + place * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return np.ldexp((mixed >> np.uint64(11)).astype(np.float64), -53)


def draws(rows: Sequence[int], seed: int, draw: int, height: int, width: int) -> Draws:
    """The ``draw``-th random view of each of the named rows."""
    drawn = uniforms(rows, seed, draw, NUMBERS)
    area = SMALLEST_CROP + (1 - SMALLEST_CROP) * drawn[:, 0]
    aspect = ASPECT ** (2 * drawn[:, 1] - 1)
    across = np.rint(np.minimum(1.0, np.sqrt(area * aspect)) * width).clip(1)
    down = np.rint(np.minimum(1.0, np.sqrt(area / aspect)) * height).clip(1)
    left = np.floor(drawn[:, 2] * (width - across + 1))
    top = np.floor(drawn[:, 3] * (height - down + 1))
    boxes = np.stack([left, top, left + across, top + down], axis=1).astype(np.int64)
    colours = 1 - COLOUR + 2 * COLOUR * drawn[:, 5:8]
    return Draws(boxes, drawn[:, 4] < 0.5, colours.astype(np.float32))


def augmented(views: torch.Tensor, drawn: Draws) -> torch.Tensor:
    """float32 [n, 3, H, W], 0 to 255: the drawn views of uint8 [n, 3, H, W] ``views``."""
    cropped = _sampled(views, drawn) if views.is_cuda else _resized(views, drawn)
    return _coloured(cropped, sent(drawn.colours, str(views.device)))


def standardised(pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """What ``Preprocessing.normalise`` gives, bit for bit, of [n, 3, H, W] pixels of 0 to 255, in place."""
    pixels = pixels if pixels.dtype == torch.float32 else pixels.to(torch.float32)
    mean, std = _standard(tuple(preprocessing.mean), tuple(preprocessing.std), str(pixels.device))
    return pixels.sub_(mean).div_(std)


@functools.lru_cache(maxsize=8)
def _standard(
    mean: tuple[float, ...], std: tuple[float, ...], device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [3, 1, 1] each, of pixels of 0 to 255; they stay on the device."""
    both = torch.from_numpy(np.asarray([mean, std], dtype=np.float32) * np.float32(255))
    first, second = both.to(device)[:, :, None, None]
    return first, second


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
        sent(theta, str(views.device)), [count, 3, height, width], align_corners=False
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
