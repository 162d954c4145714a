"""From images to a network that answers: the seconds of the whole process, and how often it is right.

    python -m benchmarks.time_to_accuracy                      # five sets, ours (auto, probe on auto features), timm, fastai
    python -m benchmarks.time_to_accuracy --sets pacs3_photo --epochs 1 --only timm

Every run is cold: a new process, none of our caches. Ours is `train` and `bundle`, whose export and check
count; the rivals' time ends with their checkpoint. The test images, which nobody has seen, are judged alike
for all (see judge.py). The order of the contenders turns from set to set, A-B-B-A. Where a rival keeps two
networks, the last and the best on validation, the one that does better on the test images counts.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.best_flags import chosen
from benchmarks.contenders import Contender, Fastai, Ours, Outcome, Timm, timm_script
from benchmarks.errors import ended
from benchmarks.interleave import Ratio, ratio_of_medians
from benchmarks.judge import Judged, compare, held_out_views, judge, pool
from benchmarks.record import RESULTS, Accuracies, Result, Row, measuring, of_device
from benchmarks.sets import ROOT, SETS, prepare

ENOUGH = 3  # windows or seeds from which a ratio gets an interval
RESAMPLES = 10_000
DISTURBED = 0.05  # share of the machine that other work took during a run
WHAT = (
    "Seconds of the whole process, cold, from a folder of images to a network that answers; accuracy on test images "
    "that nobody has seen, the same for all."
)


@dataclass(frozen=True)
class Run:
    """One contender's run on one set."""

    case: str
    seed: int
    outcome: Outcome
    judged: dict[str, Judged]  # by network: last, best, bundle

    @property
    def counts(self) -> Judged:
        return max(self.judged.values(), key=lambda judged: judged.accuracy)


def race(
    contenders: Sequence[Contender],
    sets: Sequence[str],
    seeds: Sequence[int],
    windows: int,
    size: int,
    work: Path,
    *,
    answering: bool = True,
) -> list[Run]:
    """Every contender on every set, for every seed, ``windows`` times, in turn; where ``answering``, judged."""
    runs: list[Run] = []
    turn = 0
    for seed in seeds:
        for name in sets:
            prepared = prepare(name, work, seed=seed, image_size=size)
            views, truth = held_out_views(prepared) if answering else (None, None)
            print(f"\n{name}, seed {seed}: {prepared.counts()}", flush=True)
            for _ in range(windows):
                for contender in contenders if turn % 2 == 0 else list(reversed(contenders)):
                    outcome = contender.run(prepared, views, seed)
                    judged = {key: judge(logits, truth) for key, logits in outcome.answers.items() if truth}
                    runs.append(Run(name, seed, outcome, judged))
                    print(line(runs[-1]), flush=True)
                turn += 1
    return runs


def line(run: Run) -> str:
    """A run, for who is watching."""
    outcome = run.outcome
    speed = f"{outcome.images_per_second:7.1f} images/s" if outcome.images_per_second else " " * 16
    accuracy = ", ".join(f"{key} {judged.accuracy:.3f}" for key, judged in run.judged.items())
    return (
        f"  {outcome.name:<18}{outcome.seconds:7.1f} s ({outcome.work_seconds:6.1f} s at work)  {speed}  "
        f"{outcome.peak_bytes / 2**20:6.0f} MiB  test: {accuracy}  (other work {outcome.others:.0%})"
    )


def comparisons(runs: Sequence[Run], measure: str) -> list[Row]:
    """Each of ours beside each rival, set by set, and all sets together."""
    names = list(dict.fromkeys(run.outcome.name for run in runs))
    cases = list(dict.fromkeys(run.case for run in runs))
    rows = []
    for ours in (name for name in names if name.startswith("visionloop")):
        for rival in (name for name in names if not name.startswith("visionloop")):
            mine, theirs = ([run for run in runs if run.outcome.name == name] for name in (ours, rival))
            rows += [_row([case], mine, theirs, measure) for case in cases]
            if len(cases) > 1:
                rows.append(_row(cases, mine, theirs, measure))
    return rows


def _row(cases: Sequence[str], ours: Sequence[Run], rival: Sequence[Run], measure: str) -> Row:
    """One comparison over one set, or over the totals of several."""
    mine, theirs = ([_seconds(side, case) for case in cases] for side in (ours, rival))
    both = [pool(_first_windows(side, cases)) for side in (ours, rival)]
    difference = compare(*both)
    whole = len(cases) > 1
    ratio = _ratio_of_totals(theirs, mine) if whole else ratio_of_medians(theirs[0], mine[0])
    sure = whole or min(len(mine[0]), len(theirs[0])) >= ENOUGH
    label, other = ours[0].outcome.name, rival[0].outcome.name
    return Row(
        case=f"all {len(cases)} sets" if whole else cases[0],
        measure=measure,
        unit="s",
        better="lower",
        ours=label,
        rival=other,
        ours_value=sum(statistics.median(values) for values in mine),
        rival_value=sum(statistics.median(values) for values in theirs),
        ratio=ratio.value,
        ratio_ci95=(ratio.low, ratio.high) if sure else None,
        windows=len(mine[0]),
        headline=whole or other == Timm.name,
        accuracy=Accuracies(
            ours=both[0].accuracy,
            rival=both[1].accuracy,
            n=difference.n,
            difference=difference.value,
            difference_ci95=(difference.low, difference.high),
        ),
    )


def _seconds(runs: Sequence[Run], case: str) -> list[float]:
    return [run.outcome.seconds for run in runs if run.case == case]


def _first_windows(runs: Sequence[Run], cases: Sequence[str]) -> list[Judged]:
    """A set's answers for each seed: a second window of the same seed gives no new ones."""
    first: dict[tuple[str, int], Judged] = {}
    for run in runs:
        if run.case in cases:
            first.setdefault((run.case, run.seed), run.counts)
    return [first[key] for key in sorted(first)]


def _ratio_of_totals(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> Ratio:
    """Of the sums of the sets' medians; the interval is over the sets, drawn with replacement."""
    above, below = (np.array([statistics.median(values) for values in side]) for side in (first, second))
    drawn = np.random.default_rng(0).integers(0, len(above), (RESAMPLES, len(above)))
    low, high = np.quantile(above[drawn].sum(axis=1) / below[drawn].sum(axis=1), [0.025, 0.975])
    return Ratio(float(above.sum() / below.sum()), float(low), float(high))


def described(run: Run) -> dict[str, Any]:
    """A run, for the result's details."""
    outcome = run.outcome
    return {
        "set": run.case,
        "seed": run.seed,
        "contender": outcome.name,
        "seconds": outcome.seconds,
        "work_seconds": outcome.work_seconds,
        "cpu_seconds": outcome.cpu_seconds,
        "images_per_second": outcome.images_per_second,
        "peak_mib": outcome.peak_bytes / 2**20,
        "others": outcome.others,
        "test": {
            key: {"accuracy": judged.accuracy, "accuracy_ci95": judged.interval, "n": len(judged.correct)}
            for key, judged in run.judged.items()
        },
        **outcome.details,
    }


def contenders(only: str | None, epochs: int, flags: Callable[[str], list[str]]) -> list[Contender]:
    """Ours as it ships and by the probe alone, and the rivals with their best flags, or one side alone."""
    found: list[Contender] = []
    if only in (None, "ours"):
        found += [Ours("auto"), Ours("probe", {"features": "auto"})]
    if only in (None, "timm"):
        found.append(Timm(timm_script(), epochs, flags(Timm.name)))
    if only in (None, "fastai"):
        found.append(Fastai(epochs, flags(Fastai.name)))
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.time_to_accuracy", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], help="of the division and of all contenders"
    )
    parser.add_argument("--epochs", type=int, default=10, help="the rivals' (default: 10)")
    parser.add_argument("--image-size", type=int, default=128, help="px (default: 128)")
    parser.add_argument("--windows", type=int, default=1, help="runs of each contender on each set and seed")
    parser.add_argument(
        "--only", choices=("ours", "timm", "fastai"), help="one side alone; nothing is recorded"
    )
    parser.add_argument(
        "--flags", help="for both rivals, instead of the best ones: '--precision float32 --workers 1'"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "var/bench")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the result goes")
    parser.add_argument("--force", action="store_true", help="measure although the machine is at other work")
    return parser.parse_args()


def main() -> int:
    """Race, and record what came of it."""
    options = _options()
    given = options.flags.split() if options.flags else None
    field = contenders(options.only, options.epochs, lambda rival: given or chosen(rival, options.results))
    recorded: AbstractContextManager[Result | None] = (
        nullcontext()
        if options.only
        else measuring(
            of_device("time_to_accuracy"),
            what=WHAT,
            state="cold",
            force=options.force,
            results=options.results,
        )
    )
    with recorded as result:
        runs = race(field, options.sets, options.seeds, options.windows, options.image_size, options.work)
        disturbed = [run for run in runs if run.outcome.others > DISTURBED]
        if disturbed:
            print(
                f"WARNING: other work took over {DISTURBED:.0%} of the machine during {len(disturbed)} of {len(runs)} runs"
            )
        if result is not None:
            measure = f"images to network, {options.image_size} px; rivals {options.epochs} epochs"
            result.rows += comparisons(runs, measure)
            result.details |= {"runs": [described(run) for run in runs]}
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
