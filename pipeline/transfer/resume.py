"""The state of a training that was killed: safetensors and JSON, never pickle.

``<key>/`` in the workspace's folder of unfinished trainings holds the last finished epoch. The key digests
everything that decides the result, so a changed image, parameter or line of code starts afresh. The tensors
are written first under a new name, then ``state.json`` is replaced; a kill between the two leaves the epoch
before.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.artifacts import Workspace, atomic_path, digest_file, digest_json, write_json

__all__ = ["State", "forget", "pack_optimizer", "source_digest", "unpack_optimizer"]

Tensors = dict[str, torch.Tensor]


class State:
    """What one training has reached."""

    def __init__(self, unfinished: Path, key: str) -> None:
        self.folder = unfinished / key

    def save(self, epoch: int, tensors: Tensors, facts: dict[str, Any]) -> None:
        """Keep the state after ``epoch`` epochs; the one before goes."""
        target = self.folder / f"epoch-{epoch}.safetensors"
        with atomic_path(target) as temporary:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary
            )
        write_json(
            self.folder / "state.json",
            {"epoch": epoch, "tensors": target.name, "sha256": digest_file(target), "facts": facts},
        )
        for path in self.folder.glob("epoch-*.safetensors"):
            if path != target:
                path.unlink(missing_ok=True)

    def load(self) -> tuple[int, Tensors, dict[str, Any]] | None:
        """The last finished epoch, its tensors and facts; None where there is none, or it is damaged."""
        try:
            state = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
            path = self.folder / Path(state["tensors"]).name
            if digest_file(path) != state["sha256"]:
                return None
            return int(state["epoch"]), load_file(path), dict(state["facts"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None


def forget(workspace: Workspace) -> None:
    """Training is done: its state goes, and with it what earlier killed runs left that were never resumed."""
    shutil.rmtree(workspace.unfinished, ignore_errors=True)


def pack_optimizer(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> Tensors:
    """The optimizer's tensors under ``optimizer.<parameter>.<name>``; ``names`` by id(parameter)."""
    return {
        f"optimizer.{names[id(parameter)]}.{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, names: dict[int, str], tensors: Tensors) -> None:
    """Put the tensors of ``pack_optimizer`` back, each on its parameter's device."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            prefix = f"optimizer.{names[id(parameter)]}."
            found = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
            for key, value in found.items():
                # In the parameter's own layout: the fused kernel walks the memory of all of them in step.
                # It counts its steps on the device, too.
                kept = (
                    value.to(parameter.device) if key == "step" else torch.empty_like(parameter).copy_(value)
                )
                optimizer.state[parameter][key] = kept.detach()


def source_digest() -> str:
    """sha256 over this package's code: a state of other code is not resumed."""
    digests = [digest_file(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
    return digest_json(digests)
