"""What smaller versions of the bundle's network would cost in accuracy: a table to choose from for a small device.

    python -m pipeline compress         # artifacts/bundle → reports/compression.csv and reports/compression.png

Judged on validation images, so that the test images stay the verdict's alone; with so few of them, look at the
intervals. Of what is here, INT8 can ship (bundle.formats) where it agrees with float32 as often as params.yaml asks;
times are of one thread of this machine, image by image.
"""

import csv
import io
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import SPLIT, Workspace, atomic_path, read_json, read_table, write_text
from pipeline.bundle import NETWORKS, Bundle
from pipeline.errors import DataError
from pipeline.intervals import codes, proportion
from pipeline.params import Params
from pipeline.transfer.compression import Images, variants
from pipeline.transfer.footprint import compressed_megabytes, megabytes, milliseconds
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.plan_test import other_plan
from pipeline.views import views

__all__ = ["Row", "run", "table"]


@dataclass(frozen=True)
class Row:
    """One version: accuracy on n validation images with its 95 % interval, and what it costs."""

    version: str
    accuracy: float
    low: float
    high: float
    agreement: float  # share of the images that float32 gives the same class
    images: int
    megabytes: float  # of the ONNX file
    compressed_megabytes: float  # of the file, compressed
    milliseconds: float  # for one image on one thread
    embedding: int  # numbers that are logged of each image


def run(workspace: Workspace, params: Params) -> int:
    """``artifacts/bundle/`` → ``reports/compression.csv`` and its plot; prints the table."""
    rows, notes = table(workspace, params)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(asdict(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(workspace.compression, stream.getvalue())
    _draw(workspace.compression.with_suffix(".png"), rows)
    print("\n".join([_text(rows), *notes]))
    return 0


def table(workspace: Workspace, params: Params) -> tuple[list[Row], list[str]]:
    """A row per version of the bundle's network, float32 first; and a sentence on whether INT8 would ship.

    Raises:
        IntegrityError: the bundle is damaged.
        DataError: there is no validation image of a class that the bundle knows.
    """
    bundle = Bundle.load(workspace.bundle, threads=1)
    split = read_table(workspace.split, SPLIT).to_pylist()
    train, validation = (_images(workspace, params, bundle, split, name) for name in ("train", "validation"))
    if not len(validation.labels):
        raise DataError(
            "artifacts/split.parquet has no validation image of a class that the bundle knows: run `dvc repro`"
        )
    domains = [row["domain"] for row in _known(split, bundle, "train")]
    plan = _plan(workspace, train.labels, bundle.classes).by_domain(domains, params.train.domain_balance)
    image = bundle.preprocessing.normalise(validation.pixels[:1])
    grouped = codes(validation.groups)
    rows: list[Row] = []
    notes, expected = [], None
    with tempfile.TemporaryDirectory(prefix="visionloop-compress-") as folder:
        for name, draft in variants(
            bundle, train, validation, plan, Path(folder), seed=params.seed, limits=params.bundle
        ):
            if isinstance(draft, str):
                notes.append(draft)
                continue
            answer = draft.predict(validation.pixels).logits.argmax(axis=1)
            expected = answer if expected is None else expected
            correct = answer == validation.labels
            low, high = proportion(correct, grouped)
            file = draft.path / NETWORKS[draft.form]
            rows.append(
                Row(
                    version=name,
                    accuracy=round(float(correct.mean()), 6),
                    low=round(low, 6),
                    high=round(high, 6),
                    agreement=round(float((answer == expected).mean()), 6),
                    images=len(correct),
                    megabytes=megabytes(file),
                    compressed_megabytes=compressed_megabytes(file),
                    milliseconds=milliseconds(draft.session, image),
                    embedding=int(draft.info["embedding_size"]),
                )
            )
    return rows, notes


def _plan(workspace: Workspace, labels: np.ndarray, classes: Sequence[str]) -> Plan:
    """How training counted these images: a head that is fitted anew counts them alike."""
    balance, checkpoint = read_json(workspace.balance), workspace.checkpoint / "checkpoint.json"
    tested = read_json(checkpoint).get("imbalance") if checkpoint.exists() else None
    if tested and tested["kept"] != balance["plan"]:
        return other_plan(tested["kept"], labels, classes)
    return Plan.of(balance, labels, classes)


def _images(
    workspace: Workspace, params: Params, bundle: Bundle, split: Sequence[dict[str, Any]], name: str
) -> Images:
    code = {label: number for number, label in enumerate(bundle.classes)}
    rows = _known(split, bundle, name)
    pixels = views(
        workspace, [row["path"] for row in rows], [row["image_id"] for row in rows], bundle.preprocessing,
        max_pixels=params.data.max_pixels, max_bytes=params.data.max_bytes,
    )  # fmt: skip
    labels = np.array([code[row["label"]] for row in rows], dtype=np.int64)
    return Images(pixels, labels, [row["group"] for row in rows])


def _known(split: Sequence[dict[str, Any]], bundle: Bundle, name: str) -> list[dict[str, Any]]:
    """The rows of one part whose class the bundle knows."""
    return [row for row in split if row["split"] == name and row["label"] in bundle.classes]


def _text(rows: Sequence[Row]) -> str:
    lines = [
        f"{'version':<12}{'accuracy':>9}{'95 % interval':>18}{'agrees':>8}{'MB':>8}{'zipped':>8}{'ms':>8}{'embedding':>11}"
    ]
    lines += [
        f"{row.version:<12}{row.accuracy:>9.3f}{f'{row.low:.3f} to {row.high:.3f}':>18}{row.agreement:>8.3f}{row.megabytes:>8.2f}"
        f"{row.compressed_megabytes:>8.2f}{row.milliseconds:>8.2f}{row.embedding:>11,}"
        for row in rows
    ]
    lines.append(
        f"Accuracy on {rows[0].images} validation images, and the share of them that float32 gives the same class. A pruned file "
        "is as large and as slow as before, until it is compressed (zipped); PCA shortens what is logged of each image."
    )
    return "\n".join(lines)


def _draw(target: Path, rows: Sequence[Row]) -> None:
    """Accuracy with its interval, a line a version, float32's as a guide; what each costs stands beside its name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 0.42 * len(rows) + 1.6), dpi=140, layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    accuracy = np.array([row.accuracy for row in rows])
    whiskers = np.abs(np.array([[row.low, row.high] for row in rows]) - accuracy[:, None]).T
    axes.errorbar(accuracy, places, xerr=whiskers, fmt="o", color="#4c78a8", capsize=3)
    axes.axvline(accuracy[0], color="#888", linestyle="--", linewidth=1)
    names = [
        f"{row.version} · agrees {row.agreement:.2f} · {row.megabytes:.1f} MB ({row.compressed_megabytes:.1f} zipped) · {row.milliseconds:.1f} ms · embedding {row.embedding}"
        for row in rows
    ]
    axes.set_yticks(places, names)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"accuracy on {rows[0].images} validation images (95 % interval)")
    figure.suptitle("What a smaller network costs (dashed: float32)")
    axes.grid(axis="x", color="#ddd")
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png")
