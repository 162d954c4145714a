"""Which charts the page holds, and what each says."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from monitoring.page.chart import Axis, Chart
from monitoring.page.points import Accuracy, Point, thinned
from monitoring.page.words import number, percent

__all__ = ["charts"]

HIGHEST = 10.0
"""Of log10 e that is drawn: 10^100 would flatten the alarm line."""
LOWEST = -3.0
CLASSES = 8
"""Classes with a colour of their own, the most frequent; the rest is one."""
BINS = 60


def charts(found: Sequence[Point], axis: Axis) -> str:
    """The figures, in a grid; those of which the journal knows nothing are left out."""
    few = thinned(found)
    made = [
        _evidence(few, axis),
        _accuracy(few, axis),
        _mmd(few, axis),
        _classes([point for point in few if point.counts], axis),
        _abstained(few, axis),
        _mean(few, axis, "brightness", "mean luma of the images, 0 to 1"),
        _mean(few, axis, "sharpness", "log10 of 1 + variance of the Laplacian"),
        _mean(few, axis, "confidence", "of the answers, calibrated, mean of a window"),
        _volume([point for point in found if point.images], axis),
        _latency(few, axis),
    ]
    drawn = "\n".join(chart.html() for chart in made if not chart.is_empty)
    return f'<div class="charts">\n{drawn}\n</div>' if drawn else "<p>No window was seen yet.</p>"


def _series(found: Sequence[Point], value: Callable[[Point], float | None]) -> list[tuple[datetime, float]]:
    """The points that say something of it."""
    return [(point.time, known) for point in found if (known := value(point)) is not None]


def _evidence(found: Sequence[Point], axis: Axis) -> Chart:
    chart = Chart(
        axis,
        "Evidence against “no drift”",
        f"log10 of the e-value; an episode opens above the alarm line, however often one looks (drawn up to {HIGHEST:.0f})",
        lambda value: f"{value:g}",
        wide=True,
    )
    shown = _series(found, lambda point: point.log10_e)
    chart.line([(time, min(max(value, LOWEST), HIGHEST)) for time, value in shown], 0, "evidence")
    limits = [point.threshold for point in found if point.threshold is not None]
    if limits:
        chart.limit(limits[-1], f"alarm at {limits[-1]:.1f}")
    return chart


def _accuracy(found: Sequence[Point], axis: Axis) -> Chart:
    chart = Chart(
        axis,
        "Accuracy",
        "estimated from the answers, and on labelled images that were drawn at random; with 95 % intervals",
        percent,
        high=1.0,
        wide=True,
    )
    estimates = [(point.time, point.estimate) for point in found if point.estimate]
    chart.band(_bounds(estimates), 0)
    chart.line([(time, one.value) for time, one in estimates], 0, "estimated")
    labelled: list[tuple[datetime, Accuracy]] = []  # once for what is new, not for each look
    for point in found:
        if point.labelled and (not labelled or labelled[-1][1] != point.labelled):
            labelled.append((point.time, point.labelled))
    if labelled:
        chart.whiskers(_bounds(labelled), 1)
        chart.dots([(time, one.value) for time, one in labelled], 1, "labelled")
    return chart


def _bounds(known: Sequence[tuple[datetime, Accuracy]]) -> list[tuple[datetime, float, float]]:
    return [(time, one.low, one.high) for time, one in known if one.low is not None and one.high is not None]


def _mmd(found: Sequence[Point], axis: Axis) -> Chart:
    note = "squared kernel distance of a window's embeddings to the reference; around 0 without drift"
    chart = Chart(axis, "MMD² of the embeddings", note, number)
    chart.line(_series(found, lambda point: point.mmd), 0)
    return chart


def _classes(found: Sequence[Point], axis: Axis) -> Chart:
    chart = Chart(axis, "Share of each class", "of the answers", percent, low=0.0, high=1.0)
    total: Counter[str] = Counter()
    for point in found:
        total.update(point.counts)
    names = [name for name, _ in total.most_common(CLASSES)]
    if not names or len(found) < 2:
        return chart
    sums = [sum(point.counts.values()) or 1 for point in found]
    parts = [
        (name, [point.counts.get(name, 0) / n for point, n in zip(found, sums, strict=True)])
        for name in names
    ]
    if len(total) > CLASSES:
        rest = [1 - sum(shares[i] for _, shares in parts) for i in range(len(found))]
        parts.append((f"{len(total) - CLASSES} more", rest))
    chart.stack([point.time for point in found], parts)
    return chart


def _abstained(found: Sequence[Point], axis: Axis) -> Chart:
    shown = _series(found, lambda point: point.abstained)
    high = max([0.05, *(share for _, share in shown)])
    chart = Chart(
        axis, "Abstentions", "share of the answers below serve.abstain_below", percent, low=0.0, high=high
    )
    chart.line(shown, 0)
    return chart


def _mean(found: Sequence[Point], axis: Axis, column: str, note: str) -> Chart:
    chart = Chart(axis, column.capitalize(), note, number)
    chart.line(_series(found, lambda point: point.means.get(column)), 0)
    return chart


def _volume(found: Sequence[Point], axis: Axis) -> Chart:
    width = max((axis.end - axis.start) / BINS, timedelta(minutes=1))
    hours = width.total_seconds() / 3600
    each = (
        f"{hours * 60:.0f} min"
        if hours < 1.5
        else f"{hours:.0f} h"
        if hours < 36
        else f"{hours / 24:.1f} days"
    )
    chart = Chart(axis, "Volume", f"answered images in each {each}", number, low=0.0)
    bins: Counter[int] = Counter()
    for point in found:
        bins[min(int((point.time - axis.start) / width), BINS - 1)] += point.images
    chart.bars(
        [
            (axis.start + width * index, axis.start + width * (index + 1), float(n))
            for index, n in sorted(bins.items())
        ]
        if found
        else [],
        0,
    )
    return chart


def _latency(found: Sequence[Point], axis: Axis) -> Chart:
    note = "decoding and network of one image, as the service measured them; p50 and p99 of each window"
    chart = Chart(axis, "Time of an answer", note, lambda value: f"{number(1000 * value)} ms", low=0.0)
    chart.line(_series(found, lambda point: point.p50), 0, "p50")
    chart.line(_series(found, lambda point: point.p99), 1, "p99")
    return chart
