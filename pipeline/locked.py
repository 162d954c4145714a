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

__all__ = ["lock_fault", "md5_as_dvc"]

STAGES = ("bundle", "leak", "evaluate", "stress", "performance", "gate")
EVIDENCE = ("artifacts/", "reports/")  # what of the gate's dependencies was made; the rest is code
NEEDED = ("artifacts/bundle", "reports/verdict.json")  # without which a lock says nothing


def lock_fault(workspace: Workspace) -> str | None:
    """What was judged, or judged from, and is not what dvc.lock names; None where all agree.

    A lock that is missing or names neither bundle nor verdict is a fault: removing it would else be all that a
    forger has to do.

    Raises:
        DataError: dvc.lock can't be read.
    """
    path = workspace.root / "dvc.lock"
    if not path.exists():
        return "dvc.lock, which names what `dvc repro` made, is missing"
    try:
        stages: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
        entries = [out for stage in STAGES for out in (stages.get(stage) or {}).get("outs", [])]
        entries += [
            dep for dep in (stages.get("gate") or {}).get("deps", []) if dep["path"].startswith(EVIDENCE)
        ]
        locked = [
            (entry["path"], entry["md5"])
            for entry in entries
            if not entry["path"].startswith("reports/plots")
        ]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} can't be read ({error!r}): restore it with git, or run `dvc repro`"
        ) from error
    unnamed = [name for name in NEEDED if name not in dict(locked)]
    if unnamed:
        return f"{' and '.join(unnamed)} {'is' if len(unnamed) == 1 else 'are'} not in dvc.lock"
    for name, expected in dict.fromkeys(locked):
        found = md5_as_dvc(workspace.root / name)
        if found != expected:
            return f"{name} is not what dvc.lock names (md5 {found or 'missing'}, expected {expected})"
    return None


def md5_as_dvc(path: Path) -> str | None:
    """As DVC hashes an output: a file's bytes, or a folder's sorted list of them; None where nothing is there."""
    if path.is_dir():
        listed = [
            {"md5": md5_as_dvc(file), "relpath": file.relative_to(path).as_posix()}
            for file in sorted(path.rglob("*"))
            if file.is_file()
        ]
        listed.sort(key=lambda entry: str(entry["relpath"]).split("/"))
        return f"{hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest()}.dir"
    if not path.exists():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
