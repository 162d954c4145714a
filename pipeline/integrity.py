"""Is what was measured what would ship, and is what was written what was measured? Nobody may override these.

Each check compares two things that were written at different moments by different code. What none of them
sees: whoever rewrites all the files of a bundle consistently, its reference and its weights included, has made
another bundle; it is judged as such.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.checks import Check, integrity, metrics_fault, predictions_fault
from pipeline.errors import IntegrityError
from pipeline.evaluate import summarise
from pipeline.evidence import Evidence
from pipeline.metrics import label_codes, probability_matrix
from pipeline.params import Params
from pipeline.transfer.calibration import fit_temperature
from pipeline.transforms import Preprocessing

__all__ = ["integrity_checks"]

ANSWERS = 2e-3  # of a probability: rounding differs by far less, another network or preprocessing by more
HEAD = 2e-2  # of a probability recomputed from the stored embedding
TEMPERATURE = 0.01  # relative, of the temperature fitted again
SCALED = 1.35  # the temperature that vector scaling may leave to be asked for: on the images that it was fitted to it
# can be shy, since it is regularised, but hardly too sure
SMALLEST = 1e-30

RERUN = "`dvc repro -f evaluate`"
REBUILD = "`dvc repro -f bundle`"


def integrity_checks(evidence: Evidence, params: Params) -> list[Check]:
    """The bundle first: where it is damaged, nothing that it says is looked at."""
    checks = [
        integrity("bundle", evidence.damage, f"every file of {evidence.challenger[:12]} is as sealed", "`dvc repro`"),
        integrity(
            "data",
            None if evidence.validation.get("success") is True else "reports/validation.json says that the data failed",
            "the data passed its validation",
            "mend the data that `python -m pipeline validate` lists, then `dvc repro`",
        ),
    ]  # fmt: skip
    if evidence.damage:
        return checks
    fault = predictions_fault(
        evidence.predictions, evidence.origin, evidence.challenger, evidence.info["classes"]
    )
    checks.append(integrity("predictions", fault, "made by this bundle, row by row consistent", RERUN))
    if not fault:
        checks += _of_the_bundle(evidence)
        computed = summarise(evidence.predictions, evidence.info, params)
        difference = metrics_fault(evidence.metrics, computed)
        fault = f"metrics.json is not what the predictions give: {difference}" if difference else None
        checks.append(integrity("metrics", fault, "metrics.json follows from the predictions", RERUN))
    checks.append(_lineage(evidence))
    checks.append(
        integrity("leak", evidence.leak, _aside(evidence.alike),
                  "one group for images of one thing (`data.group_pattern`, or a column `group`), or the copies that artifacts/leak.json "
                  "names out of the data; then `dvc repro`")
    )  # fmt: skip
    checks.append(
        integrity("companions", _companion_fault(evidence), "the stress test and the timings are of the same bundles",
                  "`dvc repro -f stress performance`")
    )  # fmt: skip
    if evidence.champion:
        checks.append(
            integrity(
                "test_images", _champion_fault(evidence), "both were asked about the same images", RERUN
            )
        )
    return checks


def _of_the_bundle(evidence: Evidence) -> list[Check]:
    """What is in the bundle against each other, and against what it says now."""
    return [
        integrity("fingerprint", _fingerprint_fault(evidence.info), "the preprocessing gives what it gave", REBUILD),
        integrity("parity", _parity_fault(evidence), "torch, ONNX and the answers of today agree", REBUILD),
        integrity("calibration", _calibration_fault(evidence), "the temperature follows from validation images", REBUILD),
    ]  # fmt: skip


def _fingerprint_fault(info: dict[str, Any]) -> str | None:
    try:
        found = Preprocessing.from_dict(info["preprocessing"]).fingerprint()
    except IntegrityError as error:
        return str(error)
    if found != info.get("fingerprint"):
        return "the preprocessing that bundle.json describes has another fingerprint than the one in it"
    return None


def _parity_fault(evidence: Evidence) -> str | None:
    """torch and ONNX at the export; the head's weights and the stored answers; the stored answers and today's."""
    recorded = evidence.info.get("parity")
    if not recorded or not recorded["error"] <= recorded["limit"]:
        told = (
            f"differed by {recorded['error']:g}, over {recorded['limit']:g}"
            if recorded
            else "were not compared"
        )
        return f"torch and ONNX {told} at the export"
    reference = evidence.references.get("onnx")
    if reference is None or not reference.num_rows:
        return "the bundle holds no reference answers"
    stored = np.array(reference["probabilities"].to_pylist(), dtype=np.float64)
    if evidence.head is None:
        return "model.safetensors holds no head: it is not the network of model.onnx"
    weight, bias = evidence.head
    embedding = np.array(reference["embedding"].to_pylist(), dtype=np.float64)
    if embedding.shape[1] != weight.shape[1] or len(weight) != stored.shape[1]:
        return f"the head in model.safetensors is {weight.shape}, the reference needs {(stored.shape[1], embedding.shape[1])}"
    again = _softmax((embedding @ weight.T + bias) / float(evidence.info["temperature"]))
    worst = float(np.abs(again - stored).max())
    if worst > HEAD:
        return f"the head in model.safetensors gives other answers than model.onnx gave, by up to {worst:.3f}"
    return _drift_fault(evidence.references.get(evidence.form), evidence.predictions, evidence.form)


def _drift_fault(reference: pa.Table | None, predictions: pa.Table, form: str) -> str | None:
    """Answers to held-out images when the bundle was sealed, and now."""
    if reference is None:
        return f"the bundle holds no reference answers of its {form} network"
    place = {image_id: row for row, image_id in enumerate(reference["image_id"].to_pylist())}
    rows = [place.get(image_id, -1) for image_id in predictions["image_id"].to_pylist()]
    if -1 in rows:
        return f"{rows.count(-1)} of {len(rows)} held-out images are not in the bundle's reference: it is of other data"
    stored = np.array(reference["probabilities"].to_pylist(), dtype=np.float64)[rows]
    difference = np.abs(stored - probability_matrix(predictions)).max(axis=1)
    wrong = int((difference > ANSWERS).sum())
    if wrong:
        first = predictions["path"][int(difference.argmax())].as_py()
        return (
            f"{wrong} of {len(rows)} held-out images are answered otherwise than when the bundle was sealed, by up to "
            f"{difference.max():.3f} ({first}): another network, or another preprocessing"
        )
    return None


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))


def _calibration_fault(evidence: Evidence) -> str | None:
    """Fit the temperature again, to the validation images' stored answers."""
    reference = evidence.references.get("onnx")
    validation = evidence.predictions.filter(pc.equal(evidence.predictions["split"], "validation"))
    if reference is None or not validation.num_rows:
        return None
    known = set(validation["image_id"].to_pylist())
    rows = [row for row, image_id in enumerate(reference["image_id"].to_pylist()) if image_id in known]
    held = reference.take(pa.array(rows, pa.int64()))
    temperature = float(evidence.info["temperature"])
    probabilities = np.array(held["probabilities"].to_pylist(), dtype=np.float64)
    logits = np.log(np.maximum(probabilities, SMALLEST)) * temperature
    again = fit_temperature(logits, label_codes(held["label"], evidence.info["classes"]))
    if evidence.info["validation"].get("method") == "vector":
        if temperature != 1.0:
            return f"vector scaling leaves no temperature to apply, bundle.json has {temperature:.4f}"
        if again <= SCALED:
            return None
        return f"after vector scaling the validation images still ask for a temperature of {again:.3f}: it was fitted to others"
    if abs(again / temperature - 1) <= TEMPERATURE:
        return None
    return (
        f"the temperature is {temperature:.4f}, the {len(rows)} validation images give {again:.4f}: it was fitted to "
        "other images"
    )


def _lineage(evidence: Evidence) -> Check:
    """What the bundle says that it was made from, against what lies here; what it does not say, a person decides."""
    digests = evidence.info.get("digests", {})
    wrong = [name for name, digest in evidence.sources.items() if digests.get(name) not in (None, digest)]
    if wrong:
        return integrity(
            "lineage",
            f"the bundle was made from another {', '.join(wrong)} than what lies here",
            "",
            "`dvc repro`",
        )
    names = ("manifest", "split", "params", "lock", "weights")
    missing = [name for name in names if not digests.get(name)]
    code = evidence.info.get("code", {})
    if not code.get("commit"):
        missing.append("code (no git commit)")
    notes = ["the code had uncommitted changes"] if code.get("dirty") else []
    if not evidence.info.get("weights", {}).get("licence"):
        notes.append("the weights' licence is not stated")
    detail = "; ".join([f"not on record: {', '.join(missing)}"] * bool(missing) + notes)
    return Check(
        "integrity_lineage" if not missing else "lineage",
        "unknown" if missing else "pass",
        kind="integrity" if not missing else "evidence",
        would_flip="a git commit, and requirements.lock beside dvc.yaml; then `dvc repro -f bundle`" if missing else None,
        detail=detail or "data, parameters, lock, weights, licence and commit are on record",
    )  # fmt: skip


def _aside(alike: frozenset[str]) -> str:
    fine = "no test image is a copy of one that was trained on, now or before"
    if not alike:
        return fine
    return f"{fine}, but {len(alike)} look like one, mirrored or to the network, and are set aside (artifacts/leak.json), e.g. {min(alike)}"


def _companion_fault(evidence: Evidence) -> str | None:
    bundles = [digest for digest in (evidence.challenger, evidence.champion) if digest]
    stressed = list(evidence.stress_origin.get("bundles", []))
    if stressed != bundles:
        return f"artifacts/stress.parquet is about {_short(stressed)}, the verdict about {_short(bundles)}"
    timed = [
        row["digest"] for row in (evidence.performance["challenger"], evidence.performance["champion"]) if row
    ]
    if timed != bundles:
        return f"reports/performance.json is about {_short(timed)}, the verdict about {_short(bundles)}"
    return None


def _short(digests: list[str]) -> str:
    return " and ".join(digest[:12] for digest in digests) or "nobody"


def _champion_fault(evidence: Evidence) -> str | None:
    """What makes the champion's predictions no fair comparison."""
    made_by = evidence.champion_origin.get("bundle")
    if made_by != evidence.champion:
        return f"champion-pin.json names {str(evidence.champion)[:12]}, its predictions are by {str(made_by)[:12]}"
    theirs = evidence.champion_predictions
    ours = evidence.predictions.filter(pc.equal(evidence.predictions["split"], "test"))
    names = [
        dict(zip(table["image_id"].to_pylist(), table["label"].to_pylist(), strict=True))
        for table in (ours, theirs)
    ]
    if names[0] != names[1] or ours.num_rows != theirs.num_rows:
        missing, foreign = len(names[0].keys() - names[1].keys()), len(names[1].keys() - names[0].keys())
        return (
            f"the champion was asked about other test images or labels: {missing} of {ours.num_rows} are missing, "
            f"{foreign} are foreign"
        )
    return None
