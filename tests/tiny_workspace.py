"""A whole workspace in milliseconds: real DVC and git, and stages that are three-line shell scripts.

Each stage of dvc.yaml runs ``inputs/<verb>.sh``, which a test may rewrite; the reports and the bundle
that the stages "make" lie in ``inputs/made``. Bundle and images are those of :mod:`tests.tiny_bundle`.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from PIL import Image

from pipeline.artifacts import PREDICTIONS, Workspace, digest_file, write_json, write_table
from pipeline.bundle import Bundle
from pipeline.locked import md5_as_dvc
from tests import tiny_bundle

STAGES = {  # verb → (what it needs, what it makes)
    "scan": ([], "artifacts/sources/line-a.parquet"),
    "validate": (["artifacts/sources/line-a.parquet"], "reports/validation.json"),
    "balance": (["reports/validation.json"], "artifacts/balance.json"),
    "train": (["artifacts/balance.json"], "artifacts/checkpoint"),
    "bundle": (["artifacts/checkpoint"], "artifacts/bundle"),
    "evaluate": (["artifacts/bundle", "champion-pin.json"], "reports/metrics.json"),
    "gate": (["reports/metrics.json", "champion-pin.json"], "reports/verdict.json"),
}
PREDICTED = "artifacts/predictions.parquet"
HOSTILE = "<script>alert(1)</script>|[x](http://evil)"


def make(root: Path, *, decision: str = "PROMOTE") -> Workspace:
    """A workspace in ``root``, nothing reproduced yet; its challenger will get ``decision``."""
    (root / "inputs/made").mkdir(parents=True)
    _pipeline(root)
    (root / "params.yaml").write_text("release: {golden_images: 4}\n", encoding="utf-8")
    (root / "champion-pin.json").write_text('{"digest": null}\n', encoding="utf-8")
    (root / ".gitignore").write_text(
        "/var\n/artifacts/\n/reports/\n/data/images/\n/inputs/\n", encoding="utf-8"
    )
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n", encoding="utf-8")
    (root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n", encoding="utf-8")
    workspace = Workspace(root, root / "var")
    new_challenger(workspace, decision=decision)
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "Start")
    return workspace


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@localhost"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout


def new_challenger(
    workspace: Workspace, *, decision: str = "PROMOTE", gain: float = 4.0, champion: str | None = None
) -> str:
    """What the next retrain will make: another bundle (by ``gain``), its predictions and verdict; its digest."""
    made = workspace.root / "inputs/made"
    shutil.rmtree(made)
    digest = tiny_bundle.make(made / "bundle", gain=gain)
    _predictions(workspace, made)
    for name, report in _reports(digest, decision, champion).items():
        write_json(made / name, report)
    (made / "checkpoint").mkdir()
    write_json(
        made / "checkpoint/checkpoint.json", {"strategy": "probe", "backbone": HOSTILE, "report": HOSTILE}
    )
    # DVC runs a stage again when its script has changed.
    for verb in ("train", "bundle", "evaluate", "gate"):
        script = workspace.root / f"inputs/{verb}.sh"
        script.write_text(
            script.read_text(encoding="utf-8").split("\n#")[0] + f"\n# {digest} {decision} {champion}\n"
        )
    return digest


def reproduced(workspace: Workspace) -> None:
    """Put what the stages would make in place, without running them."""
    made = workspace.root / "inputs/made"
    for _, out in [*STAGES.values(), ([], PREDICTED)]:
        source = made / Path(out).name
        target = workspace.root / out
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            shutil.copy(source, target)
    lock(workspace)


def lock(workspace: Workspace) -> None:
    """dvc.lock as DVC would write it for what lies here now."""
    stages = {
        verb: {
            "cmd": f"sh inputs/{verb}.sh",
            "outs": [{"path": out, "md5": md5_as_dvc(workspace.root / out)}],
        }
        for verb, (_, out) in STAGES.items()
        if (workspace.root / out).exists()
    }
    text = yaml.safe_dump({"schema": "2.0", "stages": stages})
    (workspace.root / "dvc.lock").write_text(text, encoding="utf-8")


def script(workspace: Workspace, verb: str, text: str) -> None:
    """Let the stage ``verb`` run ``text`` from now on."""
    (workspace.root / f"inputs/{verb}.sh").write_text(text + "\n", encoding="utf-8")


def _pipeline(root: Path) -> None:
    stages: dict[str, Any] = {}
    for verb, (needs, out) in STAGES.items():
        (root / f"inputs/{verb}.sh").write_text(
            f"echo {verb} at work\nmkdir -p {Path(out).parent}\n"
            + ("echo scanned >" if verb == "scan" else f"cp -r inputs/made/{Path(out).name}")
            + f" {out}\n"
            + (f"cp inputs/made/{Path(PREDICTED).name} {PREDICTED}\n" if verb == "evaluate" else ""),
            encoding="utf-8",
        )
        stages[verb] = {"cmd": f"sh inputs/{verb}.sh", "deps": [f"inputs/{verb}.sh", *needs], "outs": [out]}
    stages["evaluate"]["outs"].append(PREDICTED)
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False), encoding="utf-8")


def _predictions(workspace: Workspace, made: Path) -> None:
    """Two test images of each class, and what the bundle says of them."""
    folder = workspace.root / "data/images"
    folder.mkdir(parents=True, exist_ok=True)
    bundle = Bundle.load(made / "bundle")
    rows = []
    for index, name in enumerate(bundle.classes):
        for shot in range(2):
            colour = [40 + 10 * shot] * 3
            colour[index] = 220
            path = folder / f"{name}-{shot}.png"
            Image.new("RGB", (48, 40), tuple(colour)).save(path)
            with Image.open(path) as image:
                view = bundle.preprocessing.view(image.convert("RGB"))
            shares = bundle.predict(view[None]).probabilities[0]
            rows.append(
                {
                    "image_id": digest_file(path),
                    "path": workspace.relative(path),
                    "label": name,
                    "domain": "line-a",
                    "group": f"{name}-{shot}",
                    "split": "test",
                    "predicted": bundle.classes[int(np.argmax(shares))],
                    "confidence": float(shares.max()),
                    "correct": True,
                    "probabilities": [float(share) for share in shares],
                }
            )
    write_table(made / "predictions.parquet", pa.Table.from_pylist(rows, schema=PREDICTIONS))


def _reports(digest: str, decision: str, champion: str | None) -> dict[str, Any]:
    outcome = {"PROMOTE": "pass", "REJECT": "fail"}.get(decision, "unknown")
    check = {
        "name": "accuracy",
        "outcome": outcome,
        "value": 0.9,
        "ci95": [0.8, 0.95],
        "bound": 0.8,
        "support": 6,
    }
    other = {
        "name": f"recall {HOSTILE}",
        "outcome": "pass",
        "value": None,
        "ci95": None,
        "bound": 0.5,
        "support": 2,
    }
    row = {"support": 2, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    return {
        "validation.json": {
            "success": True,
            "expectations": [
                {"name": "decodable", "success": True, "severity": "fail", "observed": 0, "examples": []},
                {"name": HOSTILE, "success": False, "severity": "warn", "observed": HOSTILE, "examples": [HOSTILE]},
            ],
        },
        "balance.json": {
            "plan": "none",
            "reason": HOSTILE,
            "imbalance_ratio": 1.0,
            "classes": {HOSTILE: {"train": 6, "validation": 2, "test": 2, "weight": 1.0, "test_ci_width": 0.5}},
        },
        "metrics.json": {
            "strategy": "probe",
            "test": {
                "n": 6, "accuracy": 1.0, "accuracy_ci95": [0.6, 1.0], "macro_f1": 1.0, "ece": 0.01,
                "per_class": {HOSTILE: row},
            },
            "by_domain": {"line-a": {"n": 6, "accuracy": 1.0}},
        },
        "verdict.json": {
            "decision": decision, "challenger": digest, "champion": champion,
            "checks": [check | {"would_flip": None}, other | {"would_flip": None}],
        },
    }  # fmt: skip


def verdict(workspace: Workspace) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(workspace.verdict.read_text(encoding="utf-8"))
    return content
