"""The drift decision beside other libraries', its false alarms over years, its triage and its estimates.

    VISIONLOOP_REAL_DATA=... python -m benchmarks.drift --work DIR     # → benchmarks/results/drift.json and .png
    python -m benchmarks.drift --only years --years 100 --results /tmp/look

Four sets (grocery20, pacs3, deeppcb_cls, the embedded sample), a linear probe's bundle each; what the bundles say of
clean and corrupted images is measured once, below --work, and kept there. The rates don't depend on the machine's
load; for times see `python -m benchmarks.drift_speed`. The rivals need `make rivals`.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import (
    drift_batch,
    drift_chart,
    drift_draws,
    drift_levelled,
    drift_power,
    drift_triage,
    drift_years,
)
from benchmarks.drift_draws import SHARES, Cell, Draw, Stack
from benchmarks.drift_images import SETS, WatchedSet, measured
from benchmarks.drift_ours import visionloop
from benchmarks.errors import ended
from benchmarks.record import RESULTS, measuring
from benchmarks.sets import ROOT
from pipeline.artifacts import read_json
from pipeline.params import Watch

WHAT = (
    "One look at a window beside alibi-detect, Evidently, torchdrift and frouros on identical draws; alarms in years "
    "without drift and images to an alarm; what the triage calls injected shifts; accuracy estimated without labels."
)
SECTIONS = ("batch", "years", "delays", "triage", "estimates")
SEED = 7


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.drift",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "var/bench/drift", help="default: var/bench/drift"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--null", type=int, default=100, help="draws without drift, a set and n")
    parser.add_argument("--each", type=int, default=3, help="draws with drift, a set and cell")
    parser.add_argument(
        "--slow", type=int, default=2, help="times the draws that slow contenders judge at least"
    )
    parser.add_argument(
        "--contenders", nargs="+", choices=drift_batch.JUDGED, default=drift_batch.USUAL, metavar="NAME",
        help=f"beside ours; default: {', '.join(drift_batch.USUAL[1:])}",
    )  # fmt: skip
    parser.add_argument(
        "--goal", type=int, default=40, help="draws with noise, a set and share, for its goal"
    )
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="severities")
    parser.add_argument("--years", type=int, default=250, help="years without drift, a set")
    parser.add_argument("--runs", type=int, default=5, help="streams with drift, a set and shift")
    parser.add_argument("--processes", type=int, default=2, help="at a time; default: 2")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    alpha = Watch().alpha
    with measuring("drift", what=WHAT, state="warm", timed=False, results=options.results) as result:
        each_set = partial(_each_set, options.processes)
        stacks = each_set(partial(_stack, work=options.work))
        sections: dict[str, Callable[[], Any]] = {
            "batch": lambda: _batch(stacks, options),
            "years": lambda: _years(each_set(partial(_quiet, work=options.work, years=options.years, alpha=alpha)), alpha),
            "delays": lambda: each_set(partial(_delays, work=options.work, runs=options.runs, alpha=alpha)),
            "triage": lambda: drift_triage.confusion(stacks, options.work),
            "estimates": lambda: drift_triage.estimates(stacks),
        }  # fmt: skip
        before = options.results / "drift.json"
        result.details = dict(read_json(before)["details"]) if before.exists() else {}
        for name in options.only:
            print(f"measuring: {name}", flush=True)
            result.details[name] = sections[name]()
        result.versions["rivals"] = _rivals()
    drift_chart.draw(read_json(before), options.results / "drift.png")
    return 0


def _each_set(processes: int, one: Callable[[WatchedSet], Any]) -> list[Any]:
    """``one`` of every set, so many sets at a time, in processes of their own."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return list(pool.map(one, SETS))


def _stack(watched: WatchedSet, work: Path) -> Stack:
    return Stack.of(measured(watched, work))


def _batch(stacks: Sequence[Stack], options: argparse.Namespace) -> dict[str, Any]:
    cells = drift_draws.cells(levels=options.levels)
    draws = drift_draws.draws(stacks, cells, null=options.null, each=options.each)
    drift_draws.write(stacks, draws, options.work)
    print(f"{len(draws):,} draws", flush=True)
    names = [drift_power.OURS, *(name for name in options.contenders if name != drift_power.OURS)]
    judged = drift_batch.judge(options.work, options.processes, options.slow, names)
    return {"goal": _goal(stacks, options.goal), **drift_power.summary(draws, judged)}


def _goal(stacks: Sequence[Stack], each: int) -> dict[str, Any]:
    """Our own decision on noise of severity 3 at n = 100, by share: more draws than a cell has."""
    noisy = [Cell("gaussian_noise", 3, share, 100) for share in SHARES]
    draws = drift_draws.draws(stacks, noisy, null=0, each=each)
    own = {stack.watched.name: stack for stack in stacks}

    def called(draw: Draw) -> bool:
        return visionloop(own[draw.set], draw.reference, draw.window, draw.number)[1]

    found = {}
    for cell in noisy:
        hits = [called(draw) for draw in draws if draw.cell == cell]
        found[cell.name] = drift_levelled.Rate(sum(hits), len(hits)).to_dict()
    return found


def _years(counted: Sequence[dict[str, Any]], alpha: float) -> dict[str, Any]:
    """By set and over all sets; every year has a reference of its own."""
    found: dict[str, Any] = {"alpha": alpha, "images_a_year": {"hourly": 8760, "weekly": 5200}}
    for pace in ("hourly", "weekly"):
        found[pace] = {
            one.name: drift_years.bounded(*count[pace]) for one, count in zip(SETS, counted, strict=True)
        }
        found[pace]["all"] = drift_years.bounded(*(sum(count[pace][i] for count in counted) for i in (0, 1)))
    looks = [count["looks"] for count in counted]
    found["weekly_looks_at_.05"] = drift_years.bounded(*(sum(one[i] for one in looks) for i in (0, 1)))
    return found


def _quiet(watched: WatchedSet, work: Path, years: int, alpha: float) -> dict[str, Any]:
    stack = _stack(watched, work)
    looks = drift_years.checked_years(stack, max(5, years // 100), SEED)
    return drift_years.quiet_years(stack, years, alpha, SEED) | {"looks": looks}


def _delays(watched: WatchedSet, work: Path, runs: int, alpha: float) -> list[dict[str, Any]]:
    return drift_years.delays(_stack(watched, work), runs, alpha, SEED)


def _rivals() -> dict[str, str]:
    """What the detectors' environment and our own hold of them."""
    from importlib.metadata import distributions, version

    found = {"evidently": version("evidently")}
    for folder in (ROOT / "benchmarks/.venvs/drift/lib").glob("python*/site-packages"):
        names = ("alibi-detect", "torchdrift", "frouros", "torch", "numpy")
        have = {one.metadata["Name"].lower(): one.version for one in distributions(path=[str(folder)])}
        found |= {name: have[name] for name in names if name in have}
    return found


if __name__ == "__main__":
    sys.exit(ended(main))
