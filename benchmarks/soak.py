"""A soaked year on record: runs ``make soak`` and keeps what reports/soak.json says.

    python -m benchmarks.soak                            # benchmarks/results/soak.json
    python -m benchmarks.soak --seed 1 --results /tmp/look

Nothing is compared with a rival, so the machine may be busy; the result says how long the year took and how loaded the
machine was. Exit code 1 where a request was lost or a promotion was wrong: then nothing is recorded.
"""

import argparse
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.errors import ContenderError, ended
from benchmarks.record import RESULTS, measuring
from benchmarks.sets import ROOT
from pipeline.artifacts import read_json

__all__ = ["summary"]

WHAT = (
    "A simulated year of the loop (`make soak`): images rendered by the sample's generator, a simulated clock, network and "
    "people; real log, kills, full disk, watch, label queue and intake, retrains, gate, shadow and releases."
)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with measuring("soak", what=WHAT, state="cold", timed=False, results=options.results) as result:
        command = [sys.executable, "-m", "flows.soak", "--seed", str(options.seed)]
        done = subprocess.run(command, cwd=ROOT, check=False)
        if done.returncode:
            raise ContenderError(f"`{' '.join(command[1:])}` ended with code {done.returncode}")
        result.details = summary(read_json(ROOT / "reports/soak.json"))
    return 0


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """The report with its longest tables counted; reports/soak.html tells them in full."""
    suppressed: Counter[str] = Counter()
    for run in report["suppressed"]:
        suppressed[run["why"]] += run["wake_ups"]
    return report | {
        "accuracy": {name: value for name, value in report["accuracy"].items() if name != "weeks"},
        "retrains": dict(Counter(retrain["outcome"] for retrain in report["retrains"])),
        "suppressed": dict(suppressed),
        "episodes": dict(Counter(episode["state"] for episode in report["episodes"])),
        "failed_wake_ups": len(report["failed_wake_ups"]),
    }


if __name__ == "__main__":
    sys.exit(ended(main))
