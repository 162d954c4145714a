"""bundle.json's account of what a network was made from: data, parameters, weights, code."""

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

from pipeline.artifacts import Workspace, digest_file, digest_json
from pipeline.bundle import FORMAT
from pipeline.params import Params

__all__ = ["chosen", "papers", "params_digest"]

DECIDES = ("seed", "data", "validate", "split", "balance", "model", "train", "bundle")  # what a network
# depends on; where it is served or watched does not change it


def papers(workspace: Workspace, params: Params, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """bundle.json but for what is only known once the network has been run."""
    lock = workspace.root / "requirements.lock"
    return {
        "format": FORMAT,
        "classes": checkpoint["classes"],
        "preprocessing": checkpoint["preprocessing"],
        "fingerprint": checkpoint["fingerprint"],
        "temperature": 1.0,
        "embedding_size": checkpoint["width"],
        "stages": checkpoint.get("stages"),
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
            "params": params_digest(params),
            "lock": digest_file(lock) if lock.exists() else None,
            "weights": checkpoint["weights"]["digest"],
        },
        "code": _code(workspace.root),
    }


def chosen(params: Params) -> dict[str, Any]:
    """The params that decide what a network is; their digest stands in its papers."""
    sections = dataclasses.asdict(params)
    del sections["model"]["candidates"]  # which networks were compared decides nothing once one is taken
    del sections["data"]["licence"]  # what may be done with a network does not change it
    return {name: sections[name] for name in DECIDES}


def params_digest(params: Params) -> str:
    """sha256 over the parameters that a network depends on."""
    return digest_json(chosen(params))


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
