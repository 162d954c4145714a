"""Is what was measured what would ship, and is what was written what was measured? Nobody may override these.

Each check compares two things that were written at different moments by different code; what is in the bundle itself
is compared in ``consistency``. What none of them
sees: whoever rewrites all the files of a bundle consistently, its reference and its weights included, has made
another bundle; it is judged as such.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.checks import Check, integrity
from pipeline.consistency import bundle_checks
from pipeline.evaluate import summarise
from pipeline.evidence import Evidence
from pipeline.leak import MOST_ALIKE
from pipeline.metrics import label_codes, probability_matrix
from pipeline.params import Params

__all__ = ["integrity_checks"]

TOLERANCE = 2e-6  # metrics.json is rounded to six digits

RERUN = "`dvc repro -f evaluate`"
REBUILD = "`dvc repro -f bundle`"
# Code that no commit holds can't be made again by anybody, so whoever tries out changes of it gets no PROMOTE.
COMMIT = f"`git commit pipeline dvc.yaml`, then {REBUILD}"
LICENCE = "`license` in the config.json beside the weights (of timm: in its pretrained_cfg), then `dvc repro -f train`"
FINE = "data, parameters, lock, weights, their licence and the code's commit are on record"


def integrity_checks(evidence: Evidence, params: Params) -> list[Check]:
    """The bundle first: where it is damaged, nothing that it says is looked at."""
    checks = [
        integrity("bundle", evidence.damage, f"every file of {evidence.challenger[:12]} is as sealed", "`dvc repro`"),
        _data(evidence.validation),
    ]  # fmt: skip
    if evidence.damage:
        return checks
    predictions = evidence.predictions
    test = predictions.filter(pc.equal(predictions["split"], "test"))
    fault = _predictions_fault(predictions, evidence.origin, evidence.challenger, evidence.info["classes"])
    rows = predictions.num_rows
    checks.append(
        integrity("predictions", fault, "made by this bundle, row by row consistent", RERUN, support=rows)
    )
    if not fault:
        checks += bundle_checks(evidence, params.bundle)
        computed = summarise(predictions, evidence.info, params)
        difference = _metrics_fault(evidence.metrics, computed)
        fault = f"metrics.json is not what the predictions give: {difference}" if difference else None
        checks.append(
            integrity("metrics", fault, "metrics.json follows from the predictions", RERUN, support=rows)
        )
    checks.append(_lineage(evidence))
    checks.append(
        integrity("leak", evidence.leak, _aside(evidence.alike),
                  "one group for images of one thing (`data.group_pattern`, or a column `group`), or the copies that artifacts/leak.json "
                  "names out of the data; then `dvc repro`",
                  None if evidence.leak else round(len(evidence.alike) / max(1, test.num_rows), 6), MOST_ALIKE, test.num_rows)
    )  # fmt: skip
    checks.append(
        integrity("companions", _companion_fault(evidence), "the stress test and the timings are of the same bundles",
                  "`dvc repro -f stress performance`")
    )  # fmt: skip
    return checks + ([_test_images(evidence, test)] if evidence.champion else [])


def _predictions_fault(
    predictions: pa.Table, origin: dict[str, Any], digest: str, classes: Sequence[str]
) -> str | None:
    """What shows that ``predictions`` are not what the bundle ``digest`` said of the images; None where all fits."""
    if origin.get("bundle") != digest:
        made_by = str(origin.get("bundle"))[:12]
        return f"the predictions were made by the bundle {made_by}, the challenger is {digest[:12]}"
    if list(origin.get("classes", [])) != list(classes):
        return "the predictions and the bundle disagree about the classes"
    if "test" not in predictions["split"].to_pylist():
        return "there are no predictions of test images"
    images = predictions["image_id"].to_pylist()
    if len(set(images)) != len(images):
        return f"{len(images) - len(set(images))} images are predicted twice"
    try:
        labels, predicted = (label_codes(predictions[name], classes) for name in ("label", "predicted"))
        probabilities = probability_matrix(predictions)
    except (KeyError, ValueError) as error:
        return f"the predictions don't fit the bundle's classes: {error}"
    if probabilities.shape[1] != len(classes) or not np.isfinite(probabilities).all():
        return "some probabilities are missing or no numbers"
    correct = predictions["correct"].to_numpy(zero_copy_only=False)
    wrong = (probabilities.argmax(axis=1) != predicted) | ((labels == predicted) != correct)
    if wrong.any():
        return f"{int(wrong.sum())} rows contradict their own probabilities or labels: the table was edited"
    return None


def _metrics_fault(written: Any, computed: Any, where: str = "") -> str | None:
    """The first difference between metrics.json as ``written`` and as ``computed`` from the predictions."""
    if isinstance(computed, dict) and isinstance(written, dict):
        for key in [*computed, *(key for key in written if key not in computed)]:
            if (where, key) in (("", "seconds"), ("train", "images_per_second")):
                continue
            name = f"{where}.{key}" if where else str(key)
            if key not in computed or key not in written:
                return f"{name} is {'missing' if key not in written else 'not from the predictions'}"
            fault = _metrics_fault(written[key], computed[key], name)
            if fault:
                return fault
        return None
    if isinstance(computed, list) and isinstance(written, list) and len(computed) == len(written):
        faults = (_metrics_fault(w, c, where) for w, c in zip(written, computed, strict=True))
        return next((fault for fault in faults if fault), None)
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (written, computed))
    if written == computed or (numbers and math.isclose(written, computed, rel_tol=0, abs_tol=TOLERANCE)):
        return None
    return f"{where} is {written}, the predictions give {computed}"


def _data(validation: dict[str, Any]) -> Check:
    """Expectations on the data that failed, of those that may not."""
    expected = [
        entry for entry in validation.get("expectations", []) if entry.get("severity", "fail") == "fail"
    ]
    failed = sum(not entry.get("success") for entry in expected)
    sound = validation.get("success") is True
    return integrity(
        "data", None if sound else "reports/validation.json says that the data failed", "the data passed its validation",
        "mend the data that `python -m pipeline validate` lists, then `dvc repro`",
        float(failed) if failed or sound else None, 0.0, len(expected),
    )  # fmt: skip


def _lineage(evidence: Evidence) -> Check:
    """What the bundle says that it was made from, against what lies here; what it does not say, a person decides."""
    info = evidence.info
    digests, weights = info.get("digests", {}), info.get("weights") or {}
    wrong = [name for name, digest in evidence.sources.items() if digests.get(name) not in (None, digest)]
    if wrong:
        return integrity(
            "lineage", f"the bundle was made from another {', '.join(wrong)} than what lies here", "", "`dvc repro`",
            float(len(wrong)), 0.0,
        )  # fmt: skip
    missing = {name: REBUILD for name in ("manifest", "split", "params", "weights") if not digests.get(name)}
    if not digests.get("lock"):
        missing["lock"] = f"requirements.lock beside dvc.yaml, then {REBUILD}"
    code = info.get("code") or {}
    if not code.get("commit"):
        missing["code (no git commit)"] = COMMIT
    elif code.get("dirty"):
        missing["code (it had uncommitted changes)"] = COMMIT
    if not weights.get("licence") and weights.get("source") != "none":  # random ones are nobody's
        missing["licence of the weights"] = LICENCE
    if not missing:
        return integrity("lineage", None, FINE, "", 0.0, 0.0)
    return Check(
        "lineage", "unknown", float(len(missing)), None, 0.0, None, "; ".join(dict.fromkeys(missing.values())),
        kind="evidence", detail=f"not on record: {', '.join(missing)}",
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


def _test_images(evidence: Evidence, ours: pa.Table) -> Check:
    """Was the champion asked about the same test images, with the same labels?"""
    made_by, theirs = evidence.champion_origin.get("bundle"), evidence.champion_predictions
    names = [
        dict(zip(table["image_id"].to_pylist(), table["label"].to_pylist(), strict=True))
        for table in (ours, theirs)
    ]
    missing, foreign = len(names[0].keys() - names[1].keys()), len(names[1].keys() - names[0].keys())
    fault = None
    if made_by != evidence.champion:
        fault = f"champion-pin.json names {str(evidence.champion)[:12]}, its predictions are by {str(made_by)[:12]}"
    elif names[0] != names[1] or ours.num_rows != theirs.num_rows:
        fault = (
            f"the champion was asked about other test images or labels: {missing} of {ours.num_rows} are missing, "
            f"{foreign} are foreign"
        )
    return integrity(
        "test_images", fault, "both were asked about the same images", RERUN,
        float(missing + foreign), 0.0, ours.num_rows,
    )  # fmt: skip
