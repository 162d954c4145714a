"""Names, numbers and tables in Markdown; what comes from disk or from people stays text."""

import re
from collections.abc import Sequence

__all__ = ["escaped", "interval", "names", "number", "table"]

LONGEST = 4000  # letters of a name, or of a report from elsewhere
# What CommonMark and GitHub act on inside a line; a backslash before ASCII punctuation makes it a letter.
_ACTIVE = re.compile(r"[\\`*\[\]<>|~&$]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])|(?<=:)/(?=/)|(?<=\bwww)\.|@")


def escaped(value: object) -> str:
    """``value`` as one line of plain text in Markdown: nothing in it is a link, markup or HTML."""
    line = "".join(sign for sign in " ".join(str(value).split()) if sign.isprintable())
    line = line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
    return _ACTIVE.sub(lambda found: "\\" + found.group(), line)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def names(names: Sequence[str]) -> str:
    return ", ".join(escaped(name) for name in names)


def number(value: float | None) -> str:
    """Three decimals of a float, a count as it is."""
    if isinstance(value, float):
        return f"{round(value, 3) + 0.0:.3f}"  # no negative zero
    return "" if value is None else f"{value:,}"


def interval(ends: Sequence[float] | None) -> str:
    return f"{number(ends[0])} to {number(ends[1])}" if ends else ""
