"""The suspects as one HTML file that needs nothing else: thumbnails inside, given and suggested label beside them."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.errors import ImageError
from pipeline.images import decode

__all__ = ["MOST", "STYLE", "page", "thumbnail"]

MOST = 200  # suspects shown; suspects.csv has all
SIDE = 160  # px of a thumbnail, at most
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --bad: #c62828; --good: #1a7f37; --warn: #b26a00; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --good: #7ee08f; --warn: #ffb74d; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1180px; padding: 0 1rem 3rem; }
h1 { font-size: 1.4rem; margin: 1.5rem 0 .3rem; }
ol { list-style: none; padding: 0; display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: .8rem; }
li { border: 1px solid var(--line); border-radius: 4px; padding: .6rem; overflow-wrap: anywhere; }
li > div { height: 168px; display: flex; align-items: center; justify-content: center; background: var(--soft); }
img { max-width: 100%; max-height: 160px; }
p { margin: .4rem 0; } .path { font-size: .8rem; opacity: .75; }
.given { color: var(--bad); } .suggested { color: var(--good); } .test { color: var(--warn); font-weight: 600; }
"""


def page(table: Sequence[dict[str, Any]], report: str, root: Path, limits: dict[str, int]) -> str:
    """The page of the first MOST rows of ``table`` (the rows of suspects.csv), paths relative to ``root``.

    ``limits`` are those of :func:`pipeline.images.decode`. A file that no longer decodes is shown by its path.
    """
    shown = list(table[:MOST])
    tiles = "\n".join(_tile(row, root, limits) for row in shown)
    more = (
        f" Shown are the first {len(shown)}; reports/suspects.csv has all." if len(table) > len(shown) else ""
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="UTF-8"><title>Suspect labels</title><style>{STYLE}</style></head>
<body><h1>Suspect labels</h1>
<p>{html.escape(report + more)} The most suspect come first. Each was judged by a model that had not seen its label.</p>
<p>Nothing was changed. Correct a wrong label where the image comes from (its folder, or its row in the table of labels)
and run <code>dvc repro</code>. A test image is marked: its label decides what the verdict says, so look twice, and never
change it only because the model disagrees.</p>
<ol>
{tiles}
</ol></body></html>
"""


def _tile(row: dict[str, Any], root: Path, limits: dict[str, int]) -> str:
    source = thumbnail(root / row["path"], limits)
    picture = f'<img alt="" src="{source}">' if source else "the file is gone or damaged"
    split = html.escape(row["split"])
    mark = f'<span class="test">{split}</span>' if row["split"] == "test" else split
    return (
        f'<li data-image="{html.escape(row["image_id"])}"><div>{picture}</div>'
        f"<p>{row['rank']}. {mark}</p>"
        f'<p>given <b class="given">{html.escape(row["label"])}</b> {row["label_probability"]:.3f}<br>'
        f'rather <b class="suggested">{html.escape(row["suggested"])}</b> {row["suggested_probability"]:.3f}</p>'
        f'<p class="path">{html.escape(row["path"])}</p></li>'
    )


def thumbnail(path: Path, limits: dict[str, int]) -> str | None:
    """A JPEG of at most SIDE px as a data URL, small images enlarged to be seen; None where it does not decode."""
    try:
        data = path.read_bytes()
        image = decode(data, max_pixels=limits["max_pixels"], max_bytes=limits["max_bytes"]).image
    except (ImageError, OSError):
        return None
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resampling = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    stream = io.BytesIO()
    image.resize(size, resampling).save(stream, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
