"""Names, numbers and outcomes of checks as words for people; everything that comes from disk is escaped here."""

import html
import re
from typing import Any

from pipeline.checks import AT_MOST, UNITS

__all__ = [
    "KINDS",
    "at_most",
    "bound",
    "escaped",
    "interval",
    "label",
    "name",
    "number",
    "outcome",
    "rank",
    "sentence",
    "support",
    "tone",
    "value",
]

Check = dict[str, Any]  # one of verdict.json's checks

KINDS = {  # in the order in which a person asks
    "integrity": "Is the evidence sound?",
    "evidence": "Is the evidence fresh and on record?",
    "absolute": "Is it good enough?",
    "slice": "Is it good enough in every part?",
    "comparison": "Is it no worse than the champion?",
    "robustness": "Does it stand disturbance?",
    "performance": "What does an answer cost?",
}
LABELS = {
    "macro_f1": "Macro-F1",
    "ece": "Calibration error (ECE)",
    "nll": "Log loss (NLL)",
    "noninferiority": "Not worse than the champion",
    "classes": "Classes kept",
    "gap": "Gap between parts",
    "peeks": "Looks at the test images",
    "integrity_parity": "Parity of torch, ONNX and today",
    "integrity_parity_int8": "Parity of INT8 and float32",
    "integrity_drop_int8": "Accuracy that INT8 loses",
    "size": "Size (MB)",
    "memory": "Memory (MB)",
    "cold_start": "Cold start (s)",
    "latency": "Latency (ms an image)",
    "slowdown": "Time, in the champion's",
}
OF_KINDS = {"noninferiority", "slice"}  # checks whose name goes on with a kind of part, and the part
_SIGNS = {"pass": "✓", "fail": "✗", "unknown": "?"}


def escaped(value: object) -> str:
    """``value`` as text or an attribute of HTML."""
    return html.escape(str(value), quote=True)


def name(value: object) -> str:
    """A class, domain or path that people chose: escaped, and its writing direction kept to itself."""
    return f"<bdi>{escaped(value)}</bdi>"


def sentence(value: object) -> str:
    """What a check says of itself, its commands as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", name(value))


def label(check: Check) -> str:
    """What a check is about, for people (not escaped): ``recall/pit`` is "Recall: pit"."""
    first, _, part = str(check["name"]).partition("/")
    head = LABELS.get(first) or first.removeprefix("integrity_").replace("_", " ").capitalize()
    if first in OF_KINDS:
        kind, slash, rest = part.partition("/")
        part = f"{kind.replace('_', ' ')} {rest}" if slash else kind
    return f"{head}: {part}" if part else head


def value(check: Check) -> str:
    """The check's value: a count where its bound is one, with a sign where it is a difference."""
    found, limit = check.get("value"), check.get("bound") or 0
    counts = abs(limit) >= 1 or (check.get("bound") == 0 and at_most(check))
    if found is not None and counts and limit == round(limit) and found == round(found):
        return f"{found:,.0f}"
    return number(found, signed=limit < 0)


def number(value: float | None, *, signed: bool = False) -> str:
    """Three decimals where they say something, fewer from 10 on, one digit of what is too small for them."""
    if value is None:
        return ""
    if 0 < abs(value) < 0.0005:
        return f"{value:{'+' if signed else ''}.0e}".replace("-", "−")
    if abs(value) >= 10:
        return f"{value:{'+' if signed else ''},.{0 if abs(value) >= 100 or value == round(value) else 1}f}"
    rounded = round(value, 3) + 0.0  # no negative zero
    return f"{rounded:{'+' if signed and rounded else ''}.3f}".replace("-", "−")


def support(check: Check) -> str:
    """How many images, or what else, the check is over; empty where it says nothing of that."""
    if check.get("support") is None:
        return ""
    unit = UNITS.get(str(check["name"])) or UNITS.get(str(check.get("kind")))
    return f"{check['support']:,}" + (
        f" {unit if check['support'] != 1 else unit.removesuffix('s')}" if unit else ""
    )


def interval(ends: list[float] | None, *, signed: bool = False) -> str:
    return f"{number(ends[0], signed=signed)} to {number(ends[1], signed=signed)}" if ends else ""


def at_most(check: Check) -> bool:
    """Whether the check's bound is an upper one."""
    return str(check["name"]).split("/", 1)[0] in AT_MOST


def bound(check: Check) -> str:
    """The bound in words; empty where there is none."""
    if check.get("bound") is None:
        return ""
    value = f"{check['bound']:,g}".replace("-", "−")
    return f"at {'most' if at_most(check) else 'least'} {value}"


def outcome(check: Check) -> str:
    """Sign and word, so that no colour is needed (not escaped)."""
    said = str(check["outcome"])
    words = {"pass": "passes", "fail": "fails"}.get(said, said)
    if said == "unknown":
        words = "undecided: holds it back" if check.get("decides", True) else "undecided: shown only"
    return f"{_SIGNS.get(said, '?')} {words}"


def rank(check: Check) -> int:
    """Failed first, then what holds back, then what is only shown, then what passes."""
    if check["outcome"] == "pass":
        return 3
    return 0 if check["outcome"] == "fail" else 1 if check.get("decides", True) else 2


def tone(check: Check) -> str:
    """The class of its row's colour."""
    return ("bad", "open", "mild", "good")[rank(check)]
