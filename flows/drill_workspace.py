"""The fire drill's workspace: half of the embedded sample, a champion, and a control that is promoted."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.demo_workspace import as_shipped, commit, copy_checkout
from pipeline.artifacts import Workspace, digest_file, read_json, write_json
from pipeline.errors import StateError
from pipeline.registry import Registry, pin
from pipeline.sample import plan, shoot

__all__ = ["CHAIN", "Drill", "Fault", "prepare"]

CHAIN = (
    "scan", "ingest", "validate", "split", "balance", "train", "bundle", "leak", "evaluate", "stress", "performance", "gate",
    "release", "sandbox",
)  # fmt: skip
SHOTS = {"line-a": {"clean": 170, "scratch": 110, "pit": 100, "patch": 90, "crack": 80, "inclusion": 80}}
SETTINGS: dict[str, dict[str, Any]] = {
    "split": {"test": 0.25},
    "model": {"image_size": 96},
    "train": {"strategy": "probe"},
    "bundle": {"calibration": "temperature"},
    "evaluate": {"stress_images": 24, "bootstrap": 500},
    # Fewer test images than a user would have: a wider margin decides as much.
    "gate": {"noninferiority_margin": 0.05, "max_size_mb": 20, "max_peeks": 1000},
}
SOURCE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Drill:
    """One workspace to plant a fault in; its caches are shared with the others."""

    workspace: Workspace

    def copy(self, name: str) -> "Drill":
        """A copy whose files may be replaced, never written into: they are links to the same bytes."""
        target = self.workspace.root.parent / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(
            self.workspace.root, target, symlinks=True, copy_function=os.link,
            ignore=shutil.ignore_patterns(".venv", "cache", "tmp"),
        )  # fmt: skip
        return Drill(Workspace(target, self.workspace.home))

    def replace(self, path: Path, data: bytes) -> None:
        """New bytes under ``path``, as a file of its own."""
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    def images(self, label: str | None = None) -> list[Path]:
        """The images on disk, of one class or of all."""
        return sorted((self.workspace.root / "data/sample/line-a").glob(f"{label or '*'}/*.jpg"))

    def params(self, **changes: dict[str, Any]) -> None:
        """Change params.yaml by section."""
        content = yaml.safe_load(self.workspace.params.read_text(encoding="utf-8"))
        for section, values in changes.items():
            content[section] |= values
        self.replace(self.workspace.params, yaml.safe_dump(content, sort_keys=False).encode())

    def seal(self, **changes: Any) -> None:
        """bundle.json again, with ``changes``, so that every digest fits: only what it says can give it away."""
        folder = self.workspace.bundle
        info = read_json(folder / "bundle.json") | changes
        info["files"] = {name: digest_file(folder / name) for name in info["files"]}
        (folder / "bundle.json").unlink()
        write_json(folder / "bundle.json", info)


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, and who must notice."""

    name: str
    says: str  # what it is, for the table
    plant: Callable[[Drill], None]
    start: str  # the first verb that runs after it
    gate: str | None  # a verb, "gate: <check>", or "release"; None for an escape that nothing notices
    words: str = ""  # of the refusal, a regular expression
    escapes: str = ""  # why nothing notices, where nothing does


def prepare(root: Path) -> Drill:
    """The control in ``root``: reproduced by DVC, judged against a champion, promoted.

    Raises:
        StateError: it was not promoted, or a stage failed.
    """
    base = root / "control"
    copy_checkout(SOURCE, base)
    as_shipped(base)
    drill = Drill(Workspace(base, root / "home"))
    shutil.rmtree(root / "home", ignore_errors=True)
    for label in SHOTS["line-a"]:
        (base / "data/sample/line-a" / label).mkdir(parents=True)
    for part in plan(0, SHOTS):
        shoot(part, base / "data/sample", 0)
    drill.params(**SETTINGS)
    drill.params(train={"head": "ridge"})
    _repro(drill.workspace)
    registry = Registry(drill.workspace.registry)
    registry.promote(registry.add(drill.workspace.bundle), by="fire drill", why="the champion of the drill")
    pin(drill.workspace)
    drill.params(train={"head": "auto"})
    _repro(drill.workspace)
    verdict = read_json(drill.workspace.verdict)
    if verdict["decision"] != "PROMOTE":
        raise StateError(f"the control of the fire drill was not promoted: {verdict['summary']}")
    return drill


def _repro(workspace: Workspace) -> None:
    """`dvc repro gate`, as a user runs it; the images are there already, so the sample's stage is left out."""
    content = yaml.safe_load((workspace.root / "dvc.yaml").read_text(encoding="utf-8"))
    if content["stages"].pop("sample", None):
        (workspace.root / "dvc.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        commit(workspace.root, "Drill workspace")
    environment = os.environ | {
        "VISIONLOOP_HOME": str(workspace.home),
        "PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    done = subprocess.run(
        ["dvc", "repro", "gate"], cwd=workspace.root, env=environment, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        raise StateError(f"`dvc repro gate` failed in {workspace.root}:\n{done.stdout[-2000:]}")
