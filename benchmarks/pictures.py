"""A folder of JPEGs, as many as wanted, no two alike: what a benchmark of reading and checking needs.

    make_pictures(folder, 100_000)      # folder/<class>/<number>.jpg, some 60 KB each; those that are there stay

Each is a blend of two crops of a few large made-up scenes (smooth light, shapes, grain), so that the hashes spread
as those of photographs do and no set has to be downloaded.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["CLASSES", "SIZE", "make_pictures"]

CLASSES = 20
SIZE = (640, 480)  # px
SCENES = 24
_SIDE = 1200  # px of a scene
_SHARE = 500  # pictures that a worker makes at once


def make_pictures(folder: Path, count: int, start: int = 0) -> None:
    """Pictures number ``start`` to ``start`` + ``count`` below ``folder``; each depends on its number alone."""
    for label in range(CLASSES):
        (folder / f"class-{label:02d}").mkdir(parents=True, exist_ok=True)
    spans = [(first, min(first + _SHARE, start + count)) for first in range(start, start + count, _SHARE)]
    context = get_context("forkserver")  # not fork: the caller may have threads
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        for _ in pool.map(_make, [folder] * len(spans), spans):
            pass


def _make(folder: Path, span: tuple[int, int]) -> None:
    for number in range(*span):
        path = folder / f"class-{number % CLASSES:02d}" / f"{number:07d}.jpg"
        if not path.exists():
            _picture(number).save(path, "JPEG", quality=90)


def _picture(number: int) -> Image.Image:
    generator = np.random.default_rng(number)
    first, second = (_crop(generator) for _ in range(2))
    return Image.blend(first, second, float(generator.uniform(0.2, 0.5)))


def _crop(generator: np.random.Generator) -> Image.Image:
    scene = _scene(int(generator.integers(SCENES)))
    left, top = (int(generator.integers(_SIDE - side)) for side in SIZE)
    crop = scene.crop((left, top, left + SIZE[0], top + SIZE[1]))
    turn = (None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM)[generator.integers(3)]
    return crop if turn is None else crop.transpose(turn)


@cache
def _scene(number: int) -> Image.Image:
    """Light that changes slowly, some fifty shapes, and grain."""
    generator = np.random.default_rng([number, 1])
    light = generator.integers(0, 256, (7, 7, 3), dtype=np.uint8)
    image = Image.fromarray(light).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(50):
        x, y, side = (int(value) for value in generator.integers(0, [_SIDE, _SIDE, 250]))
        colour = tuple(int(value) for value in generator.integers(0, 256, 3))
        shape = draw.ellipse if generator.random() < 0.5 else draw.rectangle
        shape((x, y, x + side, y + int(generator.integers(20, 250))), fill=colour)
    image = image.filter(ImageFilter.GaussianBlur(1))
    grain = generator.normal(0, 9, (_SIDE, _SIDE, 1))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
