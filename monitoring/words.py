"""Decisions as sentences with figures, for the journal and for ``python -m monitoring status | why``."""

from datetime import datetime
from itertools import groupby

from monitoring import label_queue
from monitoring.drift import Decision
from monitoring.journal import Episode, Journal, Step
from pipeline.artifacts import Workspace
from pipeline.registry import Registry

MEANING = {
    "no_champion": "Nothing to watch",
    "insufficient_data": "Too few images to say",
    "quiet": "No alarm",
    "drift_open": "Alarm",
    "drifting": "Still drifting",
    "asked": "Labels asked",
    "awaiting_labels": "No retrain: labels are awaited",
    "needs_human": "A person is needed: labels did not come",
    "labelled": "Labels came back",
    "retrain": "Retrain",
    "training": "No new retrain: one is under way",
    "suppressed": "Nothing done, on purpose",
    "verdict": "Verdict",
    "promoted": "Episode closed, promoted",
    "rejected": "Not promoted",
    "failed": "The retrain broke",
    "dismissed": "Episode dismissed",
    "superseded": "Episode closed",
    "approval_asked": "A release waits for approval",
    "release_approved": "The release was approved",
    "release_not_approved": "The release was not approved",
    "report_failed": "The dashboard was not drawn",
    "notify_failed": "Nobody was notified",
}


def evidence_in_words(decision: Decision, since: datetime | None) -> str:
    """The figures behind a decision, in a sentence."""
    bar = f"evidence 10^{decision.log10_e:.1f}, the alarm is at 10^{decision.log10_threshold:.1f}"
    if not decision.alarm:
        name, p = min(decision.adjusted.items(), key=lambda item: item[1])
        return f"no drift in {decision.images} images: {bar}; smallest batch p {p:.2g} ({name})"
    lead = decision.leads[0]
    when = f" ({since:%Y-%m-%d %H:%M:%S} UTC)" if since else ""
    what = f"{_event(lead.statistic, lead.direction)} in {lead.share:.0%} of the last window"
    began = f"since image {decision.onset + 1}{when}"
    return f"{what}, at most {lead.chance:.0%} is expected, {began}; {bar}."


def _event(statistic: str, direction: str) -> str:
    if direction == "more":
        return f"Class {statistic!r} is predicted"
    if direction == "less":
        return f"Another class than {statistic!r} is predicted"
    word = {"novelty": "distance to known images", "confidence": "model confidence"}.get(statistic, statistic)
    return f"Unusually {'high' if direction == 'up' else 'low'} {word}"


def why(journal: Journal, last: int) -> str:
    """The last decisions, newest first; wake-ups that said the same thing are one."""
    # A reason's figures change from wake-up to wake-up; what it came to is what repeats.
    runs = [list(run) for _, run in groupby(journal.steps(), key=lambda step: (step.decision, step.episode))]
    if not runs:
        return "The journal is empty: nothing was decided yet. Next: python -m flows.watch"
    return "\n".join(_told(run) for run in reversed(runs[-last:]))


def _told(run: list[Step]) -> str:
    step = run[-1]
    images = sum(one.images for one in run) if step.window else 0
    often = f"{len(run)} times since {run[0].time:%Y-%m-%d %H:%M}" if len(run) > 1 else ""
    seen = f"{images} images" if images else ""
    notes = ", ".join(note for note in (often, seen) if note)
    head = f"{step.time:%Y-%m-%d %H:%M} UTC  {MEANING.get(step.decision, step.decision)}"
    reason = f"{step.reason[:1].upper()}{step.reason[1:]}".rstrip(".")
    return f"{head}{f' ({notes})' if notes else ''}: {reason}."


def status(workspace: Workspace, journal: Journal) -> str:
    """The champion, the last windows, the open episode, and the next command."""
    champion = Registry(workspace.registry).champion()
    if champion is None:
        return "There is no champion.\nNext: dvc repro, then python -m flows.release"
    lines = [f"Champion  {champion.digest[:12]} since {champion.since[:16]} by {champion.by}: {champion.why}"]
    steps = [step for step in journal.steps() if step.champion == champion.digest]
    windows = [step for step in steps if step.window][-5:]
    if windows:
        lines.append("Windows   time              images  evidence  alarm at  decision")
        lines += [_row(step) for step in windows]
    waiting = steps[-1] if steps and not steps[-1].window else None
    if waiting is not None:
        lines.append(f"Last      {_told([waiting])}")
    episode = journal.open_episode()
    if episode is None:
        return "\n".join([*lines, "Episode   none is open", "Next      python -m flows.watch"])
    return "\n".join([*lines, *_episode(workspace, journal, episode)])


def _row(step: Step) -> str:
    bar = step.detail.get("log10_threshold", float("nan"))
    evidence = f"10^{step.log10_e:.1f}" if step.log10_e is not None else "-"
    return f"          {step.time:%Y-%m-%d %H:%M}  {step.images:6d}  {evidence:>8}  {f'10^{bar:.1f}':>8}  {step.decision}"


def _episode(workspace: Workspace, journal: Journal, episode: Episode) -> list[str]:
    asked, back = len(label_queue.items_of(workspace, episode.id)), label_queue.labels_of(workspace, episode)
    return [
        f"Episode   {episode.id}, {episode.state}, images since {episode.since:%Y-%m-%d %H:%M} UTC",
        f"          {episode.why}",
        f"Labels    {back} back, {asked} asked in {episode.queue or 'a queue that the next watch writes'}",
        f"Next      {_next(episode, _decided(journal))}",
    ]


def _decided(journal: Journal) -> str:
    """The last decision; that something could not be drawn or sent is none."""
    said = [step.decision for step in journal.steps(20)]
    return next((one for one in reversed(said) if one not in ("report_failed", "notify_failed")), "")


def _next(episode: Episode, decision: str) -> str:
    if decision in ("retrain", "labelled"):
        return "python -m flows.watch --act"
    if episode.state == "awaiting_labels":
        return f"python -m monitoring label {episode.queue}/queue.csv, then python -m flows.watch --act"
    if episode.state == "rejected":
        return "python -m monitoring label <more>, or python -m monitoring dismiss --why <reason>"
    return "python -m flows.watch"
