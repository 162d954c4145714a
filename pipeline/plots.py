"""Tables behind ``dvc plots show``; the pictures are Vega-Lite templates under ``.dvc/plots/``."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import write_text

BRACKETS = str.maketrans("<>", "‹›")


def plain(label: str) -> str:
    """``label`` without angle brackets: DVC pastes the table into a page's script, where they would end it."""
    return label.translate(BRACKETS)


def write_plot(target: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A CSV that DVC reads; labels are made :func:`plain`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([plain(value) if isinstance(value, str) else value for value in row] for row in rows)
    write_text(target, text.getvalue())
