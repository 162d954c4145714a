"""Every check of the verdict, by kind, what does not pass first; the many that pass are folded away."""

from collections.abc import Sequence

from pipeline.verdict_page.plots import bar
from pipeline.verdict_page.words import (
    KINDS,
    Check,
    bound,
    escaped,
    interval,
    label,
    name,
    outcome,
    rank,
    sentence,
    support,
    tone,
    value,
)

__all__ = ["tables"]

SHOWN = 4  # of a kind: parts, or integrity, that hold nothing back and are not folded
COLUMNS = (
    "Check",
    "Outcome",
    "Value (95 % interval)",
    "Against the bound",
    "Support",
    "Why",
)


def tables(checks: Sequence[Check]) -> str:
    """A heading and a table for each kind of check; kinds that this version does not know come last."""
    kinds: dict[str, list[Check]] = {kind: [] for kind in KINDS}
    for check in checks:
        kinds.setdefault(str(check.get("kind") or "other"), []).append(check)
    found = [(kind, sorted(members, key=_order)) for kind, members in kinds.items() if members]
    found.sort(key=lambda entry: rank(entry[1][0]))
    return "\n".join(_kind(kind, members) for kind, members in found)


def _order(check: Check) -> tuple[int, bool]:
    """What is about all images before its parts; otherwise as the gate put them, the worst first."""
    return rank(check), "/" in str(check["name"])


def _kind(kind: str, checks: Sequence[Check]) -> str:
    minor = [
        check for check in checks if rank(check) > 1 and (kind == "integrity" or "/" in str(check["name"]))
    ]
    folded = minor[SHOWN:] if len(minor) > SHOWN + 1 else []
    hidden = {id(check) for check in folded}
    shown = [check for check in checks if id(check) not in hidden]
    passing = sum(check["outcome"] == "pass" for check in checks)
    title = KINDS.get(kind) or kind.replace("_", " ").capitalize()
    text = f"<h3>{escaped(title)} <small>{passing} of {len(checks)} pass</small></h3>\n{_table(shown)}"
    if folded:
        text += f"\n<details><summary>{_folded(folded)}</summary>\n{_table(folded)}</details>"
    return text


def _folded(checks: Sequence[Check]) -> str:
    passing = sum(check["outcome"] == "pass" for check in checks)
    parts = [f"{passing} pass"] * bool(passing)
    parts += [f"{len(checks) - passing} undecided and shown only"] * (passing < len(checks))
    return f"{len(checks)} more: {', '.join(parts)}"


def _table(checks: Sequence[Check]) -> str:
    head = "".join(f'<th scope="col">{column}</th>' for column in COLUMNS)
    rows = "\n".join(_row(check) for check in checks)
    return f'<table class="checks"><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>'


def _row(check: Check) -> str:
    signed = (check.get("bound") or 0) < 0
    said, ends = value(check), interval(check.get("ci95"), signed=signed)
    cells = (
        escaped(outcome(check)),
        f"{said} <small>{ends}</small>" if said else "",
        f"{bar(check)}<small>{bound(check)}</small>" if said or bound(check) else "",
        support(check),
        _why(check),
    )
    columns = "".join(_cell(column, cell) for column, cell in zip(COLUMNS[1:], cells, strict=True))
    return (
        f'<tr class="{tone(check)}"><th scope="row">{name(label(check))} <code>{name(check["name"])}</code></th>'
        f"{columns}</tr>"
    )


def _cell(column: str, inside: str) -> str:
    empty = "" if inside else ' class="empty"'
    return f'<td{empty} data-column="{column}">{inside}</td>'


def _why(check: Check) -> str:
    parts = [sentence(check["detail"])] if check.get("detail") else []
    if check.get("would_flip"):
        parts.append(f"<small>would flip it: {sentence(check['would_flip'])}</small>")
    return "<br>".join(parts)
