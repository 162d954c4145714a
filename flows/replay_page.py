"""The changed answers as one HTML file that needs nothing else, the largest change of a probability first."""

import html
from pathlib import Path
from typing import Any

from pipeline.params import Serve
from pipeline.suspects_page import STYLE, thumbnail

MOST = 200  # answers shown; replay.json has all


def page(report: dict[str, Any], said: str, images: Path, serve: Serve) -> str:
    """The contact sheet of ``report`` (what flows.replay writes), ``said`` in a sentence; ``images`` is the log's folder of them."""
    shown = report["changed"][:MOST]
    limits = {"max_pixels": serve.max_pixels, "max_bytes": serve.max_body_bytes}
    tiles = "\n".join(_tile(row, images, limits) for row in shown)
    more = (
        f"Shown are the first {MOST}; reports/replay.json has all. " if len(report["changed"]) > MOST else ""
    )
    pairs = "; ".join(
        f"{_quoted(pair['from'])} → {_quoted(pair['to'])}: {pair['images']}"
        for pair in report["changed_by_labels"][:10]
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="UTF-8"><title>Replay</title><style>{STYLE}</style></head>
<body><h1>What the challenger would answer otherwise</h1>
<p>{html.escape(said)}</p>
<p>{pairs or "No answer changes."}</p>
<p>{more}Of the answers that stay, the largest change of a probability is
{report["largest_change_of_the_others"]:.3f}. Nobody knows the true labels of these images: look which answer is right.</p>
<ol>
{tiles}
</ol></body></html>
"""


def _tile(row: dict[str, Any], images: Path, limits: dict[str, int]) -> str:
    source = thumbnail(images / row["kept"][:2] / row["kept"], limits)
    picture = f'<img alt="" src="{source}">' if source else "the file is gone or damaged"
    often = f", sent {row['requests']} times" if row["requests"] > 1 else ""
    old, new = row["champion"], row["challenger"]
    return (
        f'<li data-image="{html.escape(row["image_id"])}"><div>{picture}</div>'
        f"<p>change {row['change']:.3f}{often}</p>"
        f"<p>champion <b>{html.escape(old['label'])}</b> {old['probability']:.3f}<br>"
        f'challenger <b class="suggested">{html.escape(new["label"])}</b> {new["probability"]:.3f}</p>'
        f'<p class="path">{html.escape(row["source"])} {html.escape(row["image_id"][:12])}</p></li>'
    )


def _quoted(label: str) -> str:
    return f"<b>{html.escape(label)}</b>"
