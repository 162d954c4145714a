"""The head of the page: how things stand in a sentence with figures, and the next command."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from monitoring.journal import Episode, Step
from monitoring.page.points import Point
from monitoring.page.words import clock, duration, escaped, interval, number, percent
from monitoring.states import STANDING
from monitoring.words import MEANING
from pipeline.registry import Champion

__all__ = ["head"]

TITLES = {
    "no_champion": ("There is no champion to watch", "open"),
    "insufficient_data": ("Too few new images to say anything", "open"),
    "quiet": ("No drift", "good"),
    "suppressed": ("Nothing is done, on purpose", "open"),
}
EPISODES = {
    "drift_open": "the label queue is being written",
    "awaiting_labels": "labels are awaited",
    "needs_human": "a person is needed",
    "dataset_frozen": "a challenger is being trained",
    "training": "a challenger is being trained",
    "evaluating": "the challenger is evaluated",
    "infra_validating": "the challenger's service is tried",
    "shadow": "the challenger answers in shadow",
    "rejected": "the challenger was not promoted",
    "failed": "the retrain broke",
}
DUE = {
    "needs_human": "a person is needed",
    "retrain": "a retrain is due",
    "release": "the challenger's release is due",
}
"""What the last wake-up said, where that says more than the episode's state."""


def head(
    champion: Champion | None,
    episode: Episode | None,
    steps: Sequence[Step],
    found: Sequence[Point],
    *,
    next_command: str,
    now: datetime,
) -> str:
    """The page's first block. ``steps`` and the champion's points ``found``, oldest first."""
    title, kind = _title(episode, steps)
    sentence = _sentence(champion, episode, steps, found, now)
    command = f'<p>Next: <code class="next">{escaped(next_command)}</code></p>' if next_command else ""
    return f'<header class="{kind}"><h1>{escaped(title)}</h1><p>{escaped(sentence)}</p>{command}</header>\n{_figures(found)}'


def _title(episode: Episode | None, steps: Sequence[Step]) -> tuple[str, str]:
    if episode is not None:
        if episode.state in STANDING:
            return "A new champion is being observed", "open"
        last = _last(steps)
        due = DUE.get(last.decision) if last and last.episode == episode.id else None
        words = due or EPISODES.get(episode.state, episode.state.replace("_", " "))
        return f"{episode.trigger.replace('_', ' ').capitalize()}: {words}", "bad"
    last = _last(steps)
    if last is None:
        return "Nothing was watched yet", "open"
    return TITLES.get(last.decision, (MEANING.get(last.decision, last.decision.replace("_", " ")), "open"))


def _last(steps: Sequence[Step]) -> Step | None:
    """The last row that decided something; that a drawing failed or a message went out decides nothing."""
    decided = (step for step in reversed(steps) if step.decision not in ("report_failed", "notify_failed"))
    return next(decided, None)


def _sentence(
    champion: Champion | None,
    episode: Episode | None,
    steps: Sequence[Step],
    found: Sequence[Point],
    now: datetime,
) -> str:
    last = _last(steps)
    said = last.reason.rstrip(".") if last else "run the watch once"
    said = f"{said[:1].upper()}{said[1:]}."
    if episode is not None:
        if episode.trigger == "drift" and episode.state not in STANDING:
            began = f"{_since(episode.since, now)} production is not what the champion learned"
        else:
            began = f"{_since(episode.opened, now)} an episode is open"
        return f"{began}. {said}{_standing(found)}"
    who = (
        f" Champion {champion.digest[:12]} since {champion.since[:16].replace('T', ' ')}." if champion else ""
    )
    return f"{said}{'' if 'evidence' in said else _standing(found)}{who}"


def _since(time: datetime, now: datetime) -> str:
    return f"Since {clock(time)} UTC ({duration(now - time)})"


def _standing(found: Sequence[Point]) -> str:
    evidence = _latest(found, lambda point: point if point.log10_e is not None else None)
    if evidence is None:
        return ""
    bar = f", the alarm is at 10^{evidence.threshold:.1f}" if evidence.threshold is not None else ""
    return f" Evidence 10^{evidence.log10_e:.1f}{bar}."


def _latest(found: Sequence[Point], value: Callable[[Point], Any]) -> Any:
    return next((known for point in reversed(found) if (known := value(point)) is not None), None)


def _figures(found: Sequence[Point]) -> str:
    windows = [point for point in found if point.images]
    if not found:
        return ""
    last = windows[-1] if windows else None
    shown: list[tuple[str, str]] = []
    estimate = _latest(found, lambda point: point.estimate)
    labelled = _latest(found, lambda point: point.labelled)
    if last and last.log10_e is not None:
        shown.append((f"10^{last.log10_e:.1f}", f"evidence; alarm at 10^{last.threshold or 0:.1f}"))
    if estimate:
        shown.append((interval(estimate.value, estimate.low, estimate.high), "estimated accuracy"))
    if labelled:
        shown.append(
            (
                interval(labelled.value, labelled.low, labelled.high),
                f"accuracy on {labelled.n} labelled images",
            )
        )
    if last:
        shown.append((f"{last.images}", f"images in the last window, {clock(last.time)}"))
    if last and last.abstained is not None:
        shown.append((percent(last.abstained), "abstained"))
    if last and last.p99 is not None and last.p50 is not None:
        shown.append((f"{number(1000 * last.p50)} / {number(1000 * last.p99)} ms", "p50 / p99 of an answer"))
    items = "".join(
        f"<li><b>{escaped(value)}</b><small>{escaped(name)}</small></li>" for value, name in shown
    )
    return f'<ul class="figures">{items}</ul>'
