"""Two inspection stations, the parts that come by, and one shot of a part.

A `Scene` is the part itself (reflectance and relief); `photograph` is one shot of it. Keeping the two
apart is what makes several shots of one part near-alike, and the same defects look different under
another camera. Everything is drawn from the generator that the caller passes; nothing else is random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from pipeline.defects import DEFECTS
from pipeline.surfaces import FINISHES, SCENE_SIZE, SHOT_SIZE, Array, Rng, resample, smooth_noise


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
