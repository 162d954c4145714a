"""A network's own predictions of images that it has not seen: grocery20's, or the embedded sample's.

VISIONLOOP_REAL_DATA=/data/real python -c "..."      # grocery20, by its official split
"""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.errors import CommandError
from benchmarks.populations import Population, of_table
from benchmarks.sets import ROOT, change_params, prepare
from flows.demo_workspace import copy_checkout
from pipeline import artifacts
from pipeline.artifacts import Workspace
from pipeline.asked import read_origin

REAL = "grocery20"
SAMPLE = ("sample", "scan line-a", "ingest", "validate", "split", "balance")
JUDGED = ("train", "bundle", "evaluate")


def predictions(work: Path) -> Population:
    """The test images of a linear probe, trained below ``work`` by the product's own stages.

    Raises:
        SetError: the real images are named but not there.
        CommandError: a stage failed.
    """
    if os.environ.get("VISIONLOOP_REAL_DATA"):
        place, name = prepare(REAL, work).workspace, f"{REAL}, linear probe"
        verbs = list(JUDGED)
    else:
        place, name = work / "sample", "embedded sample, linear probe"
        verbs = [*SAMPLE, *JUDGED]
        copy_checkout(ROOT, place)
    change_params(place, {"train": {"strategy": "probe"}})
    artifacts.write_json(place / "champion-pin.json", {"digest": None})
    environment = os.environ | {"VISIONLOOP_HOME": str(place / "var"), "HF_HUB_OFFLINE": "1"}
    for verb in verbs:
        command = [sys.executable, "-m", "pipeline", *verb.split()]
        done = subprocess.run(
            command, cwd=place, env=environment, check=False,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if done.returncode:
            raise CommandError(f"`{' '.join(command[1:])}` failed:\n{done.stdout[-3000:]}")
    path = Workspace(place, place / "var").predictions
    table = artifacts.read_table(path, artifacts.PREDICTIONS)
    return of_table(name, table, read_origin(path)["classes"])
