"""The journal's rows as points over time, few enough to draw: a year of hourly windows is thinned to some hundred."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from monitoring.journal import Step

__all__ = ["Accuracy", "Point", "points", "thinned"]

MOST = 240
"""Points in a chart: about one for two pixels."""


@dataclass(frozen=True)
class Accuracy:
    """An accuracy with its interval; ``n`` labels behind it, 0 for an estimate without any."""

    value: float
    low: float | None
    high: float | None
    n: int = 0

    @classmethod
    def of(cls, raw: object) -> "Accuracy | None":
        """From ``Step.detail["estimate"]`` or ``["labelled"]``; None where there is none."""
        if not isinstance(raw, Mapping) or not isinstance(raw.get("accuracy"), int | float):
            return None
        low, high = raw.get("low"), raw.get("high")
        return cls(raw["accuracy"], low, high, int(raw.get("n") or 0))


@dataclass(frozen=True, kw_only=True)
class Point:
    """One window, or several in a row: the highest evidence and p99, the mean of the rest; None where unknown."""

    time: datetime
    images: int = 0
    log10_e: float | None = None
    threshold: float | None = None
    mmd: float | None = None
    estimate: Accuracy | None = None
    labelled: Accuracy | None = None
    abstained: float | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    means: Mapping[str, float] = field(default_factory=dict)
    p50: float | None = None
    p99: float | None = None


def points(steps: Iterable[Step]) -> list[Point]:
    """A point for each step that looked at a window or that holds an accuracy, in the order of time."""
    return sorted(map(_point, filter(_counts, steps)), key=lambda point: point.time)


def _counts(step: Step) -> bool:
    return step.window is not None or "estimate" in step.detail or "labelled" in step.detail


def _point(step: Step) -> Point:
    detail: Mapping[str, Any] = step.detail
    traffic = detail.get("traffic") or {}
    at = traffic.get("last") or detail.get("first")
    seconds = traffic.get("seconds") or {}
    images = step.images if step.window else 0
    return Point(
        time=datetime.fromisoformat(at) if at else step.time,
        images=images,
        log10_e=step.log10_e,
        threshold=detail.get("log10_threshold"),
        mmd=step.statistic,
        estimate=Accuracy.of(detail.get("estimate")),
        labelled=Accuracy.of(detail.get("labelled")),
        abstained=traffic["abstained"] / images if images and "abstained" in traffic else None,
        counts=traffic.get("counts") or {},
        means=traffic.get("means") or {},
        p50=seconds.get("p50"),
        p99=seconds.get("p99"),
    )


def thinned(found: Sequence[Point], most: int = MOST) -> list[Point]:
    """At most ``most`` points, each of as many neighbours as any other."""
    size = -(-len(found) // most)
    if size <= 1:
        return list(found)
    return [_merged(found[start : start + size]) for start in range(0, len(found), size)]


def _merged(some: Sequence[Point]) -> Point:
    images = sum(point.images for point in some)
    counts: Counter[str] = Counter()
    for point in some:
        counts.update(point.counts)
    names = {name for point in some for name in point.means}
    return Point(
        time=some[-1].time,
        images=images,
        log10_e=_highest(some, lambda point: point.log10_e),
        threshold=_last(some, lambda point: point.threshold),
        mmd=_mean(some, lambda point: point.mmd),
        estimate=_together([point.estimate for point in some]),
        # The labels of an episode so far: the last row holds those before it.
        labelled=next((point.labelled for point in reversed(some) if point.labelled), None),
        abstained=_mean(some, lambda point: point.abstained),
        counts=counts,
        means={name: _mean(some, lambda point, name=name: point.means.get(name)) or 0.0 for name in names},  # type: ignore[misc]
        p50=_mean(some, lambda point: point.p50),
        p99=_highest(some, lambda point: point.p99),
    )


def _known(some: Sequence[Point], value: Callable[[Point], float | None]) -> list[tuple[float, int]]:
    """(value, weight) where there is one."""
    return [(found, max(point.images, 1)) for point in some if (found := value(point)) is not None]


def _mean(some: Sequence[Point], value: Callable[[Point], float | None]) -> float | None:
    known = _known(some, value)
    return sum(v * w for v, w in known) / sum(w for _, w in known) if known else None


def _highest(some: Sequence[Point], value: Callable[[Point], float | None]) -> float | None:
    return max((v for v, _ in _known(some, value)), default=None)


def _last(some: Sequence[Point], value: Callable[[Point], float | None]) -> float | None:
    known = _known(some, value)
    return known[-1][0] if known else None


def _together(found: Sequence[Accuracy | None]) -> Accuracy | None:
    """Means, the bounds' too: wider than the interval of all of it, never narrower."""
    known = [one for one in found if one is not None]
    if not known:
        return None
    low = [one.low for one in known if one.low is not None]
    high = [one.high for one in known if one.high is not None]
    return Accuracy(
        sum(one.value for one in known) / len(known),
        sum(low) / len(low) if low else None,
        sum(high) / len(high) if high else None,
    )
