"""Accuracy against time, one point a candidate, the Pareto front drawn: reports/select.png."""

import itertools
import math
from pathlib import Path
from typing import Any

from pipeline.artifacts import atomic_path

__all__ = ["draw"]

FRONT, TAKEN, OTHER = "#0969da", "#1a7f37", "#57606a"
PLACES = [  # of a name beside its point: points to the right, points up, alignment
    (across, up, side)
    for up in (0, 10, -10, 20, -20, 32, -32, 44, -44)
    for across, side in ((10, "left"), (-10, "right"))
]
BESIDE = 10  # points that a name may stand above or below its point without a line to it
LOGARITHMIC_FROM = 5  # times between the fastest and the slowest


def draw(target: Path, found: dict[str, Any]) -> None:
    """Write the picture of what ``report`` gave; at least one candidate was measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(9, 5), dpi=140, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rows = sorted(found["candidates"], key=lambda row: row["milliseconds"])
    times = [row["milliseconds"] for row in rows]
    if times[-1] > LOGARITHMIC_FROM * times[0]:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.27, y=0.14)
    _front(axes, [row for row in rows if row["pareto"]])
    for row in rows:
        _point(axes, row, row["candidate"] == found["recommended"])
    axes.set(
        xlabel=f"time an image (ms; ONNX Runtime, batch 1, {found['threads']} thread, median)",
        ylabel="accuracy of a cross-validated probe\n(share of training images, 95 % interval)",
        title=f"Which backbone? {found['images']} images, {found['classes']} classes, {found['folds']} folds",
    )
    axes.set_ylim(top=min(axes.get_ylim()[1], 1.02))
    axes.grid(visible=True, color="#d0d7de", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", frameon=True)
    _names(axes, canvas, rows)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png")


def _front(axes: Any, front: list[dict[str, Any]]) -> None:
    """What can be had for at most so much time: level until the next point of the front is affordable."""
    times = [row["milliseconds"] for row in front]
    accuracy = [row["accuracy"] for row in front]
    axes.step(times, accuracy, where="post", color=FRONT, linewidth=1.4, label="Pareto front", zorder=2)


def _point(axes: Any, row: dict[str, Any], taken: bool) -> None:
    colour = TAKEN if taken else FRONT if row["pareto"] else OTHER
    low, high = row["accuracy_ci95"]
    axes.errorbar(
        [row["milliseconds"]],
        [row["accuracy"]],
        yerr=[[row["accuracy"] - low], [high - row["accuracy"]]],
        fmt="*" if taken else "o",
        markersize=13 if taken else 6,
        color=colour,
        ecolor=colour,
        elinewidth=1,
        capsize=3,
        label="recommended" if taken else None,
        zorder=3,
    )


def _names(axes: Any, canvas: Any, rows: list[dict[str, Any]]) -> None:
    """Each name beside its point, where it hides the least and is nearest to its own point."""
    from matplotlib.patheffects import withStroke

    canvas.draw()  # the places of the points are only known once the layout is
    renderer = canvas.get_renderer()
    points = [axes.transData.transform((row["milliseconds"], row["accuracy"])) for row in rows]
    drawn = _drawn(axes, rows)
    frame = axes.get_window_extent(renderer)
    covered = [axes.get_legend().get_window_extent(renderer)]
    for own, row in zip(points, rows, strict=True):
        choices = []
        for across, up, side in PLACES:
            name = axes.annotate(
                row["candidate"],
                (row["milliseconds"], row["accuracy"]),
                (across, up),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=9,
                parse_math=False,
            )
            box = name.get_window_extent(renderer)
            outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
            elsewhere = any(
                _distance(box, other) < _distance(box, own) for other in points if other is not own
            )
            cost = 100 * (outside + sum(box.overlaps(other) for other in covered)) + 20 * elsewhere
            choices.append((cost + sum(box.contains(*place) for place in drawn) + abs(up) / 10, name, box))
        best = min(choices, key=lambda choice: choice[0])
        for choice in choices:
            if choice is not best:
                choice[1].remove()
        covered.append(best[2])
        best[1].set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        _led(axes, best[1], row)


def _led(axes: Any, name: Any, row: dict[str, Any]) -> None:
    """A thin line from a name that does not stand right beside its point."""
    across, up = name.get_position()
    if abs(up) > BESIDE:
        axes.annotate(
            "",
            (row["milliseconds"], row["accuracy"]),
            (across, up),
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": OTHER, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
        )


def _distance(box: Any, place: tuple[float, float]) -> float:
    """From the nearest edge of the box, in px; 0 inside."""
    x, y = place
    return math.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))


def _drawn(axes: Any, rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Places in pixels along the intervals and the front, for names to keep clear of."""
    lines = [[(row["milliseconds"], end) for end in row["accuracy_ci95"]] for row in rows]
    front = [(row["milliseconds"], row["accuracy"]) for row in rows if row["pareto"]]
    for (fast, low), (slow, high) in itertools.pairwise(front):
        lines += [[(fast, low), (slow, low)], [(slow, low), (slow, high)]]
    places = []
    for start, end in lines:
        (x0, y0), (x1, y1) = axes.transData.transform([start, end])
        places += [(x0 + (x1 - x0) * step / 20, y0 + (y1 - y0) * step / 20) for step in range(21)]
    return places
