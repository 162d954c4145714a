"""The decision in plain sentences: what was judged, against whom, over how many images, and what would flip it."""

from collections.abc import Sequence
from typing import Any

from pipeline.verdict_page.words import Check, escaped, interval, label, name, number, rank, sentence

__all__ = ["TITLES", "head", "is_sound"]

TITLES = {  # decision → sign and words, tone
    "PROMOTE": ("✓ Promote", "good"),
    "REJECT": ("✗ Reject", "bad"),
    "INSUFFICIENT_EVIDENCE": ("? Not enough evidence", "open"),
}
FLIPS = 6  # named at the top; the table has all


def is_sound(checks: Sequence[Check]) -> bool:
    """Whether the predictions may be looked at: no check of their integrity fails."""
    return not any(check.get("kind") == "integrity" and check["outcome"] == "fail" for check in checks)


def head(verdict: dict[str, Any], info: dict[str, Any], images: int, groups: int) -> str:
    """The head of the page; ``images`` test images in ``groups`` groups were looked at, 0 where none may be."""
    checks: list[Check] = verdict["checks"]
    title, tone = TITLES.get(verdict["decision"], (f"? {verdict['decision']}", "open"))
    parts = [
        f"<h1>{escaped(title)}</h1>",
        f"<p>{_judged(verdict, info, images, groups)}</p>",
        f"<p>{_why(verdict)}</p>",
    ]
    if images:
        parts.append(_figures(checks))
    parts.append(_flips(verdict["decision"], checks))
    shown = sum(rank(check) == 2 for check in checks)
    if shown:
        parts.append(
            f"<p>{_checks(shown)} {'is' if shown == 1 else 'are'} undecided, shown below and not held against it.</p>"
        )
    return f'<header class="{tone}">\n' + "\n".join(part for part in parts if part) + "\n</header>"


def _judged(verdict: dict[str, Any], info: dict[str, Any], images: int, groups: int) -> str:
    network = ", ".join(str(info[key]) for key in ("strategy", "backbone") if info.get(key))
    what = f"the challenger <code>{escaped(str(verdict['challenger'])[:12])}</code>"
    what += f" ({name(network)}, {len(info.get('classes', []))} classes)" if network else ""
    what += ", its INT8 network" if verdict.get("format") == "int8" else ""
    champion = verdict.get("champion")
    whom = (
        f"against the champion <code>{escaped(str(champion)[:12])}</code>"
        if champion
        else "for itself: there is no champion yet"
    )
    over = f", over {images:,} test images in {groups:,} independent groups" if images else ""
    return f"Judged was {what}, {whom}{over}."


def _why(verdict: dict[str, Any]) -> str:
    checks: list[Check] = verdict["checks"]
    failed, open_ = ([check for check in checks if rank(check) == place] for place in (0, 1))
    passing = sum(check["outcome"] == "pass" for check in checks)
    if not is_sound(checks):
        return (
            f"What was measured can't be trusted, so nothing else was looked at: {_names(failed)}. "
            "Nobody may override this."
        )
    if verdict["decision"] == "REJECT":
        return f"{_checks(len(failed))} of {len(checks)} fail{'s' if len(failed) == 1 else ''}: {_names(failed)}."
    if verdict["decision"] == "INSUFFICIENT_EVIDENCE":
        return (
            f"Nothing fails, but {_checks(len(open_))} of {len(checks)} can't be decided and "
            f"hold{'s' if len(open_) == 1 else ''} it back: {_names(open_)}. More test images or a person has to decide."
        )
    return f"{passing} of {len(checks)} checks pass, and nothing is held against it."


def _figures(checks: Sequence[Check]) -> str:
    found = {check["name"]: check for check in checks if check.get("value") is not None}
    items = []
    if "accuracy" in found:
        check = found["accuracy"]
        items.append((number(check["value"]), "accuracy", interval(check.get("ci95"))))
    if "noninferiority" in found:
        check = found["noninferiority"]
        ends = interval(check.get("ci95"), signed=True)
        items.append((number(check["value"], signed=True), "accuracy, less the champion's", ends))
    passing = sum(check["outcome"] == "pass" for check in checks)
    items.append((f"{passing} of {len(checks)}", "checks pass", ""))
    tiles = "".join(
        f"<li><b>{value}</b>{words}{f'<br><small>95 %: {ends}</small>' if ends else ''}</li>"
        for value, words, ends in items
    )
    return f'<ul class="figures">{tiles}</ul>'


def _flips(decision: str, checks: Sequence[Check]) -> str:
    """What would make the decision another one: of PROMOTE, the loss of any check over all images."""
    against = sorted((check for check in checks if rank(check) < 2), key=rank)
    if decision == "PROMOTE":
        whole = [
            check
            for check in checks
            if "/" not in str(check["name"])
            and check.get("value") is not None
            and check.get("kind") != "integrity"
        ]
        against = sorted(whole, key=lambda check: check.get("kind") != "comparison")[: FLIPS // 2]
        words = "Any one of these would flip it"
    else:
        words = "What would have to change" if len(against) == 1 else "All of these would have to change"
    items = "".join(
        f"<li>{name(label(check))}: {sentence(check['would_flip'])}</li>"
        for check in against[:FLIPS]
        if check.get("would_flip")
    )
    more = f"<li>and {len(against) - FLIPS} more in the table below</li>" if len(against) > FLIPS else ""
    return f"<p>{words}:</p><ul>{items}{more}</ul>" if items else ""


def _names(checks: Sequence[Check]) -> str:
    said = ", ".join(name(label(check)) for check in checks[:FLIPS])
    return said + (f" and {len(checks) - FLIPS} more" if len(checks) > FLIPS else "")


def _checks(count: int) -> str:
    return f"{count} check{'' if count == 1 else 's'}"
