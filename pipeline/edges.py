"""The rim of a picture in a few cells: what a frame, a watermark or a stamp leaves there.

A class that was photographed with another device or downloaded from another site often differs from the others
where no object is: shortcuts.py asks whether these cells alone give the label away.
"""

import numpy as np

__all__ = ["ALONG", "CORNER", "CORNERS", "SIDES", "border", "corners"]

SIDES = ("top", "bottom", "left", "right")
CORNERS = ("top left", "top right", "bottom left", "bottom right")
ALONG = 16  # cells a side
CORNER = 4  # cells along a corner's side, which is an eighth of the picture's


def border(colours: np.ndarray) -> bytes:
    """(4, 16, 3) uint8 along SIDES: the outermost pixels of ``colours`` [height, width, 3] of at most 64 px."""
    height, width = colours.shape[:2]
    across, down = np.arange(ALONG) * width // ALONG, np.arange(ALONG) * height // ALONG
    sides = (colours[0, across], colours[-1, across], colours[down, 0], colours[down, -1])
    return np.stack(sides).tobytes()


def corners(colours: np.ndarray) -> bytes:
    """(4, 4, 4, 3) uint8 in the order of CORNERS: every other pixel of an eighth of each side."""
    height, width = colours.shape[:2]
    rows, columns = np.arange(CORNER) * height // 32, np.arange(CORNER) * width // 32
    found = [
        colours[np.ix_(y, x)]
        for y in (rows, height - 1 - rows[::-1])
        for x in (columns, width - 1 - columns[::-1])
    ]
    return np.stack(found).tobytes()
