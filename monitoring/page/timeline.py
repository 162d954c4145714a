"""Episodes as a timeline: one lane over the whole time, then each episode as a bar of its states.

The states come from the journal: a row of an episode whose decision is not one of ``SAID`` is a state that
it went into, whatever its name.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from monitoring.contact_sheet import SHEET
from monitoring.journal import Episode, Step
from monitoring.page.chart import Axis
from monitoring.page.words import clock, duration, escaped
from pipeline.artifacts import Workspace

__all__ = ["Move", "Segment", "segments", "timeline"]

SAID = {
    "no_champion", "insufficient_data", "quiet", "drifting", "retrain", "release", "suppressed", "busy", "labelled",
    "verdict", "report_failed", "notify_failed", "approval_asked", "approved",
    "release_approved", "release_not_approved",
}  # fmt: skip
"""What a row may say without the episode going anywhere."""
STILL = {
    "training": {"evaluating", "infra_validating", "shadow", "promoted", "observing"},
    "awaiting_labels": {"rejected", "failed"},
}
"""What a wake-up may say of an episode that is in one of these states, and goes on being in it."""
ASKED = {"asked": "awaiting_labels"}
COLOURS = {
    "drift_open": "var(--bad)",
    "awaiting_labels": "var(--c4)",
    "dataset_frozen": "var(--c7)",
    "training": "var(--c0)",
    "evaluating": "var(--c6)",
    "infra_validating": "var(--c3)",
    "shadow": "var(--c5)",
    "promoted": "var(--good)",
    "observing": "var(--c2)",
    "monitoring": "var(--good)",
    "rejected": "var(--c1)",
    "failed": "var(--bad)",
    "rolled_back": "var(--bad)",
    "needs_human": "var(--open)",
}
OTHER = "var(--c8)"
SHOWN = 20
"""Episodes with a bar of their own, the last ones."""


@dataclass(frozen=True)
class Move:
    """The champion pointer moved; ``action`` is promote or rollback."""

    time: datetime
    digest: str
    action: str
    by: str
    why: str


@dataclass(frozen=True)
class Segment:
    """An episode was in ``state`` from ``start`` to ``end``."""

    state: str
    start: datetime
    end: datetime


def segments(episode: Episode, steps: Iterable[Step], now: datetime) -> list[Segment]:
    """The episode's states in the order of time; the last one ends now where the episode is open, else at once."""
    entered = [("drift_open", episode.opened)]
    for step in steps:
        state, (before, since) = ASKED.get(step.decision, step.decision), entered[-1]
        if step.episode != episode.id or state in SAID or state == before or step.time < since:
            continue
        if before not in STILL.get(state, ()):
            entered.append((state, step.time))
    if entered[-1][0] != episode.state and episode.changed >= entered[-1][1]:
        entered.append((episode.state, episode.changed))
    ends = [time for _, time in entered[1:]] + [
        max(now, entered[-1][1]) if episode.is_open else entered[-1][1]
    ]
    return [Segment(state, start, end) for (state, start), end in zip(entered, ends, strict=True)]


def timeline(
    workspace: Workspace,
    episodes: Sequence[Episode],
    steps: Sequence[Step],
    moves: Sequence[Move],
    axis: Axis,
    now: datetime,
) -> str:
    """The lane, and the last episodes, newest first."""
    by_episode: dict[str, list[Step]] = {}
    for step in steps:
        if step.episode:
            by_episode.setdefault(step.episode, []).append(step)
    known = [(episode, segments(episode, by_episode.get(episode.id, []), now)) for episode in episodes]
    rows = [_episode(workspace, episode, found) for episode, found in reversed(known[-SHOWN:])]
    if not rows:
        rows = ["<p>No drift was found so far.</p>"]
    if len(known) > SHOWN:
        rows.append(f"<p><small>{len(known) - SHOWN} earlier episodes are in the lane above.</small></p>")
    return _lane(known, moves, axis) + "\n".join(rows)


def _lane(known: Sequence[tuple[Episode, list[Segment]]], moves: Sequence[Move], axis: Axis) -> str:
    parts = []
    for episode, found in known:
        left, right = 100 * axis.share(found[0].start), 100 * axis.share(found[-1].end)
        tip = escaped(f"{episode.id}: {_words(episode.state)}, {duration(found[-1].end - found[0].start)}")
        kind = "" if episode.is_open else ' class="closed"'
        parts.append(f'<i{kind} style="left:{left:.2f}%;width:{right - left:.2f}%" title="{tip}"></i>')
    for move in moves:
        if axis.start <= move.time <= axis.end:
            tip = escaped(f"{clock(move.time)} {move.action} {move.digest[:12]} by {move.by}: {move.why}")
            kind = ' class="back"' if move.action == "rollback" else ""
            parts.append(f'<b{kind} style="left:{100 * axis.share(move.time):.2f}%" title="{tip}"></b>')
    legend = (
        '<ul class="states"><li><i style="background:var(--open)"></i>episode</li>'
        '<li><i style="background:var(--good)"></i>new champion</li><li><i style="background:var(--bad)"></i>rollback</li></ul>'
    )
    return f'<div class="lane">{"".join(parts)}{axis.labels()}</div>{legend}'


def _episode(workspace: Workspace, episode: Episode, found: Sequence[Segment]) -> str:
    whole = (found[-1].end - found[0].start).total_seconds() or 1.0
    bar = "".join(
        f'<i style="flex:{max((one.end - one.start).total_seconds() / whole, 0):.4f} 0 0;background:{_colour(one.state)}" '
        f'title="{escaped(_told(one))}"></i>'
        for one in found
    )
    told = "".join(
        f'<li><i style="background:{_colour(one.state)}"></i>{escaped(_told(one))}</li>' for one in found
    )
    head = f"{_words(episode.state)}, {'open for' if episode.is_open else 'after'} {duration(found[-1].end - found[0].start)}"
    return (
        f'<div class="episode"><h3>{clock(episode.opened)} <small>{escaped(episode.id)}</small> {escaped(head)}</h3>'
        f'<p>{escaped(episode.why)}</p><div class="bar">{bar}</div><ul class="states">{told}</ul>'
        f"<p><small>{_links(workspace, episode)}</small></p></div>"
    )


def _told(one: Segment) -> str:
    length = one.end - one.start
    return f"{_words(one.state)} {duration(length)}" if length.total_seconds() > 0 else _words(one.state)


def _words(state: str) -> str:
    return state.replace("_", " ")


def _colour(state: str) -> str:
    return COLOURS.get(state, OTHER)


def _links(workspace: Workspace, episode: Episode) -> str:
    """Relative, and only to what is there: the page is read where it was written, or in a copy of ``var``."""
    page = workspace.monitoring
    found = [
        (page / episode.window / SHEET, "contact sheet"),
        (page / episode.window / "explanation.txt", "explanation"),
        (workspace.queue / episode.id / "README.txt", "label queue"),
    ]
    links = [_link(page, path, name) for path, name in found if path.is_file()]
    challenger = f"challenger {escaped(episode.challenger[:12])}" if episode.challenger else ""
    labels = f"{episode.labels_used} labels used" if episode.labels_used else ""
    return " · ".join(part for part in (*links, labels, challenger) if part)


def _link(page: Path, target: Path, name: str) -> str:
    return f'<a href="{escaped(quote(Path(os.path.relpath(target, page)).as_posix()))}">{name}</a>'
