"""How often each stated 95 % interval holds the truth: drawn test sets of populations whose truth is known.

A cell is of the field where its counts are large enough for the level to be reachable at all: at least FEWEST
expected disagreements, or errors, that are independent of one another. In the others a discrete statistic has
few values, and no interval can lie between 93 and 97 % everywhere; they are measured too, and named.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.populations import Population, shared_uniforms
from pipeline.intervals import wilson
from pipeline.metrics import BIN_SUPPORT, MOST_BINS, measure
from pipeline.paired import paired_intervals

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
        sizes = np.ones(n, dtype=int) if group == 1 else generator.integers(1, group + 1, n)
        groups = np.repeat(np.arange(n), sizes)[:n]
        chance = shared_uniforms(groups, alike, generator)
        drawn = np.where(chance < losses, -1.0, np.where(chance > 1 - wins, 1.0, 0.0))
        [(low, high)] = paired_intervals(drawn, groups)
        covered += low - 1e-12 <= difference <= high + 1e-12
        beyond += difference > high + 1e-12
    worth = 1.0 if group == 1 else 2 / (group + 1)
    shots = "single images" if group == 1 else f"groups of 1 to {group}, {alike:.0%} alike"
    case = f"{disagreement:.0%} disagree, {shots}"
    field = n * disagreement * worth >= FEWEST
    return Coverage("difference", case, n, field, difference, draws, covered, beyond)
