"""The sequential test: evidence against "every image comes from a domain that the champion was judged on".

For each statistic (novelty of the embedding, the image statistics, confidence, predicted class) a few
*events* are fixed from the held-out reference before any production image is seen: "brighter than the
reference's r-th brightest" (one more is learned from the images before, see ``monitoring.direction``). Of m
exchangeable reference values the chance of a new one beyond the r-th
largest is Beta(r, m + 1 - r) distributed over the draw of the reference; its upper delta-quantile bounds the
chance given *this* reference, with confidence 1 - delta. That is the calibration-conditional form of a
conformal p-value (Bates, Candes, Lei, Romano, Sesia, "Testing for outliers with conformal p-values", Annals
of Statistics 2023; Vovk, "Conditional validity of inductive conformal predictors", 2012): the marginal form
would let a long stream bet against the reference's own luck. With several domains an event's chance is that in
the worst of them, so any mix of known domains is no drift; how an image looks is then measured relative to the
domain that it looks like, or what lies between two domains would be an event in no one's terms.

On each event we bet with likelihood ratios against its bound (Vovk, Nouretdinov, Gammerman, "Testing
exchangeability on-line", 2003; Shafer, "Testing by betting", 2021). Wealth is averaged over bets and over
starting times, each with its prior weight, so a long quiet past costs a logarithm and does not have to be
won back; an average of test martingales is one. By Ville's inequality the chance that the average ever
reaches 1 / (alpha - delta) is at most alpha - delta; with the bounds' delta the chance of any false alarm,
however often and long one looks, is at most alpha.

That is one run of the evidence, from a promotion on. What ends an alarm's episode without a promotion (a person's
dismissal, say) restarts the wealth, not the bounds: each such run may alarm falsely with chance alpha - delta again.
After r restarts the chance of any false alarm is at most delta + (r + 1)(alpha - delta), under (r + 1) alpha; but
only an alarm is followed by a restart, so without drift the second one needs a false alarm before it.

It assumes exchangeable images: drawn independently from known domains, each source at its usual pace and at any hour.
Bursts are not, so an image of one can only lower the wealth (``monitoring.bursts``; on the sample, with each part's
shots in a row, 3 of 12 quiet streams alarmed without that rule, none with it). Traffic sorted by class, and a source or
an hour whose images the held-out ones lack, is drift; ``monitoring.context`` names the source and the hours.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from scipy.special import betainccinv

from monitoring.reference import Reference
from monitoring.window import Window
from pipeline.artifacts import STATISTICS

NEIGHBOURS = 5
BLOCK = 10
"""Images between two starting times of the average."""
HEAD_START = 20.0
TAILS = (0.0, 0.05, 0.15, 0.35)
"""Shares of the reference beyond an event's threshold; 0 is beyond all of it."""
ODDS = (0.1, 0.3, 0.6, 0.9)
"""Bets: the event's chance moved from its bound u to u + odds * (1 - u)."""
SHIFT = "shift"
FAMILIES = ("embedding", "statistics", "predictions")
LEARNED = ("embedding", SHIFT)
"""Family and statistic of what ``monitoring.direction`` says; a class may be called the same."""


@dataclass(frozen=True)
class Event:
    """Something an image may do, and the largest chance of it without drift.

    Attributes:
        direction: up | down; of a class: more | less.
        threshold, chance: of ``shift``, which ``monitoring.direction`` learns as it goes, the tail and 1.
    """

    family: str
    statistic: str
    direction: str
    threshold: float
    chance: float

    @property
    def learned(self) -> bool:
        """Whether ``monitoring.direction`` says how it went."""
        return (self.family, self.statistic) == LEARNED

    @property
    def of_class(self) -> bool:
        """Whether ``statistic`` is a class's name, which may be that of a statistic."""
        return self.direction in ("more", "less")


@dataclass(frozen=True)
class Yardstick:
    """All that is fixed before the first production image: what novelty is measured against, and the events."""

    reference: Reference
    delta: float

    @cached_property
    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the images that novelty is measured against, and of those that calibrate it."""
        order = sorted(set(self.reference.groups), key=lambda group: hashlib.sha256(group.encode()).digest())
        against: set[str] = set()
        for domain in sorted(set(self.reference.domains)):
            own = {
                g for g, d in zip(self.reference.groups, self.reference.domains, strict=True) if d == domain
            }
            ranked = [group for group in order if group in own]
            against |= set(ranked[: max(1, round(0.4 * len(ranked)))])
        measured = np.array([i for i, group in enumerate(self.reference.groups) if group in against])
        calibrating = np.array(
            [i for i in self.reference.representatives if self.reference.groups[i] not in against]
        )
        return measured, calibrating

    @cached_property
    def _anchors(self) -> np.ndarray:
        return self.reference.embeddings[self.parts[0]].astype(np.float64)

    def novelty(self, embeddings: np.ndarray) -> np.ndarray:
        """(n, d) -> (n,) mean distance to the nearest images of the reference's first part."""
        squared = distances(embeddings.astype(np.float64), self._anchors)
        count = min(NEIGHBOURS, len(self._anchors))
        return np.sqrt(np.partition(squared, count - 1, axis=1)[:, :count]).mean(axis=1)

    @cached_property
    def calibration_novelty(self) -> np.ndarray:
        """Novelty of the held-out images that calibrate it."""
        return self.novelty(self.reference.embeddings[self.parts[1]])

    @cached_property
    def usual_novelty(self) -> float:
        """The novelty that one held-out image in a hundred exceeds."""
        return float(np.quantile(self.calibration_novelty, 0.99))

    @cached_property
    def near(self) -> float:
        """Embeddings closer than this are one scene: almost no two groups of the reference are."""
        own = self._anchors[:1000]
        squared = distances(own, own)
        groups = np.array([hash_of(self.reference.groups[i]) for i in self.parts[0][:1000]])
        squared[groups[:, None] == groups[None, :]] = np.inf
        nearest = np.sqrt(squared.min(axis=1))
        return float(np.quantile(nearest[np.isfinite(nearest)], 0.02)) if np.isfinite(nearest).any() else 0.0

    @cached_property
    def _usual(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Of the part that novelty is measured against: the domains, and (domains, looks) the middle and the spread."""
        r, (against, _) = self.reference, self.parts
        looks = np.column_stack([r.statistics, r.confidence])
        names = sorted(set(r.domains))
        own = [looks[[i for i in against if r.domains[i] == name]] for name in names]
        middle = np.stack([np.median(values, axis=0) for values in own])
        spread = np.stack([np.quantile(values, 0.75, 0) - np.quantile(values, 0.25, 0) for values in own])
        return names, middle, np.maximum(spread, 1e-3)

    def _looks(self, statistics: np.ndarray, confidence: np.ndarray) -> np.ndarray:
        """(n, looks) the image statistics and the confidence; with several domains, relative to the likeliest one's.

        What lies between two known domains (a grey, bright camera and a dark, colourful one) is extreme in neither's
        terms unless each image is held against the domain that it looks like.
        """
        looks = np.column_stack([statistics, confidence]).astype(np.float64)
        names, middle, spread = self._usual
        if len(names) == 1:
            return looks
        relative = (looks[:, None] - middle) / spread
        # As a Gaussian of each statistic would have it, by the statistics alone.
        unlike = (relative**2 + 2 * np.log(spread))[:, :, : len(STATISTICS)].sum(axis=2)
        return relative[np.arange(len(looks)), unlike.argmin(axis=1)]

    @cached_property
    def events(self) -> list[Event]:
        r = self.reference
        everyone = r.representatives
        _, calibrating = self.parts
        # Which domain is likeliest is fitted to the part that novelty is measured against, so that part can't calibrate it.
        judged = everyone if len(set(r.domains)) == 1 else calibrating
        looks = self._looks(r.statistics[judged], r.confidence[judged])
        columns = [("embedding", "novelty", self.calibration_novelty, calibrating)]
        columns += [("statistics", name, looks[:, i], judged) for i, name in enumerate(STATISTICS)]
        columns += [("predictions", "confidence", looks[:, -1], judged)]
        delta = self.event_delta
        found = [Event("embedding", SHIFT, "up", tail, 1.0) for tail in TAILS]
        for family, statistic, values, indices in columns:
            for direction, sign in (("up", 1.0), ("down", -1.0)):
                largest = [np.sort(sign * values[own])[::-1] for own in self._apart(indices)]
                for tail in TAILS:
                    threshold, chance = _bound(largest, tail, delta)
                    found.append(Event(family, statistic, direction, sign * threshold, chance))
        for name in r.classes:
            found += [
                Event("predictions", name, "more", 0.0, self._class_bound(name, everyone, delta, more=True)),
                Event("predictions", name, "less", 0.0, self._class_bound(name, everyone, delta, more=False)),
            ]
        return found

    @property
    def event_delta(self) -> float:
        """What one event may spend in one domain: equal shares."""
        statistics = len(STATISTICS) + len(("novelty", "confidence"))
        count = statistics * 2 * len(TAILS) + len(TAILS) + 2 * len(self.reference.classes)
        return self.delta / (count * len(set(self.reference.domains)))

    def _apart(self, indices: np.ndarray) -> list[np.ndarray]:
        """Of each domain the places in ``indices`` of its images."""
        domains = np.array(self.reference.domains)[indices]
        return [np.flatnonzero(domains == name) for name in sorted(set(self.reference.domains))]

    def _class_bound(self, name: str, indices: np.ndarray, delta: float, *, more: bool) -> float:
        """Clopper and Pearson's upper bound of a class's share, or of the rest's, in the worst domain."""
        chances = []
        for domain in sorted(set(self.reference.domains)):
            own = self.reference.of_domain(domain, indices)
            hits = sum((self.reference.predicted[i] == name) == more for i in own)
            chances.append(1.0 if hits == len(own) else float(betainccinv(hits + 1, len(own) - hits, delta)))
        return float(max(chances))

    def happened(self, window: Window) -> np.ndarray:
        """(n, events) bool; of ``shift`` nothing."""
        looks = self._looks(window.statistics, window.confidence)
        values = {"novelty": self.novelty(window.embeddings), "confidence": looks[:, -1]}
        values |= {name: looks[:, i] for i, name in enumerate(STATISTICS)}
        labels = np.array(window.labels)
        columns = []
        for event in self.events:
            if event.learned:
                columns.append(np.zeros(len(window), dtype=bool))
            elif event.of_class:
                columns.append((labels == event.statistic) == (event.direction == "more"))
            else:
                sign = 1.0 if event.direction == "up" else -1.0
                # Strictly beyond, and by more than the log's rounding: with ties (grey images, all of saturation
                # 0) reaching the threshold is no rarity.
                margin = 1e-5 * (1.0 + abs(event.threshold))
                columns.append(sign * (values[event.statistic] - event.threshold) > margin)
        return np.stack(columns, axis=1)


def _bound(largest: Sequence[np.ndarray], tail: float, delta: float) -> tuple[float, float]:
    """The threshold that is extreme in every domain, whose values fall, and the chance of reaching it in the worst one."""
    thresholds, chances = [], []
    for own in largest:
        rank = max(1, round(tail * len(own)))
        thresholds.append(own[rank - 1])
        chances.append(_beyond(rank, len(own), delta))
    return float(max(thresholds)), float(max(chances))


@cache
def _beyond(rank: int, count: int, delta: float) -> float:
    """With confidence 1 - delta, the most that lies beyond the ``rank``-th largest of ``count`` values."""
    return float(betainccinv(rank, count + 1 - rank, delta))


def hash_of(text: str) -> int:
    """A stable integer for a name."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, (n, d) and (m, d) -> (n, m), never negative."""
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2.0 * (a @ b.T)
    return np.maximum(squared, 0.0)
