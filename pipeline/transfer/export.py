"""From a checkpoint to a bundle: ONNX that answers like the network it came from, calibrated, with its papers."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file

from pipeline.allocation import keep_memory
from pipeline.artifacts import (
    MANIFEST,
    REFERENCES,
    SPLIT,
    Workspace,
    digest_file,
    read_table,
    write_json,
    write_table,
)
from pipeline.bundle import NETWORKS, Bundle, Prediction, open_session
from pipeline.errors import IntegrityError
from pipeline.folders import replaced_folder
from pipeline.params import Params
from pipeline.plots import write_plot
from pipeline.reference import held_out, looks, reference_table
from pipeline.transfer.checkpoint import load_checkpoint
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.confidence import Calibration, calibrate
from pipeline.transfer.exporter import write_onnx
from pipeline.transfer.footprint import megabytes, milliseconds
from pipeline.transfer.int8 import spread, try_int8
from pipeline.transfer.papers import papers
from pipeline.transfer.parity import parity_error
from pipeline.transfer.vector_scaling import VectorScaling
from pipeline.transforms import Preprocessing
from pipeline.views import views

__all__ = ["export"]

PARITY_IMAGES = 48

Rows = Sequence[dict[str, Any]]  # of split.parquet
Looks = Sequence[list[float] | None]  # of the same images


def export(workspace: Workspace, params: Params) -> None:
    """``artifacts/checkpoint/`` → ``artifacts/bundle/``, whole or not at all, and the calibration's plot.

    Raises:
        IntegrityError: the checkpoint is damaged, the preprocessing is not the one it was trained with,
            or ONNX Runtime does not answer like torch on real images.
        DataError: a held-out image has gone or no longer decodes.
    """
    keep_memory()
    classifier, checkpoint = load_checkpoint(workspace.checkpoint)
    preprocessing = Preprocessing.from_dict(checkpoint["preprocessing"])
    if preprocessing.fingerprint() != checkpoint["fingerprint"]:
        raise IntegrityError(
            f"{workspace.checkpoint} was trained with another preprocessing (another Pillow, or changed code): "
            "run `dvc repro -f train`"
        )
    split = read_table(workspace.split, SPLIT)
    rows = held_out(read_table(workspace.manifest, MANIFEST), split)
    pixels = _views(workspace, params, preprocessing, rows)
    data = params.data
    seen = looks(workspace.root, rows, max_pixels=data.max_pixels, max_bytes=data.max_bytes)
    info = papers(workspace, params, checkpoint)
    with replaced_folder(workspace.bundle) as fresh:
        shutil.copyfile(workspace.checkpoint / "model.safetensors", fresh / "model.safetensors")
        draft, calibration = _calibrated(fresh, classifier, info, rows, pixels, seen, params)
        sample = pixels[:: max(1, len(pixels) // PARITY_IMAGES)]
        error = _require_parity(classifier, draft, sample, params.bundle.max_parity_error)
        # One digit: the same network has the same digest on machines that round otherwise.
        limit = params.bundle.max_parity_error
        info["parity"] = {"error": float(f"{error:.0e}"), "limit": limit, "images": len(sample)}
        said = [calibration.report]
        if "int8" in params.bundle.formats:
            trained = [row for row in split.to_pylist() if row["split"] == "train"]
            ranges = _views(workspace, params, preprocessing, [trained[row] for row in spread(len(trained))])
            said.append(_add_int8(draft, rows, pixels, seen, ranges, params))
        info["report"] = " ".join([info["report"], *said])
        files = sorted(path.name for path in fresh.iterdir())
        info["files"] = {name: digest_file(fresh / name) for name in files}
        write_json(fresh / "bundle.json", info)
        write_json(fresh / "timings.json", _timings(draft, checkpoint, pixels))
        bundle = Bundle.load(fresh)  # exactly as the service will
        points = calibration.reliability
        write_plot(workspace.plots / "calibration.csv", tuple(points[0]), (tuple(p.values()) for p in points))
    print(
        f"bundle {bundle.digest[:12]}: {len(bundle.classes)} classes, torch and ONNX Runtime agree to {error:.1g} on real "
        f"images. {' '.join(said)}"
    )


def _calibrated(
    folder: Path,
    classifier: Classifier,
    info: dict[str, Any],
    rows: Rows,
    pixels: np.ndarray,
    seen: Looks,
    params: Params,
) -> tuple[Bundle, Calibration]:
    """Write the float32 network and its reference into ``folder``, its calibration into ``info``; the bundle's draft."""
    draft = _draft(folder, classifier, info)
    places, labels, groups = _validation(rows, info["classes"])
    said = draft.predict(pixels)
    logits = said.logits[places]
    calibration = calibrate(logits, labels, groups, info["classes"], params.bundle.calibration, params.seed)
    if calibration.vector is not None:
        _fold(classifier, calibration.vector, folder / "model.safetensors")
        draft = _draft(folder, classifier, info)
        said = draft.predict(pixels)
    info |= {
        "temperature": calibration.temperature,
        "validation": calibration.validation,
        "formats": {"onnx": {"megabytes": megabytes(folder / NETWORKS["onnx"])}},
    }
    draft.temperature = calibration.temperature
    _write_reference(draft, rows, draft.calibrated(said), pixels, seen)
    return draft, calibration


def _add_int8(
    draft: Bundle, rows: Rows, pixels: np.ndarray, seen: Looks, sample: np.ndarray, params: Params
) -> str:
    """Try an INT8 network beside ``draft``'s, its activations' ranges from ``sample``; what came of it, in words."""
    places, labels, groups = _validation(rows, draft.classes)
    judged = try_int8(draft, sample, pixels[places], labels, groups, params.bundle)
    draft.info["formats"]["int8"] = judged.figures
    if judged.bundle is not None:
        _write_reference(judged.bundle, rows, judged.bundle.predict(pixels), pixels, seen)
    return judged.report


def _draft(folder: Path, classifier: Classifier, info: dict[str, Any]) -> Bundle:
    """Write ``classifier`` as ``folder``/model.onnx; the draft of a bundle."""
    write_onnx(classifier, int(info["preprocessing"]["image_size"]), folder / "model.onnx")
    return Bundle(folder, "", info, open_session(folder, info, None))


def _fold(classifier: Classifier, vector: VectorScaling, target: Path) -> None:
    """Vector scaling becomes part of the head, and ``target`` holds the weights of the network that ships."""
    layer = classifier.head
    weight, bias = vector.fold(layer.weight.detach().numpy(), layer.bias.detach().numpy())
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    save_file({name: tensor.contiguous() for name, tensor in classifier.state_dict().items()}, target)


def _require_parity(classifier: Classifier, draft: Bundle, pixels: np.ndarray, limit: float) -> float:
    error = parity_error(classifier, draft, pixels)
    if not error <= limit:  # NaN, too
        raise IntegrityError(
            f"ONNX Runtime's logits differ from torch's by up to {error:.2g} (nan: no numbers at all), the limit is "
            f"{limit:g} (bundle.max_parity_error): this network does not survive the export"
        )
    return error


class _Validation(NamedTuple):
    """The validation images among the held-out ones."""

    places: list[int]
    labels: np.ndarray  # [n] codes
    groups: list[str]


def _validation(rows: Rows, classes: Sequence[str]) -> _Validation:
    code = {label: number for number, label in enumerate(classes)}
    places = [
        place for place, row in enumerate(rows) if row["split"] == "validation" and row["label"] in code
    ]
    labels = np.array([code[rows[place]["label"]] for place in places], dtype=np.int64)
    return _Validation(places, labels, [rows[place]["group"] for place in places])


def _views(workspace: Workspace, params: Params, preprocessing: Preprocessing, rows: Rows) -> np.ndarray:
    return views(
        workspace,
        [row["path"] for row in rows],
        [row["image_id"] for row in rows],
        preprocessing,
        max_pixels=params.data.max_pixels,
        max_bytes=params.data.max_bytes,
    )


def _write_reference(draft: Bundle, rows: Rows, said: Prediction, pixels: np.ndarray, seen: Looks) -> None:
    """What one network says of the held-out images: production is compared with the network that answers it."""
    table = reference_table(rows, said, pixels, draft.classes, seen)
    write_table(draft.path / REFERENCES[draft.form], table)


def _timings(draft: Bundle, checkpoint: dict[str, Any], pixels: np.ndarray) -> dict[str, Any]:
    """What depends on the machine and is therefore beside the bundle, not in it."""
    image = draft.preprocessing.normalise(pixels[:1])
    return {
        "seconds": checkpoint["seconds"],
        "images_per_second": checkpoint["train"]["images_per_second"],
        "milliseconds_per_image": {
            form: milliseconds(open_session(draft.path, draft.info, 1, form), image)
            for form, file in NETWORKS.items()
            if (draft.path / file).exists()
        },
    }
