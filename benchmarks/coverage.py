"""How often each stated 95 % interval holds the truth: drawn test sets of populations whose truth is known.

A cell is of the field where its counts are large enough for the level to be reachable at all: at least FEWEST
expected disagreements, or errors, that are independent of one another. In the others a discrete statistic has
few values, and no interval can lie between 93 and 97 % everywhere; they are measured too, and named.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.populations import Population, shared_uniforms
from benchmarks.versions import Versions
from pipeline.intervals import wilson
from pipeline.metrics import BIN_SUPPORT, MOST_BINS, measure
from pipeline.paired import paired_intervals
from pipeline.params import Gate
from pipeline.robustness import difference_interval, share_interval
from pipeline.slices import slice_checks

LOWEST, HIGHEST = 0.93, 0.97
FEWEST = 10  # independent disagreements, or errors, expected in a test set
RESAMPLES = 200  # behind NLL and ECE: the product takes more, which moves their ends by chance alone
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "nll", "ece")


@dataclass(frozen=True)
class Coverage:
    """How often one interval held the truth."""

    interval: str
    case: str
    n: int
    field: bool
    truth: float
    draws: int
    covered: int
    beyond: int  # times that the truth lay above the interval

    def to_dict(self) -> dict[str, Any]:
        share = self.covered / self.draws
        low, high = wilson(self.covered, self.draws)
        return asdict(self) | {
            "share": round(share, 4),
            "ci95": [round(low, 4), round(high, 4)],
            "met": LOWEST <= share <= HIGHEST,
        }


def metrics(population: Population, n: int, draws: int, seed: int) -> list[Coverage]:
    """Coverage of every interval in metrics.json over test sets of ``n`` images."""
    generator = np.random.default_rng(seed)
    truth = _truth(population, n)
    counts = {name: [0, 0, 0] for name in truth}
    for draw in range(draws):
        rows, groups = population.draw(n, generator)
        table = population.table(rows, groups, population.probabilities[rows], "", domains=False)
        found = measure(table, population.classes, resamples=RESAMPLES, seed=draw)
        intervals = {name: found[f"{name}_ci95"] for name in METRICS}
        recalls = found["per_class"]
        intervals |= {f"recall/{name}": row["recall_ci95"] for name, row in recalls.items() if row["support"]}
        for name, (low, high) in intervals.items():
            counts[name][0] += 1
            counts[name][1] += low <= truth[name] <= high
            counts[name][2] += truth[name] > high
    errors = n * (1 - truth["accuracy"]) * _independent(population)
    rows_of = {
        name: Coverage(
            name, population.name, n, errors >= FEWEST, round(truth[name], 6), *_order(counts[name])
        )
        for name in METRICS
    }
    summed = np.sum([counts[f"recall/{name}"] for name in population.classes], axis=0)
    per_class = errors / len(population.classes) >= FEWEST
    rows_of["recall"] = Coverage(
        "recall", population.name, n, per_class, round(truth["balanced_accuracy"], 6), *_order(summed)
    )
    return list(rows_of.values())


def _order(counts: Any) -> tuple[int, int, int]:
    draws, covered, beyond = (int(count) for count in counts)
    return draws, covered, beyond


def _independent(population: Population) -> float:
    """Groups for each image: the least that correlated shots are worth."""
    return float((population.groups[-1] + 1) / len(population.groups))


def _truth(population: Population, n: int) -> dict[str, float]:
    """Every metric over the whole population; ECE in as many bins as ``n`` images have."""
    rows = np.arange(len(population.labels))
    table = population.table(rows, population.groups, population.probabilities, "", domains=False)
    found = measure(table, population.classes, resamples=2, seed=0)
    truth = {name: float(found[name]) for name in METRICS}
    confidence = population.probabilities.astype(np.float32).max(axis=1)
    count = min(MOST_BINS, max(1, n // BIN_SUPPORT))
    bins = np.searchsorted(np.quantile(confidence, np.arange(1, count) / count), confidence)
    gaps = np.bincount(bins, weights=confidence - population.right) / len(rows)
    truth["ece"] = float(np.abs(gaps).sum())
    return truth | {f"recall/{name}": row["recall"] for name, row in found["per_class"].items()}


def paired(
    n: int, disagreement: float, difference: float, group: int, alike: float, draws: int, seed: int
) -> Coverage:
    """Coverage of the interval of the paired difference, where wins and losses are binomial."""
    generator = np.random.default_rng(seed)
    losses, wins = (disagreement - difference) / 2, (disagreement + difference) / 2
    covered = beyond = 0
    for _ in range(draws):
        groups = _groups(n, group, generator)
        chance = shared_uniforms(groups, alike, generator)
        drawn = np.where(chance < losses, -1.0, np.where(chance > 1 - wins, 1.0, 0.0))
        [(low, high)] = paired_intervals(drawn, groups)
        covered += low - 1e-12 <= difference <= high + 1e-12
        beyond += difference > high + 1e-12
    case = f"{disagreement:.0%} disagree, {_shots(group, alike)}"
    field = n * disagreement * _singles(group) >= FEWEST
    return Coverage("difference", case, n, field, difference, draws, covered, beyond)


def robustness(versions: Versions, n: int, group: int, draws: int, seed: int) -> list[Coverage]:
    """Coverage under corruption: the difference over all of them and of one, and the share of one model alone."""
    generator = np.random.default_rng(seed)
    truths = {
        "robustness": float(versions.difference.mean()),
        "robustness/one": float(versions.difference[0].mean()),
        "robustness alone": float(versions.shares(versions.less).mean()),
    }
    counts = {name: [0, 0, 0] for name in truths}
    changed = 0.0
    for _ in range(draws):
        groups = _groups(n, group, generator)
        ours, theirs = versions.draw(groups, generator)
        less = ours - theirs
        changed += float(less.any(axis=(1, 2)).mean()) / draws
        found = {
            "robustness": difference_interval(less.reshape(n, -1), groups),
            "robustness/one": difference_interval(less[:, 0], groups),
            "robustness alone": share_interval(ours.reshape(n, -1), groups),
        }
        for name, interval in found.items():
            if interval is not None:
                counts[name][0] += 1
                counts[name][1] += interval[0] - 1e-12 <= truths[name] <= interval[1] + 1e-12
                counts[name][2] += truths[name] > interval[1] + 1e-12
    shots = _shots(group, versions.alike)
    case = f"{versions.right:.0%} right, {shots}"
    field = n * changed * _singles(group) >= FEWEST
    return [
        Coverage(name, case, n, field, round(truth, 6), *_order(counts[name]))
        for name, truth in truths.items()
    ]


def gap(n: int, accuracies: tuple[float, ...], group: int, alike: float, draws: int, seed: int) -> Coverage:
    """Coverage of the gap between the best and the worst of equally large slices whose accuracies are known."""
    generator = np.random.default_rng(seed)
    truth = max(accuracies) - min(accuracies)
    covered = beyond = 0
    for _ in range(draws):
        groups = _groups(n, group, generator)
        part = generator.integers(0, len(accuracies), int(groups.max()) + 1)[groups]
        correct = shared_uniforms(groups, alike, generator) < np.array(accuracies)[part]
        masks = {"kind": {str(number): part == number for number in range(len(accuracies))}}
        checks = slice_checks(correct, groups.astype(str).tolist(), masks, Gate())
        [(low, high)] = [check.ci95 for check in checks if check.name == "gap/kind" and check.ci95]
        covered += low <= truth <= high
        beyond += truth > high
    errors = n * (1 - max(accuracies)) * _singles(group) / len(accuracies)
    case = f"{len(accuracies)} slices, {' '.join(f'{each:g}' for each in accuracies)}, {_shots(group, alike)}"
    return Coverage("gap", case, n, errors >= FEWEST, round(truth, 6), draws, covered, beyond)


def _groups(n: int, group: int, generator: np.random.Generator) -> np.ndarray:
    """[n] groups of one image, or of 1 to ``group``."""
    sizes = np.ones(n, dtype=int) if group == 1 else generator.integers(1, group + 1, n)
    return np.repeat(np.arange(n), sizes)[:n]


def _shots(group: int, alike: float) -> str:
    return "single images" if group == 1 else f"groups of 1 to {group}, {alike:.0%} alike"


def _singles(group: int) -> float:
    """Groups for each image, where there are as many of each size."""
    return 1.0 if group == 1 else 2 / (group + 1)
