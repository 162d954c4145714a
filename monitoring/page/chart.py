"""One chart over time as inline SVG: lines, bands, stacks and bars, under labels that do not shrink with it.

The drawing is stretched to the page's width (``preserveAspectRatio="none"``); the text stands beside it as
HTML, so that it is as legible on a telephone as on a screen.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from monitoring.page.words import escaped

__all__ = ["Axis", "Chart"]

WIDTH, HEIGHT = 1000.0, 100.0
DOTS = 60
"""Up to so many points are dots with a tooltip, too."""

Pairs = Sequence[tuple[datetime, float]]
Bounds = Sequence[tuple[datetime, float, float]]
Row = TypeVar("Row", bound=tuple[Any, ...])


@dataclass(frozen=True)
class Axis:
    """The time that every chart of the page spans; ``zones`` are open episodes, ``moves`` new champions."""

    start: datetime
    end: datetime
    zones: Sequence[tuple[datetime, datetime]] = ()
    moves: Sequence[datetime] = ()

    def share(self, time: datetime) -> float:
        """Where on the axis, 0 to 1."""
        whole = (self.end - self.start).total_seconds() or 1.0
        return min(1.0, max(0.0, (time - self.start).total_seconds() / whole))

    def x(self, time: datetime) -> str:
        return f"{WIDTH * self.share(time):.1f}"

    def labels(self) -> str:
        """Five dates, the outer ones inside the drawing's edges; a narrow drawing shows three."""
        short = self.end - self.start < timedelta(days=3)
        text = "%d %b %H:%M" if short else "%d %b" if self.end - self.start < timedelta(days=300) else "%b %Y"
        spans = []
        for number, edge in ((0, " first"), (0.25, " minor"), (0.5, ""), (0.75, " minor"), (1, " last")):
            time = (self.start + (self.end - self.start) * number).astimezone(UTC)
            spans.append(f'<span class="x{edge}" style="left:{100 * number:.0f}%">{time:{text}}</span>')
        return "".join(spans)


@dataclass
class Chart:
    """Add layers, then ``html``. ``scale`` words a value of the y axis; ``low`` and ``high`` are its ends if given."""

    axis: Axis
    title: str
    note: str
    scale: Callable[[float], str]
    low: float | None = None
    high: float | None = None
    wide: bool = False
    _values: list[float] = field(default_factory=list)
    _layers: list[Callable[[Callable[[float], float]], str]] = field(default_factory=list)
    _legend: list[tuple[str, str]] = field(default_factory=list)

    def line(self, pairs: Pairs, colour: int, name: str | None = None) -> None:
        """A line through the values, broken where another champion came."""
        if not pairs:
            return
        self._values += [value for _, value in pairs]
        if name:
            self._legend.append((f"k{colour}", name))
        self._layers.append(lambda y: self._line(pairs, colour, y))

    def _line(self, pairs: Pairs, colour: int, y: Callable[[float], float]) -> str:
        runs = [[f"{self.axis.x(time)},{y(value):.2f}" for time, value in run] for run in self._runs(pairs)]
        shown = "".join(
            f'<polyline class="stroke s{colour}" points="{" ".join(run)}"/>' for run in runs if len(run) > 1
        )
        lonely = any(len(run) == 1 for run in runs)
        return shown + (self._dots(pairs, colour, y) if len(pairs) <= DOTS or lonely else "")

    def _runs(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Rows begin with their time."""
        runs: list[list[Row]] = []
        for row in rows:
            if not runs or any(runs[-1][-1][0] < move <= row[0] for move in self.axis.moves):
                runs.append([])
            runs[-1].append(row)
        return runs

    def dots(self, pairs: Pairs, colour: int, name: str) -> None:
        """Values that nothing connects."""
        self._values += [value for _, value in pairs]
        self._legend.append((f"k{colour}", name))
        self._layers.append(lambda y: self._dots(pairs, colour, y))

    def _dots(self, pairs: Pairs, colour: int, y: Callable[[float], float]) -> str:
        return "".join(
            f'<path class="dot s{colour}" d="M{self.axis.x(time)},{y(value):.2f}h0"><title>'
            f"{escaped(f'{time.astimezone(UTC):%Y-%m-%d %H:%M}: {self.scale(value)}')}</title></path>"
            for time, value in pairs
        )

    def whiskers(self, bounds: Bounds, colour: int) -> None:
        """From low to high, for values that nothing connects."""
        self._values += [value for _, *ends in bounds for value in ends]
        self._layers.append(
            lambda y: "".join(
                f'<path class="whisker s{colour}" d="M{self.axis.x(time)},{y(low):.2f}V{y(high):.2f}"/>'
                for time, low, high in bounds
            )
        )

    def band(self, bounds: Bounds, colour: int) -> None:
        """Between low and high."""
        self._values += [value for _, *ends in bounds for value in ends]
        self._layers.append(lambda y: "".join(self._band(run, colour, y) for run in self._runs(bounds)))

    def _band(self, run: Bounds, colour: int, y: Callable[[float], float]) -> str:
        edge = [f"{self.axis.x(time)},{y(high):.2f}" for time, _, high in run]
        edge += [f"{self.axis.x(time)},{y(low):.2f}" for time, low, _ in reversed(run)]
        return f'<polygon class="band f{colour}" points="{" ".join(edge)}"/>'

    def limit(self, value: float, name: str) -> None:
        """A dashed line across."""
        self._values.append(value)
        self._legend.append(("rule", name))
        self._layers.append(lambda y: f'<path class="limit" d="M0,{y(value):.2f}H{WIDTH:.0f}"/>')

    def stack(self, times: Sequence[datetime], parts: Sequence[tuple[str, Sequence[float]]]) -> None:
        """Shares on top of each other, the first at the bottom."""
        self._values += [0.0, 1.0]
        below = [0.0] * len(times)
        for colour, (name, shares) in enumerate(parts):
            above = [low + share for low, share in zip(below, shares, strict=True)]
            self._legend.append((f"k{colour}", name))
            self._layers.append(lambda y, b=below, a=above, c=colour: self._area(times, b, a, c, y))  # type: ignore[misc]
            below = above

    def _area(
        self,
        times: Sequence[datetime],
        below: list[float],
        above: list[float],
        colour: int,
        y: Callable[[float], float],
    ) -> str:
        edge = [f"{self.axis.x(time)},{y(value):.2f}" for time, value in zip(times, above, strict=True)]
        edge += [
            f"{self.axis.x(time)},{y(value):.2f}"
            for time, value in reversed(list(zip(times, below, strict=True)))
        ]
        return f'<polygon class="f{colour}" points="{" ".join(edge)}"/>'

    def bars(self, found: Sequence[tuple[datetime, datetime, float]], colour: int) -> None:
        """From one time to another, up from 0."""
        self._values += [0.0, *(value for _, _, value in found)]
        self._layers.append(lambda y: "".join(self._bar(*bar, colour, y) for bar in found))

    def _bar(
        self, start: datetime, end: datetime, value: float, colour: int, y: Callable[[float], float]
    ) -> str:
        left, right = self.axis.share(start) * WIDTH, self.axis.share(end) * WIDTH
        width = max(1.0, 0.9 * (right - left))
        return (
            f'<rect class="f{colour}" x="{left:.1f}" y="{y(value):.2f}" width="{width:.1f}" height="{HEIGHT - y(value):.2f}">'
            f"<title>{escaped(f'{start:%Y-%m-%d %H:%M}: {self.scale(value)}')}</title></rect>"
        )

    @property
    def is_empty(self) -> bool:
        return not self._values

    def html(self) -> str:
        """The figure; an empty one where nothing is known."""
        if self.is_empty:
            return ""
        ticks = _ticks(
            min(self._values) if self.low is None else self.low,
            max(self._values) if self.high is None else self.high,
        )
        low, high = ticks[0], ticks[-1]

        def y(value: float) -> float:
            return HEIGHT * (1 - (min(max(value, low), high) - low) / (high - low))

        drawn = "".join(layer(y) for layer in self._layers)
        grid = "".join(f'<path class="grid" d="M0,{y(tick):.2f}H{WIDTH:.0f}"/>' for tick in ticks)
        labels = "".join(
            f'<span class="y" style="bottom:{100 - y(tick):.1f}%">{escaped(self.scale(tick))}</span>'
            for tick in ticks
        )
        items = "".join(f'<li><i class="{kind}"></i>{escaped(name)}</li>' for kind, name in self._legend)
        legend = (
            f'<ul class="legend">{items}</ul>'
            if len(self._legend) > 1 or "rule" in dict(self._legend)
            else ""
        )
        return (
            f"<figure{' class=wide' if self.wide else ''}><figcaption>{escaped(self.title)}<small>{escaped(self.note)}</small></figcaption>"
            f'<div class="plot"><svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" preserveAspectRatio="none" role="img" '
            f'aria-label="{escaped(self.title)}">{self._behind()}{grid}{drawn}{self._moves()}</svg>{labels}{self.axis.labels()}</div>{legend}</figure>'
        )

    def _behind(self) -> str:
        found = []
        for start, end in self.axis.zones:
            left, right = (WIDTH * self.axis.share(time) for time in (start, end))
            found.append(
                f'<rect class="zone" x="{left:.1f}" y="0" width="{max(2.0, right - left):.1f}" height="100"/>'
            )
        return "".join(found)

    def _moves(self) -> str:
        return "".join(f'<path class="champion" d="M{self.axis.x(time)},0V100"/>' for time in self.axis.moves)


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round values that span low to high."""
    least = 0.02 * max(abs(low), abs(high)) or 1.0  # closer, and the labels would read alike
    if high - low < least:
        low, high = low - least / 2, high + least / 2
    raw = (high - low) / 3.5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * number, 10) for number in range(first, last + 1)]
