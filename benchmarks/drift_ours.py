"""Our own verdict of a window, and Evidently's methods for embeddings, on the recorded draws.

python -m benchmarks.drift_ours visionloop --work DIR     # <work>/visionloop.json: a score a draw, small means drift
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drift_draws import Stack, read
from benchmarks.drift_images import SETS, Measured, Watched, measured
from monitoring.drift import compared
from monitoring.reference import Reference
from monitoring.window import Row, Window
from pipeline.artifacts import write_json

PERMUTATIONS = 500
START = datetime(2026, 1, 1, tzinfo=UTC)


def reference_of(part: Measured, classes: tuple[str, ...], domains: tuple[str, ...]) -> Reference:
    """The images as the reference of a champion."""
    ids = tuple(f"{index:06d}" for index in range(len(part)))
    return Reference(
        champion="",
        digest="",
        classes=classes,
        image_ids=ids,
        embeddings=part.embeddings.astype(np.float32),
        statistics=part.statistics,
        probabilities=part.probabilities,
        sizes=part.sizes,
        predicted=tuple(classes[index] for index in part.probabilities.argmax(axis=1)),
        groups=ids,
        domains=domains,
        thumbnails=(b"",) * len(part),
    )


def window_of(part: Measured, classes: tuple[str, ...], source: str = "camera") -> Window:
    """The images as the log would hold them, a second apart."""
    embeddings, predicted = part.embeddings.astype(np.float32), part.probabilities.argmax(axis=1)
    return Window(
        tuple(
            Row(
                request_id=str(index),
                time=START + timedelta(seconds=index),
                image_id=str(index),
                label=classes[predicted[index]],
                source=source,
                kept=None,
                probabilities=part.probabilities[index],
                embedding=embeddings[index],
                statistics=part.statistics[index],
                size=(int(part.sizes[index][0]), int(part.sizes[index][1])),
            )
            for index in range(len(part))
        ),
        classes,
    )


@dataclass(frozen=True)
class Columns(Window):
    """A window of made-up images as columns alone: a row for each of 8,760 takes longer than all that is asked of it."""

    part: Measured

    @classmethod
    def of(cls, part: Measured, classes: tuple[str, ...]) -> "Columns":
        return cls((), classes, part)

    def __len__(self) -> int:
        return len(self.part)

    @property
    def embeddings(self) -> np.ndarray:
        return self.part.embeddings

    @property
    def statistics(self) -> np.ndarray:
        return self.part.statistics

    @property
    def probabilities(self) -> np.ndarray:
        return self.part.probabilities

    @property
    def labels(self) -> list[str]:
        return [self.classes[index] for index in self.part.probabilities.argmax(axis=1)]


def domains_of(watched: Watched, rows: np.ndarray) -> tuple[str, ...]:
    return tuple(watched.domains[row] if row < len(watched.domains) else watched.domains[0] for row in rows)


LEVEL = 0.05
Judged = tuple[float, bool]
"""A score, small where there is drift, and whether the contender itself calls it drift."""
Score = Callable[[Stack, np.ndarray, np.ndarray, int], Judged]


def visionloop(stack: Stack, reference: np.ndarray, window: np.ndarray, seed: int) -> Judged:
    """The smallest adjusted p of the batch comparison."""
    classes = stack.watched.classes
    before = reference_of(stack.all.take(reference), classes, domains_of(stack.watched, reference))
    now = window_of(stack.all.take(window), classes)
    p = min(compared(before, now, PERMUTATIONS, np.random.default_rng(seed)).adjusted.values())
    return p, p <= LEVEL


def _evidently(method: Any, stack: Stack, reference: np.ndarray, window: np.ndarray, seed: int) -> Judged:
    """One of its methods at its defaults, called as ``EmbeddingsDrift`` calls it."""
    import pandas as pd

    np.random.seed(seed)
    frames = [pd.DataFrame(stack.all.embeddings[rows].astype(np.float64)) for rows in (window, reference)]
    for frame in frames:
        frame.columns = [f"e{column}" for column in frame.columns]
    score, drifted, _ = method(*frames)
    return -float(score), bool(drifted)


def contenders() -> dict[str, Callable[[], Score]]:
    """By name, made on demand: Evidently takes seconds to import."""

    def of(make: Callable[[Any], Any]) -> Callable[[], Score]:
        def made() -> Score:
            from evidently.legacy.metrics.data_drift import embedding_drift_methods as methods

            method = make(methods)
            return lambda stack, reference, window, seed: _evidently(method, stack, reference, window, seed)

        return made

    return {
        "visionloop": lambda: visionloop,
        "evidently model": of(lambda m: m.model()),
        "evidently ratio": of(lambda m: m.ratio()),
        "evidently distance": of(lambda m: m.distance()),
        "evidently mmd": of(lambda m: m.mmd()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift_ours")
    parser.add_argument("contender", choices=contenders())
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shifted", type=int, default=10**9, help="judge so many draws of a pool with drift")
    parser.add_argument("--quiet", type=int, default=10**9, help="and so many of a pool without")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    stacks = {watched.name: Stack.of(measured(watched, options.work)) for watched in SETS
              if (options.work / f"{watched.name}-stack.npz").exists()}  # fmt: skip
    score = contenders()[options.contender]()
    started = time.process_time()
    scores: dict[int, Judged] = {}
    for number, name, reference, window in read(options.work, options.shifted, options.quiet):
        scores[number] = score(stacks[name], reference, window, number)
    seconds = (time.process_time() - started) / max(1, len(scores))
    write_json(options.work / f"{options.contender}.json", {"cpu_seconds_a_draw": seconds, "scores": scores})
    return 0


if __name__ == "__main__":
    sys.exit(main())
