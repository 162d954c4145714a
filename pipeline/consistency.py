"""Does what is in the bundle agree with itself, and with what it says now?

torch and ONNX at the export, the head's weights and the stored answers, the stored answers and today's, float32
and INT8, the temperature and the images that it should follow from.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.bundle import NETWORKS
from pipeline.checks import Check, integrity
from pipeline.errors import IntegrityError
from pipeline.evidence import Evidence
from pipeline.metrics import label_codes, probability_matrix
from pipeline.params import Bundle
from pipeline.transfer.calibration import fit_temperature
from pipeline.transforms import Preprocessing

__all__ = ["bundle_checks"]

ANSWERS = 2e-3  # of a probability: rounding differs by far less, another network or preprocessing by more
HEAD = 2e-2  # of a probability recomputed from the stored embedding
TEMPERATURE = 0.01  # relative, of the temperature fitted again
SCALED = 1.35  # the temperature that vector scaling may leave to be asked for: on the images that it was fitted to it
# can be shy, since it is regularised, but hardly too sure
RECORDED = (
    0.01  # of the agreement of INT8 with float32, between what is written and what the stored answers give
)
SMALLEST = 1e-30

REBUILD = "`dvc repro -f bundle`"


class Compared(NamedTuple):
    """What a comparison found: in words where it does not fit; the number, its limit, over how many images."""

    fault: str | None = None
    value: float | None = None
    bound: float | None = None
    support: int | None = None


def bundle_checks(evidence: Evidence, limits: Bundle) -> list[Check]:
    """What is in the bundle against each other, and against what it says now; ``limits``: those of INT8."""
    found = {
        "fingerprint": (Compared(_fingerprint_fault(evidence.info)), "the preprocessing gives what it gave"),
        "parity": (_parity(evidence), "torch, ONNX and the answers of today agree"),
        "calibration": (_calibration(evidence), "the temperature follows from validation images"),
    }
    checks = [
        integrity(name, compared.fault, fine, REBUILD, *compared[1:])
        for name, (compared, fine) in found.items()
    ]
    if NETWORKS["int8"] in evidence.info.get("files", {}):
        checks += _int8(evidence, limits)
    return checks


def _fingerprint_fault(info: dict[str, Any]) -> str | None:
    try:
        found = Preprocessing.from_dict(info["preprocessing"]).fingerprint()
    except IntegrityError as error:
        return str(error)
    if found != info.get("fingerprint"):
        return "the preprocessing that bundle.json describes has another fingerprint than the one in it"
    return None


def _parity(evidence: Evidence) -> Compared:
    """torch and ONNX at the export; the head's weights and the stored answers; the stored answers and today's.

    The number is that of the first, or of the comparison that does not fit.
    """
    recorded = evidence.info.get("parity")
    if not recorded:
        return Compared("torch and ONNX were not compared at the export")
    export = Compared(None, recorded["error"], recorded["limit"], recorded.get("images"))
    if not recorded["error"] <= recorded["limit"]:
        told = f"differed by {recorded['error']:g}, over {recorded['limit']:g}"
        return export._replace(fault=f"torch and ONNX {told} at the export")
    reference = evidence.references.get("onnx")
    if reference is None or not reference.num_rows:
        return Compared("the bundle holds no reference answers")
    head = _head(evidence, reference)
    if head.fault:
        return head
    drift = _drift(evidence.references.get(evidence.form), evidence.predictions, evidence.form)
    return drift if drift.fault else export._replace(support=export.support or drift.support)


def _head(evidence: Evidence, reference: pa.Table) -> Compared:
    """The answers that the head of model.safetensors gives to the stored embeddings, and the stored answers."""
    stored = np.array(reference["probabilities"].to_pylist(), dtype=np.float64)
    if evidence.head is None:
        return Compared("model.safetensors holds no head: it is not the network of model.onnx")
    weight, bias = evidence.head
    embedding = np.array(reference["embedding"].to_pylist(), dtype=np.float64)
    if embedding.shape[1] != weight.shape[1] or len(weight) != stored.shape[1]:
        needed = (stored.shape[1], embedding.shape[1])
        return Compared(f"the head in model.safetensors is {weight.shape}, the reference needs {needed}")
    again = _softmax((embedding @ weight.T + bias) / float(evidence.info["temperature"]))
    worst = float(np.abs(again - stored).max())
    fault = f"the head in model.safetensors gives other answers than model.onnx gave, by up to {worst:.3f}"
    return Compared(fault if worst > HEAD else None, worst, HEAD, len(stored))


def _drift(reference: pa.Table | None, predictions: pa.Table, form: str) -> Compared:
    """Answers to held-out images when the bundle was sealed, and now."""
    if reference is None:
        return Compared(f"the bundle holds no reference answers of its {form} network")
    place = {image_id: row for row, image_id in enumerate(reference["image_id"].to_pylist())}
    rows = [place.get(image_id, -1) for image_id in predictions["image_id"].to_pylist()]
    if -1 in rows:
        return Compared(
            f"{rows.count(-1)} of {len(rows)} held-out images are not in the bundle's reference: it is of other data"
        )
    stored = np.array(reference["probabilities"].to_pylist(), dtype=np.float64)[rows]
    difference = np.abs(stored - probability_matrix(predictions)).max(axis=1)
    wrong, worst = int((difference > ANSWERS).sum()), float(difference.max())
    fault = None
    if wrong:
        first = predictions["path"][int(difference.argmax())].as_py()
        fault = (
            f"{wrong} of {len(rows)} held-out images are answered otherwise than when the bundle was sealed, by up to "
            f"{worst:.3f} ({first}): another network, or another preprocessing"
        )
    return Compared(fault, worst, ANSWERS, len(rows))


def _int8(evidence: Evidence, limits: Bundle) -> list[Check]:
    """The INT8 network beside float32 on validation images, whichever of the two is served."""
    figures = (evidence.info.get("formats") or {}).get("int8") or {}
    if not figures.get("kept") or figures.get("agreement") is None:
        nothing = f"the bundle holds {NETWORKS['int8']}, but nothing of how it agrees with float32"
        return [integrity("parity_int8", nothing, "", REBUILD)]
    agreement, drop, n = figures["agreement"], figures["accuracy_drop"], figures["images"]
    least, most = limits.min_int8_agreement, limits.max_int8_drop
    again = _agreement(evidence)
    fault: str | None = None
    if not agreement >= least:
        fault = f"INT8 and float32 agree on {agreement:.3f} of the validation images, under {least:g} (bundle.min_int8_agreement)"
    elif again is not None and abs(again - agreement) > RECORDED:
        fault = f"bundle.json says that INT8 agrees with float32 on {agreement:.3f}, the stored answers say {again:.3f}"
    lost = f"INT8 loses {drop:.3f} of the accuracy on validation images, over {most:g} (bundle.max_int8_drop)"
    mend = f"`bundle.formats: [onnx]` in params.yaml, then {REBUILD}"
    return [
        integrity("parity_int8", fault, "INT8 and float32 name the same class", mend, agreement, least, n,
                  figures.get("agreement_ci95")),
        integrity("drop_int8", None if drop <= most else lost, "INT8 is as right as float32", mend, drop, most, n),
    ]  # fmt: skip


def _agreement(evidence: Evidence) -> float | None:
    """Share of the validation images that the stored answers of both networks give one class; None without them."""
    tables = [evidence.references.get(form) for form in ("onnx", "int8")]
    validation = evidence.predictions.filter(pc.equal(evidence.predictions["split"], "validation"))
    if any(table is None for table in tables) or not validation.num_rows:
        return None
    named = [
        dict(zip(t["image_id"].to_pylist(), t["predicted"].to_pylist(), strict=True)) for t in tables if t
    ]
    ids = validation["image_id"].to_pylist()
    return float(np.mean([named[0].get(image_id) == named[1].get(image_id) for image_id in ids]))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))


def _calibration(evidence: Evidence) -> Compared:
    """Fit the temperature again, to the validation images' stored answers."""
    reference = evidence.references.get("onnx")
    validation = evidence.predictions.filter(pc.equal(evidence.predictions["split"], "validation"))
    if reference is None or not validation.num_rows:
        return Compared()
    known = set(validation["image_id"].to_pylist())
    rows = [row for row, image_id in enumerate(reference["image_id"].to_pylist()) if image_id in known]
    held = reference.take(pa.array(rows, pa.int64()))
    temperature = float(evidence.info["temperature"])
    probabilities = np.array(held["probabilities"].to_pylist(), dtype=np.float64)
    logits = np.log(np.maximum(probabilities, SMALLEST)) * temperature
    again = fit_temperature(logits, label_codes(held["label"], evidence.info["classes"]))
    fault = None
    if evidence.info["validation"].get("method") == "vector":
        if temperature != 1.0:
            fault = f"vector scaling leaves no temperature to apply, bundle.json has {temperature:.4f}"
        elif again > SCALED:
            fault = (
                f"after vector scaling the validation images still ask for a temperature of {again:.3f}: it was fitted "
                "to others"
            )
        return Compared(fault, round(again, 6), SCALED, len(rows))
    off = abs(again / temperature - 1)
    if off > TEMPERATURE:
        fault = (
            f"the temperature is {temperature:.4f}, the {len(rows)} validation images give {again:.4f}: it was fitted to "
            "other images"
        )
    return Compared(fault, round(off, 6), TEMPERATURE, len(rows))
