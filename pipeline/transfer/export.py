"""From a checkpoint to a bundle: ONNX that answers like the network it came from, calibrated, with its papers."""

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from pipeline.artifacts import MANIFEST, SPLIT, Workspace, digest_file, read_table, write_json, write_table
from pipeline.bundle import Bundle, Prediction, open_session, softmax
from pipeline.errors import IntegrityError
from pipeline.folders import replaced_folder
from pipeline.params import Params
from pipeline.plots import write_plot
from pipeline.reference import held_out, reference_table
from pipeline.transfer.checkpoint import load_checkpoint
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.confidence import Calibration, calibrate
from pipeline.transfer.papers import papers
from pipeline.transfer.vector_scaling import VectorScaling
from pipeline.transforms import Preprocessing
from pipeline.views import views

__all__ = ["export", "parity_error", "write_onnx"]

OPSET = 17
PARITY_IMAGES = 48


def export(workspace: Workspace, params: Params) -> None:
    """``artifacts/checkpoint/`` → ``artifacts/bundle/``, whole or not at all, and the calibration's plot.

    Raises:
        IntegrityError: the checkpoint is damaged, the preprocessing is not the one it was trained with,
            or ONNX Runtime does not answer like torch on real images.
        DataError: a held-out image has gone or no longer decodes.
    """
    classifier, checkpoint = load_checkpoint(workspace.checkpoint)
    preprocessing = Preprocessing.from_dict(checkpoint["preprocessing"])
    if preprocessing.fingerprint() != checkpoint["fingerprint"]:
        raise IntegrityError(
            f"{workspace.checkpoint} was trained with another preprocessing (another Pillow, or changed code): "
            "run `dvc repro -f train`"
        )
    rows = held_out(read_table(workspace.manifest, MANIFEST), read_table(workspace.split, SPLIT))
    pixels = views(
        workspace,
        [row["path"] for row in rows],
        [row["image_id"] for row in rows],
        preprocessing,
        max_pixels=params.data.max_pixels,
        max_bytes=params.data.max_bytes,
    )
    info = papers(workspace, params, checkpoint)
    with replaced_folder(workspace.bundle) as fresh:
        shutil.copyfile(workspace.checkpoint / "model.safetensors", fresh / "model.safetensors")
        draft, prediction = _answers(fresh, classifier, info, pixels)
        calibration = _calibrated(rows, prediction.logits, info["classes"], params)
        if calibration.vector is not None:
            _fold(classifier, calibration.vector, fresh / "model.safetensors")
            draft, prediction = _answers(fresh, classifier, info, pixels)
        error = _require_parity(classifier, draft, pixels, params.bundle.max_parity_error)
        info |= {"temperature": calibration.temperature, "validation": calibration.validation}
        info["report"] += f" {calibration.report}"
        scaled = softmax(prediction.logits / np.float32(calibration.temperature))
        prediction = Prediction(prediction.logits, scaled, prediction.embedding)
        write_table(fresh / "reference.parquet", reference_table(rows, prediction, pixels, info["classes"]))
        files = sorted(path.name for path in fresh.iterdir())
        info["files"] = {name: digest_file(fresh / name) for name in files}
        write_json(fresh / "bundle.json", info)
        speed = checkpoint["train"]["images_per_second"]
        write_json(fresh / "timings.json", {"seconds": checkpoint["seconds"], "images_per_second": speed})
        bundle = Bundle.load(fresh)  # exactly as the service will
        points = calibration.reliability
        write_plot(workspace.plots / "calibration.csv", tuple(points[0]), (tuple(p.values()) for p in points))
    print(
        f"bundle {bundle.digest[:12]}: {len(bundle.classes)} classes, torch and ONNX Runtime agree to {error:.1g} on real "
        f"images. {calibration.report}"
    )


def _answers(
    folder: Path, classifier: Classifier, info: dict[str, Any], pixels: np.ndarray
) -> tuple[Bundle, Prediction]:
    """Write ``classifier`` as ``folder``/model.onnx; the draft of a bundle, and what it says of ``pixels``."""
    write_onnx(classifier, int(info["preprocessing"]["image_size"]), folder / "model.onnx")
    draft = Bundle(folder, "", info, open_session(folder, info, None))
    return draft, draft.predict(pixels)


def _fold(classifier: Classifier, vector: VectorScaling, target: Path) -> None:
    """Vector scaling becomes part of the head, and ``target`` holds the weights of the network that ships."""
    layer = classifier.head
    weight, bias = vector.fold(layer.weight.detach().numpy(), layer.bias.detach().numpy())
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    save_file({name: tensor.contiguous() for name, tensor in classifier.state_dict().items()}, target)


def _require_parity(classifier: Classifier, draft: Bundle, pixels: np.ndarray, limit: float) -> float:
    error = parity_error(classifier, draft, pixels[:: max(1, len(pixels) // PARITY_IMAGES)])
    if error > limit:
        raise IntegrityError(
            f"ONNX Runtime's logits differ from torch's by up to {error:.2g}, the limit is "
            f"{limit:g} (bundle.max_parity_error): this network does not survive the export"
        )
    return error


def write_onnx(classifier: Classifier, side: int, target: Path) -> None:
    """images [n, 3, side, side] → logits [n, classes], embedding [n, width]; n is free, the sides are not."""
    with warnings.catch_warnings():
        # The exporter without torch.export calls itself legacy, in several ways: the new one needs onnxscript
        # and is no better for these networks.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # Sizes become constants of the graph: meant, since the bundle's preprocessing fixes them.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        torch.onnx.export(
            classifier.eval(),
            (torch.zeros(2, 3, side, side),),
            str(target),
            input_names=["images"],
            output_names=["logits", "embedding"],
            dynamic_axes={name: {0: "n"} for name in ("images", "logits", "embedding")},
            opset_version=OPSET,
            dynamo=False,
        )


@torch.inference_mode()
def parity_error(classifier: Classifier, bundle: Bundle, pixels: np.ndarray) -> float:
    """Largest |torch - ONNX Runtime| over the logits of uint8 views [n, H, W, 3], at once and one by one."""
    pixels = np.ascontiguousarray(pixels)
    expected = classifier(torch.from_numpy(bundle.preprocessing.normalise(pixels)))[0].numpy()
    together = bundle.predict(pixels).logits
    alone = bundle.predict(pixels[:1]).logits
    return float(max(np.abs(together - expected).max(), np.abs(alone - expected[:1]).max()))


def _calibrated(
    rows: Sequence[dict[str, Any]], logits: np.ndarray, classes: Sequence[str], params: Params
) -> Calibration:
    """From the validation rows alone."""
    code = {label: number for number, label in enumerate(classes)}
    chosen = [
        place for place, row in enumerate(rows) if row["split"] == "validation" and row["label"] in code
    ]
    labels = np.array([code[rows[place]["label"]] for place in chosen], dtype=np.int64)
    groups = [rows[place]["group"] for place in chosen]
    return calibrate(logits[chosen], labels, groups, classes, params.bundle.calibration, params.seed)
