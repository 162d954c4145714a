"""Run what ships over the held-out images, and the champion over the same test images.

    python -m pipeline evaluate

The bundle answers through ONNX Runtime, on views made by the service's own decoding and preprocessing; no
torch. Writes a row per image (``artifacts/predictions.parquet``), the metrics with their intervals, and the
tables behind the plots. Which bundle made a table of predictions stands in the Parquet file's metadata.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from pipeline import artifacts
from pipeline.artifacts import Workspace
from pipeline.asked import ORIGIN, as_served, pinned_champion
from pipeline.bundle import Bundle
from pipeline.errors import DataError, IntegrityError
from pipeline.metrics import measure, measure_domains, reliability
from pipeline.params import Params
from pipeline.plots import write_plot
from pipeline.views import views

BATCH = 64


def run(workspace: Workspace, params: Params) -> int:
    """Bundle and split → predictions, metrics and plots."""
    held_out = _held_out(artifacts.read_table(workspace.split, artifacts.SPLIT))
    test = held_out.filter(pc.equal(held_out["split"], "test"))
    if test.num_rows == 0:
        raise DataError(
            "artifacts/split.parquet holds no test image: see `python -m pipeline split` for where they went"
        )
    clock = _Clock()
    bundle = Bundle.load(workspace.bundle, form=params.serve.format)
    clock.lap("load")
    predictions = predict(workspace, bundle, held_out, params)
    clock.lap("predict")
    champion = _champion(workspace, test, params)
    clock.lap("champion")
    metrics = summarise(predictions, bundle.info, params)
    clock.lap("metrics")
    timings = _timings(workspace)
    metrics["train"] |= {"images_per_second": timings.get("images_per_second")}
    metrics["seconds"] = timings.get("seconds", {}) | clock.seconds
    artifacts.write_table(workspace.predictions, predictions)
    artifacts.write_table(workspace.champion_predictions, champion)
    artifacts.write_json(workspace.metrics, metrics)
    write_plots(workspace.plots, predictions, metrics)
    print(report(metrics))
    return 0


def predict(workspace: Workspace, bundle: Bundle, images: pa.Table, params: Params) -> pa.Table:
    """``images`` (SPLIT schema) as ``bundle`` sees them: the PREDICTIONS schema, with the bundle's digest.

    Raises:
        DataError: an image is missing or does not decode.
        IntegrityError: the network answers with numbers that are none.
    """
    seen = views(
        workspace,
        images["path"].to_pylist(),
        images["image_id"].to_pylist(),
        bundle.preprocessing,
        max_pixels=params.data.max_pixels,
        max_bytes=params.data.max_bytes,
    )
    starts = range(0, len(seen), BATCH)
    parts = [
        bundle.predict(seen[start : start + BATCH]).probabilities
        for start in tqdm(starts, desc="predict", unit="batch", disable=len(starts) < 8)
    ]
    probabilities = np.concatenate(parts).astype(np.float32)
    broken = int((~np.isfinite(probabilities).all(axis=1)).sum())
    if broken:
        raise IntegrityError(
            f"{bundle.path} answers {broken} of {len(seen)} images with probabilities that are no numbers: "
            "its weights are broken; run `dvc repro -f train`"
        )
    return tabulate(images, probabilities, bundle.classes, bundle.digest)


def tabulate(images: pa.Table, probabilities: np.ndarray, classes: list[str], digest: str) -> pa.Table:
    """The PREDICTIONS table of ``probabilities`` [n, classes] for ``images`` [n]."""
    predicted = pa.array(classes, pa.string()).take(pa.array(probabilities.argmax(axis=1)))
    flat = pa.array(probabilities.ravel(), pa.float32())
    given = ("image_id", "path", "label", "domain", "group", "split")
    columns = {name: images[name] for name in given} | {
        "predicted": predicted,
        "confidence": pa.array(probabilities.max(axis=1), pa.float32()),
        "correct": pc.equal(images["label"].combine_chunks(), predicted),
        "probabilities": pa.FixedSizeListArray.from_arrays(flat, len(classes)).cast(pa.list_(pa.float32())),
    }
    origin = json.dumps({"bundle": digest, "classes": classes}).encode()
    return pa.table(columns, schema=artifacts.PREDICTIONS.with_metadata({ORIGIN: origin}))


def _timings(workspace: Workspace) -> dict[str, Any]:
    """How long training took, from beside the bundle; not part of it, so empty where it was not kept."""
    path = workspace.bundle / "timings.json"
    return dict(artifacts.read_json(path)) if path.exists() else {}


def summarise(predictions: pa.Table, info: dict[str, Any], params: Params) -> dict[str, Any]:
    """metrics.json, without the seconds of this run: what ``gate`` computes again and compares.

    Raises:
        DataError: a held-out image is of a class that the bundle does not know.
    """
    classes = info["classes"]
    unknown = sorted(set(predictions["label"].to_pylist()) - set(classes))
    if unknown:
        raise DataError(
            f"the bundle does not know the classes {unknown} of the held-out images: run `dvc repro train`"
        )
    parts = {
        split: predictions.filter(pc.equal(predictions["split"], split)) for split in ("test", "validation")
    }
    settings = {"resamples": params.evaluate.bootstrap, "seed": params.seed}
    metrics = {
        "strategy": info.get("strategy"),
        "backbone": info.get("backbone"),
        "test": measure(parts["test"], classes, **settings),
        "by_domain": measure_domains(parts["test"]),
        "train": dict(info.get("train", {})),
        "seconds": {},
    }
    if parts["validation"].num_rows:
        metrics["validation"] = measure(parts["validation"], classes, **settings)
    return metrics


def write_plots(folder: Path, predictions: pa.Table, metrics: dict[str, Any]) -> None:
    """The tables of ``dvc plots show``, all over the test images."""
    test = predictions.filter(pc.equal(predictions["split"], "test"))
    actual, predicted = test["label"].to_pylist(), test["predicted"].to_pylist()
    write_plot(folder / "confusion.csv", ("actual", "predicted"), zip(actual, predicted, strict=True))
    rows = [
        (label, row["recall"], *row["recall_ci95"], row["support"])
        for label, row in metrics["test"]["per_class"].items()
        if row["support"]
    ]
    write_plot(folder / "recall.csv", ("label", "recall", "low", "high", "images"), rows)
    points = reliability(test)
    write_plot(folder / "reliability.csv", tuple(points[0]), (tuple(point.values()) for point in points))


def report(metrics: dict[str, Any]) -> str:
    """What a person wants to know first."""
    test = metrics["test"]
    lines = [f"{test['n']:,} test images in {test['groups']:,} groups"]
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "nll", "ece"):
        interval = test[f"{name}_ci95"]
        text = f"  95 % {interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        lines.append(f"{name:<18}{test[name]:>7.3f}{text}")
    lines += [
        f"{'on ' + domain:<18}{row['accuracy']:>7.3f}  95 % {row['accuracy_ci95'][0]:.3f} to "
        f"{row['accuracy_ci95'][1]:.3f}, {row['n']:,} images"
        for domain, row in metrics["by_domain"].items()
    ]
    return "\n".join(lines)


def _held_out(split: pa.Table) -> pa.Table:
    return split.filter(pc.is_in(split["split"], value_set=pa.array(["validation", "test"])))


def _champion(workspace: Workspace, test: pa.Table, params: Params) -> pa.Table:
    """The pinned champion's predictions of the ``test`` images; an empty table where none is pinned."""
    path = pinned_champion(workspace)
    if path is None:
        return artifacts.PREDICTIONS.empty_table()
    return predict(workspace, as_served(path, params.serve.format), test, params)


class _Clock:
    """Seconds by step, for metrics.json."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 3)
        self._last = now
