"""Images whose label is probably wrong, for a person to look at.

    python -m pipeline suspects         # split → reports/suspects.csv and reports/suspects.html

The probe is cross-validated over all images of the split, near-alike shots kept together, so that each image is
judged by a head that has not seen its label; confident learning says which labels that contradicts. Nothing is
changed: a suspect label of a training image costs accuracy, one of a test image costs trust in the verdict, and
both are for a person to correct at their source.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.artifacts import SPLIT, Workspace, read_table, safe_cell, write_text
from pipeline.assignments import SPLITS
from pipeline.backbone import Backbone, load
from pipeline.errors import DataError
from pipeline.params import Params
from pipeline.suspects_page import page
from pipeline.transfer.calibration import fit_temperature
from pipeline.transfer.confident import Suspect, find_suspects
from pipeline.transfer.device import deterministic, pick_device
from pipeline.transfer.examples import Examples
from pipeline.transfer.features import cached_features
from pipeline.transfer.probe import FOLDS, head_kind, held_out
from pipeline.views import views

__all__ = ["COLUMNS", "Search", "run", "search"]

COLUMNS = (
    "rank", "image_id", "path", "split", "label", "suggested", "label_probability", "suggested_probability",
)  # fmt: skip
LEAST_GROUPS = FOLDS  # of a class, so that each fold has some of it


@dataclass(frozen=True)
class Search:
    """The suspects among the rows that were looked at, and the classes that could not be."""

    rows: list[dict[str, Any]]  # of split.parquet, of the classes that have enough groups
    classes: list[str]
    skipped: dict[str, int]  # class → its groups, too few for folds
    suspects: list[Suspect]
    accuracy: float  # of the heads on images that they had not seen, by the labels as given

    @property
    def report(self) -> str:
        """What was found, for the terminal and the page's head."""
        named = [self.rows[suspect.row] for suspect in self.suspects]
        counts = ", ".join(f"{sum(row['split'] == name for row in named)} in {name}" for name in SPLITS)
        text = (
            f"{len(named)} of {len(self.rows):,} labels are suspect ({counts}). The probe that says so agrees with "
            f"{self.accuracy:.3f} of the labels of images that it has not seen."
        )
        if self.skipped:
            few = ", ".join(f"{label} ({groups})" for label, groups in sorted(self.skipped.items()))
            text += f" Not looked at, for fewer than {LEAST_GROUPS} groups of images: {few}."
        return text


def run(workspace: Workspace, params: Params) -> int:
    """``artifacts/split.parquet`` → ``reports/suspects.csv`` and ``reports/suspects.html``."""
    deterministic(params.seed)
    rows = [row for row in read_table(workspace.split, SPLIT).to_pylist() if row["split"] in SPLITS]
    backbone = load(params.model, root=workspace.root, seed=params.seed)
    found = search(rows, _features(workspace, params, backbone, rows), params)
    table = _table(found)
    limits = {"max_pixels": params.data.max_pixels, "max_bytes": params.data.max_bytes}
    write_text(workspace.suspects, _csv(table))
    write_text(workspace.suspects_page, page(table, found.report, workspace.root, limits))
    print(found.report)
    for row in table[:10]:
        print(
            f"{row['rank']:>4}  {row['path']} ({row['split']}): {row['label']} {row['label_probability']:.3f}, "
            f"rather {row['suggested']} {row['suggested_probability']:.3f}"
        )
    if table:
        print(
            f"look at {workspace.relative(workspace.suspects_page)}, correct labels at their source, `dvc repro`"
        )
    # The search needs the split, which needs the validation: a dependency the other way would be a circle.
    print(
        "`dvc repro -f -s validate` takes what was found here into the report of the data; a plain `dvc repro` does not"
    )
    return 0


def search(rows: Sequence[dict[str, Any]], features: np.ndarray, params: Params) -> Search:
    """Confident learning over ``rows`` of split.parquet with their plain ``features`` [n, width].

    Raises:
        DataError: fewer than two classes have enough groups of images.
    """
    groups: dict[str, set[str]] = {}
    for row in rows:
        groups.setdefault(row["label"], set()).add(row["group"])
    skipped = {label: len(members) for label, members in groups.items() if len(members) < LEAST_GROUPS}
    classes = sorted(groups.keys() - skipped.keys())
    if len(classes) < 2:
        raise DataError(
            f"{len(classes)} of {len(groups)} classes have at least {LEAST_GROUPS} groups of images, two are needed "
            "to tell a wrong label: collect more images"
        )
    kept = [place for place, row in enumerate(rows) if row["label"] in classes]
    looked = [rows[place] for place in kept]
    code = {label: number for number, label in enumerate(classes)}
    labels = np.array([code[row["label"]] for row in looked])
    probabilities, seen = _out_of_sample(features[kept], labels, [row["group"] for row in looked], params)
    looked, labels = [looked[place] for place in seen], labels[seen]
    accuracy = float((probabilities.argmax(axis=1) == labels).mean())
    return Search(looked, classes, skipped, find_suspects(probabilities, labels), accuracy)


def _out_of_sample(
    features: np.ndarray, labels: np.ndarray, groups: Sequence[str], params: Params
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities [m, classes] by heads that have not seen the image, and the m rows, ascending."""
    from scipy.special import softmax
    from threadpoolctl import threadpool_limits

    count = int(labels.max()) + 1
    examples = Examples(features[None], labels, np.ones(len(labels)), np.zeros(count))
    kind = head_kind(examples, params.train.head)
    with threadpool_limits(1):
        found = held_out(examples, groups, kind, params.seed)
        if found is not None and len(found.rows) < len(labels):  # the strength came from a sample
            found = held_out(
                examples, groups, kind, params.seed, strengths=[found.strengths[found.best]], most=None
            )
    if found is None:
        raise DataError(
            "the classes share their groups of images, so none can be held out: see data.group_pattern"
        )
    order = np.argsort(found.rows)
    rows, logits = found.rows[order], found.logits[found.best][order]
    return softmax(logits / fit_temperature(logits, labels[rows]), axis=1), rows


def _features(
    workspace: Workspace, params: Params, backbone: Backbone, rows: Sequence[dict[str, Any]]
) -> np.ndarray:
    """[n, width] of the images as they are, from the cache that training fills."""
    image_ids = [row["image_id"] for row in rows]
    pixels = views(
        workspace, [row["path"] for row in rows], image_ids, backbone.preprocessing,
        max_pixels=params.data.max_pixels, max_bytes=params.data.max_bytes,
    )  # fmt: skip
    device = pick_device(params.train.device)
    return cached_features(workspace, backbone, pixels, image_ids, device=device)


def _table(found: Search) -> list[dict[str, Any]]:
    """A row per suspect, COLUMNS, worst first."""
    return [
        {
            "rank": rank,
            **{name: found.rows[suspect.row][name] for name in ("image_id", "path", "split", "label")},
            "suggested": found.classes[suspect.suggested],
            "label_probability": round(suspect.label_probability, 6),
            "suggested_probability": round(suspect.suggested_probability, 6),
        }
        for rank, suspect in enumerate(found.suspects, 1)
    ]


def _csv(table: Sequence[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in table:
        writer.writerow([safe_cell(value) if isinstance(value, str) else value for value in row.values()])
    return stream.getvalue()
