"""Procedural machined metal: the finishes of a part. Defects and cameras are modules of their own.

Coordinates are pixels, (row, column); reflectance and brightness are 0..1; relief is in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image
from scipy import ndimage

Array = np.ndarray
Rng = np.random.Generator

SHOT_SIZE = 160
"""Side of a shot, pixels."""
SCENE_SIZE = 208
"""Side of a scene, pixels: a shot plus the margin that shifts, turns and a wider lens use up."""


def smooth_noise(rng: Rng, cell: float, size: int = SCENE_SIZE) -> Array:
    """Noise of about zero mean and unit deviation, (size, size), whose features are `cell` pixels wide."""
    side = max(2, round(size / cell) + 1)
    grid = Image.fromarray(rng.standard_normal((side, side)).astype(np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


def resample(layer: Array, turn: Array, offset: Array, size: int) -> Array:
    """`layer` read at turn @ (row, column) + offset for each pixel of a (size, size) result, bilinearly."""
    (rr, rc), (cr, cc) = turn
    matrix = (cc, cr, offset[1], rc, rr, offset[0])  # Pillow's order: x (columns) before y (rows)
    image = Image.fromarray(layer.astype(np.float32, copy=False))
    return np.asarray(
        image.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    )


@cache
def coordinates() -> tuple[Array, Array]:
    """Rows and columns of a scene, each (SCENE_SIZE, SCENE_SIZE) float32."""
    rows, columns = np.mgrid[0:SCENE_SIZE, 0:SCENE_SIZE].astype(np.float32)
    return rows, columns


# --- finishes: each returns a texture (SCENE_SIZE, SCENE_SIZE) of about zero mean and unit deviation


def brushed(rng: Rng, along: float = 16.0) -> Array:
    """Fine parallel lines in one direction, `along` pixels long."""
    canvas = round(SCENE_SIZE * 1.45)
    lines = rng.standard_normal((canvas, canvas), dtype=np.float32)
    lines = ndimage.gaussian_filter(lines, (0.6, along))
    angle = rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = canvas / 2 - turn @ np.full(2, SCENE_SIZE / 2)
    turned_lines = resample(lines, turn, offset, SCENE_SIZE)
    return turned_lines / turned_lines.std()


def ground(rng: Rng) -> Array:
    """Short lines in two directions, as a grinding wheel leaves them."""
    return 0.75 * brushed(rng, along=7.0) + 0.6 * brushed(rng, along=5.0)


def turned(rng: Rng) -> Array:
    """Arcs around a centre outside the frame, as a lathe leaves them."""
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 2.0) * SCENE_SIZE
    rows, columns = coordinates()
    middle = SCENE_SIZE / 2
    radius = np.hypot(rows - middle - distance * np.sin(angle), columns - middle - distance * np.cos(angle))
    profile = ndimage.gaussian_filter1d(rng.standard_normal(2048), 0.9)
    rings = np.interp(radius, np.arange(2048) * 0.9, profile / profile.std())
    return 0.85 * rings + 0.35 * brushed(rng, along=3.0)


def milled(rng: Rng) -> Array:
    """Regular arcs from a milling cutter that advances step by step."""
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.2) * SCENE_SIZE
    rows, columns = coordinates()
    middle = SCENE_SIZE / 2
    radius = np.hypot(rows - middle - distance * np.sin(angle), columns - middle - distance * np.cos(angle))
    waves = np.sin(2 * np.pi * radius / rng.uniform(7, 13) + 0.5 * smooth_noise(rng, 50))
    return 0.9 * waves + 0.5 * blasted(rng)


def blasted(rng: Rng) -> Array:
    """Fine grain without a direction."""
    speckle = rng.standard_normal((SCENE_SIZE, SCENE_SIZE), dtype=np.float32)
    grain = ndimage.gaussian_filter(speckle, rng.uniform(0.7, 1.2))
    return grain / grain.std()


FINISHES: dict[str, Callable[[Rng], Array]] = {
    "brushed": brushed, "ground": ground, "turned": turned, "milled": milled, "blasted": blasted,
}  # fmt: skip
