"""What else than drift asks for a retrain: a schedule, new labels, labelled accuracy, age. Each is a param, null is off.

Each opens an episode like drift does, once for a state of the labels; where no label came since the champion's
data were frozen there is nothing new to learn from, and that is said instead.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from monitoring import label_queue
from monitoring.accuracy import hits_of
from monitoring.journal import Episode, Journal
from monitoring.labels import read_labels
from monitoring.policy import Action
from pipeline.artifacts import Workspace
from pipeline.params import Params, Watch


@dataclass(frozen=True)
class Due:
    """A trigger that has come due.

    Attributes:
        why: with figures. since: when the champion's data were frozen; ``labels`` have come from then on, the
            ``newest`` of them at that time.
    """

    name: str
    why: str
    since: datetime
    labels: int
    newest: datetime | None

    @property
    def window(self) -> str:
        """In the place of a window's name: the same labels open one episode."""
        return f"{self.name}-{self.newest:%Y%m%dT%H%M%S%f}" if self.newest else self.name


def due(
    workspace: Workspace, params: Params, journal: Journal, champion: str, promoted: datetime, now: datetime
) -> list[Due]:
    """What is due for the ``champion``, those first that have labels to learn from."""
    watch = params.watch
    if not any(
        (
            watch.retrain_every_days,
            watch.retrain_after_labels,
            watch.min_labelled_accuracy,
            watch.max_age_days,
        )
    ):
        return []
    episodes = journal.episodes()
    started = [one.retrain_started for one in episodes if one.challenger == champion and one.retrain_started]
    since = max(started, default=promoted)
    times = [label.time for label in read_labels(workspace.labels) if label.time > since]
    last = max((one.retrain_started for one in episodes if one.retrain_started), default=promoted)
    reasons = {
        "schedule": _after(
            watch.retrain_every_days, max(last, promoted), now, "the last retrain", "retrain_every_days"
        ),
        "labels": _labels(watch, len(times)),
        "accuracy": _accuracy(workspace, watch, champion),
        "age": _after(watch.max_age_days, promoted, now, "the champion was promoted", "max_age_days"),
    }
    return [
        Due(name, why, since, len(times), max(times, default=None)) for name, why in reasons.items() if why
    ]


def unlearnable(due: Due) -> Action:
    """Something is due, and there is nothing new to learn from."""
    told = "an episode has had its turn with every label that" if due.newest else "no label"
    reason = (
        f"{due.why}, but {told} came since the champion's data of {due.since:%Y-%m-%d %H:%M} UTC: there is nothing new "
        "to learn from. Give labels with `python -m monitoring label <file or folder>`"
    )
    return Action("needs_human" if due.name in ("age", "accuracy") else "suppressed", reason)


def labels_back(workspace: Workspace, episode: Episode) -> int:
    """Labels that the episode can learn from: of its queue and since it opened; of a trigger, since ``since``."""
    if episode.trigger != "drift":
        episode = replace(episode, opened=episode.since + timedelta(microseconds=1))
    return label_queue.labels_of(workspace, episode)


def _after(days: float | None, since: datetime, now: datetime, what: str, name: str) -> str | None:
    if days is None or now - since < timedelta(days=days):
        return None
    passed = (now - since).total_seconds() / 86400
    return f"{what} {'' if name == 'max_age_days' else 'was '}{passed:.1f} days ago, watch.{name} is {days:g}"


def _labels(watch: Watch, count: int) -> str | None:
    if watch.retrain_after_labels is None or count < watch.retrain_after_labels:
        return None
    return f"{count} labels came since the champion's data, watch.retrain_after_labels is {watch.retrain_after_labels}"


def _accuracy(workspace: Workspace, watch: Watch, champion: str) -> str | None:
    if watch.min_labelled_accuracy is None:
        return None
    hits = hits_of(workspace, champion)
    if hits.interval()[1] >= watch.min_labelled_accuracy:
        return None
    return f"the labelled accuracy is {hits}, all below watch.min_labelled_accuracy {watch.min_labelled_accuracy:g}"
