"""What answering costs: latency, cold start, memory and size of the challenger, and the champion beside it.

    python -m pipeline performance

Each bundle runs in a process of its own, as a worker of the service does: from an image's bytes to its
probabilities. The two are asked in turn, so that a machine that slows down slows both. Writes
reports/performance.json; ``gate`` judges it. Figures hold for this machine and its load, so they differ from run
to run; nothing else of a verdict does.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline import artifacts
from pipeline.artifacts import Workspace
from pipeline.asked import pinned_champion
from pipeline.bundle import Form
from pipeline.errors import DataError, IntegrityError
from pipeline.params import Params

__all__ = ["run"]

ROUNDS = 12
IMAGES = 8  # asked one after the other in a round


def run(workspace: Workspace, params: Params) -> int:
    """Bundle, pinned champion and some test images → reports/performance.json."""
    split = artifacts.read_table(workspace.split, artifacts.SPLIT)
    test = split.filter(pc.equal(split["split"], "test")).slice(0, IMAGES)
    paths = [str(workspace.root / path) for path in test["path"].to_pylist()]
    if not paths:
        raise DataError(
            "artifacts/split.parquet holds no test image to ask about: see `python -m pipeline split`"
        )
    bundles = {"challenger": workspace.bundle}
    champion = pinned_champion(workspace)
    if champion is not None:
        bundles["champion"] = champion
    measured: dict[str, Any] = {"champion": None} | measure(bundles, paths, params)
    artifacts.write_json(workspace.performance, measured)
    print(report(measured))
    return 0


def measure(bundles: dict[str, Path], images: list[str], params: Params) -> dict[str, Any]:
    """{name: {digest, megabytes, cold_start_seconds, memory_megabytes, milliseconds: {median, p95}, by_round}}.

    Raises:
        IntegrityError: a bundle can't be loaded, or does not answer.
    """
    workers = {name: _Worker(path, params.serve.format, params) for name, path in bundles.items()}
    try:
        started = {name: worker.start(images[0]) for name, worker in workers.items()}
        rounds: dict[str, list[list[float]]] = {name: [] for name in workers}
        for number in range(ROUNDS):
            for name in list(workers)[:: -1 if number % 2 else 1]:  # in turn, and each first half of the time
                rounds[name].append(workers[name].ask(images))
        return {name: started[name] | _figures(rounds[name]) | workers[name].end() for name in workers}
    finally:
        for worker in workers.values():
            worker.kill()


def _figures(rounds: list[list[float]]) -> dict[str, Any]:
    """Milliseconds from seconds, [rounds][images]."""
    each = np.array(rounds) * 1000
    return {
        "milliseconds": {
            "median": round(float(np.median(each)), 3),
            "p95": round(float(np.quantile(each, 0.95)), 3),
        },
        "by_round": [round(float(value), 3) for value in np.median(each, axis=1)],
    }


class _Worker:
    """A child that holds one bundle; requests and replies are JSON lines."""

    def __init__(self, path: Path, form: Form, params: Params) -> None:
        self._path = path
        self._began = time.perf_counter()
        command = [sys.executable, "-m", "pipeline.performance_worker", str(path), form]
        command += [str(params.data.max_pixels), str(params.data.max_bytes)]
        here = str(Path(__file__).resolve().parent.parent)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        }
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start(self, image: str) -> dict[str, Any]:
        """Until the first answer."""
        self.ask([image])
        return {"cold_start_seconds": round(time.perf_counter() - self._began, 3)}

    def ask(self, images: list[str]) -> list[float]:
        """Seconds of each image."""
        return list(self._reply({"images": images})["seconds"])

    def end(self) -> dict[str, Any]:
        return self._reply({"end": True})

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _reply(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None  # noqa: S101  (asked for above)
        assert self._process.stdout is not None  # noqa: S101
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return dict(json.loads(self._process.stdout.readline()))
        except (OSError, ValueError) as error:
            said = (self._process.stderr.read() if self._process.stderr else "").strip().splitlines()
            raise IntegrityError(
                f"{self._path} does not answer in a process of its own: {said[-1] if said else 'it ended without a word'}"
            ) from error


def report(measured: dict[str, Any]) -> str:
    """A line a bundle."""
    return "\n".join(
        f"{name} {row['digest'][:12]}: {row['milliseconds']['median']:.1f} ms an image (p95 {row['milliseconds']['p95']:.1f}), "
        f"cold start {row['cold_start_seconds']:.1f} s, {row['memory_megabytes']:.0f} MB of memory, {row['megabytes']:.1f} MB on disk"
        for name, row in measured.items()
        if row
    )
