"""Small SVG drawings that stretch with their cell: lines keep their width, and no letter is in them.

Each carries what it shows as its label, for those who can't see it.
"""

from collections.abc import Sequence

from pipeline.verdict_page.words import Check, at_most, bound, escaped, interval, number, value

__all__ = ["bar", "difference", "shares", "span"]

HEIGHT = 20
COUNTS = ("both right", "newly right", "newly wrong", "both wrong")


def bar(check: Check) -> str:
    """The value and its interval against the bound; the side that fails is shaded. Empty where there is no value."""
    place, ends, limit = check.get("value"), check.get("ci95") or [], check.get("bound")
    if place is None or limit == 0:  # nor is a drawing needed of a count that has to be none
        return ""
    shown = [place, *ends, *([limit] if limit is not None else [])]
    upper = at_most(check)
    low, high = min(0.0, *shown), max(shown)
    if low < 0:
        high = max(high, -low) * 1.1
        low = -high
    elif high <= 1 and not upper:
        high = 1.0
    else:
        high = high * 1.15 or 1.0
    drawing = _Drawing(low, high)
    if limit is not None:
        drawing.zone(*((limit, high) if upper else (low, limit)))
        drawing.mark(limit, "bound")
    drawing.estimate(place, ends)
    said = ", ".join(
        part for part in (value(check), f"95 % {interval(ends)}" if ends else "", bound(check)) if part
    )
    return drawing.svg(said)


def difference(check: Check, reach: float) -> str:
    """Challenger less champion on the scale −reach to +reach, against no difference and the margin."""
    drawing = _Drawing(-reach, reach)
    if check.get("bound") is not None:
        drawing.zone(-reach, check["bound"])
        drawing.mark(check["bound"], "bound")
    drawing.mark(0.0, "zero")
    if check.get("value") is not None:
        drawing.estimate(check["value"], check.get("ci95") or [])
    said = f"difference {number(check.get('value'), signed=True)}, 95 % {interval(check.get('ci95'), signed=True)}"
    return drawing.svg(said)


def span(checks: Sequence[Check]) -> float:
    """How far :func:`difference` has to reach for all of ``checks``."""
    ends = [
        abs(x)
        for check in checks
        for x in (*(check.get("ci95") or []), check.get("bound"), check.get("value"))
        if x is not None
    ]
    return max(ends, default=0.0) * 1.1 or 1.0


def shares(counts: Sequence[int]) -> str:
    """A bar of the images by :data:`COUNTS`, as wide as each is frequent; a few are never too narrow to be seen."""
    total = sum(counts)
    if not total:
        return ""
    widths = [max(100 * count / total, 1.5) if count else 0.0 for count in counts]
    start, parts = 0.0, []
    for words, width in zip(COUNTS, widths, strict=True):
        width *= 100 / sum(widths)
        kind = words.replace(" ", "-")
        parts.append(f'<rect class="{kind}" x="{start:.3f}" y="0" width="{width:.3f}" height="{HEIGHT}"/>')
        start += width
    said = ", ".join(f"{count} {words}" for count, words in zip(counts, COUNTS, strict=True))
    return _svg("shares", "".join(parts), said)


def _svg(kind: str, inside: str, said: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 100 {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escaped(said)}">{inside}</svg>'
    )


class _Drawing:
    """A scale from ``low`` to ``high`` over a width of 100."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.parts = [f'<line class="scale" x1="0" x2="100" y1="{HEIGHT / 2:g}" y2="{HEIGHT / 2:g}"/>']

    def zone(self, low: float, high: float) -> None:
        start, end = self._x(low), self._x(high)
        if end > start:
            self.parts.insert(
                0, f'<rect class="zone" x="{start:.2f}" y="0" width="{end - start:.2f}" height="{HEIGHT}"/>'
            )

    def mark(self, value: float, kind: str) -> None:
        x = f"{self._x(value):.2f}"
        self.parts.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="0" y2="{HEIGHT}"/>')

    def estimate(self, value: float, ends: Sequence[float]) -> None:
        if ends:
            low, high = (f"{self._x(end):.2f}" for end in ends)
            self.parts.append(
                f'<line class="interval" x1="{low}" x2="{high}" y1="{HEIGHT / 2:g}" y2="{HEIGHT / 2:g}"/>'
            )
        x = f"{self._x(value):.2f}"
        self.parts.append(f'<line class="value" x1="{x}" x2="{x}" y1="3" y2="{HEIGHT - 3}"/>')

    def svg(self, said: str) -> str:
        return _svg("bar", "".join(self.parts), said)

    def _x(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return 100 * min(1.0, max(0.0, share))
