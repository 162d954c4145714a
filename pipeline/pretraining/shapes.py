"""Procedural shapes that pictures for pretraining carry: polylines in a frame from -1 to 1.

A shape is a function (rng) -> list of polylines; `shape` draws it as a mask. A closed one may be filled.
They are generic on purpose (ring, zigzag, glyph ...) and share no code with the sample's defects
(`pipeline.defects`), so that a probe on the sample measures transfer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from pipeline.pretraining.textures import Array, Rng

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
