"""A trained network on disk: ``model.safetensors`` and a ``checkpoint.json`` that a person can read."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.artifacts import digest_file, write_json
from pipeline.backbone import build
from pipeline.errors import IntegrityError, ParamsError
from pipeline.folders import replaced_folder
from pipeline.transfer.classifier import Classifier

__all__ = ["load_checkpoint", "read_checkpoint", "save_checkpoint"]

AGAIN = "run `dvc repro train` (or `dvc checkout` to get the stored one back)"


def save_checkpoint(folder: Path, classifier: Classifier, info: dict[str, Any]) -> None:
    """Write both files into ``folder``, which appears whole or not at all."""
    with replaced_folder(folder) as fresh:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
        save_file(state, fresh / "model.safetensors")
        write_json(
            fresh / "checkpoint.json",
            info
            | {
                "width": classifier.head.in_features,
                "stages": classifier.stages,
                "sha256": digest_file(fresh / "model.safetensors"),
            },
        )


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """checkpoint.json, after proving that the weights beside it are those that it was written with.

    Raises:
        IntegrityError: a file is missing or damaged.
    """
    try:
        info = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        found, expected = digest_file(folder / "model.safetensors"), info["sha256"]
    except FileNotFoundError as error:
        raise IntegrityError(f"{error.filename} is missing: {AGAIN}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{folder}/checkpoint.json is damaged ({error!r}): {AGAIN}") from error
    if found != expected:
        raise IntegrityError(f"{folder}/model.safetensors has changed since it was trained: {AGAIN}")
    return dict(info)


def load_checkpoint(folder: Path) -> tuple[Classifier, dict[str, Any]]:
    """The network in eval mode on the CPU, and checkpoint.json.

    Raises:
        IntegrityError: a file is missing or damaged, or the weights do not fit the named architecture.
    """
    info = read_checkpoint(folder)
    try:
        backbone = build(info["backbone"], info["backbone_kwargs"])
        classifier = Classifier(backbone, info["width"], len(info["classes"]), info.get("stages"))
        classifier.load_state_dict(load_file(folder / "model.safetensors"))
    except (ParamsError, SafetensorError, RuntimeError, KeyError) as error:
        raise IntegrityError(f"{folder} can't be loaded ({error}): {AGAIN}") from error
    return classifier.eval(), info
