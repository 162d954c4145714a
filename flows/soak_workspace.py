"""Where the soaked year happens: a copy of the checkout, a first champion, and a disk that can be full."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.demo_stage import Stage
from flows.demo_workspace import as_shipped, commit, copy_checkout
from flows.drill_workspace import SHOTS
from flows.soak_world import START
from pipeline.artifacts import Workspace, read_json
from pipeline.errors import StateError
from pipeline.sample import plan, take

__all__ = ["Disk", "lay_out", "release_first"]

SOURCE = Path(__file__).resolve().parent.parent
DISK = "1g"
SETTINGS: dict[str, dict[str, Any]] = {
    "split": {"test": 0.25},
    "model": {"image_size": 96},
    "train": {"strategy": "probe"},
    "bundle": {"calibration": "temperature"},
    "evaluate": {"stress_images": 24, "bootstrap": 500},
    # A year with harder cameras, and fewer test images than a user would have: wider margins decide as much.
    "gate": {
        "min_accuracy": 0.6, "min_macro_f1": 0.55, "min_class_recall": 0.3, "max_ece": 0.15, "noninferiority_margin": 0.1,
        "min_slice_accuracy": 0.4, "max_slice_gap": 0.6, "max_size_mb": 20, "max_peeks": 1000,
    },
    "release": {"shadow_images": 60},
    "watch": {"permutations": 99},
}  # fmt: skip


@dataclass
class Disk:
    """The state's own file system, so that it can be full for an hour without harm to anybody else's."""

    place: Path
    mounted: bool = False

    def mount(self) -> None:
        """A tmpfs where that is allowed (as root on Linux); else a plain folder."""
        self.unmount()
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        self.mounted = self._mount("-t", "tmpfs", "-o", f"size={DISK},mode=755", "visionloop-soak")

    def full(self, full: bool) -> bool:
        """No byte is left from now on, or all of them are again; False where only the writer can be held up."""
        if not self.mounted:
            return False
        used = shutil.disk_usage(self.place).used
        return self._mount("-o", f"remount,size={used if full else DISK}", "visionloop-soak")

    def unmount(self) -> None:
        """Also what an earlier soak left, that was killed."""
        while self.place.is_mount():
            done = subprocess.run(["umount", str(self.place)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise StateError(f"{self.place} can't be unmounted: {done.stderr.strip()}; end what uses it")
        self.mounted = False

    def _mount(self, *options: str) -> bool:
        try:
            return (
                subprocess.run(
                    ["mount", *options, str(self.place)], capture_output=True, check=False
                ).returncode
                == 0
            )
        except OSError:
            return False


def lay_out(workspace: Workspace, seed: int) -> None:
    """A copy of the checkout as shipped, with half of the embedded sample's first camera, and :data:`SETTINGS`."""
    root = workspace.root
    copy_checkout(SOURCE, root)
    as_shipped(root)
    for label in SHOTS["line-a"]:
        (root / "data/sample/line-a" / label).mkdir(parents=True)
    take(plan(seed, SHOTS), root / "data/sample", seed, workers=2)
    content = yaml.safe_load(workspace.params.read_text(encoding="utf-8"))
    for section, values in SETTINGS.items():
        content[section] |= values
    workspace.params.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))
    del stages["stages"]["sample"]  # its images lie there already
    (root / "dvc.yaml").write_text(yaml.safe_dump(stages, sort_keys=False), encoding="utf-8")
    commit(root, "Soak workspace")


def release_first(workspace: Workspace, stage: Stage) -> None:
    """The first champion: trained, judged and released as by a user.

    Raises:
        StateError: it was not promoted, or a stage failed.
    """
    stage.environment["VISIONLOOP_NOW"] = START.isoformat()
    reason = "the first model of the year"
    stage.run("python", "-m", "flows.retrain", "--release", "--reason", reason, show=False)
    verdict = read_json(workspace.verdict)
    if verdict["decision"] != "PROMOTE":
        raise StateError(f"the soak's first model was not promoted: {verdict['summary']}")
