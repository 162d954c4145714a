"""The soaked year as one picture: accuracy by week with and without the loop, and what happened when. Inline SVG."""

import html
from collections.abc import Sequence
from typing import Any

__all__ = ["PLOT_STYLE", "plot"]

WIDTH, HEIGHT = 1000, 430
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 64, 84
PLOT_STYLE = """
table.told td:last-child, table.told th:last-child { width: 52%; }
svg.year { height: auto; margin: 1rem 0; } svg.year text { fill: var(--ink); font: 13px system-ui, sans-serif; }
svg.year text.dim { fill: var(--dim); } svg.year .grid { stroke: var(--line); stroke-width: 1; }
svg.year .with { stroke: var(--value); stroke-width: 2.5; fill: none; } svg.year .band { fill: var(--value); opacity: .15; stroke: none; }
svg.year .without { stroke: var(--still); stroke-width: 2; stroke-dasharray: 5 3; fill: none; }
svg.year .real { stroke: var(--bad); } svg.year .harmless { stroke: var(--good); } svg.year .bad-source { stroke: var(--open); }
svg.year .change { stroke-width: 1.5; } svg.year rect.change { fill: currentColor; opacity: .08; stroke: none; }
svg.year .alarm { fill: var(--bad); } svg.year .promotion { fill: var(--value); } svg.year .retrain { fill: none; stroke: var(--value); stroke-width: 1.5; }
"""


def plot(report: dict[str, Any]) -> str:
    """The picture of a report (what soak.json holds)."""
    days, weeks = report["days"], report["accuracy"]["weeks"]
    lowest = min([0.5, *(week["without_loop"] for week in weeks), *(week["with_loop"] for week in weeks)])
    floor = int(lowest * 10) / 10

    def x(day: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * day / days

    def y(share: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share) / (1 - floor)

    parts = [*_axes(days, floor, x, y), *_changes(report["changes"], days, x)]
    middle = [(x((week["from_day"] + min(week["to_day"], days)) / 2), week) for week in weeks]
    upper = [(at, y(week["with_loop_ci95"][1])) for at, week in middle]
    lower = [(at, y(week["with_loop_ci95"][0])) for at, week in middle]
    parts.append(f'<polygon class="band" points="{_points([*upper, *reversed(lower)])}"/>')
    for name in ("without", "with"):
        line = _points([(at, y(week[f"{name}_loop"])) for at, week in middle])
        parts.append(f'<polyline class="{name}" points="{line}"/>')
    parts += _marks(report, x)
    label = "Accuracy by week over the year, with the loop and without it"
    return f'<svg class="year" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _axes(days: int, floor: float, x: Any, y: Any) -> list[str]:
    parts = []
    for tenth in range(round(floor * 10), 11):
        at = y(tenth / 10)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(
            f'<text class="dim" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{tenth * 10} %</text>'
        )
    step = 30 if days > 120 else 5
    parts += [
        f'<text class="dim" x="{x(day):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{day}</text>'
        for day in range(0, days + 1, step)
    ]
    foot = HEIGHT - BOTTOM + 18
    parts.append(f'<text class="dim" x="4" y="{foot}">day</text>')
    return parts


def _changes(changes: Sequence[dict[str, Any]], days: int, x: Any) -> list[str]:
    parts = []
    for number, change in enumerate(changes):
        kind, at = change["kind"].replace(" ", "-"), x(change["day"])
        width = x(min(days, change["day"] + change["days"])) - at
        height = HEIGHT - TOP - BOTTOM
        parts.append(
            f'<rect class="change {kind}" x="{at:.1f}" y="{TOP}" width="{width:.1f}" height="{height}"/>'
        )
        parts.append(
            f'<line class="change {kind}" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 6}" y2="{HEIGHT - BOTTOM}"/>'
        )
        # Two rows, so that neighbours do not lie on each other.
        row = TOP - 30 if number % 2 else TOP - 12
        parts.append(
            f'<text x="{min(at, WIDTH - 130):.1f}" y="{row}">{html.escape(change["name"])} ({change["kind"]})</text>'
        )
    return parts


def _marks(report: dict[str, Any], x: Any) -> list[str]:
    """Below the axis: alarms, retrains and promotions, a row each."""
    top = HEIGHT - BOTTOM + 34
    parts = []
    for row, (name, entries) in enumerate(
        [
            ("alarm", report["alarms"]),
            ("retrain", report["retrains"]),
            ("promotion", report["promotions"]),
        ]
    ):
        level = top + 16 * row
        parts.append(f'<text class="dim" x="4" y="{level + 4}">{name}</text>')
        for entry in entries:
            at = x(entry["day"])
            shape = {
                "alarm": f'<path class="alarm" d="M{at:.1f} {level - 6} l6 11 h-12 z"/>',
                "retrain": f'<circle class="retrain" cx="{at:.1f}" cy="{level}" r="5"/>',
                "promotion": f'<path class="promotion" d="M{at:.1f} {level - 7} l7 7 l-7 7 l-7 -7 z"/>',
            }[name]
            title = html.escape(
                f"day {entry['day']}: {entry.get('cause') or entry.get('outcome') or 'promoted'}"
            )
            parts.append(f"<g><title>{title}</title>{shape}</g>")
    return parts


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
