"""Faults of predictions, reports and of what serves, for the fire drill."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flows.drill_workspace import Drill, Fault
from pipeline.artifacts import PREDICTIONS, digest_file, read_json, read_table, write_table
from pipeline.asked import ORIGIN
from pipeline.evaluate import summarise
from pipeline.params import Params

__all__ = ["FAULTS"]


def _table(drill: Drill, name: str) -> tuple[pa.Table, dict[bytes, bytes]]:
    import pyarrow.parquet as pq

    path = getattr(drill.workspace, name)
    return read_table(path, PREDICTIONS), dict(pq.read_schema(path).metadata or {})


def _rewrite(drill: Drill, name: str, table: pa.Table, metadata: dict[bytes, bytes]) -> None:
    path = getattr(drill.workspace, name)
    path.unlink()
    write_table(path, table.replace_schema_metadata({ORIGIN: metadata[ORIGIN]}))


def _other_test_set(drill: Drill) -> None:
    """The champion was scored where it does worse: without the images that it names right."""
    table, metadata = _table(drill, "champion_predictions")
    right = table.filter(table["correct"])
    wrong = table.filter(pc.invert(table["correct"]))
    _rewrite(drill, "champion_predictions", pa.concat_tables([right.slice(10), wrong]), metadata)


def _other_labels(drill: Drill) -> None:
    """The same images, but some of the champion's right answers are held to be wrong."""
    table, metadata = _table(drill, "champion_predictions")
    rows = table.to_pylist()
    for row in [row for row in rows if row["correct"]][:8]:
        row["label"], row["correct"] = next(r["label"] for r in rows if r["label"] != row["label"]), False
    _rewrite(drill, "champion_predictions", pa.Table.from_pylist(rows, schema=PREDICTIONS), metadata)


def _prettier(drill: Drill) -> list[dict[str, Any]]:
    """Every wrong prediction made right, its probabilities with it."""
    classes = read_json(drill.workspace.bundle / "bundle.json")["classes"]
    rows = read_table(drill.workspace.predictions, PREDICTIONS).to_pylist()
    for row in rows:
        if not row["correct"]:
            mine, right = classes.index(row["predicted"]), classes.index(row["label"])
            values = row["probabilities"]
            values[mine], values[right] = values[right], values[mine]
            row["predicted"], row["correct"], row["confidence"] = row["label"], True, max(values)
    return rows


def _edited_predictions(drill: Drill) -> None:
    """By someone careful: the metrics are computed anew from the edited table."""
    rows = _prettier(drill)
    _, metadata = _table(drill, "predictions")
    table = pa.Table.from_pylist(rows, schema=PREDICTIONS)
    _rewrite(drill, "predictions", table, metadata)
    info = read_json(drill.workspace.bundle / "bundle.json")
    metrics = read_json(drill.workspace.metrics)
    metrics |= {
        k: v for k, v in summarise(table, info, Params.load(drill.workspace.params)).items() if k != "train"
    }
    drill.replace(drill.workspace.metrics, json.dumps(metrics).encode())


def _edited_metrics(drill: Drill) -> None:
    metrics = read_json(drill.workspace.metrics)
    metrics["test"]["accuracy"] = 0.999
    drill.replace(drill.workspace.metrics, json.dumps(metrics).encode())


def _stale_stress(drill: Drill) -> None:
    """The stress test of an earlier challenger."""
    import pyarrow.parquet as pq

    path = drill.workspace.stress
    table = pq.read_table(path)
    origin = json.loads(table.schema.metadata[ORIGIN])
    origin["bundles"][0] = "0" * 64
    path.unlink()
    write_table(path, table.replace_schema_metadata({ORIGIN: json.dumps(origin).encode()}))


def _worn(drill: Drill) -> None:
    """Three challengers have been judged on these test images; params.yaml allows two."""
    from pipeline import peeks

    table = read_table(drill.workspace.predictions, PREDICTIONS)
    test = table.filter(pc.equal(table["split"], "test"))["image_id"].to_pylist()
    for number in range(3):
        peeks.count(drill.workspace, f"{number}" * 64, test)
    drill.params(gate={"max_peeks": 2})
    challenger = digest_file(drill.workspace.bundle / "bundle.json")
    _forget(drill, challenger)


def _forget(drill: Drill, challenger: str) -> None:
    """The control itself was judged before; here it comes last."""
    record = read_json(drill.workspace.peeks)
    record["verdicts"] = [entry for entry in record["verdicts"] if entry["challenger"] != challenger]
    drill.replace(drill.workspace.peeks, json.dumps(record).encode())


def _faster(drill: Drill) -> None:
    """Timings are measured once: nothing computes them again."""
    measured = read_json(drill.workspace.performance)
    ours = measured["challenger"]
    ours["by_round"] = [value / 2 for value in ours["by_round"]]
    ours["milliseconds"] = {name: value / 2 for name, value in ours["milliseconds"].items()}
    drill.replace(drill.workspace.performance, json.dumps(measured).encode())


def _nothing(drill: Drill) -> None:
    """The fault is in what serves."""


FAULTS = [
    Fault("other_test_set", "the champion scored on another test set", _other_test_set, "gate", "gate: integrity_test_images",
          "10 of"),
    Fault("other_labels", "the champion scored by other labels", _other_labels, "gate", "gate: integrity_test_images",
          "other test images or labels"),
    Fault("metrics_edited", "metrics.json edited by hand", _edited_metrics, "gate", "gate: integrity_metrics",
          r"test\.accuracy is 0\.999"),
    Fault("predictions_edited", "predictions edited, the metrics computed anew from them", _edited_predictions, "gate",
          "gate: integrity_parity", "answered otherwise"),
    Fault("stale_stress", "the stress test of another bundle", _stale_stress, "gate", "gate: integrity_companions",
          r"stress\.parquet is about 000000000000"),
    Fault("stale_service", "a service that gives the champion's answers under the challenger's digest", _nothing, "sandbox",
          "sandbox", "offline it was"),
    Fault("timings_edited", "timings halved by hand before the verdict", _faster, "gate", None,
          escapes="they are measured once, in a process of their own, and differ from run to run: nothing gives them again"),
    Fault("worn_test_set", "a test set that was chosen by too often", _worn, "gate", "gate: peeks", "fresh test images"),
]  # fmt: skip
