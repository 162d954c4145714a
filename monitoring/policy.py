"""What to do with what the watch saw. Pure: no I/O, no clock; the time comes in with the situation.

Drift is a reason to label; only labels that came back are a reason to retrain. One episode at a time, a pause
between two retrains, so many a month. Hysteresis: after an episode was dismissed, the evidence has to have gone
down to nothing, or the images have to lie further off than since then, before another may open; after a challenger was refused, a person has to say so.
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
    "needs_human",  # nobody but a person goes on from here
    "retrain",  # labels are back: start `flows.retrain`
    "training",  # a retrain is on its way
    "release",  # the challenger passed, and its release waits to be gone on with
    "shadow",  # the challenger answers beside the champion, unseen
    "observing",  # the new champion is watched more closely
    "rolled_back",  # it was worse than the old one, which is champion again
    "monitoring",  # the episode is over, nothing is open
    "suppressed",  # something could be done and is deliberately not: the reason says why
    "busy",  # another watch holds the lock; this one did nothing
]

_APPROVE = "`python -m monitoring approve --why <reason>`"
_DISMISS = "`python -m monitoring dismiss --why <reason>`"
ASKED = {
    "labels": f"answer the queue (`python -m monitoring queue`), or close the episode with {_DISMISS}",
    "rejected": f"change the recipe or the data and let it retrain with {_APPROVE}, or close it with {_DISMISS}",
    "verdict": f"look at reports/verdict.html, then release it with {_APPROVE}, or close it with {_DISMISS}",
    "release": f"release it with {_APPROVE} or `python -m flows.release`, or close it with {_DISMISS}",
    "shadow": f"look at `python -m monitoring why`, then release it all the same with {_APPROVE}, or close it with {_DISMISS}",
}
"""What a person is asked in ``needs_human``, by what led there, and how to answer."""


@dataclass(frozen=True)
class Shadowed:
    """How the challenger did beside the champion; ``words`` are the figures, ``against`` what speaks against it."""

    images: int
    wanted: int
    words: str
    against: str | None = None


@dataclass(frozen=True)
class Observed:
    """How the new champion does; ``worse``: its labelled accuracy is below the old one's by more than the interval.

    ``labelled``: enough of its asked images are; ``compared``: there are labels of the old one to compare them with.
    """

    images: int
    wanted: int
    words: str
    worse: bool = False
    labelled: bool = True
    compared: bool = True

    @property
    def verdict(self) -> str:
        """What an observation that ends without a rollback has shown."""
        if not self.labelled:
            return "its labels did not come, so it was compared with nothing"
        if not self.compared:
            return "but not compared with the old one"
        return "not worse than the old one by more than the interval"


@dataclass(frozen=True, kw_only=True)
class Situation:
    """All that the policy may look at.

    Attributes:
        images: new images of the champion since the last window.
        alarm: the evidence crossed its threshold; ``evidence`` says it in words.
        state: the open episode's state, None where none is open; ``asks``, ``approved``, ``trigger`` as it has them;
            ``at_work`` whether somebody holds its lease.
        asked, labels, labels_used: images in the episode's queue, labels back, labels that the last
            retrain of the episode already had.
        waiting_since: since when the open episode has been in its state.
        last_retrain: when any retrain last started.
        retrains: how many started in the last 30 days.
        dismissed: when a person last dismissed an episode of this champion; ``calm`` whether the evidence has
            been down to nothing since, ``grown`` whether more has changed since (``monitoring.growth``).
        refused: an episode of this champion and this signature whose challenger was refused, in words.
        shadowed, observed: figures of those two states.
    """

    now: datetime
    images: int
    min_window: int
    alarm: bool
    evidence: str
    cooldown_hours: float
    min_labels: int
    state: str | None = None
    at_work: bool = False
    trigger: str = "drift"
    asks: str | None = None
    approved: str | None = None
    asked: int = 0
    labels: int = 0
    labels_used: int = 0
    waiting_since: datetime | None = None
    label_timeout_days: float = 14.0
    last_retrain: datetime | None = None
    retrains: int = 0
    retrains_a_month: int = 8
    dismissed: datetime | None = None
    calm: bool = True
    grown: bool = False
    refused: str | None = None
    shadowed: Shadowed | None = None
    observed: Observed | None = None


@dataclass(frozen=True)
class Action:
    """The decision, why, and the ``state`` that the episode goes to, where it is another one."""

    kind: Kind
    reason: str
    state: str | None = None
    asks: str | None = None


def decide(situation: Situation) -> Action:
    """The one thing to do now, and why in a sentence with figures."""
    s = situation
    if s.state is None:
        return _without_episode(s)
    if s.state == "drift_open":
        return Action("drift_open", s.evidence)
    if s.state == "infra_validating" and not s.at_work:
        passed = f"approved by {s.approved}" if s.approved else "the challenger passed its verdict"
        return Action("release", f"{passed}: its release waits to be gone on with")
    if s.state in ("dataset_frozen", "training", "evaluating", "infra_validating"):
        return Action("training", f"a retrain is on its way since {_clock(s.last_retrain)}: {s.state}")
    if s.state == "shadow":
        return _shadow(s)
    if s.state in ("promoted", "observing"):
        return _standing(s)
    if s.state in ("rejected", "needs_human"):
        return _for_a_person(s)
    return _with_labels(s)


def _without_episode(s: Situation) -> Action:
    if s.alarm:
        silence = _silence(s)
        if silence:
            return Action("suppressed", f"the alarm opens no episode, {silence} ({s.evidence.rstrip('.')})")
        more = (
            f" More has changed than the drift that was dismissed at {_clock(s.dismissed)}: the last windows lie further "
            "from the held-out images than all since then."
        )
        return Action("drift_open", s.evidence + (more if s.grown else ""))
    if s.images < s.min_window:
        reason = f"{s.images} new images since the last window; {s.min_window} are needed to say anything"
        return Action("insufficient_data", reason)
    return Action("quiet", s.evidence)


def _silence(s: Situation) -> str | None:
    """Why an alarm opens nothing."""
    if s.refused:
        return f"{s.refused}: a person lifts that with {_APPROVE}"
    left = left_of_cooldown(s.now, s.dismissed, s.cooldown_hours)
    if left > timedelta(0):
        return f"an episode was dismissed at {_clock(s.dismissed)}: {_hours(left)} of the cooldown are left"
    if s.dismissed and not s.calm and not s.grown:
        return (
            f"it is the drift that was dismissed at {_clock(s.dismissed)} and has not gone away since: once the evidence "
            f"has been below 1, or more has changed, or with {_APPROVE}, another may open"
        )
    return None


def _shadow(s: Situation) -> Action:
    seen = s.shadowed or Shadowed(0, 0, "")
    if seen.images >= seen.wanted and seen.against:
        reason = f"{seen.words}: {seen.against}; {_ask('shadow')}"
        return Action("needs_human", reason, "needs_human", "shadow")
    if seen.images >= seen.wanted:
        return Action("release", f"{seen.words}: the release goes on")
    told = f"the challenger has answered {seen.images} of {seen.wanted} images beside the champion (release.shadow_images)"
    if _late(s):
        reason = f"{told} since {_clock(s.waiting_since)}: does a service run? {_ask('shadow')}"
        return Action("needs_human", reason, "needs_human", "shadow")
    return Action("shadow", f"{told}; {seen.words}" if seen.words else told)


def _standing(s: Situation) -> Action:
    """The challenger is champion."""
    seen = s.observed
    if seen is None:
        return Action(
            "monitoring", "the new champion is not observed (watch.observe_images is 0)", "monitoring"
        )
    if seen.worse:
        return Action("rolled_back", seen.words, "rolled_back")
    if seen.images >= seen.wanted and (seen.labelled or _late(s)):
        reason = f"the new champion was observed, {seen.verdict}: {seen.words}"
        return Action("monitoring", reason, "monitoring")
    if s.alarm and seen.images >= seen.wanted:
        return Action("monitoring", f"a new drift ends the observation: {s.evidence}", "monitoring")
    return Action("observing", seen.words, None if s.state == "observing" else "observing")


def _for_a_person(s: Situation) -> Action:
    if s.state == "rejected":
        reason = f"the challenger trained on {s.labels_used} labels was not promoted: {_ask('rejected')}"
        return Action("needs_human", reason, "needs_human", "rejected")
    needed = _needed(s)
    if s.asks == "labels" and s.labels - s.labels_used >= needed:
        reason = f"{s.labels - s.labels_used} labels are back after all ({needed} needed)"
        return Action("awaiting_labels", reason, "awaiting_labels")
    told = (
        f"{s.labels} of {s.asked} asked labels are back, {needed} start a retrain: "
        if s.asks == "labels"
        else ""
    )
    return Action("needs_human", f"{told}{_ask(s.asks)} (since {_clock(s.waiting_since)})")


def _with_labels(s: Situation) -> Action:
    """Awaiting labels, or failed: may it (again) retrain?"""
    needed = _needed(s)
    fresh = s.labels if s.state == "failed" else s.labels - s.labels_used
    if s.approved and s.labels > 0:
        return Action("retrain", f"approved by {s.approved}, with {s.labels} labels ({fresh} of them new)")
    if fresh < needed:
        return _too_few_labels(s, needed)
    left = left_of_cooldown(s.now, s.last_retrain, s.cooldown_hours)
    if left > timedelta(0):
        reason = (
            f"{fresh} new labels are back, but the last retrain started at {_clock(s.last_retrain)}: "
            f"the cooldown of {s.cooldown_hours:g} h leaves {_hours(left)} to wait"
        )
        return Action("suppressed", reason)
    if s.retrains >= s.retrains_a_month:
        reason = (
            f"{fresh} new labels are back, but {s.retrains} retrains started in the last 30 days, the budget "
            f"(watch.retrains_a_month) is {s.retrains_a_month}: allow one with {_APPROVE}, or raise it"
        )
        return Action("suppressed", reason)
    return Action(
        "retrain", f"{fresh} new labels are back ({needed} needed): there is something new to learn from"
    )


def _needed(s: Situation) -> int:
    if s.trigger != "drift":
        return 1
    # A queue smaller than min_labels (few images were kept) can only be answered as far as it goes.
    return max(1, min(s.min_labels, s.asked)) if s.asked else s.min_labels


def _too_few_labels(s: Situation, needed: int) -> Action:
    if s.asked == 0:
        told = (
            "no image of the drift was kept (log.keep_images), so the queue is empty: give labelled images of the "
            f"new kind with `python -m monitoring label <folder>`, {needed} at least"
        )
    else:
        told = f"{s.labels} of {s.asked} asked labels are back; {needed} start a retrain"
    if _late(s):
        reason = (
            f"{told}; they were asked at {_clock(s.waiting_since)}, over {s.label_timeout_days:g} days ago "
            f"(watch.label_timeout_days): {_ask('labels')}"
        )
        return Action("needs_human", reason, "needs_human", "labels")
    return Action("awaiting_labels", told)


def _late(s: Situation) -> bool:
    return s.waiting_since is not None and s.now - s.waiting_since > timedelta(days=s.label_timeout_days)


def _ask(asks: str | None) -> str:
    return ASKED.get(asks or "", f"go on with {_APPROVE}, or close it with {_DISMISS}")


def left_of_cooldown(now: datetime, since: datetime | None, hours: float) -> timedelta:
    """How much of the cooldown is left that began at ``since``."""
    if since is None:
        return timedelta(0)
    # A clock that jumped back must not stretch the pause: never longer than the cooldown itself.
    pause = timedelta(hours=hours)
    return min(pause, since + pause - now)


def _hours(left: timedelta) -> str:
    return f"{left.total_seconds() / 3600:.1f} h"


def _clock(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC" if time else "an unknown time"
