"""The gate's own error rates, and how often the intervals it states hold the truth.

    python -m benchmarks.gate                    # 2,000 draws a cell → benchmarks/results/gate.json and .png
    python -m benchmarks.gate --draws 200 --results /tmp/look

Truth is known: predictions are simulated, or are a network's own on real images with planted changes. Where
VISIONLOOP_REAL_DATA names the real images those are grocery20's official test images, else the embedded
sample's; a linear probe is trained for them first. Seeds are fixed.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import coverage, verdicts
from benchmarks.coverage import Coverage
from benchmarks.errors import ended
from benchmarks.gate_chart import draw
from benchmarks.populations import Change, Population, simulated
from benchmarks.real_predictions import predictions
from benchmarks.record import RESULTS, measuring
from benchmarks.verdicts import Case
from benchmarks.versions import Versions
from pipeline.params import Gate

DRAWS = 2000
WHAT = (
    "Simulated verdicts with known truth: how often the gate promotes what is worse and rejects what is equal, and how "
    "often each stated 95 % interval holds the truth."
)
WORSE, EQUAL, CLASSES = 0.01, 0.05, 0.05  # at most so often: promoted, rejected, rejected for a class


def cases(real: Population) -> list[Case]:
    """Challengers whose truth is known, at 500 test images."""
    single = simulated(accuracy=0.9, classes=20, group=1, alike=0, seed=0)
    shots = simulated(accuracy=0.9, classes=6, group=7, alike=0.4, seed=1)
    worse = [
        ("5 points worse, wrong anywhere", Change(losses=0.05)),
        ("5 points worse, and 6 % swapped both ways", Change(wins=0.03, losses=0.08)),
        ("5 points worse, all in the fewest classes", Change(losses=0.05, where="classes")),
        ("5 points worse, all in one domain", Change(losses=0.05, where="domain")),
    ]
    equal = [
        ("equal, 4 % swapped both ways", Change(wins=0.02, losses=0.02)),
        ("equal, 12 % swapped both ways", Change(wins=0.06, losses=0.06)),
    ]
    few = [(name, held(change, real)) for name, change in worse]
    few_equal = [(name, held(change, real)) for name, change in equal]
    found = [Case(name, single, change, "PROMOTE", WORSE) for name, change in worse[:2]]
    found += [Case(name, real, change, "PROMOTE", WORSE) for name, change in few]
    alike = Change(wins=0.03, losses=0.08, alike=0.4)
    found.append(Case("5 points worse, shots of a part alike", shots, alike, "PROMOTE", WORSE))
    found += [Case(name, single, change, "REJECT", EQUAL) for name, change in equal]
    found += [Case(name, real, change, "REJECT", EQUAL) for name, change in few_equal]
    alike = Change(wins=0.06, losses=0.06, alike=0.4)
    found.append(Case("equal, shots of a part alike", shots, alike, "REJECT", EQUAL))
    swapped = Change(wins=0.06, losses=0.06)
    found.append(Case("equal in each of 20 classes", single, swapped, "class fails", CLASSES, n=1000))
    unsure = Change(wins=0.04, losses=0.04, where="unsure")
    whole = [
        Case(f"the whole gate, {case.name}", case.population, case.change, "REJECT", EQUAL, whole=limits,
             versions=Versions(right=0.7, alike=0.4 if case.population is shots else 0.0))
        for case, limits in (
            (Case("equal, 8 % swapped both ways", single, unsure, "REJECT", EQUAL), Gate()),
            (Case("equal, shots of a part alike", shots, replace(unsure, alike=0.4), "REJECT", EQUAL), Gate()),
            (Case("equal, 8 % swapped both ways", real, unsure, "REJECT", EQUAL), below(real)),
        )
    ]  # fmt: skip
    found += whole
    bound = verdicts.at_the_bound(20, 0.5, seed=2)
    found += [
        Case(
            f"20 classes at the bound, {n} images",
            bound,
            None,
            "recall fails",
            CLASSES,
            n=n,
            recall_bound=0.5,
        )
        for n in (500, 1000)
    ]
    return found


def below(population: Population) -> Gate:
    """The gate as it ships, but for an accuracy and macro-F1 that are asked to be a tenth under the truth."""
    least = round(float(population.right.mean()) - 0.1, 2)
    return Gate(min_accuracy=least, min_macro_f1=least - 0.05)


def held(change: Change, population: Population) -> Change:
    """``change`` with no more wins than four fifths of the wrong answers, and as many fewer losses: `truth` tells."""
    most = 0.8 * float((~population.right).mean())
    excess = max(0.0, change.wins - most)
    return replace(change, wins=change.wins - excess, losses=change.losses - excess)


def coverages(real: Population, draws: int) -> list[Callable[[], list[Coverage]]]:
    """Every cell of the coverage: the metrics' intervals, and the paired difference's."""
    work: list[Callable[[], list[Coverage]]] = []
    for number, (accuracy, classes, group, n, over) in enumerate(
        (
            (0.9, 3, 1, 60, 1.4),
            (0.5, 6, 1, 250, 1.4),
            (0.7, 6, 1, 250, 1.4),
            (0.9, 6, 1, 500, 1.0),
            (0.97, 6, 1, 500, 1.4),
            (0.9, 20, 1, 1000, 1.4),
            (0.9, 3, 7, 60, 1.4),
            (0.7, 6, 7, 250, 1.4),
            (0.9, 6, 7, 500, 1.4),
            (0.97, 6, 7, 500, 1.0),
        )
    ):
        population = simulated(
            accuracy=accuracy,
            classes=classes,
            group=group,
            alike=0.0 if group == 1 else 0.5,
            seed=10 + number,
            overconfidence=over,
        )
        work.append(partial(coverage.metrics, population, n, draws, seed=100 + number))
    work += [partial(coverage.metrics, real, n, draws, seed=200 + n) for n in (250, 500)]
    work += [
        partial(_paired, n, disagreement, group, draws)
        for group in (1, 7)
        for n in (60, 120, 250, 500, 2000)
        for disagreement in (0.02, 0.05, 0.1, 0.3)
    ]
    for number, (right, less, own, group, n) in enumerate(
        (
            (0.7, 0.0, 0.2, 1, 96),
            (0.7, 0.2, 0.2, 1, 96),
            (0.95, 0.0, 0.05, 1, 96),
            (0.5, 0.3, 0.4, 1, 24),
            (0.7, 0.2, 0.2, 7, 96),
            (0.7, 0.0, 0.2, 7, 60),
        )
    ):
        versions = Versions(right=right, less=less, own=own, alike=0.0 if group == 1 else 0.5)
        work.append(partial(coverage.robustness, versions, n, group, draws, seed=300 + number))
    work += [
        partial(_gap, n, accuracies, group, draws)
        for n, accuracies, group in (
            (250, (0.7, 0.7), 1),
            (250, (0.8, 0.6), 1),
            (500, (0.9, 0.8), 7),
            (500, (0.8, 0.8, 0.8), 1),
            (500, (0.8, 0.7, 0.6), 1),
            (500, (0.8, 0.8, 0.8), 7),
        )
    ]
    return work


def _gap(n: int, accuracies: tuple[float, ...], group: int, draws: int) -> list[Coverage]:
    return [coverage.gap(n, accuracies, group, 0.0 if group == 1 else 0.4, draws, seed=n + group)]


def _paired(n: int, disagreement: float, group: int, draws: int) -> list[Coverage]:
    """Truly equal, and worse by half of the disagreements."""
    seed = n + int(1000 * disagreement) + group
    return [
        coverage.paired(n, disagreement, difference, group, 0.0 if group == 1 else 0.4, draws, seed)
        for difference in (0.0, -disagreement / 2)
    ]


def measure(real: Population, draws: int) -> dict[str, Any]:
    """All cells, on all cores."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        judged = [pool.submit(verdicts.rates, case, draws, 1000 + i) for i, case in enumerate(cases(real))]
        covered = [pool.submit(work) for work in coverages(real, draws)]
        verdicts_ = [job.result() for job in tqdm(judged, desc="verdicts", unit="case")]
        rows = [row.to_dict() for job in tqdm(covered, desc="coverage", unit="cell") for row in job.result()]
    return {
        "draws": draws,
        "real_predictions": {
            "of": real.name,
            "images": len(real.labels),
            "classes": len(real.classes),
            "accuracy": round(float(real.right.mean()), 4),
        },
        "goals": {"coverage": [coverage.LOWEST, coverage.HIGHEST], "fewest_in_the_field": coverage.FEWEST},
        "verdicts": verdicts_,
        "coverage": rows,
        "missed": [f"{row['case']}: {row['event']} {row['share']}" for row in verdicts_ if not row["met"]]
        + [_missed(row) for row in rows if not row["met"]],
    }


def _missed(row: dict[str, Any]) -> str:
    where = "" if row["field"] else " (outside the field)"
    return f"{row['interval']}, {row['case']}, n = {row['n']}, truth {row['truth']}: {row['share']}{where}"


def report(details: dict[str, Any]) -> str:
    """Each verdict's rate, and what missed its goal."""
    lines = [f"{'what must be rare':<52}{'n':>6}{'share':>8}{'95 % interval':>18}{'goal':>9}"]
    for row in details["verdicts"]:
        low, high = row["ci95"]
        name = f"{row['event']}: {row['case']}"
        lines.append(
            f"{name:<62.62}{row['n']:>6}{row['share']:>8.4f}{f'{low:.4f} to {high:.4f}':>18}  <= {row['at_most']:g}"
        )
    field = [row for row in details["coverage"] if row["field"]]
    lines.append(
        f"coverage within 93 to 97 %: {sum(row['met'] for row in field)} of {len(field)} cells of the field, "
        f"{sum(row['met'] for row in details['coverage'])} of {len(details['coverage'])} of all"
    )
    return "\n".join([*lines, *(f"missed: {text}" for text in details["missed"])])


def main(arguments: list[str] | None = None) -> int:
    """Measure, record and draw."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gate", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"test sets a cell (default: {DRAWS})")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: benchmarks/results")
    options = parser.parse_args(arguments)
    if options.draws < 2:
        parser.error("--draws must be at least 2")
    with tempfile.TemporaryDirectory() as work:
        real = predictions(Path(work))
    with measuring("gate", what=WHAT, state="cold", timed=False, results=options.results) as result:
        result.details = measure(real, options.draws)
        draw(options.results / "gate.png", result.details)
    print(report(result.details))
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
