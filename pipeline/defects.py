"""Procedural defects of a metal surface: each changes reflectance and relief in place.

Reflectance is (SCENE_SIZE, SCENE_SIZE, 3), around 1 for bare metal; relief is (SCENE_SIZE, SCENE_SIZE) in
pixels, below 0 a hollow. Everything is drawn from the generator that the caller passes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from pipeline.surfaces import SCENE_SIZE, SHOT_SIZE, Array, Rng, coordinates, smooth_noise

OVERSAMPLING = 4
"""Lines and polygons are drawn this much larger and averaged down, so that thin ones stay smooth."""


def drawing() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty oversampled mask and the pen that draws on it."""
    canvas = Image.new("L", (SCENE_SIZE * OVERSAMPLING, SCENE_SIZE * OVERSAMPLING))
    return canvas, ImageDraw.Draw(canvas)


def mask_of(canvas: Image.Image) -> Array:
    """The drawn mask at scene size, 0..1."""
    small = canvas.resize((SCENE_SIZE, SCENE_SIZE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / 255


def stroke(pen: ImageDraw.ImageDraw, points: Array, widths: Array) -> None:
    """Draw a line through `points`, (n, 2) in scene pixels, whose width in pixels varies along it."""
    for start, end, width in zip(points[:-1], points[1:], widths, strict=False):
        ends = [tuple(float(v) * OVERSAMPLING for v in point[::-1]) for point in (start, end)]
        pen.line(ends, fill=255, width=max(1, round(float(width) * OVERSAMPLING)))


def place(rng: Rng, reach: float) -> Array:
    """A point, (row, column), from which `reach` pixels around stay inside every shot."""
    room = max(4.0, SHOT_SIZE * 0.42 - reach)
    return SCENE_SIZE / 2 + rng.uniform(-room, room, 2)


def scratch(rng: Rng, reflectance: Array, relief: Array) -> None:
    """One to three long, thin, bright, gently bent lines."""
    canvas, pen = drawing()
    angle, length, bend = rng.uniform(0, np.pi), rng.uniform(60, 135), rng.uniform(-0.3, 0.3)
    middle = place(rng, length * 0.35)
    for line in range(rng.choice([1, 1, 2, 3])):
        t = np.linspace(-0.5, 0.5, 40)
        heading = angle + rng.normal(0, 0.05) + bend * t
        steps = np.stack([np.sin(heading), np.cos(heading)], axis=1) * length / 40
        points = np.cumsum(steps, axis=0)
        points += middle - points.mean(axis=0) + rng.normal(0, 1, 2) * (9 if line else 0)
        stroke(pen, points, rng.uniform(1.2, 2.3) * (1.05 - (2 * np.abs(t)) ** 4))
    groove = mask_of(canvas)
    reflectance += rng.uniform(0.28, 0.6) * groove[..., None]
    relief -= 1.4 * ndimage.gaussian_filter(groove, 0.6)


def pit(rng: Rng, reflectance: Array, relief: Array) -> None:
    """A loose cluster of small round craters, dark at the bottom with a rim that catches the light."""
    spread = rng.uniform(10, 38)
    middle, depth = place(rng, max(24.0, spread)), rng.uniform(0.30, 0.6)  # in sight of the closer lens, too
    for _ in range(rng.integers(3, 13)):
        row, column = np.clip(middle + rng.normal(0, spread * 0.6, 2), 0, SCENE_SIZE - 1)
        radius, squash = rng.uniform(2.0, 4.8), rng.uniform(0.9, 1.1)
        # Beyond three radii a crater is flat: only its own window is touched.
        window = tuple(slice(max(0, int(at - 3 * radius)), int(at + 3 * radius) + 2) for at in (row, column))
        rows, columns = (axis[window] for axis in coordinates())
        r = np.hypot(rows - row, (columns - column) * squash) / radius
        bowl = np.exp(-(r**4))
        reflectance[window] *= 1 - depth * bowl[..., None]
        relief[window] += radius * (0.25 * np.exp(-(((r - 1.25) / 0.35) ** 2)) - 0.55 * bowl)


def crack(rng: Rng, reflectance: Array, relief: Array) -> None:
    """A dark, jagged, forking line that thins towards its ends."""
    canvas, pen = drawing()
    heading, count = rng.uniform(0, 2 * np.pi), rng.integers(22, 40)
    start = place(rng, 28) - 0.5 * 2.6 * count * np.array([np.sin(heading), np.cos(heading)])
    trunk = jagged(rng, start, heading, int(count))
    width = rng.uniform(1.4, 2.6)
    stroke(pen, trunk, width * np.linspace(1.0, 0.45, len(trunk)))
    for _ in range(rng.integers(1, 4)):
        fork = rng.integers(4, len(trunk) - 4)
        side = heading + rng.choice([-1, 1]) * rng.uniform(0.5, 1.1)
        twig = jagged(rng, trunk[fork], side, int(rng.integers(5, 13)))
        stroke(pen, twig, 0.65 * width * np.linspace(1.0, 0.4, len(twig)))
    gap = mask_of(canvas)
    reflectance *= 1 - rng.uniform(0.42, 0.8) * gap[..., None]
    relief -= 0.8 * ndimage.gaussian_filter(gap, 0.7)


def jagged(rng: Rng, start: Array, heading: float, count: int) -> Array:
    """A path of `count` short steps, (count, 2) pixels, that keeps its heading and zigzags around it."""
    turns = heading + rng.normal(0, 0.55, count) + np.cumsum(rng.normal(0, 0.08, count))
    steps = np.stack([np.sin(turns), np.cos(turns)], axis=1) * rng.uniform(1.6, 4.6, (count, 1))
    return start + np.cumsum(steps, axis=0)


def patch(rng: Rng, reflectance: Array, relief: Array) -> None:
    """A wide, mottled stain: rust, heat tint or scale."""
    rows, columns = coordinates()
    radius = rng.uniform(24, 46)
    row, column = place(rng, radius * 0.8)
    squash, angle = rng.uniform(0.65, 1.0), rng.uniform(0, np.pi)
    down, right = rows - row, columns - column
    u, v = down * np.cos(angle) + right * np.sin(angle), right * np.cos(angle) - down * np.sin(angle)
    edge = 1 - np.hypot(u, v / squash) / radius + 0.20 * smooth_noise(rng, 22) + 0.07 * smooth_noise(rng, 7)
    cover = 1 / (1 + np.exp(-np.clip(edge / 0.06, -30, 30)))
    tints = {
        "rust": (0.10, 0.36, 0.52),
        "heat": (0.42, 0.32, 0.06),
        "scale": (0.42, 0.42, 0.44),
        "lime": (-0.5, -0.5, -0.42),
    }
    tint = np.array(tints[str(rng.choice(list(tints)))]) * rng.uniform(0.8, 1.25)
    mottle = np.clip(1 + 0.28 * smooth_noise(rng, 6) + 0.18 * smooth_noise(rng, 14), 0.2, 1.8)
    reflectance *= 1 - tint * (cover * mottle)[..., None]
    relief += 0.25 * cover * smooth_noise(rng, 4)


def inclusion(rng: Rng, reflectance: Array, relief: Array) -> None:
    """Foreign matter rolled into the metal: one to three angular, matt, dark lumps in a row."""
    canvas, pen = drawing()
    angle, length = rng.uniform(0, np.pi), rng.uniform(15, 27)
    middle, direction = place(rng, 40), np.array([np.sin(angle), np.cos(angle)])
    for index in range(rng.choice([1, 2, 2, 3])):
        size = length * (1.0 if index == 0 else rng.uniform(0.35, 0.7))
        centre = middle + direction * index * rng.uniform(0.9, 1.4) * length + rng.normal(0, 2, 2)
        corners = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(7, 11)))
        reach = size * rng.uniform(0.65, 1.05, len(corners)) / 2
        u, v = reach * np.cos(corners), reach * np.sin(corners) * rng.uniform(0.5, 0.75)
        rows = centre[0] + u * np.sin(angle) + v * np.cos(angle)
        columns = centre[1] + u * np.cos(angle) - v * np.sin(angle)
        pen.polygon(
            [(float(c) * OVERSAMPLING, float(r) * OVERSAMPLING) for r, c in zip(rows, columns, strict=True)],
            fill=255,
        )
    lump = mask_of(canvas)
    matter = (
        np.array([0.30, 0.27, 0.24]) * rng.uniform(0.6, 1.7) * (1 + 0.15 * smooth_noise(rng, 3))[..., None]
    )
    halo = ndimage.gaussian_filter(lump, 2.5) * (1 - lump)
    reflectance += 0.30 * halo[..., None]
    reflectance += (matter - reflectance) * lump[..., None]
    relief += 0.5 * ndimage.gaussian_filter(lump, 0.8)


DEFECTS: dict[str, Callable[[Rng, Array, Array], None] | None] = {
    "clean": None, "scratch": scratch, "pit": pit, "crack": crack, "patch": patch, "inclusion": inclusion,
}  # fmt: skip
