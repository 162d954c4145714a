"""The images behind the figures: which changed their answer, and where the challenger is surest and wrong."""

import base64
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from pipeline.errors import ImageError
from pipeline.images import decode
from pipeline.verdict_page.paired import Answer, Pair
from pipeline.verdict_page.words import escaped, name

__all__ = ["Thumbnail", "changed", "confident_errors", "thumbnails"]

MOST_CHANGED = 24
MOST_ERRORS = 12
SIDE = 160  # px of a thumbnail, at most

Thumbnail = Callable[[Answer], str]  # an image's HTML, or the words that stand in for it

GROUPS = (  # of changed answers, in the order in which they are shown
    ("newly wrong", "Newly wrong"),
    ("newly right", "Newly right"),
    ("both wrong", "Wrong before and now, with another answer"),
)


def thumbnails(root: Path, *, max_pixels: int, max_bytes: int) -> Thumbnail:
    """Draws the images whose paths are relative to ``root``, if they are the bytes that were judged."""

    def thumbnail(answer: Answer) -> str:
        path = root / answer.path
        try:
            if not path.is_file():
                return _missing("the file is not here")
            if path.stat().st_size > max_bytes:
                return _missing("the file is too large")
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != answer.image_id:
                return _missing("the file has changed since it was judged")
            image = decode(data, max_pixels=max_pixels, max_bytes=max_bytes).image
        except (ImageError, OSError, ValueError):
            return _missing("the file can't be read")
        return f'<img alt="labelled {escaped(answer.label)}" src="{_jpeg(image)}">'

    return thumbnail


def changed(found: Sequence[Pair], thumbnail: Thumbnail) -> str:
    """The images that champion and challenger answer differently, newly wrong first, then by the change of probability."""
    differing = [pair for pair in found if pair.champion.predicted != pair.challenger.predicted]
    if not differing:
        return "<p>Champion and challenger give the same answer to every test image.</p>"
    kinds = [kind for kind, _ in GROUPS]
    differing.sort(key=lambda pair: (kinds.index(pair.kind), -pair.shift, pair.challenger.image_id))
    shown = differing[:MOST_CHANGED]
    text = [
        f"<p>{_of(len(differing), len(found))} changed their answer.{_rest(len(differing), len(shown))}</p>"
    ]
    for kind, title in GROUPS:
        tiles = [_pair_tile(pair, thumbnail) for pair in shown if pair.kind == kind]
        total = sum(pair.kind == kind for pair in differing)
        if total:
            few = f", {len(tiles)} shown" if len(tiles) < total else ""
            text.append(f"<h3>{title} <small>{total:,}{few}</small></h3>\n{_grid(tiles)}")
    return "\n".join(text)


def confident_errors(ours: Sequence[Answer], found: Sequence[Pair], thumbnail: Thumbnail) -> str:
    """Where the challenger is wrong, the surest first, with the champion's answer where it knows the class."""
    wrong = sorted((answer for answer in ours if not answer.right), key=lambda a: (-a.confidence, a.image_id))
    if not wrong:
        return "<p>The challenger names every test image correctly.</p>"
    theirs = {pair.challenger.image_id: pair.champion for pair in found}
    shown = wrong[:MOST_ERRORS]
    tiles = [_tile(answer, theirs.get(answer.image_id), thumbnail) for answer in shown]
    return (
        f"<p>{_of(len(wrong), len(ours))} are wrong.{_rest(len(wrong), len(shown))} A label that is wrong itself shows "
        f"up here too: <code>dvc repro suspects</code> looks for those.</p>\n{_grid(tiles)}"
    )


def _of(count: int, total: int) -> str:
    return f"{count:,} of {total:,} test images"


def _rest(total: int, shown: int) -> str:
    return f" Shown are {shown}; {total - shown:,} more are not." if shown < total else ""


def _grid(tiles: Sequence[str]) -> str:
    return f'<ul class="tiles">\n{"".join(tiles)}</ul>' if tiles else ""


def _pair_tile(pair: Pair, thumbnail: Thumbnail) -> str:
    return _tile(pair.challenger, pair.champion, thumbnail)


def _tile(ours: Answer, theirs: Answer | None, thumbnail: Thumbnail) -> str:
    champion = _said("champion", theirs) if theirs else ""
    return (
        f'<li data-image="{escaped(ours.image_id)}"><div>{thumbnail(ours)}</div>'
        f"<p>labelled <b>{name(ours.label)}</b></p>{champion}{_said('challenger', ours)}"
        f'<p class="path">{name(ours.path)}</p></li>\n'
    )


def _said(who: str, answer: Answer) -> str:
    sign, tone = ("✓", "good") if answer.right else ("✗", "bad")
    return (
        f'<p>{who}: <span class="{tone}">{sign} {name(answer.predicted)}</span> {answer.confidence:.3f}</p>'
    )


def _missing(words: str) -> str:
    return f"<span>{words}</span>"


def _jpeg(image: Image.Image) -> str:
    """At most SIDE px as a data URL, small images enlarged to be seen."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resampling = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    stream = io.BytesIO()
    image.resize(size, resampling).save(stream, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
