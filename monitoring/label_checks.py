"""What an answer must be before it is taken: a known class, a known image, its own bytes, one label an image."""

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from monitoring import label_queue
from monitoring.answers import Answer
from monitoring.labels import Label
from pipeline.artifacts import Workspace, read_json
from pipeline.errors import DataError, ImageError
from pipeline.images import EXTENSIONS, decode, dhash
from pipeline.metadata import stripped
from pipeline.params import Params
from pipeline.registry import Registry

SHOWN = 10
"""Problems that one message lists."""


@dataclass(frozen=True)
class Image:
    """An answer's image, checked: its bytes, without their metadata at least, are its id's.

    ``received`` is the sha256 of what was sent or given, metadata included; "" where a queue doesn't tell.
    ``predicted`` is "" where no queue asked it.
    """

    answer: Answer
    path: Path
    extension: str
    dhash: str
    random: bool
    source: str
    received: str
    predicted: str = ""
    confidence: float = 0.0


def classes_of(workspace: Workspace, existing: Sequence[Label]) -> list[str]:
    """Every class that has a meaning here: the champion's, the data set's and those taken before."""
    found = {label.label for label in existing}
    champion = Registry(workspace.registry).champion()
    if champion is not None:
        bundle = Registry(workspace.registry).bundle_path(champion.digest) / "bundle.json"
        found |= set(read_json(bundle)["classes"])
    if workspace.manifest.exists():
        found |= set(pq.read_table(workspace.manifest, columns=["label"])["label"].to_pylist())
    return sorted(name for name in found if name)


def in_data_set(workspace: Workspace) -> set[str]:
    """Ids of the images that the data set holds already."""
    if not workspace.manifest.exists():
        return set()
    return set(pq.read_table(workspace.manifest, columns=["image_id"])["image_id"].to_pylist())


def one_each(
    answers: Sequence[Answer], existing: Sequence[Label], classes: Sequence[str], new_classes: Sequence[str]
) -> list[Answer]:
    """One answer an image, its class a known one; all problems in one error."""
    allowed = {*classes, *new_classes}
    before = {label.image_id: label.label for label in existing}
    problems: list[str] = []
    found: dict[str, Answer] = {}
    for answer in answers:
        if not answer.label:
            continue
        label = _as_written(answer.label, allowed)
        if label not in allowed:
            near = difflib.get_close_matches(label, sorted(allowed), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(allowed))}."
            problems.append(
                f"{answer.where}: unknown class {label!r}; {hint} A new one: --new-class {label!r}"
            )
            continue
        first = found.get(answer.image_id)
        earlier = first.label if first else before.get(answer.image_id, label)
        if earlier != label:
            two = first is not None and first.by != answer.by
            people = f": annotators {first.by} and {answer.by} disagree" if first and two else ""
            problems.append(
                f"{answer.where}: {answer.image_id[:12]} is {label!r} here and {earlier!r} before{people}"
            )
        found.setdefault(answer.image_id, replace(answer, label=label))
    _refuse(problems)
    return list(found.values())


def _as_written(label: str, allowed: set[str]) -> str:
    """The queue writes "=a" as "'=a", so that no spreadsheet runs it; undo that where it was copied."""
    return label[1:] if label.startswith("'") and label not in allowed and label[1:] in allowed else label


def images_of(workspace: Workspace, params: Params, answers: Sequence[Answer]) -> list[Image]:
    """Every answer's image, its bytes checked against its id; all problems in one error."""
    asked = _asked(workspace)
    problems: list[str] = []
    found = []
    for answer in answers:
        folder, item = asked.get(answer.image_id, (None, None))
        path = answer.file or (folder / item.file if folder and item else None)
        if path is None:
            problems.append(
                f"{answer.where}: unknown image id {answer.image_id[:16]!r}; no queue asks for it"
            )
            continue
        try:
            data = path.read_bytes()
            picture = decode(data, max_pixels=params.data.max_pixels, max_bytes=params.data.max_bytes)
        except (OSError, ImageError) as error:
            problems.append(f"{answer.where}: {path}: {error}")
            continue
        clean, extension = data, EXTENSIONS[picture.format]
        if _digest(data) != answer.image_id:
            clean, extension = stripped(data, picture)
        if _digest(clean) != answer.image_id:
            problems.append(
                f"{answer.where}: the bytes of {path} are not those of its id: it was edited or damaged"
            )
            continue
        at_random = item is not None and item.random
        source = item.source if item else ""
        received = answer.received or (item.received if item else "")
        said = (item.predicted, item.confidence) if item else ("", 0.0)
        found.append(Image(answer, path, extension, dhash(picture.image), at_random, source, received, *said))
    _refuse(problems)
    return found


def clean_bytes(image: Image, params: Params) -> bytes:
    """What is taken of the image: its bytes without metadata, of its id.

    Raises:
        DataError: the file has changed since it was checked.
    """
    data = image.path.read_bytes()
    if _digest(data) != image.answer.image_id:
        picture = decode(data, max_pixels=params.data.max_pixels, max_bytes=params.data.max_bytes)
        data, _ = stripped(data, picture)
    if _digest(data) != image.answer.image_id:
        raise DataError(f"{image.path} was changed while it was taken: run the command again")
    return data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        listed = "\n  ".join(problems[:SHOWN])
        raise DataError(f"nothing was taken, {len(problems)} answers need a look:\n  {listed}{more}")


def _asked(workspace: Workspace) -> dict[str, tuple[Path, label_queue.Item]]:
    """Image id → (queue folder, item), over every queue that lies here."""
    found: dict[str, tuple[Path, label_queue.Item]] = {}
    for manifest in sorted(workspace.queue.glob("*/manifest.json")):
        for item in label_queue.items_of(workspace, manifest.parent.name):
            found.setdefault(item.image_id, (manifest.parent, item))
    return found
