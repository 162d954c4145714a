"""Random views of a stored view, for training only: crop, flip, light colour changes.

What comes out is a uint8 view again, so that training normalises with the same code as the service.
Each draw depends on (seed, pass, row) alone: neither the batch nor a resume after a kill changes it.
"""

from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np
from PIL import Image

__all__ = ["augment", "augmented"]

SMALLEST_CROP = 0.5  # of the view's area
ASPECT = 4 / 3  # of the crop, at most, either way
COLOUR = 0.2  # brightness, contrast and saturation are scaled by 1 ± this, at most


def augment(view: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A uint8 [H, W, 3] view, randomly cropped and resized back, mirrored, and its colours scaled."""
    height, width = view.shape[:2]
    area = generator.uniform(SMALLEST_CROP, 1.0)
    aspect = np.exp(generator.uniform(-np.log(ASPECT), np.log(ASPECT)))
    across = min(1.0, np.sqrt(area * aspect)) * width
    down = min(1.0, np.sqrt(area / aspect)) * height
    left, top = generator.uniform(0, 1, 2) * (width - across, height - down)
    flip = generator.random() < 0.5
    brightness, contrast, saturation = generator.uniform(1 - COLOUR, 1 + COLOUR, 3)

    image = Image.fromarray(view)
    box = (left, top, left + across, top + down)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box), dtype=np.float32)
    if flip:
        pixels = pixels[:, ::-1]
    # One affine map of the colours: saturation about each pixel's grey, contrast about the mean, brightness.
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = (pixels - grey) * (saturation * contrast) + (grey - grey.mean()) * contrast + grey.mean()
    return np.clip(np.rint(pixels * brightness), 0, 255).astype(np.uint8)


def augmented(views: np.ndarray, rows: Sequence[int], seed: int, draw: int, pool: Executor) -> np.ndarray:
    """uint8 [len(rows), H, W, 3]: the ``draw``-th random view of each of the named rows."""
    return np.stack(
        list(pool.map(lambda row: augment(views[row], np.random.default_rng([seed, draw, int(row)])), rows))
    )
