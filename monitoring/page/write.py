"""The whole page, and how a wake-up writes it: from the journal and the registry alone, never from the log."""

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby

from monitoring.journal import Journal, Step
from monitoring.log_mode import lossy
from monitoring.page.chart import Axis
from monitoring.page.now import head
from monitoring.page.panels import charts
from monitoring.page.points import Point, points
from monitoring.page.style import STYLE
from monitoring.page.timeline import Move, timeline
from monitoring.page.words import clock, escaped
from monitoring.words import MEANING, status
from pipeline.artifacts import Workspace, write_text
from pipeline.errors import ParamsError, StateError
from pipeline.registry import Champion, Registry

__all__ = ["page", "write"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
SECONDS = 300
"""After which an open page loads itself again."""
DECISIONS = 25


def write(workspace: Workspace, journal: Journal, steps: Sequence[Step], *, now: datetime) -> None:
    """``var/monitoring/index.html``, in one rename.

    Raises:
        OSError: it can't be written. StateError: registry or journal can't be read.
    """
    write_text(workspace.monitoring / "index.html", page(workspace, journal, steps, now=now))


def page(workspace: Workspace, journal: Journal, steps: Sequence[Step], *, now: datetime) -> str:
    """The page as HTML; all of ``steps``, oldest first, and nothing that the journal does not hold."""
    champion, moves = _registry(workspace)
    episodes = journal.episodes()
    opened = [episode for episode in episodes if episode.is_open]
    found = points(steps)
    zones = [
        (
            episode.since if episode.trigger == "drift" else episode.opened,
            now if episode.is_open else episode.changed,
        )
        for episode in episodes
    ]
    axis = _axis(found, steps, zones, [move.time for move in moves], now)
    body = [
        head(
            champion,
            opened[-1] if opened else None,
            steps,
            [point for point in found if champion is None or point.time >= _utc(champion.since)],
            next_command=_next(workspace, journal),
            now=now,
        ),
        *_log(workspace),
        f"<h2>Over time</h2>\n<p><small>{_key(zones, moves, axis)}</small></p>\n{charts(found, axis)}",
        f"<h2>Episodes</h2>\n{timeline(workspace, episodes, steps, moves, axis, now)}",
        f"<h2>Last decisions</h2>\n{_decisions(steps)}",
        f"<footer>Written {clock(now)} UTC by <code>python -m flows.watch</code>. {len(steps):,} rows of the journal; "
        "<code>python -m monitoring why</code> tells the same in a terminal.</footer>",
    ]
    return _document("\n".join(body))


def _log(workspace: Workspace) -> list[str]:
    with contextlib.suppress(ParamsError):  # the watch has its own; the page is not to be lost with the file
        said = lossy(workspace)
        return [f"<p><b>The log is {escaped(said)}.</b></p>"] if said else []
    return []


def _registry(workspace: Workspace) -> tuple[Champion | None, list[Move]]:
    """A damaged registry is the watch's to report; the page then shows what the journal knows."""
    registry = Registry(workspace.registry)
    with contextlib.suppress(StateError):
        moves = [
            Move(_utc(line["since"]), line["digest"], line.get("action", "promote"), line["by"], line["why"])
            for line in registry.history()
        ]
        return registry.champion(), moves
    return None, []


def _utc(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _axis(
    found: Sequence[Point],
    steps: Sequence[Step],
    zones: Sequence[tuple[datetime, datetime]],
    moves: Sequence[datetime],
    now: datetime,
) -> Axis:
    times = [point.time for point in found] or [step.time for step in steps] or [now]
    start = min([times[0], *(zone[0] for zone in zones)])
    end = max(times[-1], now)
    start = min(start, end - timedelta(minutes=1))
    return Axis(start, end, zones, [time for time in moves if start < time <= end])


def _key(zones: Sequence[object], moves: Sequence[Move], axis: Axis) -> str:
    parts = []
    if zones:
        parts.append("Shaded: an episode is open.")
    if any(axis.start < move.time <= axis.end for move in moves):
        parts.append("Dotted: another champion.")
    return " ".join([*parts, "Times are UTC."])


def _next(workspace: Workspace, journal: Journal) -> str:
    """The command that ``python -m monitoring status`` names."""
    try:
        said = status(workspace, journal)
    except (
        Exception
    ):  # a damaged queue, say: the page is not to be lost with it, and status itself tells more
        return "python -m monitoring status"
    for line in reversed(said.splitlines()):
        word, _, command = line.partition(" ")
        if word.rstrip(":") == "Next":
            return command.strip()
    return ""


def _decisions(steps: Sequence[Step]) -> str:
    """The last rows, newest first; what was said several times in a row is one."""
    tail = steps[-40 * DECISIONS :]
    runs = [list(run) for _, run in groupby(tail, key=lambda step: (step.decision, step.episode))][
        -DECISIONS:
    ]
    if not runs:
        return "<p>Nothing was decided yet.</p>"
    rows = []
    for run in reversed(runs):
        step = run[-1]
        often = f"<br><small>{len(run)} times since {clock(run[0].time)}</small>" if len(run) > 1 else ""
        images = sum(one.images for one in run) if step.window else 0
        rows.append(
            f'<tr><td class="time">{clock(step.time)}{often}</td><td class="word">{escaped(MEANING.get(step.decision, step.decision.replace("_", " ")))}</td>'
            f'<td class="figure">{f"{images:,}" if images else ""}</td><td class="says">{escaped(step.reason)}</td></tr>'
        )
    head = "<thead><tr><th>Time</th><th>Decision</th><th>Images</th><th>Why</th></tr></thead>"
    return f'<div class="wrap"><table class="decisions">{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _document(body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="UTF-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{escaped(POLICY)}"><meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="{SECONDS}"><title>visionloop: production</title><style>{STYLE}</style></head>
<body>
{body}
</body></html>
"""
