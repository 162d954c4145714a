"""Finer numbers of an image's look, to tell one sensor fault from another: noise, blocks, colour, which way is up.

Not part of every log row: they are measured on kept images when something has moved, and on the held-out
images of a bundle when it is made. Noise and blocks come from a crop at full resolution, since a smaller
copy averages both away; the rest from a copy of at most some 256 px.
"""

import math

import numpy as np
from PIL import Image

__all__ = ["LOOKS", "look"]

CROP = 512  # px, of the middle, at full resolution
CELL = 8  # px, of a JPEG's blocks
PATCH = 16  # px, of the patches whose noise is estimated
LOOKS = ("noise", "blocks", "evenness", "warmth", "tint", "grain", "top")


def look(image: Image.Image) -> dict[str, float]:
    """The numbers of ``LOOKS`` for an RGB image.

    Returns:
        noise: standard deviation in levels of 255, log10(0.1 + it): Immerkær's mask ("Fast noise variance
            estimation", CVIU 1996) by patches, their lower quartile, so that texture counts little.
        blocks: log10 of the steps across the borders of 8 x 8 blocks over the steps inside of them (after
            Wang, Sheikh and Bovik, "No-reference perceptual quality assessment of JPEG compressed images", 2002).
        evenness: log10 of the steps across the quietest fifth of columns and rows over their mean: low where
            an image was enlarged by copying pixels, which leaves no step inside of each copy.
        warmth, tint: mean of red less blue, and of green less the mean of both, of a range of 1.
        grain: log10 of the edges' energy across over down: a turn by 90 degrees changes its sign.
        top: mean luma of the upper half less that of the lower, of a range of 1: what a turn by 180 degrees changes.
    """
    luma = _middle(image)
    small = np.asarray(image.reduce(max(1, round(max(image.size) / 256))), dtype=np.float32) / 255
    red, green, blue = (float(value) for value in small.mean(axis=(0, 1)))
    gray = small @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    half = max(1, len(gray) // 2)
    return {
        "noise": _noise(luma),
        "blocks": _blocks(luma),
        "evenness": _evenness(luma),
        "warmth": red - blue,
        "tint": green - (red + blue) / 2,
        "grain": _ratio(_energy(gray, 1), _energy(gray, 0)),
        "top": float(gray[:half].mean() - gray[-half:].mean()),
    }


def _middle(image: Image.Image) -> np.ndarray:
    """(h, w) int16 luma of the middle, cut where a JPEG's blocks begin."""
    left, top = (max(0, (side - CROP) // 2) // CELL * CELL for side in image.size)
    box = (left, top, min(image.width, left + CROP), min(image.height, top + CROP))
    return np.asarray(image.crop(box).convert("L")).astype(np.int16)


def _noise(luma: np.ndarray) -> float:
    if min(luma.shape) < 3:
        return math.log10(0.1)
    rows = luma[:-2] - 2 * luma[1:-1] + luma[2:]
    found = np.abs(rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]).astype(np.float32)
    side = min(PATCH, *found.shape)
    down, across = found.shape[0] // side, found.shape[1] // side
    patches = found[: down * side, : across * side].reshape(down, side, across, side).mean(axis=(1, 3))
    return math.log10(0.1 + math.sqrt(math.pi / 2) / 6 * float(np.quantile(patches, 0.25)))


def _blocks(luma: np.ndarray) -> float:
    borders, inside = 0.0, 0.0
    for values in (luma, luma.T):
        steps = np.abs(values[:, 1:] - values[:, :-1]).mean(axis=0)  # the step at i lies before pixel i + 1
        at = np.arange(1, len(steps) + 1) % CELL
        if not (at == 0).any():
            return 0.0
        borders += float(steps[at == 0].mean())
        inside += float(steps[at == CELL // 2].mean() + steps[at == CELL // 2 - 1].mean()) / 2
    return _ratio(borders, inside, 0.1)


def _evenness(luma: np.ndarray) -> float:
    if min(luma.shape) < 2:
        return 0.0
    profiles = [np.abs(values[:, 1:] - values[:, :-1]).mean(axis=0) for values in (luma, luma.T)]
    quiet = sum(float(np.quantile(profile, 0.2)) for profile in profiles)
    return _ratio(quiet, sum(float(profile.mean()) for profile in profiles), 0.05)


def _energy(gray: np.ndarray, axis: int) -> float:
    return float(np.square(np.diff(gray, axis=axis)).mean()) if gray.shape[axis] > 1 else 0.0


def _ratio(above: float, below: float, least: float = 1e-6) -> float:
    return math.log10((above + least) / (below + least))
