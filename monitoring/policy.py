"""What to do with what the watch saw. Pure: no I/O, no clock; the time comes in with the situation.

Drift is a reason to label; only labels that came back are a reason to retrain. One episode at a time, and
a pause between two retrains.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

Kind = Literal[
    "no_champion",  # nothing is released yet
    "insufficient_data",  # too few new images to say anything
    "quiet",  # enough images, no alarm
    "drifting",  # a window while an episode is open
    "drift_open",  # the alarm: an episode opens and its label queue is written
    "awaiting_labels",  # the queue waits for answers
    "needs_human",  # it has waited for too long: nobody retrains on what did not come
    "retrain",  # labels are back: start `flows.retrain`
    "training",  # a retrain is on its way
    "suppressed",  # something could be done and is deliberately not: the reason says why
    "busy",  # another watch holds the lock; this one did nothing
]


@dataclass(frozen=True, kw_only=True)
class Situation:
    """All that the policy may look at.

    Attributes:
        images: new images of the champion since the last window.
        alarm: the evidence crossed its threshold; ``evidence`` says it in words.
        state: the open episode's state, None where none is open.
        asked, labels, labels_used: images in the episode's queue, labels back, labels that the last
            retrain of the episode already had.
        waiting_since: when the open episode's queue was written.
        last_retrain: when any retrain last started.
        retrains: how many started in the last 30 days.
        dismissed: when a person last dismissed an episode of this champion.
    """

    now: datetime
    images: int
    min_window: int
    alarm: bool
    evidence: str
    cooldown_hours: float
    min_labels: int
    state: str | None = None
    asked: int = 0
    labels: int = 0
    labels_used: int = 0
    waiting_since: datetime | None = None
    label_timeout_days: float = 14.0
    last_retrain: datetime | None = None
    retrains: int = 0
    retrains_a_month: int = 8
    dismissed: datetime | None = None


@dataclass(frozen=True)
class Action:
    kind: Kind
    reason: str


def decide(situation: Situation) -> Action:
    """The one thing to do now, and why in a sentence with figures."""
    s = situation
    if s.state is None:
        return _without_episode(s)
    if s.state == "drift_open":
        return Action("drift_open", s.evidence)
    if s.state == "training":
        return _while_training(s)
    return _with_labels(s)


def _without_episode(s: Situation) -> Action:
    if s.alarm:
        left = _left(s, s.dismissed)
        if left > timedelta(0):
            reason = (
                f"an episode was dismissed at {_clock(s.dismissed)}: {_hours(left)} of the cooldown are left."
            )
            return Action("suppressed", f"{s.evidence} No new episode opens, {reason}")
        return Action("drift_open", s.evidence)
    if s.images < s.min_window:
        reason = f"{s.images} new images since the last window; {s.min_window} are needed to say anything"
        return Action("insufficient_data", reason)
    return Action("quiet", s.evidence)


def _while_training(s: Situation) -> Action:
    left = _left(s, s.last_retrain)
    if left > timedelta(0):
        return Action("training", f"a retrain is on its way since {_clock(s.last_retrain)}")
    if s.retrains >= s.retrains_a_month:
        return _over_budget(s, f"the retrain of {_clock(s.last_retrain)} left no outcome")
    reason = f"the retrain of {_clock(s.last_retrain)} left no outcome within {s.cooldown_hours:g} h: start it again"
    return Action("retrain", reason)


def _with_labels(s: Situation) -> Action:
    # A queue smaller than min_labels (few images were kept) can only be answered as far as it goes.
    needed = max(1, min(s.min_labels, s.asked)) if s.asked else s.min_labels
    fresh = s.labels if s.state == "failed" else s.labels - s.labels_used
    if fresh < needed:
        return _too_few_labels(s, fresh, needed)
    left = _left(s, s.last_retrain)
    if left > timedelta(0):
        reason = (
            f"{fresh} new labels are back, but the last retrain started at {_clock(s.last_retrain)}: "
            f"the cooldown of {s.cooldown_hours:g} h leaves {_hours(left)} to wait"
        )
        return Action("suppressed", reason)
    if s.retrains >= s.retrains_a_month:
        return _over_budget(s, f"{fresh} new labels are back")
    return Action(
        "retrain", f"{fresh} new labels are back ({needed} needed): there is something new to learn from"
    )


def _over_budget(s: Situation, told: str) -> Action:
    reason = (
        f"{told}, but {s.retrains} retrains started in the last 30 days, the budget (watch.retrains_a_month) is "
        f"{s.retrains_a_month}: start one by hand with `python -m flows.retrain`, or raise it"
    )
    return Action("suppressed", reason)


def _too_few_labels(s: Situation, fresh: int, needed: int) -> Action:
    if s.state == "rejected":
        reason = (
            f"the challenger trained on {s.labels_used} labels was not promoted and {fresh} newer labels are back "
            f"({needed} needed): give more labels, or close it with `python -m monitoring dismiss`"
        )
        return Action("suppressed", reason)
    if s.asked == 0:
        reason = (
            "no image of the drift was kept (log.keep_images), so the queue is empty: give labelled images of the "
            f"new kind with `python -m monitoring label <folder>`, {needed} at least"
        )
        return Action("awaiting_labels", reason)
    told = f"{s.labels} of {s.asked} asked labels are back; {needed} start a retrain"
    if s.waiting_since and s.now - s.waiting_since > timedelta(days=s.label_timeout_days):
        reason = (
            f"{told}. They were asked at {_clock(s.waiting_since)}, over {s.label_timeout_days:g} days ago "
            "(watch.label_timeout_days): answer the queue (`python -m monitoring queue`), or close the episode with "
            "`python -m monitoring dismiss --why <reason>`"
        )
        return Action("needs_human", reason)
    return Action("awaiting_labels", told)


def _left(s: Situation, since: datetime | None) -> timedelta:
    """How much of the cooldown is left that began at ``since``."""
    if since is None:
        return timedelta(0)
    # A clock that jumped back must not stretch the pause: never longer than the cooldown itself.
    pause = timedelta(hours=s.cooldown_hours)
    return min(pause, since + pause - s.now)


def _hours(left: timedelta) -> str:
    return f"{left.total_seconds() / 3600:.1f} h"


def _clock(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC" if time else "an unknown time"
