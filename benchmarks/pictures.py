"""A folder of JPEGs, as many as wanted, no two alike: what a benchmark of reading and checking needs.

    make_pictures(folder, 100_000)      # folder/<class>/<number>.jpg, some 60 KB each, in a minute; those there stay

Each is six strips, one below the other, of a few hundred made-up pictures (blends of two crops of large scenes of
smooth light, shapes and grain), so that the hashes spread as those of photographs do and no set has to be downloaded.
The strips are put together as they are encoded: a JPEG with restart markers can be cut at them. To a decoder it is a
photograph like any other.
"""

import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.errors import ContenderError

__all__ = ["CLASSES", "SIZE", "make_pictures"]

CLASSES = 20
SIZE = (640, 480)  # px
SCENES = 24
ENCODED = 240  # pictures that the strips are cut from: 240^6 stacks
STRIPS = 6
QUALITY = 80
_BLOCK = 16  # px of an encoded row of blocks, with chroma at half size
_SIDE = 1200  # px of a scene

Encoded = tuple[bytes, list[bytes]]  # what comes before the first row of blocks, and the rows


def make_pictures(folder: Path, count: int, start: int = 0) -> None:
    """Pictures number ``start`` to ``start`` + ``count`` below ``folder``; each depends on its number alone."""
    folders = [folder / f"class-{label:02d}" for label in range(CLASSES)]
    for number in range(start, start + min(count, CLASSES)):  # no empty class
        folders[number % CLASSES].mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        path = folders[number % CLASSES] / f"{number:07d}.jpg"
        if not path.exists():
            half = path.with_suffix(".part")  # whoever stops here goes on from here
            half.write_bytes(_stacked(number))
            half.rename(path)


def _stacked(number: int) -> bytes:
    """The strips of picture ``number``, in one file; every row of blocks ends with a marker that counts to eight."""
    chosen = np.random.default_rng([number, 2]).integers(ENCODED, size=STRIPS)
    high = SIZE[1] // _BLOCK // STRIPS
    rows = [
        row
        for place, source in enumerate(chosen.tolist())
        for row in _encoded(source)[1][place * high : (place + 1) * high]
    ]
    markers = [bytes((0xFF, 0xD0 + place % 8)) for place in range(len(rows) - 1)] + [b"\xff\xd9"]
    return b"".join([_encoded(0)[0], *(part for pair in zip(rows, markers, strict=True) for part in pair)])


@cache
def _encoded(number: int) -> Encoded:
    """Picture ``number`` of those that the strips are cut from, as a JPEG that is cut into its rows of blocks."""
    stream = io.BytesIO()
    _picture(number).save(stream, "JPEG", quality=QUALITY, restart_marker_rows=1)
    data = stream.getvalue()
    scan = data.index(b"\xff\xda")
    begin = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    rows, first, place = [], begin, begin
    while (place := data.index(b"\xff", place)) < len(data) - 2:
        if 0xD0 <= data[place + 1] <= 0xD7:
            rows.append(data[first:place])
            first = place + 2
        place += 2
    rows.append(data[first:-2])
    if len(rows) != SIZE[1] // _BLOCK:
        raise ContenderError(
            f"Pillow put {len(rows)} rows of blocks into a JPEG of {SIZE[1]} px: pictures.py expects others"
        )
    return data[:begin], rows


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
