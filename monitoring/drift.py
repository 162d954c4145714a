"""One window against the champion's reference: the evidence after it, and what it rests on."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from monitoring.context import Place, places
from monitoring.direction import Direction
from monitoring.estimate import Estimate, estimate
from monitoring.evidence import Event, Yardstick, distances
from monitoring.reference import Reference
from monitoring.two_sample import Comparison, compare
from monitoring.wealth import Wealth
from monitoring.window import Window
from pipeline.artifacts import STATISTICS

DELTA_SHARE = 0.5
"""Of alpha, spent on the bounds that hold for this one reference; the rest is the bets'."""


@dataclass(frozen=True)
class Lead:
    """One event that the evidence rests on: how often it happened, and how often it may without drift."""

    family: str
    statistic: str
    direction: str  # up | down; of a class: more | less
    share: float
    chance: float
    log10_e: float


@dataclass(frozen=True)
class Decision:
    """What one window says.

    Attributes:
        alarm: the evidence reached ``log10_threshold`` at some image of the window.
        log10_e: the evidence after the window's last image, log10 of the e-value.
        statistic, p_values, adjusted: squared MMD of the embeddings; p by test, and for all tests together.
        leads: what the evidence rests on, strongest first.
        images: that the sequential test has seen by now; ``onset`` of them came before the strongest
            event became too frequent, ``alarm_at`` before the alarm (None without one).
        repeats, flooded: images so far that did not count in full: near-alike to one just before, or of a source that
            sent more than it usually does.
        context: of an alarm, the source and the hours that the images of the first lead come from, where they stand out.
        estimate: accuracy on the window without labels; None where the reference's labels are not known.
    """

    alarm: bool
    log10_e: float
    log10_threshold: float
    statistic: float
    p_values: dict[str, float]
    adjusted: dict[str, float]
    leads: tuple[Lead, ...]
    images: int
    onset: int
    alarm_at: int | None
    repeats: int
    flooded: int
    context: tuple[Place, ...] = ()
    estimate: Estimate | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def yardstick(reference: Reference, alpha: float) -> Yardstick:
    """The events for a chance of ``alpha`` of any false alarm, see ``monitoring.evidence``."""
    return Yardstick(reference, DELTA_SHARE * alpha)


def log10_threshold(alpha: float) -> float:
    """The evidence that raises the alarm: Ville's 1 / (alpha - delta)."""
    return float(-np.log10((1.0 - DELTA_SHARE) * alpha))


def seen(
    measure: Yardstick, direction: Direction, window: Window, counts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(n, events) what happened in the window, and how often it may; ``direction`` takes the images in.

    Args:
        counts: (n,) bool, which images count in full; all of them without.
    """
    happened = measure.happened(window)
    chance = np.tile([event.chance for event in measure.events], (len(window), 1))
    learned = [event.learned for event in measure.events]
    happened[:, learned], chance[:, learned] = direction.take(window.embeddings, counts)
    return happened, chance


def observe(
    measure: Yardstick,
    wealth: Wealth,
    direction: Direction,
    window: Window,
    *,
    alpha: float,
    permutations: int,
    seed: int,
) -> Decision:
    """Take the window into ``wealth`` image by image, and compare it with the reference as a batch."""
    before = wealth.bursts.sources_before(window.rows[0].time)
    counts = wealth.bursts.take(window, measure.near)
    happened, chance = seen(measure, direction, window, counts)
    threshold = log10_threshold(alpha)
    alarm_at = None
    for row in range(len(window)):
        log_e = wealth.step(happened[row], chance[row], bool(counts[row]))
        if alarm_at is None and log_e / np.log(10) >= threshold:
            alarm_at = wealth.seen
    leads, first, onset = _leads(measure.events, wealth, happened, chance)
    since = min(max(0, onset - (wealth.seen - len(window))), len(window))
    rng = np.random.default_rng([seed, wealth.seen])
    batch = compared(measure.reference, window, permutations, rng)
    return Decision(
        alarm=alarm_at is not None,
        log10_e=float(wealth.log_e / np.log(10)),
        log10_threshold=threshold,
        statistic=batch.statistic,
        p_values=batch.p,
        adjusted=batch.adjusted,
        leads=leads,
        images=wealth.seen,
        onset=onset,
        alarm_at=alarm_at,
        repeats=wealth.bursts.repeats,
        flooded=wealth.bursts.flooded,
        context=() if alarm_at is None else places(happened[:, first], window, before=before, since=since),
        estimate=estimate(measure.reference, window),
    )


def _leads(
    events: list[Event], wealth: Wealth, happened: np.ndarray, chance: np.ndarray
) -> tuple[tuple[Lead, ...], int, int]:
    """The three statistics that carry most of the evidence, each by its strongest event; the first's, and since when."""
    by_event = wealth.by_event() / np.log(10)
    strongest: dict[tuple[str, str, str], int] = {}
    for index in np.argsort(-by_event):
        event = events[index]
        strongest.setdefault((event.family, event.statistic, event.direction), int(index))
    chosen = list(strongest.values())[:3]
    leads = tuple(
        Lead(
            family=events[index].family,
            statistic=events[index].statistic,
            direction=events[index].direction,
            share=float(happened[:, index].mean()),
            chance=float(chance[:, index].mean()),
            log10_e=float(by_event[index]),
        )
        for index in chosen
    )
    return leads, chosen[0], wealth.began(chosen[0])


def compared(reference: Reference, window: Window, permutations: int, rng: np.random.Generator) -> Comparison:
    """The window as a batch against the held-out images of the domains that it shows."""
    like = matched(reference, window)
    numbers = {
        name: (window.statistics[:, column], reference.statistics[like, column])
        for column, name in enumerate(STATISTICS)
    }
    numbers["confidence"] = (window.confidence, reference.confidence[like])
    return compare(
        (window.embeddings, reference.embeddings[like]),
        numbers,
        (window.labels, [reference.predicted[index] for index in like]),
        permutations=permutations,
        rng=rng,
    )


def matched(reference: Reference, window: Window) -> np.ndarray:
    """Indices of reference images, one a group, from the known domains in the shares that the window shows.

    Each production image is counted for the domain of its nearest reference image. With one domain this
    is every representative.
    """
    everyone = reference.representatives
    domains = sorted(set(reference.domains))
    if len(domains) == 1:
        return everyone
    near = distances(window.embeddings.astype(np.float64), reference.embeddings[everyone].astype(np.float64))
    hits = [reference.domains[everyone[index]] for index in near.argmin(axis=1)]
    own = {domain: reference.of_domain(domain, everyone) for domain in domains}
    share = {domain: hits.count(domain) / len(hits) for domain in domains}
    # The largest sample with these shares that the reference can give.
    size = min(len(own[domain]) / share[domain] for domain in domains if share[domain] > 0)
    taken = [own[domain][_spread(len(own[domain]), int(size * share[domain]))] for domain in domains]
    return np.sort(np.concatenate(taken))


def _spread(available: int, wanted: int) -> np.ndarray:
    return np.linspace(0, available - 1, wanted).astype(int) if wanted else np.array([], dtype=int)
