"""Faults of verdicts and locks, which a release must refuse, for the fire drill."""

import json
from typing import Any

import yaml

from flows.drill_workspace import Drill, Fault
from flows.model_faults import worse
from pipeline.artifacts import digest_file, read_json
from pipeline.locked import md5_as_dvc

__all__ = ["FAULTS"]


def _write(drill: Drill, verdict: dict[str, Any]) -> None:
    drill.replace(drill.workspace.verdict, json.dumps(verdict).encode())


def _edited_verdict(drill: Drill) -> None:
    """Other figures; decision and outcomes as they were."""
    verdict = read_json(drill.workspace.verdict)
    for check in verdict["checks"]:
        check["value"] = None
    _write(drill, verdict)


def _inconsistent_verdict(drill: Drill) -> None:
    verdict = read_json(drill.workspace.verdict)
    verdict["checks"][-1]["outcome"] = "fail"
    _write(drill, verdict)
    _lock(drill)


def _lock(drill: Drill) -> None:
    """dvc.lock made to agree with everything that lies here now."""
    root = drill.workspace.root
    content = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))
    for stage in content["stages"].values():
        for entry in [*stage.get("outs", []), *stage.get("deps", [])]:
            if entry["path"].startswith(("artifacts/", "reports/")):
                entry["md5"] = md5_as_dvc(root / entry["path"])
    drill.replace(root / "dvc.lock", yaml.safe_dump(content).encode())


def _without_lock(drill: Drill) -> None:
    """What would give an edited verdict away is gone with it."""
    _edited_verdict(drill)
    (drill.workspace.root / "dvc.lock").unlink()


def _forged_together(drill: Drill) -> None:
    """A worse model was rejected; the verdict of a better one is put under its name, and dvc.lock made to agree."""
    from flows.fire_drill import refusal

    verdict = read_json(drill.workspace.verdict)
    worse(drill)
    refusal(drill.workspace, "bundle")
    _write(drill, verdict | {"challenger": digest_file(drill.workspace.bundle / "bundle.json")})
    _lock(drill)


def _other_lock(drill: Drill) -> None:
    """A merge took dvc.lock from another branch."""
    path = drill.workspace.root / "dvc.lock"
    text = path.read_text(encoding="utf-8")
    start = text.index("path: artifacts/bundle", text.index("\n  bundle:\n"))
    at = text.index("md5: ", text.index("hash: md5", start) + 9) + 5
    drill.replace(path, (text[:at] + "0" * 8 + text[at + 8 :]).encode())


FAULTS = [
    Fault("verdict_edited", "verdict.json edited by hand", _edited_verdict, "release", "release", r"verdict\.json is not what dvc\.lock"),
    Fault("verdict_inconsistent", "a PROMOTE that does not follow from its checks", _inconsistent_verdict, "release",
          "release", "does not follow from its checks"),
    Fault("other_lock", "a dvc.lock that does not match", _other_lock, "release", "release", r"artifacts/bundle is not what dvc\.lock"),
    Fault("lock_removed", "verdict.json edited by hand, dvc.lock removed", _without_lock, "release", "release",
          r"dvc\.lock.*is missing"),
    Fault("forged_together", "the verdict of another model over a rejected one, and dvc.lock made to agree", _forged_together,
          "release", "release", "judged again"),
]  # fmt: skip
