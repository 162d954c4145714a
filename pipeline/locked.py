"""Does what lies here agree with dvc.lock? Checked before anything is released.

A verdict that was not made by `dvc repro`, or a bundle that was changed after it, may look perfect. dvc.lock
holds the md5 of every output as DVC saw it made; git holds dvc.lock.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from pipeline.artifacts import Workspace
from pipeline.errors import DataError

__all__ = ["lock_fault"]

STAGES = ("bundle", "evaluate", "stress", "gate")


def lock_fault(workspace: Workspace) -> str | None:
    """Which output of the judged stages is not what dvc.lock names; None where all agree or none is locked.

    Raises:
        DataError: dvc.lock can't be read.
    """
    path = workspace.root / "dvc.lock"
    if not path.exists():
        return None
    try:
        stages: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
        locked = {
            out["path"]: out["md5"]
            for stage in STAGES
            for out in (stages.get(stage) or {}).get("outs", [])
            if not out["path"].startswith("reports/plots")
        }
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} can't be read ({error!r}): restore it with git, or run `dvc repro`"
        ) from error
    for name, expected in locked.items():
        found = _md5(workspace.root / name)
        if found != expected:
            return f"{name} is not what dvc.lock names (md5 {found or 'missing'}, expected {expected})"
    return None


def _md5(path: Path) -> str | None:
    """As DVC hashes an output: a file's bytes, or a folder's sorted list of them."""
    if path.is_dir():
        listed = [
            {"md5": _md5(file), "relpath": file.relative_to(path).as_posix()}
            for file in sorted(path.rglob("*"))
            if file.is_file()
        ]
        listed.sort(key=lambda entry: str(entry["relpath"]).split("/"))
        return f"{hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest()}.dir"
    if not path.exists():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
