"""The rim of a picture in a few cells: what a frame, a watermark or a stamp leaves there.

A class that was photographed with another device or downloaded from another site often differs from the others
where no object is: shortcuts.py asks whether these cells alone give the label away.
"""

from functools import cache

import numpy as np

__all__ = ["ALONG", "CORNER", "CORNERS", "SIDES", "border", "corners"]

SIDES = ("top", "bottom", "left", "right")
CORNERS = ("top left", "top right", "bottom left", "bottom right")
ALONG = 16  # cells a side
CORNER = 4  # cells along a corner's side, which is an eighth of the picture's


def border(colours: np.ndarray) -> bytes:
    """(4, 16, 3) uint8 along SIDES: the outermost pixels of ``colours`` [height, width, 3] of at most 64 px."""
    return _taken(colours, _border_places(*colours.shape[:2]))


def corners(colours: np.ndarray) -> bytes:
    """(4, 4, 4, 3) uint8 in the order of CORNERS: every other pixel of an eighth of each side."""
    return _taken(colours, _corner_places(*colours.shape[:2]))


def _taken(colours: np.ndarray, places: np.ndarray) -> bytes:
    return colours.reshape(-1, 3)[places].tobytes()


@cache  # most images of a set have one size
def _border_places(height: int, width: int) -> np.ndarray:
    across, down = np.arange(ALONG) * width // ALONG, np.arange(ALONG) * height // ALONG * width
    return np.concatenate([across, (height - 1) * width + across, down, down + width - 1])


@cache
def _corner_places(height: int, width: int) -> np.ndarray:
    rows, columns = np.arange(CORNER) * height // 32, np.arange(CORNER) * width // 32
    found = [
        y[:, None] * width + x
        for y in (rows, height - 1 - rows[::-1])
        for x in (columns, width - 1 - columns[::-1])
    ]
    return np.stack(found).ravel()
