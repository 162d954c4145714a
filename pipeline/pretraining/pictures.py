"""An endless source of labelled pictures: a texture, a shape drawn on it, a light and a lens."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from pipeline.pretraining.shapes import SHAPES, shape
from pipeline.pretraining.textures import TEXTURES, texture

TEXTURE_SIDE, SHAPE_SIDE = 192, 144
"""Sides of the stored textures and shape masks, pixels; the pictures are cut out of them."""


class Pictures:
    """An endless source of labelled pictures, composed from a bank of textures and shape masks."""

    def __init__(self, seed: int, textures_each: int, shapes_each: int) -> None:
        rng = np.random.default_rng([seed, 1])
        self.texture_labels = torch.arange(len(TEXTURES)).repeat_interleave(textures_each)
        self.shape_labels = torch.arange(len(SHAPES)).repeat_interleave(shapes_each)
        self.textures = torch.from_numpy(
            np.stack([texture(rng, int(k), TEXTURE_SIDE) for k in self.texture_labels])
        )
        self.shapes = torch.from_numpy(np.stack([shape(rng, int(k), SHAPE_SIDE) for k in self.shape_labels]))
        self.rng = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(shape, generator=self.rng) * (high - low) + low

    def batch(self, count: int, side: int, hard: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalised pictures (count, 3, side, side), their texture and shape labels, each (count,), and their marks.

        The marks are (count, 1, side, side) in 0..1: where, and how strongly, something was drawn on the texture.

        `hard` runs from 0 (strong contrasts, even light, no noise) to 1: a network that starts from nothing
        learns many times faster when the first pictures are easy.
        """
        self.hard = hard
        ground_at = torch.randint(len(self.textures), (count,), generator=self.rng)
        mark_at = torch.randint(len(self.shapes), (count,), generator=self.rng)
        # "nothing" is one shape class among many, but the one that every other is to be told from.
        mark_at = torch.where(self.uniform(count) < 0.08, 0, mark_at)
        grey = self.cut_out(self.textures[ground_at], side, 0.6, 1.15 * TEXTURE_SIDE / 160)
        ground = self.colour(grey)
        # One picture's ground, in colours of its own, fills the mark of another one: no third window to cut.
        filling = self.colour(grey.roll(1, 0))
        mark = self.cut_out(self.shapes[mark_at], side, 0.6 * SHAPE_SIDE / side, 1.0 * SHAPE_SIDE / side)
        pictures = self.photograph(self.draw(ground, filling, mark))
        return pictures, self.texture_labels[ground_at], self.shape_labels[mark_at], mark

    def cut_out(self, bank: Tensor, side: int, closest: float, widest: float) -> Tensor:
        """A turned, scaled, mirrored and shifted window of each picture, (n, 1, side, side) in 0..1.

        `closest` and `widest` bound the stored pixels that one pixel of the window covers.
        """
        count, stored = len(bank), bank.shape[-1]
        angle = self.uniform(count, high=2 * torch.pi)
        span = self.uniform(count, low=closest, high=widest) * side / stored
        mirror = torch.where(self.uniform(count) < 0.5, -1.0, 1.0)
        cos, sin = span * angle.cos(), span * angle.sin()
        # Whatever room the window leaves, it may be shifted by; a shape's mask has empty surroundings to spare.
        shift = (1 - span).clamp(min=0.05)[:, None] * self.uniform(count, 2, low=-1, high=1)
        theta = torch.stack([mirror * cos, -sin, shift[:, 0], mirror * sin, cos, shift[:, 1]], dim=1).view(
            -1, 2, 3
        )
        window = F.affine_grid(theta, [count, 1, side, side], align_corners=False)
        padding = "reflection" if stored == TEXTURE_SIDE else "zeros"
        return F.grid_sample(bank[:, None].float() / 255, window, padding_mode=padding, align_corners=False)

    def colour(self, grey: Tensor) -> Tensor:
        """Map 0..1 onto a line between two random colours, mostly greyish ones, (n, 3, h, w)."""
        count = len(grey)
        level = self.uniform(count, 1, low=0.15, high=0.85)
        contrast = 0.03 + 0.8 * self.uniform(count, 1) ** (0.7 + 1.5 * self.hard)
        chroma = 0.35 * self.uniform(count, 1) ** 2
        first = level - contrast / 2 + chroma * self.uniform(count, 3, low=-1, high=1)
        second = level + contrast / 2 + chroma * self.uniform(count, 3, low=-1, high=1)
        return torch.lerp(first[..., None, None], second[..., None, None], grey)

    def draw(self, ground: Tensor, filling: Tensor, mark: Tensor) -> Tensor:
        """Put the mark on the ground: as flat colour, as another texture, as relief, or several of them."""
        count = len(ground)
        average = ground.mean(dim=(1, 2, 3), keepdim=True)
        step = self.uniform(count, 1, 1, 1, low=0.42 - 0.3 * self.hard, high=0.6) * torch.where(
            self.uniform(count, 1, 1, 1) < 0.5, -1, 1
        )
        flat = (
            average
            + step
            + 0.25 * self.uniform(count, 1, 1, 1) ** 2 * self.uniform(count, 3, 1, 1, low=-1, high=1)
        )
        style = self.uniform(count, 1, 1, 1)
        paint = torch.where(style < 0.15, filling, torch.where(style < 0.55, ground + step, flat))
        strength = self.uniform(count, 1, 1, 1, low=0.45) * (self.uniform(count, 1, 1, 1) > 0.1)
        picture = torch.lerp(ground, paint, mark * strength)
        soft = F.avg_pool2d(mark, 3, 1, 1)
        slope_x, slope_y = soft.roll(1, 3) - soft.roll(-1, 3), soft.roll(1, 2) - soft.roll(-1, 2)
        angle = self.uniform(count, 1, 1, 1, high=2 * torch.pi)
        relief = torch.where((strength == 0) | (self.uniform(count, 1, 1, 1) < 0.3), 0.45, 0.0)
        return picture + relief * (slope_x * angle.cos() + slope_y * angle.sin())

    def photograph(self, picture: Tensor) -> Tensor:
        """Uneven light, tone, blur and noise; then the network's normalisation."""
        count, side = len(picture), picture.shape[-1]
        rows, columns = torch.meshgrid(
            torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij"
        )
        tilt = self.hard * self.uniform(count, 2, 1, 1, low=-0.3, high=0.3)
        corner = self.hard * self.uniform(count, 1, 1, low=-0.1, high=0.35)
        light = 1 + tilt[:, 0] * rows + tilt[:, 1] * columns - corner * (rows**2 + columns**2) / 2
        gain = self.uniform(count, 1, 1, 1, low=0.7, high=1.25) * self.uniform(
            count, 3, 1, 1, low=0.85, high=1.15
        )
        picture = picture * light[:, None] * gain
        picture = torch.lerp(
            picture, F.avg_pool2d(picture, 3, 1, 1, count_include_pad=False), self.uniform(count, 1, 1, 1)
        )
        noise = torch.randn(picture.shape, generator=self.rng)
        picture = picture + 0.05 * self.hard * self.uniform(count, 1, 1, 1) ** 2 * noise
        picture = picture.clamp(0.001, 1) ** self.uniform(count, 1, 1, 1, low=0.7, high=1.4)
        return (picture - 0.5) / 0.5
