"""The embedded data set: machined metal with five kinds of defect, seen by two cameras.

    python -m pipeline sample

writes `data/sample/line-a/<class>/part-0123_2.jpg` (to train on) and `data/sample/line-b/...` (another
station: other lamp, lens, tone, finish and noise). Two to four shots share a part id; `(part-\\d+)` as
`data.group_pattern` keeps them in one split. It is procedural and seeded: the same seed gives the same
bytes, whatever the number of workers. line-b's labels are the ground truth that a demo reveals on request.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cameras import CAMERAS, machine_part, photograph

COUNTS: dict[str, dict[str, int]] = {
    "line-a": {"clean": 390, "scratch": 230, "pit": 180, "patch": 150, "crack": 130, "inclusion": 120},
    "line-b": {"clean": 195, "scratch": 115, "pit": 90, "patch": 75, "crack": 65, "inclusion": 60},
}
"""Shots per camera and class. Unbalanced as a real line is; the rarest still fills a test split's minimum support."""

FIRST_PART = {"line-a": 1, "line-b": 5001}
"""First part number of each camera, far enough apart that no id is used twice."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part to make and the number of shots to take of it."""

    camera: str
    defect: str
    number: int
    shots: int


def plan(seed: int, counts: dict[str, dict[str, int]]) -> list[Part]:
    """The parts that give exactly `counts` shots, numbered so that an id says nothing about its class."""
    parts = []
    for index, (camera, per_class) in enumerate(counts.items()):
        rng = np.random.default_rng([seed, 1, index])
        drawn = [
            (defect, shots) for defect, total in per_class.items() for shots in shots_per_part(rng, total)
        ]
        order = rng.permutation(len(drawn))
        for number, at in enumerate(order, start=FIRST_PART[camera]):
            defect, shots = drawn[at]
            parts.append(Part(camera, defect, number, shots))
    return parts


def shots_per_part(rng: np.random.Generator, total: int) -> list[int]:
    """Two to four shots per part, `total` together; a total below 2 is one part."""
    shots: list[int] = []
    left = total
    while left > 5:
        shots.append(int(rng.integers(2, 5)))
        left -= shots[-1]
    return shots + ([left] if left <= 4 else [3, 2]) if left else shots


def shoot(part: Part, root: Path, seed: int) -> int:
    """Make one part, photograph it and write its shots under `root`; the number of files written."""
    camera = CAMERAS[part.camera]
    # A generator of its own: what one part looks like doesn't depend on which worker drew which part before.
    rng = np.random.default_rng([seed, 2, part.number])
    scene = machine_part(rng, camera, part.defect)
    folder = root / part.camera / part.defect
    for shot in range(1, part.shots + 1):
        name = f"part-{part.number:04d}_{shot}.jpg"
        photograph(rng, scene, camera).save(folder / name, quality=camera.quality)
    return part.shots


def generate(
    root: Path, seed: int = 0, workers: int | None = None, counts: dict[str, dict[str, int]] | None = None
) -> dict[str, dict[str, int]]:
    """Write the data set to `root` and return its counts, camera -> class -> shots.

    The files are written beside `root` and moved there when all are complete, so an interruption leaves
    `root` as it was. An existing `root` is replaced. `workers` is the number of processes (default: one
    per core); `counts` replaces `COUNTS`.
    """
    counts = counts or COUNTS
    workers = workers or os.cpu_count() or 1
    root.parent.mkdir(parents=True, exist_ok=True)
    partial_root = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        parts = plan(seed, counts)
        for camera, per_class in counts.items():
            for defect in per_class:
                (partial_root / camera / defect).mkdir(parents=True)
        take(parts, partial_root, seed, workers)
        replace_folder(partial_root, root)
    finally:
        shutil.rmtree(partial_root, ignore_errors=True)
    return counts


def take(parts: list[Part], root: Path, seed: int, workers: int) -> None:
    """Photograph all parts with `workers` processes."""
    one = partial(shoot, root=root, seed=seed)
    if workers == 1:
        for part in parts:
            one(part)
        return
    # Forking a process that runs threads (torch, a test runner) can hang, so the workers start afresh.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(one, parts, chunksize=16):
            pass


def replace_folder(complete: Path, target: Path) -> None:
    """Move `complete` to `target`; what stood there is set aside first and removed last."""
    complete.chmod(0o755)  # mkdtemp's 0700 would hide the images from other users
    if not target.exists():
        complete.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    target.rename(aside / "old")
    complete.rename(target)
    shutil.rmtree(aside)


def run(workspace: Any, params: Any) -> int:
    """The `sample` verb: write `data/sample` in the workspace; the exit code."""
    root = Path(workspace.root) / "data" / "sample"
    for camera, per_class in generate(root, seed=params.seed).items():
        classes = ", ".join(f"{name} {count}" for name, count in per_class.items())
        print(f"{root / camera}: {sum(per_class.values())} images ({classes})")
    return 0
