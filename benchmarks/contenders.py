"""Each contender's whole run on a prepared set, from nothing to a network that answers, in processes of its own.

    outcome = Ours("auto").run(prepared, views, seed=0)
    outcome = Timm(script, epochs=10).run(prepared, views, seed=0)    # None for views: speed alone is asked for

All start cold: a new process, no cache of earlier runs. All see the same images, weights and image size.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.errors import ContenderError
from benchmarks.judge import preprocessing
from benchmarks.process import Watched, watch
from benchmarks.sets import ROOT, Prepared, changed_params, environment
from pipeline.artifacts import read_json
from pipeline.bundle import Bundle

RIVALS_PYTHON = ROOT / "benchmarks/.venvs/rivals/bin/python"


@dataclass(frozen=True)
class Outcome:
    """What one run took and what its network says of the test views."""

    name: str
    seconds: float  # the whole run, interpreters and imports included, answering the test images left out
    work_seconds: float  # without interpreters and imports
    answers: dict[str, np.ndarray]  # which network (last, best, bundle) → logits [n, classes]
    images_per_second: float | None  # trained on, in epochs after the first; None where there was none
    peak_bytes: int
    cpu_seconds: float
    others: float  # share of the machine that other work took, at most
    details: dict[str, Any] = field(default_factory=dict)  # seconds by part, epochs, flags


class Contender(Protocol):
    """Something that can be run on a set."""

    @property
    def name(self) -> str: ...

    def run(self, prepared: Prepared, views: np.ndarray | None, seed: int) -> Outcome:
        """One cold run; answers ``views`` afterwards, where there are any."""
        ...


@dataclass(frozen=True)
class Ours:
    """``python -m pipeline train`` and ``bundle``: what ships is what answers; nothing ships where nothing is asked."""

    strategy: str = "auto"
    train: dict[str, Any] = field(default_factory=dict)  # more of params.yaml's section

    @property
    def name(self) -> str:
        asked = "".join(f", {key} {value}" for key, value in self.train.items())
        return f"visionloop {self.strategy}{asked}"

    def run(self, prepared: Prepared, views: np.ndarray | None, seed: int) -> Outcome:
        workspace = prepared.workspace
        asked = {"train": {**self.train, "strategy": self.strategy}}
        for made in ("artifacts/checkpoint", "artifacts/bundle", "var"):  # features, views, resumable state
            shutil.rmtree(workspace / made, ignore_errors=True)
        watched: dict[str, Watched] = {}
        parts: dict[str, float] = {}
        with changed_params(workspace, asked, seed=seed):
            for verb in ("train", "bundle") if views is not None else ("train",):
                report = workspace / f"artifacts/{verb}-seconds.json"
                command = [sys.executable, "-m", "benchmarks.ours_run", verb, str(report)]
                watched[verb] = watch(command, cwd=workspace, environment=environment(prepared))
                parts[verb] = watched[verb].seconds
                parts[f"{verb}_work"] = read_json(report)["seconds"]["work"]
        checkpoint = read_json(workspace / "artifacts/checkpoint/checkpoint.json")
        kept, trained = checkpoint["strategy"], checkpoint["train"]
        return Outcome(
            name=self.name,
            seconds=sum(parts[verb] for verb in watched),
            work_seconds=sum(parts[f"{verb}_work"] for verb in watched),
            answers={} if views is None else {"bundle": _bundled(prepared, views)},
            images_per_second=None if kept == "probe" else trained["images_per_second"],
            peak_bytes=max(one.peak_bytes for one in watched.values()),
            cpu_seconds=sum(one.cpu_seconds for one in watched.values()),
            others=max(one.others for one in watched.values()),
            details={
                "seconds": parts,
                "kept": kept,
                "steps": checkpoint["seconds"],
                "report": checkpoint["report"],
            },
        )


def _bundled(prepared: Prepared, views: np.ndarray) -> np.ndarray:
    bundle = Bundle.load(prepared.workspace / "artifacts/bundle")
    if bundle.preprocessing != preprocessing(prepared) or bundle.classes != prepared.classes:
        raise ContenderError(f"{prepared.name}: the bundle's preprocessing or classes are not the jury's")
    return bundle.predict(views).logits


@dataclass(frozen=True)
class Timm:
    """timm's own train.py; the recipe and the augmentation stand in rivals/timm_run.py."""

    script: Path
    epochs: int = 10
    flags: Sequence[str] = ()

    name = "timm train.py"

    def run(self, prepared: Prepared, views: np.ndarray | None, seed: int) -> Outcome:
        classes = str(len(prepared.classes))
        flags = [
            "--script",
            str(self.script),
            "--classes",
            classes,
            "--epochs",
            str(self.epochs),
            *self.flags,
        ]
        return _rival(self.name, "timm_run", flags, prepared, views, seed)


@dataclass(frozen=True)
class Fastai:
    """fastai's ``fine_tune`` with its own defaults, see rivals/fastai_run.py."""

    epochs: int = 10
    flags: Sequence[str] = ()

    name = "fastai fine_tune"

    def run(self, prepared: Prepared, views: np.ndarray | None, seed: int) -> Outcome:
        flags = ["--epochs", str(self.epochs), *self.flags]
        return _rival(self.name, "fastai_run", flags, prepared, views, seed)


def timm_script() -> Path:
    """timm's train.py, which its wheel does not hold.

    Raises:
        ContenderError: VISIONLOOP_TIMM_TRAIN names no file.
    """
    place = os.environ.get("VISIONLOOP_TIMM_TRAIN", "")
    if not Path(place).is_file():
        raise ContenderError(
            f"VISIONLOOP_TIMM_TRAIN is {place!r}: set it to train.py of timm's repository, tag v1.0.31 "
            "(benchmarks/README.md says more)"
        )
    return Path(place).absolute()


def _rival(
    name: str, module: str, flags: list[str], prepared: Prepared, views: np.ndarray | None, seed: int
) -> Outcome:
    """Run a rival's runner in the rivals' environment."""
    if not RIVALS_PYTHON.exists():
        raise ContenderError(f"{RIVALS_PYTHON} is missing: run `make rivals`")
    out = prepared.tree.parent / module
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    asked = []
    if views is not None:
        np.save(out / "views.npy", views)
        asked = ["--views", str(out / "views.npy")]
    command = [
        str(RIVALS_PYTHON), "-m", f"benchmarks.rivals.{module}", "--tree", str(prepared.tree),
        "--weights", str(prepared.weights), "--image-size", str(prepared.image_size), "--seed", str(seed),
        "--out", str(out), *asked, *flags,
    ]  # fmt: skip
    watched = watch(command, cwd=ROOT, environment=_outside())
    report = read_json(out / "report.json")
    if report["weights_loaded"] != 1.0 or report.get("classes", prepared.classes) != prepared.classes:
        raise ContenderError(
            f"{name} on {prepared.name}: did not start from the weights, or orders its classes its own way"
        )
    later = report["epochs"][1:]
    spent = sum(epoch["seconds"] for epoch in later)
    answers = {file.stem: np.load(file) for file in sorted(out.glob("*.npy")) if file.stem != "views"}
    shutil.rmtree(out)
    return Outcome(
        name=name,
        seconds=watched.seconds - report["seconds"]["answering"],
        work_seconds=report["seconds"]["work"],
        answers=answers,
        images_per_second=sum(epoch["images"] for epoch in later) / spent if later else None,
        peak_bytes=watched.peak_bytes,
        cpu_seconds=watched.cpu_seconds,
        others=watched.others,
        details={key: report[key] for key in ("seconds", "epochs", "flags")},
    )


def _outside() -> dict[str, str]:
    """This environment without what would lead the rivals' interpreter into ours."""
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return kept | {"HF_HUB_OFFLINE": "1"}
