"""Procedural textures that pictures for pretraining are drawn on: weave, bricks, marble, noise ...

A texture is a function (rng, size, scale) -> (size, size) array, any range; `texture` brings it to 0..255.
They are generic on purpose and share no code with the sample's metal (`pipeline.surfaces`), so that a
probe on the sample measures transfer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

Array = np.ndarray
Rng = np.random.Generator


def noise(rng: Rng, size: int, cell: float) -> Array:
    """Smooth noise with features `cell` pixels wide, (size, size)."""
    side = max(2, round(size / cell) + 1)
    grid = Image.fromarray(rng.standard_normal((side, side), dtype=np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


def octaves(rng: Rng, size: int, cell: float, count: int = 4) -> Array:
    """Sum of noises, each half as wide and half as strong as the one before."""
    return np.sum([noise(rng, size, max(2.0, cell / 2**k)) / 2**k for k in range(count)], axis=0)


def axes(rng: Rng, size: int, warp: float = 0.0) -> tuple[Array, Array]:
    """Two perpendicular pixel axes at a random angle, bent by up to about `warp` pixels."""
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) - size / 2
    angle = rng.uniform(0, 2 * np.pi)
    u, v = rows * np.cos(angle) + columns * np.sin(angle), columns * np.cos(angle) - rows * np.sin(angle)
    if warp:
        u, v = u + warp * noise(rng, size, 30), v + warp * noise(rng, size, 30)
    return u, v


def saw(values: Array) -> Array:
    """Distance to the nearest integer, 0..0.5."""
    return np.abs(values - np.round(values))


def nearest_points(rng: Rng, size: int, cell: float) -> tuple[Array, Array, Array]:
    """For random points about `cell` apart: distances to the nearest and second nearest, and the nearest's index."""
    u, v = axes(rng, size)
    side = int(size * 1.5 / cell) + 2
    lattice = np.moveaxis(np.mgrid[0:side, 0:side], 0, -1).reshape(-1, 2) - side / 2
    points = cell * (lattice + rng.uniform(-0.45, 0.45, lattice.shape))
    tree_input = np.stack([u.ravel(), v.ravel()], axis=1)
    distances, index = cKDTree(points).query(tree_input, k=2)
    first, second = distances[:, 0].reshape(size, size), distances[:, 1].reshape(size, size)
    return first, second, index[:, 0].reshape(size, size)


# --- textures: `scale` runs from 6 to 26 pixels, so that one family is seen fine and coarse


def clouds(rng: Rng, size: int, scale: float) -> Array:
    return octaves(rng, size, 2.5 * scale)


def ridges(rng: Rng, size: int, scale: float) -> Array:
    return -np.abs(octaves(rng, size, 2 * scale, 3))


def marble(rng: Rng, size: int, scale: float) -> Array:
    u, _ = axes(rng, size)
    return np.sin(2 * np.pi * u / (1.5 * scale) + 2.5 * octaves(rng, size, 40))


def wood(rng: Rng, size: int, scale: float) -> Array:
    u, v = axes(rng, size, warp=4)
    radius = np.hypot(u + rng.uniform(-60, 60), 0.15 * v)
    return saw(radius / scale) + 0.06 * noise(rng, size, 2)


def cells(rng: Rng, size: int, scale: float) -> Array:
    _, _, index = nearest_points(rng, size, scale)
    return rng.random(index.max() + 1)[index]


def cell_walls(rng: Rng, size: int, scale: float) -> Array:
    first, second, _ = nearest_points(rng, size, scale)
    return np.minimum(second - first, 0.15 * scale)


def pebbles(rng: Rng, size: int, scale: float) -> Array:
    first, _, _ = nearest_points(rng, size, scale)
    return np.minimum(first, 0.6 * scale)


def checker(rng: Rng, size: int, scale: float) -> Array:
    u, v = axes(rng, size, warp=rng.choice([0, 2]))
    return (np.floor(u / scale) + np.floor(v / scale)) % 2


def bars(rng: Rng, size: int, scale: float) -> Array:
    u, _ = axes(rng, size, warp=rng.choice([0, 2]))
    return (u / scale) % 1 < rng.uniform(0.25, 0.75)


def waves(rng: Rng, size: int, scale: float) -> Array:
    u, v = axes(rng, size)
    return np.sin(2 * np.pi * (u + 0.4 * scale * np.sin(2 * np.pi * v / (3 * scale))) / scale)


def zigzags(rng: Rng, size: int, scale: float) -> Array:
    u, v = axes(rng, size)
    return ((u + 2 * scale * saw(v / (2 * scale))) / scale) % 1 < 0.5


def weave(rng: Rng, size: int, scale: float) -> Array:
    u, v = axes(rng, size)
    over = (np.floor(u / scale) + np.floor(v / scale)) % 2
    return over * np.cos(2 * np.pi * saw(u / scale)) + (1 - over) * np.cos(2 * np.pi * saw(v / scale))


def twill(rng: Rng, size: int, scale: float) -> Array:
    u, v = axes(rng, size)
    return np.sin(2 * np.pi * (u + np.floor(v / (0.4 * scale)) * 0.3 * scale) / scale)


def plaid(rng: Rng, size: int, scale: float) -> Array:
    u, v = axes(rng, size)
    pattern = rng.random(6)
    return pattern[np.floor(u / scale).astype(int) % 6] + pattern[np.floor(v / scale).astype(int) % 6]


def bricks(rng: Rng, size: int, scale: float) -> Array:
    u, v = axes(rng, size)
    row = np.floor(u / scale)
    return np.minimum(saw(u / scale), 2 * saw((v / scale + row) / 2)) > 0.08


def hexagons(rng: Rng, size: int, scale: float) -> Array:
    u, v = axes(rng, size)
    turns = [u * np.cos(a) + v * np.sin(a) for a in (0, 2 * np.pi / 3, 4 * np.pi / 3)]
    return np.sum([np.cos(2 * np.pi * t / scale) for t in turns], axis=0)


def dot_grid(rng: Rng, size: int, scale: float) -> Array:
    u, v = axes(rng, size)
    return np.hypot(saw(u / scale), saw(v / scale)) < rng.uniform(0.2, 0.4)


def spots(rng: Rng, size: int, scale: float) -> Array:
    return band(rng, size, scale) > 0.9


def labyrinth(rng: Rng, size: int, scale: float) -> Array:
    return np.tanh(4 * band(rng, size, scale))


def band(rng: Rng, size: int, scale: float) -> Array:
    """Noise of one wavelength only, unit deviation."""
    grain = rng.standard_normal((size, size), dtype=np.float32)
    between = ndimage.gaussian_filter(grain, scale / 6, truncate=3) - ndimage.gaussian_filter(
        grain, scale / 4, truncate=3
    )
    return between / between.std()


def contours(rng: Rng, size: int, scale: float) -> Array:
    return saw(1.6 * octaves(rng, size, 3 * scale, 2)) < 0.12


def rings(rng: Rng, size: int, scale: float) -> Array:
    u, v = axes(rng, size, warp=rng.choice([0, 3]))
    return np.cos(2 * np.pi * np.hypot(u - rng.uniform(-50, 50), v - rng.uniform(-50, 50)) / scale)


def rays(rng: Rng, size: int, scale: float) -> Array:
    u, v = axes(rng, size)
    u, v = u - rng.uniform(-50, 50), v - rng.uniform(-50, 50)
    return np.sin(round(130 / scale) * np.arctan2(u, v) + rng.choice([0, 0.08]) * np.hypot(u, v))


def scales(rng: Rng, size: int, scale: float) -> Array:
    u, v = axes(rng, size)
    row = np.floor(u / (0.6 * scale))
    return np.hypot(u / (0.6 * scale) - row, 2 * ((v / scale + 0.5 * row) % 1 - 0.5))


def grain(rng: Rng, size: int, scale: float) -> Array:
    return ndimage.gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), 0.06 * scale)


def fibres(rng: Rng, size: int, scale: float) -> Array:
    lines = ndimage.gaussian_filter(
        rng.standard_normal((2 * size, 2 * size), dtype=np.float32), (0.05 * scale, scale), truncate=2
    )
    turned = Image.fromarray(lines).rotate(rng.uniform(0, 180), Image.Resampling.BILINEAR)
    return np.asarray(turned)[size // 2 : size // 2 + size, size // 2 : size // 2 + size]


def hatching(rng: Rng, size: int, scale: float) -> Array:
    return fibres(rng, size, scale) + fibres(rng, size, scale)


def blobs(rng: Rng, size: int, scale: float) -> Array:
    return np.tanh(5 * noise(rng, size, 2.2 * scale))


def fade(rng: Rng, size: int, scale: float) -> Array:
    u, v = axes(rng, size, warp=scale)
    return u + rng.choice([0, 1]) * np.abs(v)


def plain(rng: Rng, size: int, scale: float) -> Array:
    return 0.05 * grain(rng, size, scale) + 0.1 * noise(rng, size, 80)


TEXTURES: tuple[Callable[[Rng, int, float], Array], ...] = (
    clouds, ridges, marble, wood, cells, cell_walls, pebbles, checker, bars, waves, zigzags, weave, twill, plaid,
    bricks, hexagons, dot_grid, spots, labyrinth, contours, rings, rays, scales, grain, fibres, hatching, blobs,
    fade, plain,
)  # fmt: skip


def texture(rng: Rng, family: int, size: int) -> Array:
    """One texture of `TEXTURES[family]`, (size, size) uint8, stretched to the full range."""
    values = np.asarray(
        TEXTURES[family](rng, size, float(np.exp(rng.uniform(np.log(6), np.log(26))))), dtype=np.float32
    )
    low, high = np.percentile(values, [1, 99])
    return (np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
