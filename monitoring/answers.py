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

    ``label`` is "" where it was left open. ``file`` is the image itself where the answer came with it:
    ``received`` is then the sha256 of its bytes, and ``image_id`` that of the bytes without their metadata.
    """

    where: str
    image_id: str
    label: str
    file: Path | None = None
    by: str = ""
    received: str = ""


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
        image_id = str(data.get("image_id") or PurePosixPath(str(data.get("image", ""))).stem)
        choices = list(_choices(task))
        if not choices:
            yield Answer(where, image_id, "")
        for label, by in choices:
            yield Answer(where, image_id, label, by=by)


def _choices(task: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(label, annotator) of a task's annotations; predictions are hints and never read."""
    if isinstance(task.get("choice") or task.get("label"), str):  # JSON-MIN
        yield str(task.get("choice") or task.get("label")), str(task.get("annotator", ""))
        return
    for annotation in task.get("annotations") or []:
        if annotation.get("was_cancelled"):
            continue
        for result in annotation.get("result") or []:
            for label in (result.get("value") or {}).get("choices") or []:
                yield str(label).strip(), str(annotation.get("completed_by", ""))
