"""From which source, and in which hours of the day, the images come that carry the evidence.

Both are told where they stand out: a good part of these images share them, and the others (those of the same window that
don't carry it, and of sources the images before) do so far less often, by Fisher's exact test over all that could have
been named. It explains an alarm and never raises one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import gammaln, logsumexp

from monitoring.evidence import Yardstick
from monitoring.wealth import gains
from monitoring.window import Window

LEVEL = 0.01
LEAST = 8
"""Images that carry the evidence, under which nothing is said about where they come from."""
APART = 0.25
"""By which a source's or a span's share of them has to exceed its share of the others."""
LONGEST = 12
"""Hours of a span, at most: longer ones leave little of a day out."""


@dataclass(frozen=True)
class Place:
    """A source or a span of hours, its share of the images that carry the evidence, and of the ``others``.

    Attributes:
        name: the source's tag, empty for none; the hours as ``18-22``, UTC, the last one not included.
        p: Fisher's, one-sided, times what could have been named.
    """

    kind: Literal["source", "hours"]
    name: str
    share: float
    others: float
    p: float

    @property
    def words(self) -> str:
        many = "all" if self.share == 1 else f"{self.share:.0%}"
        if self.kind == "source":
            where = f"come from source {self.name!r}" if self.name else "come without a source"
        else:
            first, last = self.name.split("-")
            where = f"lie between {first} and {last} h UTC"
        return f"{many} of these {where}, of the other images {self.others:.0%}"


def places(
    carry: np.ndarray, window: Window, *, before: Sequence[str] = (), since: int = 0
) -> tuple[Place, ...]:
    """Where the images (n,) bool lie that ``carry`` the evidence, a source first.

    Args:
        before: sources of the images before the window.
        since: the window's row from which hours are compared: before a drift began none is the drift's.
    """
    sources = [row.source for row in window.rows]
    hours = np.array([row.time.hour for row in window.rows[since:]], dtype=int)
    named = np.concatenate([carry, np.zeros(len(before), dtype=bool)])
    found = (_source(named, [*sources, *before]), _hours(carry[since:], hours))
    return tuple(place for place in found if place is not None)


def carriers(measure: Yardstick, window: Window) -> np.ndarray | None:
    """(n,) bool, the images with the event that says most in this window; None where none says anything."""
    happened = measure.happened(window)
    chance = np.array([event.chance for event in measure.events])
    gained = gains(happened, np.broadcast_to(chance, happened.shape)).sum(axis=0).max(axis=1)
    best = int(gained.argmax())
    return happened[:, best] if gained[best] > 0 else None


def _source(carry: np.ndarray, sources: Sequence[str]) -> Place | None:
    names = sorted(set(sources))
    column = np.array(sources)
    found = [_place("source", name, carry, column == name, len(names)) for name in names]
    return _clearest(found)


def _hours(carry: np.ndarray, hours: np.ndarray) -> Place | None:
    """The span, over midnight too, that stands out most; of equals the shortest."""
    spans = [(first, length) for length in range(1, LONGEST + 1) for first in range(24)]
    found = [
        _place(
            "hours",
            f"{first}-{(first + length) % 24 or 24}",
            carry,
            (hours - first) % 24 < length,
            len(spans),
        )
        for first, length in spans
    ]
    return _clearest(found)


def _place(
    kind: Literal["source", "hours"], name: str, carry: np.ndarray, inside: np.ndarray, named: int
) -> Place | None:
    n, own, held = len(carry), int(carry.sum()), int(inside.sum())
    both = int((carry & inside).sum())
    if own < LEAST or own == n:
        return None
    share, others = both / own, (held - both) / (n - own)
    if share - others < APART:
        return None
    p = min(1.0, named * _fisher(both, own, held, n))
    return Place(kind, name, share, others, p) if p <= LEVEL else None


def _clearest(found: Sequence[Place | None]) -> Place | None:
    return min((place for place in found if place is not None), key=lambda place: place.p, default=None)


def _fisher(both: int, own: int, held: int, n: int) -> float:
    """Chance of ``both`` or more common images, of ``own`` and ``held`` drawn from n."""
    count = np.arange(both, min(own, held) + 1)
    logs = _choose(held, count) + _choose(n - held, own - count) - _choose(n, np.array(own))
    return float(np.exp(logsumexp(logs)))


def _choose(n: int, k: np.ndarray) -> np.ndarray:
    """Log of n over k; -inf where that is impossible."""
    k = np.asarray(k, dtype=float)
    possible = (k >= 0) & (k <= n)
    kept = np.where(possible, k, 0)
    return np.where(possible, gammaln(n + 1) - gammaln(kept + 1) - gammaln(n - kept + 1), -np.inf)
