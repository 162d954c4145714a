"""The challenger, and the champion beside it, on corrupted test images and on images of nothing they know.

    python -m pipeline stress

Up to ``evaluate.stress_images`` test images, each as it is and under eight corruptions at severities 1, 3
and 5; and seeded noise and drawn pictures, of which the right answer is to abstain. Writes a row per answer
(``artifacts/stress.parquet``); which bundles answered stands in the file's metadata. ``gate`` judges it.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from pipeline import artifacts
from pipeline.artifacts import STRESS, Workspace
from pipeline.asked import ORIGIN, as_served, pinned_champion
from pipeline.bundle import Bundle
from pipeline.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from pipeline.foreign import FOREIGN, foreign
from pipeline.params import Params
from pipeline.views import views

__all__ = ["chosen", "run", "stress"]


def run(workspace: Workspace, params: Params) -> int:
    """Bundle, split and pinned champion → artifacts/stress.parquet."""
    split = artifacts.read_table(workspace.split, artifacts.SPLIT)
    images = chosen(split.filter(pc.equal(split["split"], "test")), params)
    bundles = [Bundle.load(workspace.bundle, form=params.serve.format)]
    champion = pinned_champion(workspace)
    if champion is not None:
        bundles.append(as_served(champion, params.serve.format))
    table = pa.concat_tables([stress(workspace, bundle, images, params) for bundle in bundles])
    origin = {"bundles": [bundle.digest for bundle in bundles], "images": images.num_rows}
    metadata = {ORIGIN: json.dumps(origin).encode()}
    artifacts.write_table(workspace.stress, table.replace_schema_metadata(metadata))
    print("\n".join(report(table)))
    return 0


def chosen(test: pa.Table, params: Params) -> pa.Table:
    """The test images to be corrupted: drawn by their own hash, so that more test images move few of them."""
    order = [
        hashlib.sha256(f"{params.seed} {image_id}".encode()).digest()
        for image_id in test["image_id"].to_pylist()
    ]
    rows = sorted(range(len(order)), key=order.__getitem__)[: params.evaluate.stress_images]
    return test.take(pa.array(sorted(rows), pa.int64()))


def stress(workspace: Workspace, bundle: Bundle, images: pa.Table, params: Params) -> pa.Table:
    """What ``bundle`` says of ``images`` (SPLIT schema) under every corruption, and of the foreign ones.

    Raises:
        DataError: an image is missing or does not decode.
    """
    ids, labels = images["image_id"].to_pylist(), images["label"].to_pylist()
    parts = []
    if ids:
        clean = views(
            workspace, images["path"].to_pylist(), ids, bundle.preprocessing,
            max_pixels=params.data.max_pixels, max_bytes=params.data.max_bytes,
        )  # fmt: skip
        for name, severity, seen in _corrupted(np.asarray(clean), ids):
            parts.append(_rows(bundle, seen, "corruption", name, severity, ids, labels))
    for name in FOREIGN:
        made = foreign(name, bundle.preprocessing.image_size, params.seed)
        parts.append(_rows(bundle, made, "foreign", name, 0, None, None))
    return pa.concat_tables(parts)


def _corrupted(clean: np.ndarray, ids: list[str]) -> Iterator[tuple[str, int, np.ndarray]]:
    """Name, severity and views [n, H, W, 3]; the noise of an image follows from the image, not from its place."""
    yield "clean", 0, clean
    seeds = [int(image_id[:12], 16) for image_id in ids]
    steps = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]
    for name, severity in tqdm(steps, desc="stress", unit="set", disable=len(ids) < 32):
        yield (
            name,
            severity,
            np.stack([corrupt(view, name, severity, seed) for view, seed in zip(clean, seeds, strict=True)]),
        )


def _rows(
    bundle: Bundle,
    seen: np.ndarray,
    kind: str,
    name: str,
    severity: int,
    ids: list[str] | None,
    labels: list[str] | None,
) -> pa.Table:
    probabilities = bundle.predict(seen).probabilities
    predicted = [bundle.classes[winner] for winner in probabilities.argmax(axis=1)]
    correct = None if labels is None else [a == b for a, b in zip(predicted, labels, strict=True)]
    n = len(seen)
    columns: dict[str, list[Any]] = {
        "bundle": [bundle.digest] * n,
        "image_id": ids or [None] * n,
        "kind": [kind] * n,
        "name": [name] * n,
        "severity": [severity] * n,
        "predicted": predicted,
        "confidence": probabilities.max(axis=1).tolist(),
        "correct": correct or [None] * n,
    }
    return pa.table(
        {field.name: pa.array(columns[field.name], field.type) for field in STRESS}, schema=STRESS
    )


def report(table: pa.Table) -> list[str]:
    """A line a bundle: accuracy as they are, on the mean, and under the worst corruption."""
    lines = []
    for digest in dict.fromkeys(table["bundle"].to_pylist()):
        mine = table.filter(pc.and_(pc.equal(table["bundle"], digest), pc.equal(table["kind"], "corruption")))
        if not mine.num_rows:
            continue
        names = np.array(mine["name"].to_pylist(), dtype=object)
        correct = mine["correct"].to_numpy(zero_copy_only=False).astype(float)
        means = {name: correct[names == name].mean() for name in CORRUPTIONS}
        worst = min(means, key=means.__getitem__)
        lines.append(
            f"{digest[:12]}: {correct[names == 'clean'].mean():.3f} of {int((names == 'clean').sum())} test images as they "
            f"are, {np.mean(list(means.values())):.3f} corrupted, {means[worst]:.3f} under {worst}"
        )
    return lines
