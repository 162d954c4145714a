"""The files of a label queue: queue.csv, labelstudio.json and its labelling page, README.txt, manifest.json."""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from monitoring.journal import Episode
from pipeline.artifacts import (
    atomic_path,
    digest_file,
    read_json,
    safe_cell,
    sync_folder,
    write_json,
    write_text,
)
from pipeline.params import Params

COLUMNS = ("image_id", "file", "why", "predicted", "confidence", "domain_score", "label", "note")


@dataclass(frozen=True)
class Item:
    """One image of the queue.

    ``image_id`` is the sha256 of the file that is asked, which carries no metadata; ``received`` that of the
    bytes as production sent them, with it. ``domain_score``: how unlike the old images it is, .5 not at all, 1
    surely another kind.
    """

    image_id: str
    file: str
    random: bool
    why: str
    predicted: str
    confidence: float
    domain_score: float
    source: str
    dhash: str
    received: str = ""


def describe(
    folder: Path,
    episode: Episode,
    items: Sequence[Item],
    classes: Sequence[str],
    params: Params,
    *,
    first: datetime,
    last: datetime,
) -> None:
    """Write all files but the images. The manifest comes first: what queue.csv asks, the intake must know.

    Args:
        first, last: when the images were answered that the items were drawn from.
    """
    table = _csv(items)
    manifest = {
        "episode": episode.id,
        "champion": episode.champion,
        "seed": params.seed,
        "classes": list(classes),
        "table": hashlib.sha256(table.encode()).hexdigest(),
        "images": {"first": first.isoformat(), "last": last.isoformat()},
        "items": [vars(item) for item in items],
    }
    write_json(folder / "manifest.json", manifest)
    write_text(folder / "queue.csv", table)
    write_json(folder / "labelstudio.json", [_task(item, episode.champion) for item in items])
    write_text(folder / "labelstudio.xml", _labelling_page(classes))
    write_text(folder / "README.txt", _readme(episode, items, classes, params))


def is_untouched(folder: Path) -> bool:
    """Whether queue.csv is as it was written: nobody has begun to fill it in."""
    table = folder / "queue.csv"
    return table.exists() and digest_file(table) == read_json(folder / "manifest.json")["table"]


def withdraw(folder: Path, items: Sequence[Item], labelled: set[str]) -> int:
    """Take items out of a queue, and what people wrote beside them; the number of images that went.

    Of one that is ``labelled`` the copy goes; the manifest still says how it was drawn, which its label needs.
    """
    removed = 0
    for item in items:
        removed += (folder / item.file).is_file()
        (folder / item.file).unlink(missing_ok=True)
    sync_folder(folder / "images")
    gone = {item.image_id for item in items} - labelled
    if not gone:
        return removed
    manifest, tasks, table = (
        read_json(folder / "manifest.json"),
        folder / "labelstudio.json",
        folder / "queue.csv",
    )
    if tasks.exists():
        write_json(tasks, [task for task in read_json(tasks) if task["data"]["image_id"] not in gone])
    if table.exists():
        fresh = is_untouched(folder)
        with atomic_path(table) as temporary:
            temporary.write_bytes(_without(table.read_bytes(), gone))
        manifest |= {"table": digest_file(table)} if fresh else {}
    manifest["items"] = [item for item in manifest["items"] if item["image_id"] not in gone]
    write_json(folder / "manifest.json", manifest)  # last: by it the next run finds what is left to do
    return removed


def _without(table: bytes, gone: set[str]) -> bytes:
    """The rows of a CSV that name none of these ids, as whatever spreadsheet saved it."""
    text = table.decode("utf-8", "surrogateescape")
    header = text.partition("\n")[0]
    delimiter = ";" if ";" in header and "," not in header else ","
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\r\n" if header.endswith("\r") else "\n")
    writer.writerows(row for row in rows if not gone & set(row))
    return stream.getvalue().encode("utf-8", "surrogateescape")


def _csv(items: Sequence[Item]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item in items:
        shown = safe_cell(item.predicted)
        writer.writerow(
            [item.image_id, item.file, item.why, shown, item.confidence, item.domain_score, "", ""]
        )
    return stream.getvalue()


def _task(item: Item, champion: str) -> dict[str, Any]:
    """In Label Studio's JSON task format: `data`, and `predictions` that it shows as pre-annotations."""
    choice = {
        "id": item.image_id[:10],
        "from_name": "label",
        "to_name": "image",
        "type": "choices",
        "value": {"choices": [item.predicted]},
    }
    return {
        "data": {
            "image": f"/data/local-files/?d={item.file}",
            "image_id": item.image_id,
            "why": item.why,
        },
        # Label Studio shows predictions as pre-selected hints; only annotations are read back.
        "predictions": [
            {"model_version": f"hint {champion[:12]}", "score": item.confidence, "result": [choice]}
        ],
    }


def _labelling_page(classes: Sequence[str]) -> str:
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in classes)
    return (
        '<View>\n  <Header value="A class that is marked already is the model\'s hint, and often wrong here."/>\n'
        '  <Image name="image" value="$image"/>\n'
        f'  <Choices name="label" toName="image" choice="single">\n{choices}\n  </Choices>\n</View>\n'
    )


def _readme(episode: Episode, items: Sequence[Item], classes: Sequence[str], params: Params) -> str:
    if not items:
        return (
            "Nothing to ask: none of the images since the drift began was kept, or none of them decodes.\n"
            "Set log.keep_images above 0 in params.yaml and restart the service, or bring images of the new kind\n"
            "yourself, in folders named by class:\n\n    python -m monitoring label <folder>\n"
        )
    at_random = sum(item.random for item in items)
    needed = min(params.label.min_labels, len(items))
    listed = "\n".join(f"    {json.dumps(name, ensure_ascii=False)}" for name in classes)
    return f"""{len(items)} images want a label. Why: {episode.why}

How to answer, either way:
 1. Open queue.csv beside the images, write a class into the column `label` (leave it empty where you are not
    sure), save as CSV, and run
        python -m monitoring label {queue_path(episode)}queue.csv
 2. Label Studio, started in this folder, which it may then read:
        LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT="$PWD" label-studio start
    In a new project take labelstudio.xml as the labelling interface (its code); under cloud storage add a source
    storage of local files, the absolute path of images/ (without it no image is shown; it needs no sync); import
    labelstudio.json. Submit each answer, skip where you are not sure. Export as JSON or JSON-MIN, and run
        python -m monitoring label <export.json>

The column `predicted`, and what Label Studio shows as a prediction, is the model's guess: a hint, and often wrong
here. It never becomes a label by itself, nor do annotations that Label Studio creates from predictions.
The classes:
{listed}
A class that is not in this list is taken with --new-class <name>.

{at_random} of the images were drawn at random (`why` = random): answer those first and all of them, they alone tell
the accuracy, and the new test images come from them. It is the accuracy over distinct scenes: of near-alike images
one is asked, however often they came. The others were chosen because they are unlike the old images, unlike each
other, and the model is unsure of them: on them it errs more often. {needed} labels start a retrain.
"""


def queue_path(episode: Episode) -> str:
    """Where the queue lies by default, for the README's command."""
    return f"var/queue/{episode.id}/"
