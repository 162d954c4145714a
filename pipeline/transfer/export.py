"""From a checkpoint to a bundle: ONNX that answers like the network it came from, calibrated, with its papers."""

import dataclasses
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.artifacts import (
    MANIFEST,
    SPLIT,
    Workspace,
    digest_file,
    digest_json,
    read_table,
    write_json,
    write_table,
)
from pipeline.bundle import FORMAT, Bundle, Prediction, open_session, softmax
from pipeline.errors import IntegrityError
from pipeline.folders import replaced_folder
from pipeline.params import Params
from pipeline.reference import held_out, reference_table
from pipeline.transfer.calibration import calibration
from pipeline.transfer.checkpoint import load_checkpoint
from pipeline.transfer.classifier import Classifier
from pipeline.transforms import Preprocessing
from pipeline.views import views

__all__ = ["export", "parity_error", "write_onnx"]

OPSET = 17
PARITY_IMAGES = 48
DECIDES = ("seed", "data", "validate", "split", "balance", "model", "train", "bundle")  # what a network
# depends on; where it is served or watched does not change it


def export(workspace: Workspace, params: Params) -> None:
    """``artifacts/checkpoint/`` → ``artifacts/bundle/``, whole or not at all.

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
    info = _papers(workspace, params, checkpoint)
    with replaced_folder(workspace.bundle) as fresh:
        write_onnx(classifier, preprocessing.image_size, fresh / "model.onnx")
        shutil.copyfile(workspace.checkpoint / "model.safetensors", fresh / "model.safetensors")
        draft = Bundle(fresh, "", info, open_session(fresh, info, None))
        error = parity_error(classifier, draft, pixels[:: max(1, len(pixels) // PARITY_IMAGES)])
        if error > params.bundle.max_parity_error:
            raise IntegrityError(
                f"ONNX Runtime's logits differ from torch's by up to {error:.2g}, the limit is "
                f"{params.bundle.max_parity_error:g} (bundle.max_parity_error): this network does not survive the export"
            )
        logits = draft.predict(pixels)
        info |= _calibrated(rows, logits.logits, info["classes"])
        scaled = softmax(logits.logits / np.float32(info["temperature"]))
        prediction = Prediction(logits.logits, scaled, logits.embedding)
        write_table(fresh / "reference.parquet", reference_table(rows, prediction, pixels, info["classes"]))
        files = sorted(path.name for path in fresh.iterdir())
        info["files"] = {name: digest_file(fresh / name) for name in files}
        write_json(fresh / "bundle.json", info)
        speed = checkpoint["train"]["images_per_second"]
        write_json(fresh / "timings.json", {"seconds": checkpoint["seconds"], "images_per_second": speed})
        bundle = Bundle.load(fresh)  # exactly as the service will
    before, after = info["validation"]["before"], info["validation"]["after"]
    print(
        f"bundle {bundle.digest[:12]}: {len(bundle.classes)} classes, torch and ONNX Runtime agree to {error:.1g} on real "
        f"images; temperature {bundle.temperature:.3f} takes ECE from {before['ece']:.3f} to {after['ece']:.3f} and NLL from "
        f"{before['nll']:.3f} to {after['nll']:.3f} on {info['validation']['n']} validation images"
    )


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


def _papers(workspace: Workspace, params: Params, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """bundle.json but for what is only known once the network has been run."""
    chosen = dataclasses.asdict(params)
    del chosen["model"]["candidates"]  # which networks were compared decides nothing once one is taken
    lock = workspace.root / "requirements.lock"
    return {
        "format": FORMAT,
        "classes": checkpoint["classes"],
        "preprocessing": checkpoint["preprocessing"],
        "fingerprint": checkpoint["fingerprint"],
        "temperature": 1.0,
        "embedding_size": checkpoint["width"],
        "strategy": checkpoint["strategy"],
        "backbone": checkpoint["backbone"],
        "backbone_kwargs": checkpoint["backbone_kwargs"],
        "validation": {},
        # Not how long it took: the same network must have the same digest however busy the machine was.
        "train": {name: checkpoint["train"][name] for name in ("n", "steps")},
        "report": checkpoint["report"],
        "weights": checkpoint["weights"],
        "digests": {
            "manifest": digest_file(workspace.manifest),
            "split": digest_file(workspace.split),
            "params": digest_json({name: chosen[name] for name in DECIDES}),
            "lock": digest_file(lock) if lock.exists() else None,
            "weights": checkpoint["weights"]["digest"],
        },
        "code": _code(workspace.root),
    }


def _code(root: Path) -> dict[str, Any]:
    """The commit of the workspace, and whether the code in it differs; nulls where it is no git checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "pipeline", "dvc.yaml")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


def _calibrated(rows: Sequence[dict[str, Any]], logits: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Temperature and its effect, from the validation rows alone."""
    code = {label: number for number, label in enumerate(classes)}
    chosen = [
        place for place, row in enumerate(rows) if row["split"] == "validation" and row["label"] in code
    ]
    labels = np.array([code[rows[place]["label"]] for place in chosen], dtype=np.int64)
    outcome = calibration(logits[chosen], labels, [rows[place]["group"] for place in chosen])
    return {"temperature": outcome.pop("temperature"), "validation": outcome}
