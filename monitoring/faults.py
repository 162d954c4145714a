"""Which fault of a sensor the images show, from how their numbers moved: each leaves a mark of its own.

Sharpness is read relative to contrast: fading an image to a share c of its contrast multiplies the variance of
its Laplacian by c squared, a lens out of focus leaves the contrast and takes the edges. Noise, blocks and
copied pixels come before blur and exposure, which they bring about by the way.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from monitoring.reference import Reference
from monitoring.window import Window, kept_file
from pipeline.artifacts import STATISTICS
from pipeline.errors import ImageError
from pipeline.images import LOOKS, decode, look

Fault = Literal[
    "camera", "resolution", "noise", "compression", "blur", "exposure", "colour cast", "orientation"
]
MARKED = 0.6
"""Standardised difference from which a mark counts."""
DECODED = 150
"""Kept images that are decoded, at most, evenly spread: a second or so."""

MARKS: tuple[tuple[Fault, tuple[tuple[str, int], ...]], ...] = (
    ("resolution", (("pixels", 1), ("pixels", -1))),
    ("noise", (("noise", 1),)),
    ("resolution", (("evenness", -1),)),
    ("compression", (("blocks", 1),)),
    ("blur", (("edges", -1),)),
    ("exposure", (("brightness", 1), ("brightness", -1), ("contrast", 1), ("contrast", -1))),
    ("colour cast", (("warmth", 1), ("warmth", -1), ("tint", 1), ("tint", -1))),
    ("orientation", (("grain", 1), ("grain", -1), ("top", 1), ("top", -1))),
)
"""Each fault, and the moves (number, direction) any of which is its mark; the first that is found is named."""

CAMERA: tuple[tuple[str, ...], ...] = (
    ("brightness", "contrast"),
    ("warmth", "tint"),
    ("edges", "noise", "blocks"),
)
"""Light, colour and fine structure: no single fault moves one of each by ``SEVERAL``, another camera does."""
SEVERAL = 1.0

ADVICE: dict[Fault, str] = {
    "camera": "This looks like another camera, lens or light: several things that no single fault brings about.",
    "resolution": "This looks like another resolution: check the camera's mode and whatever scales the images on "
    "the way.",
    "noise": "This looks like sensor noise: check gain, exposure time and light.",
    "compression": "This looks like stronger compression: check the quality setting of whatever encodes the images.",
    "blur": "This looks like a lens that is dirty or out of focus, or like motion: clean it, focus it, check the "
    "mounting.",
    "exposure": "This looks like another light or exposure: check lamp, shutter, aperture and gain.",
    "colour cast": "This looks like another colour of the light or a lost white balance: check lamp and white "
    "balance.",
    "orientation": "This looks like a turned camera or turned images: check its mounting, and what reads the EXIF "
    "orientation.",
}


def fault(effects: Mapping[str, float]) -> Fault | None:
    """The fault whose mark is there; None without one.

    Args:
        effects: standardised differences, window less reference, of the numbers that moved for certain.
    """
    if all(any(abs(effects.get(number, 0.0)) >= SEVERAL for number in group) for group in CAMERA):
        return "camera"
    # Blur and coarse blocks leave quiet columns, too: copied pixels are named where their mark is the strongest.
    copied = -effects.get("evenness", 0.0)
    weaker = "evenness" if copied < max(effects.get("blocks", 0.0), -effects.get("edges", 0.0)) else "blocks"
    effects = {number: effect for number, effect in effects.items() if number != weaker}
    for name, marks in MARKS:
        if any(direction * effects.get(number, 0.0) >= MARKED for number, direction in marks):
            return name
    return None


def marks_of(name: Fault | None) -> set[str]:
    """The numbers that mark the fault: worth a word, where the others of the look moved by the way."""
    return {number for other, marks in MARKS if other == name for number, _ in marks}


def looks_of(window: Window, images: Path) -> np.ndarray:
    """(k, looks) of up to ``DECODED`` kept images of the window below the folder ``images``; k may be 0."""
    found = []
    for row in np.linspace(0, len(window) - 1, min(len(window), DECODED)).astype(int):
        path = kept_file(images, window.rows[row])
        if path is None:
            continue
        try:
            numbers = look(decode(path.read_bytes()).image)
        except (ImageError, OSError):  # retention was faster, or the disk is bad: the others tell
            continue
        found.append([numbers[name] for name in LOOKS])
    return np.array(found, dtype=np.float32).reshape(-1, len(LOOKS))


def columns(
    reference: Reference, like: np.ndarray, window: Window, seen: np.ndarray | None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By number its values in the window and among the reference's ``like`` images.

    Args:
        seen: ``looks_of`` the window; None without kept images.
    """
    after, before = window.statistics, reference.statistics[like]
    found = {name: (after[:, i], before[:, i]) for i, name in enumerate(STATISTICS)}
    sizes = np.array([row.size for row in window.rows], dtype=float).prod(axis=1)
    found["pixels"] = (sizes, reference.sizes[like].astype(float).prod(axis=1))
    found["edges"] = (_edges(after), _edges(before))
    if reference.looks is not None and seen is not None and len(seen):
        known = reference.looks[like]
        known = known[np.isfinite(known).all(axis=1)]
        if len(known):
            found |= {name: (seen[:, i], known[:, i]) for i, name in enumerate(LOOKS)}
    return found


def _edges(statistics: np.ndarray) -> np.ndarray:
    """Sharpness less what the contrast alone gives it."""
    contrast = statistics[:, STATISTICS.index("contrast")]
    return np.asarray(
        statistics[:, STATISTICS.index("sharpness")] - 2 * np.log10(np.maximum(contrast, 0.004))
    )
