"""What the label queue's choice is worth: accuracy on a new domain by the number of labels, beside random ones.

    VISIONLOOP_REAL_DATA=... python -m benchmarks.labels --work DIR

A champion, the product's probe, is trained on one domain; 35 % of its groups are held out and are the reference.
Of the new domain's groups 40 % are its test set; the others are the window that a queue is drawn from. Each way of
asking names so many images of it, their labels are revealed, and the probe is fitted anew to the old training
images and the new labels together, as strongly regularised as the champion. A seed divides all images anew. In one case the window is mixed: three of five
images in it are of the old domain still. Writes results/labels.json and results/labels.png.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.embedded import Embedded, pacs3, sample
from benchmarks.errors import ended
from benchmarks.labels_chart import NAMES, draw
from benchmarks.labels_queue import Asked, Champion, Situation
from benchmarks.record import RESULTS, measuring
from benchmarks.sets import ROOT

REFERENCE, TEST = 0.35, 0.4  # of the old domain's groups; of the new domain's
SPARE = 0.2  # of the old domain's groups: what a mixed window holds of it
BUDGETS = (10, 20, 40, 80, 120)
DIVIDED = (40, 80, 120)  # budgets at which the labels are also divided as an intake divides them
WHAT = (
    "Accuracy on a new domain's held-out images by the number of its images that were labelled, by how they were "
    "chosen: mean over seeds, each of which divides the images anew, with Student's 95 % interval over them; `gain` is "
    "the difference from as many random ones on the same division. Nothing is timed."
)


@dataclass(frozen=True)
class Case:
    """From one domain to another; ``mixed`` is the share of the window that is of the old one still."""

    name: str
    images: str
    old: str
    new: str
    mixed: float = 0.0


CASES = {
    case.name: case
    for case in (
        Case("photo → art_painting", "pacs3", "photo", "art_painting"),
        Case("photo → sketch", "pacs3", "photo", "sketch"),
        Case("line-a → line-b", "sample", "line-a", "line-b"),
        Case("line-a → line-b, mixed", "sample", "line-a", "line-b", mixed=0.6),
    )
}
SETS = {"pacs3": pacs3, "sample": sample}


def situation(images: Embedded, case: Case, seed: int) -> tuple[Situation, np.ndarray, np.ndarray]:
    """A champion and the window it meets, and the test images of the new domain and of the old."""
    generator = np.random.default_rng(seed)
    reference, spare, trained = images.divided(case.old, (REFERENCE, SPARE), generator)
    test, window = images.divided(case.new, (TEST,), generator)
    if case.mixed:
        count = round(len(window) * case.mixed / (1 - case.mixed))
        window = generator.permutation(np.concatenate([window, spare[:count]]))
    else:
        trained = np.concatenate([trained, spare])
    champion = Champion.trained(images, trained, reference, seed)
    return Situation(images, champion, window, seed), test, reference


def one_division(images: Embedded, case: Case, seed: int) -> list[dict[str, Any]]:
    """Every way of asking at every budget, on the same test images."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # two processes share the cores
        met, test, old_test = situation(images, case, seed)
        found = []

        def add(way: str, budget: int, asked: Asked, divided: bool) -> None:
            rows = met.trained_on(asked) if divided else asked.rows
            model = met.champion if budget == 0 else met.retrained(rows)
            new, old = (round(model.accuracy(images, part), 6) for part in (test, old_test))
            found.append(
                {
                    "case": case.name, "seed": seed, "way": way, "labels": budget, "divided": divided,
                    "trained": len(rows), "new": new, "old": old,
                }
            )  # fmt: skip

        for divided, budgets, ways in ((False, BUDGETS, NAMES), (True, DIVIDED, ("random", "ours"))):
            for way in ways:
                add(way, 0, Asked.nothing(), divided)
                for budget in budgets:
                    add(way, budget, met.asked(way, budget), divided)
        return found


def summary(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """By case, way and budget: both accuracies and the gain over random; and the gain over all budgets."""
    cases: list[dict[str, Any]] = []
    gains: list[dict[str, Any]] = []
    seeds = sorted({row["seed"] for row in rows})
    values = {tuple(row[key] for key in ("case", "divided", "way", "labels", "seed")): row for row in rows}
    for name, divided, way in sorted({key[:3] for key in values}):
        budgets = sorted({key[3] for key in values if key[:3] == (name, divided, way)})
        over = []
        for budget in budgets:
            own = [values[name, divided, way, budget, seed] for seed in seeds]
            random = [values[name, divided, "random", budget, seed] for seed in seeds]
            gain = np.array([one["new"] - other["new"] for one, other in zip(own, random, strict=True)])
            entry: dict[str, Any] = {"case": name, "divided": divided, "way": way, "labels": budget}
            entry |= {"seeds": len(seeds), "trained": float(np.mean([one["trained"] for one in own]))}
            entry |= {part: _mean([one[part] for one in own]) for part in ("new", "old")}
            cases.append(entry | {"gain": _mean(gain)})
            over += [gain] if budget else []
        gains.append({"case": name, "divided": divided, "way": way, "gain": _mean(np.mean(over, axis=0))})
    return cases, gains


def _mean(values: Any) -> dict[str, Any]:
    """With Student's 95 % interval."""
    from scipy.stats import t

    values = np.asarray(values)
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    middle = float(values.mean())
    return {
        "mean": round(middle, 4),
        "ci95": [round(float(middle - half), 4), round(float(middle + half), 4)],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.labels", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--work", type=Path, default=ROOT / "var/bench/labels", help="images and caches")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--seeds", type=int, default=5, help="divisions of the images, at least two")
    parser.add_argument("--first-seed", type=int, default=0, help="another one to develop on than to report")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the result goes")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    with measuring("labels", what=WHAT, state="warm", timed=False, results=options.results) as result:
        cases = [CASES[name] for name in options.cases]
        sets = {name: SETS[name](options.work.absolute()) for name in sorted({case.images for case in cases})}
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        rows = []
        with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
            work = [partial(one_division, sets[case.images], case, seed) for case in cases for seed in seeds]
            for found in pool.map(_call, work):
                rows += found
                print(f"{found[0]['case']}, seed {found[0]['seed']}: done", flush=True)
        means, gains = summary(rows)
        result.details = {"gains": gains, "cases": means, "rows": rows}
        for gain in gains:
            low, high = gain["gain"]["ci95"]
            kind = "divided" if gain["divided"] else ""
            print(
                f"{gain['case']:<26}{gain['way']:<10}{kind:<9}{gain['gain']['mean']:+.3f} ({low:+.3f} to {high:+.3f})"
            )
        draw(options.results / "labels.png", means)
    return 0


def _call(work: Any) -> Any:
    return work()


if __name__ == "__main__":
    sys.exit(ended(main))
