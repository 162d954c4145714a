"""Production images beside held-out ones, as one PNG."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from monitoring.reference import Reference
from monitoring.window import Window, kept_file
from pipeline.artifacts import atomic_path
from pipeline.errors import ImageError
from pipeline.images import decode

SHEET = "contact-sheet.png"
"""In an episode's folder of evidence."""
TILE, GAP, LINE, COLUMNS, ROWS = 128, 8, 18, 8, 2


def draw(target: Path, window: Window, examples: Sequence[int], reference: Reference, images: Path) -> bool:
    """Write up to 16 of the window's kept images, in the order of ``examples``, above 16 reference thumbnails.

    Returns:
        False where none of the images was kept; the sheet then shows the reference alone.
    """
    shown: list[tuple[Image.Image, str]] = []
    for index in examples:
        if len(shown) == COLUMNS * ROWS:
            break
        picture = _kept(images, window, index)
        if picture is not None:
            shown.append((picture, window.rows[index].label))
    step = max(1, len(reference) // (COLUMNS * ROWS))
    held_out = [
        (Image.open(BytesIO(reference.thumbnails[i])).convert("RGB"), reference.predicted[i])
        for i in range(0, len(reference), step)
        if reference.thumbnails[i]
    ][: COLUMNS * ROWS]
    since = f"{window.rows[0].time:%Y-%m-%d %H:%M} UTC"
    first = f"production since {since}: the images that say it most, with the predicted class"
    sheet = _stack(
        [
            _section(
                first if shown else f"production since {since}: no image was kept (log.keep_images)", shown
            ),
            _section("reference: held-out images, with the predicted class", held_out),
        ]
    )
    with atomic_path(target) as temporary:
        sheet.save(temporary, format="PNG")
    return bool(shown)


def _kept(images: Path, window: Window, index: int) -> Image.Image | None:
    path = kept_file(images, window.rows[index])
    if path is None:
        return None
    try:
        return decode(path.read_bytes()).image
    except (ImageError, OSError):
        return None


def _section(title: str, tiles: Sequence[tuple[Image.Image, str]]) -> Image.Image:
    rows = max(1, -(-len(tiles) // COLUMNS)) if tiles else 0
    width = COLUMNS * (TILE + GAP) + GAP
    canvas = Image.new("RGB", (width, 2 * LINE + rows * (TILE + LINE + GAP)), "white")
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    pen.text((GAP, 8), title, fill="black", font=font)
    for place, (picture, label) in enumerate(tiles):
        x, y = GAP + (place % COLUMNS) * (TILE + GAP), 2 * LINE + (place // COLUMNS) * (TILE + LINE + GAP)
        scale = TILE / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        small = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
        canvas.paste(small, (x + (TILE - small.width) // 2, y + (TILE - small.height) // 2))
        pen.text((x, y + TILE + 1), label[:18], fill="#444444", font=font)
    return canvas


def _stack(sections: Sequence[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (sections[0].width, sum(section.height for section in sections)), "white")
    y = 0
    for section in sections:
        sheet.paste(section, (0, y))
        y += section.height
    return sheet
