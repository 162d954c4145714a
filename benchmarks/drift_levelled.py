"""Contenders at equal false alarms, so that nobody gains by alarming more often.

The bar of a contender is the score that calls 5 % of its own draws without drift, by n. Scores that are equal (a p of
100 permutations has 100 values) are put in order by lot, the same for all contenders, or a coarse score would be held
to fewer false alarms than a fine one. Where fewer than ``LEAST`` draws without drift were judged no bar is known, and
nothing is compared. As the bar is an estimate, ``RESAMPLES`` others stand beside it, each of a bootstrap sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.drift_draws import Draw
from pipeline.intervals import wilson

LEVEL = 0.05
LEAST = 40
"""Draws without drift of one n, below which there is no bar."""
RESAMPLES = 500
SEED = 20


@dataclass(frozen=True)
class Rate:
    """``hits`` of ``n`` draws, with Wilson's 95 % interval."""

    hits: int
    n: int

    def to_dict(self) -> dict[str, Any]:
        low, high = wilson(self.hits, self.n)
        return {
            "rate": round(self.hits / self.n, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "draws": self.n,
        }


@dataclass(frozen=True)
class Judgement:
    """One contender over the draws that it judged: number → (score, small where there is drift; its own decision)."""

    name: str
    scores: dict[int, tuple[float, bool]]
    cpu_seconds: float

    def decided(self, draws: Sequence[Draw]) -> Rate:
        own = [self.scores[draw.number][1] for draw in draws if draw.number in self.scores]
        return Rate(sum(own), len(own))


@dataclass(frozen=True)
class Levelled:
    """A contender at equal false alarms: what it calls at its bar, and at the bars that other draws would give.

    Attributes:
        sizes, quiet: (draws,) n of each draw, and whether it has no drift.
    """

    judgement: Judgement
    sizes: np.ndarray
    quiet: np.ndarray

    @property
    def name(self) -> str:
        return self.judgement.name

    @cached_property
    def places(self) -> np.ndarray:
        """(draws,) the order of the scores, drift first, ties by lot; nan where it did not judge."""
        numbers = np.array(sorted(self.judgement.scores), dtype=int)
        scores = np.array([self.judgement.scores[number][0] for number in numbers])
        lots = np.random.default_rng(SEED).random(len(self.sizes))[numbers]
        out = np.full(len(self.sizes), np.nan)
        out[numbers[np.lexsort((lots, scores))]] = np.arange(len(numbers))
        return out

    def still(self, n: int) -> np.ndarray:
        """The places of its draws without drift of this n."""
        own = self.places[self.quiet & (self.sizes == n)]
        return np.asarray(own[~np.isnan(own)])

    @cached_property
    def bars(self) -> dict[int, np.ndarray | None]:
        """By n (1 + resamples,) the place up to which 5 % of the draws without drift lie; None below ``LEAST``."""
        rng = np.random.default_rng(SEED)
        found: dict[int, np.ndarray | None] = {}
        for n in sorted(set(self.sizes.tolist())):
            own = self.still(n)
            if len(own) < LEAST:
                found[n] = None
                continue
            at = int(LEVEL * len(own)) - 1
            again = rng.choice(own, (RESAMPLES, len(own)))
            found[n] = np.concatenate([[np.sort(own)[at]], np.partition(again, at, axis=1)[:, at]])
        return found

    @cached_property
    def hits(self) -> np.ndarray:
        """(1 + resamples, draws) bool."""
        out = np.zeros((1 + RESAMPLES, len(self.sizes)), dtype=bool)
        for n, bars in self.bars.items():
            if bars is not None:
                own = self.sizes == n
                out[:, own] = self.places[own] <= bars[:, None]
        return out

    @cached_property
    def known(self) -> np.ndarray:
        """(draws,) bool: judged, and there is a bar."""
        barred = [n for n, bars in self.bars.items() if bars is not None]
        return np.asarray(~np.isnan(self.places) & np.isin(self.sizes, barred))

    def rate(self, own: np.ndarray) -> Rate | None:
        """Of the draws with these numbers, those it called; None where there is no bar or no draw."""
        own = own[self.known[own]]
        return Rate(int(self.hits[0, own].sum()), len(own)) if len(own) else None
