"""``data/assignments.csv``: which split every image was ever put into, for good.

An image that has left the data keeps its line: should it come back, or should a near-duplicate of it
arrive, the model has seen it. The perceptual hash and the thumbnail (base64) are there to tell.
"""

import base64
import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import yaml

from pipeline.artifacts import write_text
from pipeline.errors import DataError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Kept:
    """One image's place; ``group`` as the manifest gave it, before near-duplicates joined it."""

    image_id: str
    group: str
    split: str
    dhash: str
    thumbnail: str

    def look(self) -> bytes | None:
        """The 16 x 16 luma thumbnail, 256 bytes."""
        return base64.b64decode(self.thumbnail) if self.thumbnail else None


HEADER = [field.name for field in fields(Kept)]


def load(path: Path) -> list[Kept]:
    """Every line of the file; none where it does not exist.

    Raises:
        DataError: the file is of another shape, or damaged.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        lines = csv.reader(stream)
        if next(lines, None) != HEADER:
            raise DataError(
                f"{path}: the header must be {','.join(HEADER)}; get it back with `dvc checkout data/{path.name}`"
            )
        kept = []
        for number, line in enumerate(lines, start=2):
            if len(line) != len(HEADER) or line[2] not in SPLITS:
                raise DataError(
                    f"{path}, line {number} is damaged ({','.join(line)[:80]!r}): get the file back with "
                    f"`dvc checkout data/{path.name}`, without it images would move between splits"
                )
            kept.append(Kept(*line))
    return kept


def save(path: Path, kept: Iterable[Kept]) -> None:
    """Sorted by image, so that the file depends on nothing but its content."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(astuple(entry) for entry in sorted(kept, key=lambda entry: entry.image_id))
    write_text(path, text.getvalue())


def missing_although_recorded(path: Path, lock: Path) -> bool:
    """Whether ``lock`` (dvc.lock) says that a split was made here or elsewhere, but its file is not here."""
    if path.exists() or not lock.exists():
        return False
    try:
        stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
        outs = stages.get("split", {}).get("outs", [])
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        return False
    return any(str(out.get("path", "")).endswith(path.name) for out in outs)
