"""What the policy may look at, read from the journal, the queues, the labels and the shadow's rows."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from monitoring import label_queue, leases, observation, shadow
from monitoring.episodes import retrains_since
from monitoring.growth import grown_since
from monitoring.journal import Episode, Journal
from monitoring.policy import Action, Observed, Shadowed, Situation, decide
from monitoring.states import STANDING
from monitoring.stream import Stream
from monitoring.triage import Explanation
from monitoring.triggers import labels_back
from monitoring.window import Window

MONTH = timedelta(days=30)


@dataclass(frozen=True)
class Alarm:
    """A window's evidence in words; the ``signature`` names what kind of drift it is, where it alarmed.

    ``grown`` is since when more has changed than a drift that was dismissed and stays; None where that is not so.
    """

    raised: bool = False
    words: str = ""
    signature: str | None = None
    grown: datetime | None = None


def signature_of(explanation: Explanation) -> str:
    """What kind of drift, led by what moved most and in which direction: what a refusal silences."""
    if explanation.source is not None:
        return f"{explanation.kind}: {explanation.source}"
    for change in explanation.changes:
        return f"{explanation.kind}: {change.name} {'up' if change.effect > 0 else 'down'}"
    for name, (was, now) in explanation.shares.items():
        return f"{explanation.kind}: {name} {'more' if now > was else 'less'}"
    return explanation.kind


def decided(
    stream: Stream,
    journal: Journal,
    now: datetime,
    episode: Episode | None,
    images: int = 0,
    alarm: Alarm | None = None,
) -> Action:
    """What the policy says of the ``episode``, or of ``images`` new ones where none is open."""
    alarm = alarm or Alarm()
    workspace, watch, label = stream.workspace, stream.params.watch, stream.params.label
    episodes = journal.episodes()
    own = [one for one in episodes if one.champion == stream.champion]
    situation = Situation(
        now=now,
        images=images,
        min_window=watch.min_window,
        alarm=alarm.raised,
        evidence=alarm.words,
        cooldown_hours=watch.cooldown_hours,
        min_labels=label.min_labels,
        label_timeout_days=watch.label_timeout_days,
        retrains=retrains_since(journal, now - MONTH),
        retrains_a_month=watch.retrains_a_month,
        last_retrain=max((one.retrain_started for one in episodes if one.retrain_started), default=None),
        dismissed=_dismissed(own),
        calm=stream.calm,
        grown=alarm.grown is not None,
        refused=_refused(own, alarm.signature),
    )
    if episode is None:
        return decide(situation)
    return decide(
        replace(
            situation,
            state=episode.state,
            trigger=episode.trigger,
            asks=episode.asks,
            approved=episode.approved,
            at_work=leases.holder(journal, episode.id) == "alive",
            asked=len(label_queue.items_of(workspace, episode.id)),
            labels=labels_back(workspace, episode),
            labels_used=episode.labels_used,
            waiting_since=episode.changed,
            shadowed=_shadowed(stream, episode),
            observed=_observed(stream, episode),
        )
    )


def grown(stream: Stream, journal: Journal, window: Window, statistic: float) -> datetime | None:
    """Since when more has changed than the drift that was dismissed and stays."""
    dismissed = _dismissed([one for one in journal.episodes() if one.champion == stream.champion])
    if dismissed is None or stream.calm:
        return None
    steps = [step for step in journal.steps(champion=stream.champion) if step.time > dismissed]
    return grown_since(steps, window.rows[0].time, statistic)


def _dismissed(own: list[Episode]) -> datetime | None:
    return max((one.changed for one in own if one.state == "dismissed" and not one.approved), default=None)


def _refused(own: list[Episode], signature: str | None) -> str | None:
    found = [one for one in own if one.refused and signature and one.signature == signature]
    if not found:
        return None
    last = found[-1]
    return f"the challenger of episode {last.id} for the same drift ({signature}) was refused at {last.refused:%Y-%m-%d %H:%M} UTC"


def _shadowed(stream: Stream, episode: Episode) -> Shadowed | None:
    if episode.state != "shadow" or episode.challenger is None:
        return None
    release = stream.params.release
    wanted = shadow.wanted(release.shadow_images)
    return shadow.shadowed(stream.workspace, episode.challenger, wanted, release.min_shadow_agreement)


def _observed(stream: Stream, episode: Episode) -> Observed | None:
    if episode.state not in STANDING or not stream.params.watch.observe_images:
        return None
    return observation.observed(stream.workspace, stream.params, episode, stream.wealth.seen)
