"""``data/labels.csv``: every label that people gave back, one row an image, tracked by git."""

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from pipeline.artifacts import write_text
from pipeline.errors import DataError


@dataclass(frozen=True)
class Label:
    """``split`` is decided when the label is taken and never moves."""

    image_id: str
    path: str
    label: str
    domain: str
    group: str
    split: str
    labelled_by: str
    time: datetime


HEADER = tuple(entry.name for entry in fields(Label))


def read_labels(path: Path) -> list[Label]:
    """All rows; none where the file is missing.

    Raises:
        DataError: the file is of another shape.
    """
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != HEADER:
            raise DataError(f"{path}: the header must be {','.join(HEADER)}; restore it with git")
        try:
            return [_label(row) for row in reader]
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path}: a row is not as the header says ({error}); restore it with git"
            ) from error


def append_labels(path: Path, new: Sequence[Label]) -> None:
    """Write the file anew with ``new`` at its end, atomically."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(HEADER)
    for label in [*read_labels(path), *new]:
        *values, time = astuple(label)
        writer.writerow([*values, time.astimezone(UTC).isoformat(timespec="microseconds")])
    write_text(path, stream.getvalue())


def _label(row: dict[str, str]) -> Label:
    time = _time(row["time"])
    return Label(**{name: row[name] for name in HEADER if name != "time"}, time=time)


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
