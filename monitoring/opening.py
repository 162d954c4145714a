"""How an episode begins: by an alarm, whose images are explained and asked for, or by another trigger."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from monitoring import contact_sheet, label_queue
from monitoring.episodes import configuration, identity, step_about
from monitoring.faults import looks_of
from monitoring.journal import Episode, Journal
from monitoring.stream import Stream
from monitoring.triage import Explanation, explain
from monitoring.triggers import Due
from monitoring.window import Window
from pipeline.artifacts import write_json, write_text

EXPLAINED = 500
"""Images since the drift began that the explanation and the queue look at, at most."""


def new_episode(
    stream: Stream, window: str, *, since: datetime, why: str, now: datetime, trigger: str = "drift"
) -> Episode:
    """An episode of the stream's champion; the same window under the same settings is the same episode."""
    reference, settings = stream.measure.reference.digest, configuration(stream.params)
    return Episode(
        id=identity(stream.champion, reference, window, settings),
        version=1,
        state="drift_open",
        champion=stream.champion,
        reference=reference,
        window=window,
        since=since,
        opened=now,
        changed=now,
        why=why,
        trigger=trigger,
        configuration=settings,
    )


def triggered(stream: Stream, journal: Journal, due: Due, now: datetime) -> Episode | None:
    """An open episode for what is due besides drift; None where no label is new since the last one for it."""
    if due.newest is None:
        return None
    why = f"{due.why[:1].upper()}{due.why[1:]}."
    with journal.transaction():
        episode = journal.begin(
            new_episode(stream, due.window, since=due.since, why=why, now=now, trigger=due.name)
        )
        if episode.state != "drift_open":
            return episode if episode.is_open else None
        journal.record(step_about(episode, now, "drift_open", why))
        return journal.move(episode, "awaiting_labels", now=now)


def folder_of(stream: Stream, episode: Episode) -> Path:
    """Where the evidence of the episode lies."""
    return stream.workspace.home / "monitoring" / episode.window


def ask(
    stream: Stream, journal: Journal, episode: Episode, now: datetime, seen: Sequence[Window]
) -> tuple[Episode, Explanation]:
    """Explain the drift, write its queue, and wait for labels. A kill in between: the next wake-up does it."""
    workspace = stream.workspace
    window = stream.since(episode.since, EXPLAINED) or seen[-1]
    explanation = explain(stream.measure, window, looks_of(window, workspace.log / "images"))
    _write_evidence(stream, episode, window, explanation)
    items = label_queue.write(workspace, episode, window, stream.measure, stream.params)
    queue = workspace.relative(label_queue.folder_of(workspace, episode.id))
    asked = (
        f"{len(items)} images are asked in {queue}" if items else "No image was kept, so none can be asked"
    )
    with journal.transaction():
        episode = journal.move(episode, "awaiting_labels", now=now, queue=queue)
        evidence = workspace.relative(folder_of(stream, episode))
        step = step_about(episode, now, "asked", f"{asked}.")
        journal.record(replace(step, images=len(window), evidence=evidence))
    return episode, explanation


def ask_more(stream: Stream, journal: Journal, episode: Episode, now: datetime) -> None:
    """Fill up a queue that was written when only few images had come; one that is begun stays as it is."""
    workspace = stream.workspace
    window = stream.since(episode.since, EXPLAINED)
    before = len(label_queue.items_of(workspace, episode.id))
    if window is None or label_queue.labels_of(workspace, episode):
        return
    items = label_queue.write(workspace, episode, window, stream.measure, stream.params)
    if len(items) > before:
        reason = f"{len(items) - before} more images are asked in {episode.queue}, {len(items)} in all."
        journal.record(step_about(episode, now, "asked", reason))


def _write_evidence(stream: Stream, episode: Episode, window: Window, explanation: Explanation) -> None:
    folder, reference = folder_of(stream, episode), stream.measure.reference
    images = stream.workspace.log / "images"
    contact_sheet.draw(folder / "contact-sheet.png", window, explanation.examples, reference, images)
    write_text(folder / "explanation.txt", f"{episode.why}\n")
    write_json(folder / "explanation.json", explanation.to_dict() | {"images": len(window)})
