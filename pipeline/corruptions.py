"""Eight corruptions of what a camera sends, at severities 1 to 5: numpy and Pillow, seeded.

The kinds follow the ImageNet-C benchmark (Hendrycks and Dietterich 2019); strengths are relative to the
pixel range and to the side of the view, so that a severity means the same at 96 px and at 224 px.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

__all__ = ["CORRUPTIONS", "SEVERITIES", "corrupt"]

SEVERITIES = (1, 3, 5)  # those that a verdict looks at

_NOISE = (0.04, 0.06, 0.09, 0.13, 0.19)  # standard deviation, of a range of 1
_PHOTONS = (250.0, 110.0, 50.0, 25.0, 12.0)  # that a white pixel counts
_BLUR = (0.006, 0.010, 0.015, 0.022, 0.032)  # standard deviation, of the side
_STREAK = (0.03, 0.05, 0.08, 0.12, 0.17)  # length, of the side
_LIGHTER = (0.1, 0.18, 0.26, 0.34, 0.42)  # added
_CONTRAST = (0.75, 0.55, 0.4, 0.28, 0.18)  # kept
_QUALITY = (40, 25, 15, 10, 6)  # of a JPEG
_PIXELS = (0.55, 0.42, 0.32, 0.24, 0.18)  # of the side, in blocks


def corrupt(view: np.ndarray, kind: str, severity: int, seed: int) -> np.ndarray:
    """A uint8 [H, W, 3] view as a worse camera would have sent it; ``view`` itself is left alone.

    Args:
        kind: a key of CORRUPTIONS.
        severity: 1 (slight) to 5 (strong).
        seed: of the noise; the same seed gives the same image.
    """
    if not 1 <= severity <= 5:
        raise ValueError(f"severity is {severity}; it lies between 1 and 5")
    return CORRUPTIONS[kind](view, severity - 1, np.random.default_rng(seed))


def _clipped(values: np.ndarray) -> np.ndarray:
    """Values in 0..1 as uint8."""
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def _gaussian_noise(view: np.ndarray, level: int, generator: np.random.Generator) -> np.ndarray:
    return _clipped(view / 255 + generator.normal(0, _NOISE[level], view.shape))


def _shot_noise(view: np.ndarray, level: int, generator: np.random.Generator) -> np.ndarray:
    return _clipped(generator.poisson(view / 255 * _PHOTONS[level]) / _PHOTONS[level])


def _defocus(view: np.ndarray, level: int, generator: np.random.Generator) -> np.ndarray:
    blur = ImageFilter.GaussianBlur(_BLUR[level] * min(view.shape[:2]))
    return np.asarray(Image.fromarray(view).filter(blur))


def _motion_blur(view: np.ndarray, level: int, generator: np.random.Generator) -> np.ndarray:
    """The mean over a horizontal or vertical streak, edges repeated."""
    axis = int(generator.integers(2))
    length = max(2, round(_STREAK[level] * view.shape[axis]))
    padding = [(0, 0)] * 3
    padding[axis] = (length // 2, length - 1 - length // 2)
    padded = np.pad(view.astype(np.float64), padding, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, length, axis=axis)
    return _clipped(windows.mean(axis=-1) / 255)


def _brightness(view: np.ndarray, level: int, generator: np.random.Generator) -> np.ndarray:
    return _clipped(view / 255 + _LIGHTER[level])


def _contrast(view: np.ndarray, level: int, generator: np.random.Generator) -> np.ndarray:
    middle = view.mean(axis=(0, 1), keepdims=True)
    return _clipped((middle + (view - middle) * _CONTRAST[level]) / 255)


def _jpeg(view: np.ndarray, level: int, generator: np.random.Generator) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(view).save(stream, "JPEG", quality=_QUALITY[level])
    return np.asarray(Image.open(stream).convert("RGB"))


def _pixelate(view: np.ndarray, level: int, generator: np.random.Generator) -> np.ndarray:
    image = Image.fromarray(view)
    small = (max(1, round(image.width * _PIXELS[level])), max(1, round(image.height * _PIXELS[level])))
    return np.asarray(image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST))


Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "defocus": _defocus,
    "motion_blur": _motion_blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "jpeg": _jpeg,
    "pixelate": _pixelate,
}
