"""What people answered, in each form that it may come in: a CSV, a folder of class folders, Label Studio's JSON.

Reading only: what an answer means, and whether it may be taken, is ``monitoring.label_intake``'s.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import DataError, ImageError
from pipeline.images import decode
from pipeline.metadata import stripped

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Answer:
    """One image and what somebody called it; ``where`` names it in messages.

    ``label`` is "" where it was left open, ``hint`` says that only the model's hint stands there. ``file`` is
    the image itself where the answer came with it: ``received`` is then the sha256 of its bytes, and
    ``image_id`` that of the bytes without their metadata.
    """

    where: str
    image_id: str
    label: str
    file: Path | None = None
    by: str = ""
    received: str = ""
    hint: bool = False


def read_answers(given: Path) -> list[Answer]:
    """The answers in a CSV, a folder or an export.

    Raises:
        DataError: there is no such file, or it is in none of the three forms.
    """
    if given.is_dir():
        return list(_folder(given))
    if not given.is_file():
        raise DataError(
            f"{given} is missing: give a CSV, a folder of class folders or Label Studio's JSON export"
        )
    try:
        text = given.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{given} is not UTF-8 text ({error}): save it as CSV in UTF-8") from error
    if given.suffix.lower() == ".json":
        return list(_label_studio(given, text))
    return list(_csv(given, text))


def _csv(given: Path, text: str) -> Iterator[Answer]:
    header = text.partition("\n")[0]
    # A spreadsheet in another country saves "CSV" with semicolons.
    delimiter = ";" if ";" in header and "," not in header else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    missing = {"image_id", "label"} - set(reader.fieldnames or ())
    if missing:
        raise DataError(f"{given}: the header lacks {', '.join(sorted(missing))}; keep queue.csv's header")
    for row in reader:
        number = reader.line_num
        image_id, label = (row["image_id"] or "").strip(), (row["label"] or "").strip()
        if image_id or label:
            yield Answer(f"{given.name} line {number}", image_id, label)


def _folder(given: Path) -> Iterator[Answer]:
    found = False
    for folder in sorted(path for path in given.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in SUFFIXES or not path.is_file():
                continue
            if not path.resolve().is_relative_to(given.resolve()):
                raise DataError(f"{path} is a link that leaves {given}: put the image itself there")
            found = True
            received, image_id = _ids(path.read_bytes())
            # A file that carries an id must be that image: a queue's image that was edited is another one.
            if re.fullmatch(r"[0-9a-f]{64}", path.stem) and path.stem not in (received, image_id):
                image_id = path.stem
            where = path.relative_to(given).as_posix()
            yield Answer(where, image_id, folder.name, path, received=received)
    if not found:
        raise DataError(f"{given} holds no images in class folders ({given}/<class>/<image>)")


def _ids(data: bytes) -> tuple[str, str]:
    """The sha256 of an image's bytes, and that of them without metadata: one picture is one image, however it came."""
    received = hashlib.sha256(data).hexdigest()
    try:
        kept, _ = stripped(data, decode(data))
    except ImageError:  # whoever takes the answer says what is wrong with it
        return received, received
    return received, hashlib.sha256(kept).hexdigest()


def _label_studio(given: Path, text: str) -> Iterator[Answer]:
    """Of an export as JSON (a task with its annotations) or JSON-MIN (a row for each annotation)."""
    try:
        tasks = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{given} is not JSON ({error}): export again as JSON") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise DataError(f"{given} is not an export of Label Studio: a list of tasks is expected")
    for number, task in enumerate(tasks, start=1):
        where = f"{given.name} task {task.get('id', number)}"
        raw = task.get("data")
        data: dict[str, Any] = raw if isinstance(raw, dict) else task
        image_id = str(data.get("image_id") or _image_id(str(data.get("image", ""))))
        annotations = task.get("annotations", [] if data is raw else [_annotation(task)])
        if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
            raise DataError(
                f"{where}: its annotations are missing from {given}: use Label Studio's Export, as JSON"
            )
        looked_at = [one for one in annotations if not _is_hint(one)]
        choices = list(_choices(looked_at))
        if not choices:
            yield Answer(where, image_id, "", hint=len(looked_at) < len(annotations))
        for label, by in choices:
            yield Answer(where, image_id, label, by=by)


def _image_id(image: str) -> str:
    """From a task without ``image_id``: its image's file name, before which an upload puts some letters."""
    stem = PurePosixPath(image).stem
    named = re.search(r"[0-9a-f]{64}$", stem)
    return named[0] if named else stem


def _annotation(row: dict[str, Any]) -> dict[str, Any]:
    """A row of JSON-MIN as the annotation it was made from; one choice is a mere text there."""
    given = row.get("label") or row.get("choice") or []
    parts = given if isinstance(given, list) else [given]
    choices = [name for part in parts for name in (part["choices"] if isinstance(part, dict) else [part])]
    return {
        "result": [{"value": {"choices": choices}}],
        "completed_by": row.get("annotator", ""),
        # A row does not say whether a prediction is its parent.
        "parent_prediction": "lead_time" in row,
        "lead_time": row.get("lead_time"),
    }


def _is_hint(annotation: dict[str, Any]) -> bool:
    """Made by "Create Annotations From Predictions": a prediction is its parent, and nobody spent time on it."""
    return bool(annotation.get("parent_prediction")) and not annotation.get("lead_time")


def _choices(annotations: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """(label, annotator) of what was submitted; skipped tasks, drafts and predictions are never read."""
    for annotation in annotations:
        if annotation.get("was_cancelled"):
            continue
        who = annotation.get("completed_by", "")
        by = str(who.get("email") or who.get("id", "")) if isinstance(who, dict) else str(who)
        for result in annotation.get("result") or []:
            for label in (result.get("value") or {}).get("choices") or []:
                yield str(label).strip(), by
