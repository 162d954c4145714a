"""Seconds of the kernel test beside alibi-detect's at as many permutations, and what it costs at its largest.

    python -m benchmarks.drift_speed        # → benchmarks/results/drift_speed.json; waits for a quiet machine

Each side in an interpreter of its own, in turn, on the same made-up embeddings; processor time of the test alone,
imports and the detector's making left out.
"""

import argparse
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.drift_batch import DRIFT_PYTHON
from benchmarks.errors import CommandError, ContenderError, ended
from benchmarks.interleave import interleave, ratio_of_medians
from benchmarks.record import RESULTS, Row, measuring
from benchmarks.sets import ROOT

WINDOWS = 5
CASES = ((100, 200, 1280, 100), (100, 200, 1280, 1000), (1000, 1000, 512, 500))
"""Images of the window, of the reference, width, permutations."""
DATA = (
    "import numpy as np, time\n"
    "rng = np.random.default_rng(0)\n"
    "y, x = (rng.normal(size=(k, {d})).astype(np.float32) for k in ({m}, {n}))\n"
)
OURS = (
    "from monitoring.two_sample import mmd\nimport resource\n"
    "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    "started = time.perf_counter()\n"
    "mmd(x, y, permutations={b}, rng=rng)\n"
    "seconds = time.perf_counter() - started\n"
    "print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
)
ALIBI = (
    "import warnings, logging\nwarnings.simplefilter('ignore')\nlogging.disable(logging.WARNING)\n"
    "from alibi_detect.cd import MMDDrift\n"
    "detector = MMDDrift(y, backend='pytorch', n_permutations={b})\n"
    "started = time.perf_counter()\n"
    "detector.predict(x)\n"
    "print(time.perf_counter() - started, 0)\n"
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.drift_speed", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--force", action="store_true", help="measure although the machine is at other work")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not DRIFT_PYTHON.exists():
        raise ContenderError(f"{DRIFT_PYTHON} is missing: run `make rivals`")
    what = "The kernel two-sample test of embeddings beside alibi-detect's MMDDrift at as many permutations."
    with measuring(
        "drift_speed", what=what, state="warm", force=options.force, results=options.results
    ) as result:
        for n, m, d, b in CASES:
            sizes = {"n": n, "m": m, "d": d, "b": b}
            memory: list[float] = []
            contenders = {
                "visionloop": partial(_run, sys.executable, DATA + OURS, sizes, memory),
                "alibi": partial(_run, str(DRIFT_PYTHON), DATA + ALIBI, sizes, []),
            }
            took = interleave(contenders, state="warm", windows=WINDOWS)
            ratio = ratio_of_medians(took["alibi"], took["visionloop"])
            ours, theirs = (sorted(took[name])[WINDOWS // 2] for name in ("visionloop", "alibi"))
            result.rows.append(
                Row(
                    case=f"{n:,} × {m:,} × {d}", measure=f"kernel test, {b:,} permutations", unit="s",
                    better="lower", ours="visionloop", rival="alibi-detect", ours_value=ours, rival_value=theirs,
                    ratio=ratio.value, ratio_ci95=(ratio.low, ratio.high), windows=WINDOWS, headline=n == 100,
                )
            )  # fmt: skip
            result.details[f"{n} x {m} x {d}, {b} permutations"] = {
                "seconds": took,
                "our_peak_mib": max(memory),
            }
    return 0


def _run(python: str, code: str, sizes: dict[str, int], memory: list[float]) -> float:
    done = subprocess.run(
        [python, "-c", code.format(**sizes)], cwd=ROOT, check=False, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(os.cpu_count() or 1)},
    )  # fmt: skip
    if done.returncode:
        raise CommandError(f"{python} failed:\n{done.stderr[-2000:]}")
    seconds, mebibytes = (float(value) for value in done.stdout.split()[-2:])
    memory.append(mebibytes)
    return seconds


if __name__ == "__main__":
    sys.exit(ended(main))
