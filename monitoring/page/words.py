"""Figures, times and names as text that is inert wherever it stands."""

import html
from datetime import UTC, datetime, timedelta

__all__ = ["clock", "duration", "escaped", "interval", "number", "percent"]

LONGEST = 600


def escaped(text: object) -> str:
    """For HTML text and attributes; control and bidirectional signs are shown, not obeyed."""
    whole = str(text)
    cut = whole if len(whole) <= LONGEST else f"{whole[: LONGEST - 1]}…"
    if not cut.isprintable():
        cut = "".join(sign if sign.isprintable() else "·" for sign in cut)
    return html.escape(cut, quote=True)


def percent(share: float) -> str:
    """0.934 → 93 %; small shares keep a digit."""
    value = 100 * share
    return f"{value:.1f} %" if 0 < value < 9.95 else f"{value:.0f} %"


def number(value: float) -> str:
    """Three significant digits at most, no exponent for everyday sizes."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.1e}"


def interval(value: float, low: float | None, high: float | None) -> str:
    """An accuracy with its interval."""
    return percent(value) + (
        f" ({percent(low)} to {percent(high)})" if low is not None and high is not None else ""
    )


def duration(length: timedelta) -> str:
    """2 min, 5.1 h, 3.0 days."""
    seconds = max(0.0, length.total_seconds())
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def clock(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"
