"""Procedural textures and shapes that the bundled backbone is pretrained on.

A texture fills the frame (weave, bricks, marble, noise ...); a shape is a mask drawn over it (ring,
zigzag, glyph ...). They are generic on purpose and share no code with the sample's metal and defects
(`pipeline.surfaces`), so that a probe on the sample measures transfer.

A texture is a function (rng, size) -> (size, size) array, any range; `texture` brings it to 0..255.
A shape is a function (rng) -> list of polylines in a unit frame; `shape` draws it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw
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


# --- shapes: polylines in a frame from -1 to 1; a closed one may be filled

Lines = list[Array]


def regular(corners: int, turn: float = 0.0, radius: float = 1.0) -> Array:
    """Corners of a regular polygon, closed, (corners + 1, 2)."""
    angle = turn + 2 * np.pi * np.arange(corners + 1) / corners
    return radius * np.stack([np.sin(angle), np.cos(angle)], axis=1)


def curve(u: Array, v: Array) -> Lines:
    return [np.stack([u, v], axis=1)]


T = np.linspace(-1, 1, 60)


def segment(rng: Rng) -> Lines:
    return curve(T, 0 * T)


def parallels(rng: Rng) -> Lines:
    return [line for at in np.linspace(-0.5, 0.5, rng.integers(3, 6)) for line in curve(T, 0 * T + at)]


def arc(rng: Rng) -> Lines:
    span = rng.uniform(1.2, 2.4)
    return curve(np.sin(span * T), np.cos(span * T))


def ripple(rng: Rng) -> Lines:
    return curve(T, 0.3 * np.sin(rng.uniform(8, 16) * T))


def sawtooth(rng: Rng) -> Lines:
    count = rng.integers(6, 12)
    return curve(np.linspace(-1, 1, count), 0.22 * (-1.0) ** np.arange(count))


def wander(rng: Rng) -> Lines:
    turns = np.cumsum(rng.normal(0, 0.6, 40))
    path = np.cumsum(np.stack([np.sin(turns), np.cos(turns)], axis=1), axis=0)
    path -= path.mean(axis=0)
    return [path / np.abs(path).max()]


def spiral(rng: Rng) -> Lines:
    angle = np.linspace(0, rng.uniform(10, 18), 120)
    return curve(angle / angle.max() * np.sin(angle), angle / angle.max() * np.cos(angle))


def cross(rng: Rng) -> Lines:
    return curve(T, 0 * T) + curve(0 * T, T)


def asterisk(rng: Rng) -> Lines:
    return [np.stack([np.zeros(2), end]) for end in regular(int(rng.integers(5, 9)))[:-1]]


def fork(rng: Rng) -> Lines:
    return [np.array([[1, 0], [0, 0], [-0.9, -0.6]]), np.array([[0, 0], [-0.9, 0.6]])]


def comb(rng: Rng) -> Lines:
    teeth = [np.array([[at, 0], [at, 0.6]]) for at in np.linspace(-1, 1, rng.integers(4, 8))]
    return [*curve(T, 0 * T), *teeth]


def grid(rng: Rng) -> Lines:
    at = np.linspace(-0.9, 0.9, rng.integers(3, 5))
    return [line for a in at for line in curve(T, 0 * T + a) + curve(0 * T + a, T)]


def glyph(rng: Rng) -> Lines:
    stops = rng.integers(0, 3, (rng.integers(4, 7), 2)) - 1.0
    return [stops[:3] * [1, 0.6], stops[2:] * [1, 0.6]]


def circle(rng: Rng) -> Lines:
    return [regular(40)]


def oval(rng: Rng) -> Lines:
    return [regular(40) * [1, rng.uniform(0.3, 0.6)]]


def triangle(rng: Rng) -> Lines:
    return [regular(3) * [1, rng.uniform(0.6, 1.2)]]


def square(rng: Rng) -> Lines:
    return [regular(4) * [1, rng.uniform(0.8, 1)]]


def slab(rng: Rng) -> Lines:
    return [regular(4, np.pi / 4) * [1.3, rng.uniform(0.25, 0.45)]]


def star(rng: Rng) -> Lines:
    count = int(rng.integers(4, 8))
    return [regular(2 * count) * np.where(np.arange(2 * count + 1) % 2, rng.uniform(0.3, 0.55), 1)[:, None]]


def petals(rng: Rng) -> Lines:
    ring = regular(90)
    return [ring * (0.65 + 0.35 * np.sin(rng.integers(3, 7) * np.linspace(0, 2 * np.pi, 91)))[:, None]]


def crescent(rng: Rng) -> Lines:
    outer, inner = regular(40)[:21], regular(40)[20::-1] * [1, rng.uniform(0.2, 0.6)]
    return [np.concatenate([outer, inner])]


def potato(rng: Rng) -> Lines:
    knots = rng.uniform(0.55, 1.0, 9)
    knots[-1] = knots[0]
    return [regular(64) * np.interp(np.linspace(0, 8, 65), np.arange(9), knots)[:, None]]


def beads(rng: Rng) -> Lines:
    return [regular(16, radius=0.13) + np.array([at, 0]) for at in np.linspace(-1, 1, rng.integers(4, 7))]


def confetti(rng: Rng) -> Lines:
    return [
        regular(4, rng.uniform(0, 3), 0.14) + rng.uniform(-0.9, 0.9, 2) for _ in range(rng.integers(5, 14))
    ]


def bubbles(rng: Rng) -> Lines:
    return [
        regular(18, radius=rng.uniform(0.1, 0.3)) + rng.uniform(-0.8, 0.8, 2)
        for _ in range(rng.integers(3, 8))
    ]


OPEN: tuple[Callable[[Rng], Lines], ...] = (
    segment, parallels, arc, ripple, sawtooth, wander, spiral, cross, asterisk, fork, comb, grid, glyph,
)  # fmt: skip
CLOSED: tuple[Callable[[Rng], Lines], ...] = (
    circle, oval, triangle, square, slab, star, petals, crescent, potato, beads, confetti, bubbles,
)  # fmt: skip
SHAPES: tuple[tuple[str, Callable[[Rng], Lines] | None, bool], ...] = (
    ("nothing", None, False),
    *((make.__name__, make, False) for make in OPEN),
    *((f"{make.__name__}_outline", make, False) for make in CLOSED),
    *((f"{make.__name__}_filled", make, True) for make in CLOSED),
)
"""Name, maker and whether it is filled; an outline and its filling are two classes."""


def shape(rng: Rng, kind: int, size: int) -> Array:
    """A mask of `SHAPES[kind]` at a random place, angle and scale inside the frame, (size, size) uint8."""
    _, make, filled = SHAPES[kind]
    oversampling = 3
    canvas = Image.new("L", (size * oversampling, size * oversampling))
    if make is None:
        return np.zeros((size, size), dtype=np.uint8)
    pen = ImageDraw.Draw(canvas)
    reach = size * rng.uniform(0.12, 0.36)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = size / 2 + rng.uniform(-1, 1, 2) * (size / 2 - reach)
    width = round(oversampling * rng.uniform(1.0, 3.0))
    stretch = np.array([1.0, rng.uniform(0.75, 1.0)])
    for line in make(rng):
        points = [(float(x), float(y)) for x, y in oversampling * (centre + reach * (line * stretch) @ turn)]
        if filled:
            pen.polygon(points, fill=255)
        else:
            pen.line(points, fill=255, width=width, joint="curve")
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX))
