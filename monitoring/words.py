"""Decisions as sentences with figures, for the journal and for ``python -m monitoring status | why``."""

from datetime import datetime, timedelta
from itertools import groupby

from monitoring import label_queue
from monitoring.accuracy import hits_of
from monitoring.drift import Decision, Lead
from monitoring.evidence import LEARNED
from monitoring.journal import Episode, Journal, Step
from monitoring.leases import holder
from monitoring.observation import queue_of
from monitoring.policy import ASKED
from monitoring.triggers import labels_back
from pipeline.artifacts import Workspace
from pipeline.registry import Registry

DAY = timedelta(hours=24)
MEANING = {
    "no_champion": "Nothing to watch",
    "insufficient_data": "Too few images to say",
    "quiet": "No alarm",
    "drift_open": "Alarm",
    "drifting": "Still drifting",
    "asked": "Labels asked",
    "awaiting_labels": "No retrain: labels are awaited",
    "needs_human": "No retrain: a person is needed",
    "approved": "Approved",
    "labelled": "Labels came back",
    "retrain": "Retrain",
    "dataset_frozen": "Retrain started, its data are frozen",
    "training": "No new retrain: one is under way",
    "evaluating": "The challenger is evaluated",
    "infra_validating": "The challenger passed, its service is tried",
    "release": "Release",
    "shadow": "No new retrain: the challenger answers in shadow",
    "suppressed": "No retrain, on purpose",
    "verdict": "Verdict",
    "promoted": "Promoted",
    "observing": "No new retrain: the new champion is observed",
    "monitoring": "Episode closed",
    "rolled_back": "Rolled back, episode closed",
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
    what = f"{_event(lead)} in {lead.share:.0%} of the last window"
    began = f"since image {decision.onset + 1}{when}"
    where = "".join(f"; {place.words}" for place in decision.context)
    return f"{what}, at most {lead.chance:.0%} is expected, {began}{where}; {bar}."


def _event(lead: Lead) -> str:
    statistic, direction = lead.statistic, lead.direction
    if direction == "more":
        return f"Class {statistic!r} is predicted"
    if direction == "less":
        return f"Another class than {statistic!r} is predicted"
    if (lead.family, statistic) == LEARNED:
        return "The embedding lies unusually far along the direction that the images before had taken"
    word = {"novelty": "distance to known images", "confidence": "model confidence"}.get(statistic, statistic)
    return f"Unusually {'high' if direction == 'up' else 'low'} {word}"


def why(journal: Journal, last: int) -> str:
    """The last decisions, newest first, and what came before that one; wake-ups that said the same thing are one."""
    steps = journal.steps()
    # A reason's figures change from wake-up to wake-up; what it came to is what repeats.
    runs = [list(run) for _, run in groupby(steps, key=lambda step: (step.decision, step.episode))]
    if not runs:
        return "The journal is empty: nothing was decided yet. Next: python -m flows.watch"
    first, *others = [_told(run) for run in reversed(runs[-last:])]
    return "\n".join([f"{first} {_day_before(steps)}", *others])


def _day_before(steps: list[Step]) -> str:
    """What the watch saw and started in the 24 hours up to the last row."""
    end = steps[-1].time
    day = [step for step in steps if timedelta(0) <= end - step.time <= DAY]
    windows = [step for step in day if step.window]
    labels = sum(step.images for step in day if step.decision == "labelled")
    retrains = sum(bool(step.detail.get("started")) for step in day)
    told = f"In the 24 h before, {sum(step.images for step in windows)} images were seen in {len(windows)} windows"
    if windows:
        strongest = max(windows, key=lambda step: step.log10_e or 0.0)
        bar = strongest.detail.get("log10_threshold")
        alarm = f" of the 10^{bar:.1f} that alarm" if bar is not None else ""
        told += f" (evidence up to 10^{strongest.log10_e or 0.0:.1f}{alarm})"
    return f"{told}, {labels} labels came back and {retrains} retrains started."


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
    windows = journal.steps(5, champion=champion.digest, windows=True)
    if windows:
        lines.append("Windows   time              images  evidence  alarm at  decision")
        lines += [_row(step) for step in windows]
    last = journal.steps(1, champion=champion.digest)
    if last and not last[0].window:
        lines.append(f"Last      {_told(last)}")
    episode = journal.open_episode()
    if episode is None:
        return "\n".join([*lines, "Episode   none is open", "Next      python -m flows.watch"])
    return "\n".join([*lines, *_episode(workspace, journal, episode)])


def _row(step: Step) -> str:
    bar = step.detail.get("log10_threshold", float("nan"))
    evidence = f"10^{step.log10_e:.1f}" if step.log10_e is not None else "-"
    return f"          {step.time:%Y-%m-%d %H:%M}  {step.images:6d}  {evidence:>8}  {f'10^{bar:.1f}':>8}  {step.decision}"


def _episode(workspace: Workspace, journal: Journal, episode: Episode) -> list[str]:
    queue = queue_of(episode)
    asked = len(label_queue.items_of(workspace, queue))
    # Of an observation, the images of its own queue.
    back = (
        hits_of(workspace, str(episode.challenger), queue).labelled
        if episode.promoted
        else labels_back(workspace, episode)
    )
    where = (
        workspace.relative(label_queue.folder_of(workspace, queue))
        if asked
        else "a queue that the next watch writes"
    )
    worker = " (a worker is at it)" if holder(journal, episode.id) == "alive" else ""
    return [
        f"Episode   {episode.id}, {episode.state}{worker}, images since {episode.since:%Y-%m-%d %H:%M} UTC",
        f"          {episode.why}",
        f"Labels    {back} back, {asked} asked in {where}",
        f"Next      {_next(episode, _decided(journal), where)}",
    ]


def _decided(journal: Journal) -> str:
    """The last decision; that something could not be drawn or sent is none."""
    said = [step.decision for step in journal.steps(20)]
    return next((one for one in reversed(said) if one not in ("report_failed", "notify_failed")), "")


def _next(episode: Episode, decision: str, queue: str) -> str:
    if episode.state in ("needs_human", "rejected"):
        return f"a person: {ASKED.get(episode.asks or episode.state, 'python -m monitoring approve --why <reason>')}"
    if decision in ("retrain", "release", "labelled", "approved"):
        return "python -m flows.watch --act"
    if episode.state in ("awaiting_labels", "observing") and episode.trigger == "drift":
        return f"python -m monitoring label {queue}/queue.csv, then python -m flows.watch --act"
    if episode.state == "shadow":
        return "keep the service running, then python -m flows.watch --act"
    return "python -m flows.watch --act"
