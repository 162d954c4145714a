"""Seconds of the kernel test beside alibi-detect's at as many permutations, and what it costs at its largest.

    python -m benchmarks.drift_speed        # → benchmarks/results/drift_speed.json; waits for a quiet machine

Each side in an interpreter of its own, in turn, on the same made-up embeddings; time of the test alone, imports and the
detector's making left out. Cold is the first test of an interpreter, which also starts threads and first touches memory;
warm is the median of the next ``LATER`` in the same one.
"""

import argparse
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.drift_batch import DRIFT_PYTHON
from benchmarks.errors import CommandError, ContenderError, ended
from benchmarks.interleave import interleave, ratio_of_medians
from benchmarks.record import RESULTS, Row, measuring
from benchmarks.sets import ROOT

WINDOWS = 5
LATER = 5
CASES = ((100, 200, 1280, 100), (100, 200, 1280, 1000), (1000, 1000, 512, 500))
"""Images of the window, of the reference, width, permutations."""
DATA = (
    "import numpy as np, time\n"
    "rng = np.random.default_rng(0)\n"
    "y, x = (rng.normal(size=(k, {d})).astype(np.float32) for k in ({m}, {n}))\n"
)
TIMED = (
    "seconds = []\n"
    "for _ in range(1 + {later}):\n"
    "    started = time.perf_counter()\n"
    "    test()\n"
    "    seconds.append(time.perf_counter() - started)\n"
)
OURS = (
    "from monitoring.two_sample import mmd\nimport resource\n"
    "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    "test = lambda: mmd(x, y, permutations={b}, rng=rng)\n"
    + TIMED
    + "print(*seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
)
ALIBI = (
    "import warnings, logging\nwarnings.simplefilter('ignore')\nlogging.disable(logging.WARNING)\n"
    "from alibi_detect.cd import MMDDrift\n"
    "detector = MMDDrift(y, backend='pytorch', n_permutations={b})\n"
    "test = lambda: detector.predict(x)\n" + TIMED + "print(*seconds, 0)\n"
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
        "drift_speed", what=what, state="cold and warm", force=options.force, results=options.results
    ) as result:
        for case in CASES:
            n, m, d, b = case
            cold, warm, memory = _measured(case)
            for state, took in (("cold", cold), ("warm", warm)):
                result.rows.append(_row(case, state, took))
            result.details[f"{n} x {m} x {d}, {b} permutations"] = {
                "cold_seconds": cold,
                "warm_seconds": warm,
                "our_peak_mib": memory,
            }
    return 0


def _measured(
    case: tuple[int, int, int, int],
) -> tuple[dict[str, list[float]], dict[str, list[float]], float]:
    """Seconds of each side's first test of an interpreter and of a later one, by window; our peak, MiB."""
    sizes = dict(zip("nmdb", case, strict=True)) | {"later": LATER}
    warm: dict[str, list[float]] = {"visionloop": [], "alibi": []}
    peaks = []

    def contend(name: str, python: str, code: str) -> float:
        first, *later, mebibytes = _run(python, code, sizes)
        warm[name].append(float(np.median(later)))
        peaks.append(mebibytes)
        return first

    contenders = {
        "visionloop": partial(contend, "visionloop", sys.executable, DATA + OURS),
        "alibi": partial(contend, "alibi", str(DRIFT_PYTHON), DATA + ALIBI),
    }
    cold = interleave(contenders, state="cold", windows=WINDOWS)
    return cold, warm, max(peaks)


def _row(case: tuple[int, int, int, int], state: str, took: dict[str, list[float]]) -> Row:
    n, m, d, b = case
    ratio = ratio_of_medians(took["alibi"], took["visionloop"])
    ours, theirs = (float(np.median(took[name])) for name in ("visionloop", "alibi"))
    return Row(
        case=f"{n:,} × {m:,} × {d}", measure=f"kernel test, {b:,} permutations, {state}", unit="s",
        better="lower", ours="visionloop", rival="alibi-detect", ours_value=ours, rival_value=theirs,
        ratio=ratio.value, ratio_ci95=(ratio.low, ratio.high), windows=WINDOWS, headline=n == 100,
    )  # fmt: skip


def _run(python: str, code: str, sizes: dict[str, int]) -> list[float]:
    done = subprocess.run(
        [python, "-c", code.format(**sizes)], cwd=ROOT, check=False, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(os.cpu_count() or 1)},
    )  # fmt: skip
    if done.returncode:
        raise CommandError(f"{python} failed:\n{done.stderr[-2000:]}")
    return [float(value) for value in done.stdout.split()[-(LATER + 2) :]]


if __name__ == "__main__":
    sys.exit(ended(main))
