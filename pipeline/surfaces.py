"""Procedural machined metal: a finish, at most one kind of defect, and a camera that photographs it.

A `Scene` is the part itself (reflectance and relief); `photograph` is one shot of it. Keeping the two
apart is what makes several shots of one part near-alike, and the same defects look different under
another camera. Everything is drawn from the generator that the caller passes; nothing else is random.

Coordinates are pixels, (row, column); reflectance and brightness are 0..1; relief is in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

Array = np.ndarray
Rng = np.random.Generator

SHOT_SIZE = 160
"""Side of a shot, pixels."""
SCENE_SIZE = 208
"""Side of a scene, pixels: a shot plus the margin that shifts, turns and a wider lens use up."""
OVERSAMPLING = 4
"""Lines and polygons are drawn this much larger and averaged down, so that thin ones stay smooth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """What one inspection station does to every part that it sees."""

    finishes: tuple[str, ...]
    """Surface finishes of the parts on this line; a repeated name is more likely."""
    texture: float
    """Contrast of the finish, as a share of the reflectance."""
    blotches: float
    """Contrast of wide, soft tone differences, as a share of the reflectance."""
    exposure: tuple[float, float]
    """Range of mean brightness over parts."""
    gradient: float
    """Fall of the light across the frame, as a share of the mean."""
    hot_spot: float
    """Strength of the lamp's reflection."""
    vignette: float
    """Darkening of the corners."""
    raking: float
    """How strongly relief shows: 0 is diffuse light, above 1 a low lamp."""
    light: float
    """Direction that the light comes from, radians."""
    gamma: float
    """Tone curve: above 1 darkens the middle tones."""
    tone: tuple[float, float, float]
    """Gains of red, green and blue."""
    blur: float
    """Standard deviation of the lens blur, pixels."""
    noise: float
    """Standard deviation of the sensor noise."""
    zoom: float
    """Scene pixels per image pixel: below 1 shows the part larger."""
    quality: int
    """JPEG quality."""


CAMERAS = {
    "line-a": Camera(
        finishes=("brushed", "brushed", "ground", "turned", "blasted"),
        texture=0.075, blotches=0.05, exposure=(0.46, 0.66), gradient=0.30, hot_spot=0.10, vignette=0.10,
        raking=0.9, light=-2.2, gamma=1.0, tone=(0.97, 1.0, 1.03), blur=0.35, noise=0.010, zoom=1.0, quality=90,
    ),
    "line-b": Camera(
        finishes=("milled", "milled", "blasted", "ground", "turned"),
        texture=0.08, blotches=0.06, exposure=(0.26, 0.38), gradient=0.35, hot_spot=0.25, vignette=0.25,
        raking=1.3, light=0.7, gamma=1.15, tone=(1.25, 1.0, 0.62), blur=0.9, noise=0.010, zoom=0.65, quality=86,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scene:
    """One part: what it reflects and how high it stands."""

    reflectance: Array
    """(SCENE_SIZE, SCENE_SIZE, 3), around 1 for bare metal."""
    relief: Array
    """(SCENE_SIZE, SCENE_SIZE), pixels; below 0 is a hollow."""
    exposure: float
    """Mean brightness at which this part is photographed."""
    fall: float
    """Direction in which the light falls off, radians."""
    lamp: tuple[float, float]
    """Where the lamp is reflected, as (row, column) shares of the frame."""


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


# --- defects: each changes reflectance and relief in place


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


def machine_part(rng: Rng, camera: Camera, defect: str) -> Scene:
    """A new part with its own finish, blotches, dust, exposure and lamp, carrying the named defect."""
    texture = FINISHES[str(rng.choice(camera.finishes))](rng) * camera.texture * rng.uniform(0.7, 1.3)
    # Wide blotches tell parts apart where the finish alone would average out in a thumbnail.
    blotches = camera.blotches * (1.1 * smooth_noise(rng, 40) + 0.9 * smooth_noise(rng, 20))
    dust = (rng.random((SCENE_SIZE, SCENE_SIZE)) < 0.0004) * rng.uniform(-0.2, 0.2)
    warmth = 1 + rng.normal(0, 0.012, 3)
    reflectance = (1 + texture + blotches + ndimage.gaussian_filter(dust, 0.6))[..., None] * warmth
    reflectance = reflectance.astype(np.float32)
    relief = (0.8 * texture).astype(np.float32)
    draw = DEFECTS[defect]
    if draw is not None:
        draw(rng, reflectance, relief)
    lamp = (float(rng.uniform(0.1, 0.9)), float(rng.uniform(0.1, 0.9)))
    return Scene(
        reflectance, relief, float(rng.uniform(*camera.exposure)), float(rng.uniform(0, 2 * np.pi)), lamp
    )


def photograph(rng: Rng, scene: Scene, camera: Camera) -> Image.Image:
    """One shot, SHOT_SIZE x SHOT_SIZE RGB: the part lies a little differently and the lamp flickers."""
    relief, reflectance = lay_down(rng, scene, camera.zoom)
    light = camera.light + rng.normal(0, 0.10)
    slope_rows, slope_columns = np.gradient(relief)
    relief_shade = camera.raking * 0.45 * (slope_columns * np.cos(light) + slope_rows * np.sin(light))
    rows, columns = np.mgrid[-1 : 1 : SHOT_SIZE * 1j, -1 : 1 : SHOT_SIZE * 1j].astype(np.float32)
    fall = 0.5 * camera.gradient * (columns * np.cos(scene.fall) + rows * np.sin(scene.fall))
    lamp_row, lamp_column = (2 * share - 1 + rng.normal(0, 0.03) for share in scene.lamp)
    lamp = camera.hot_spot * np.exp(-((rows - lamp_row) ** 2 + (columns - lamp_column) ** 2) / 0.35)
    corners = 1 - camera.vignette * (rows**2 + columns**2) / 2
    brightness = scene.exposure * rng.normal(1, 0.025) * (1 + fall + lamp) * corners
    image = np.clip(brightness * (1 + np.clip(relief_shade, -0.6, 0.6)), 0, None)[..., None] * reflectance
    image = np.clip(image * camera.tone, 0, 1) ** camera.gamma
    image = ndimage.gaussian_filter(image, (camera.blur, camera.blur, 0))
    grain = rng.standard_normal((*image.shape[:2], 1), dtype=np.float32)
    grain = camera.noise * (grain + 0.4 * rng.standard_normal(image.shape, dtype=np.float32))
    return Image.fromarray((np.clip(image + grain, 0, 1) * 255 + 0.5).astype(np.uint8))


def lay_down(rng: Rng, scene: Scene, zoom: float) -> tuple[Array, Array]:
    """Relief (SHOT_SIZE, SHOT_SIZE) and reflectance (…, 3) as the camera sees them, shifted and turned a little."""
    angle, shift = rng.normal(0, 0.02), rng.uniform(-3, 3, 2)
    scale = zoom * rng.normal(1, 0.008)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = SCENE_SIZE / 2 + shift - turn @ np.full(2, SHOT_SIZE / 2)
    layers = [scene.relief, *np.moveaxis(scene.reflectance, 2, 0)]
    seen = [resample(layer, turn, offset, SHOT_SIZE) for layer in layers]
    return seen[0], np.stack(seen[1:], axis=2)
