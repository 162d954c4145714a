"""The new champion is watched more closely for a while: is its labelled accuracy below the old one's?

Images of it are asked at random, in a queue of the observation's own; the old one's accuracy is that of the
episode's queue, where the drift was. Of the two proportions' difference, the 99 % interval has to lie below 0
while the labels come in, and the 95 % interval at the end: so many looks are not one.
"""

from dataclasses import replace
from datetime import datetime

from monitoring import label_queue
from monitoring.accuracy import Z95, Z99, difference, hits_of
from monitoring.journal import Episode
from monitoring.policy import Observed
from monitoring.stream import Stream
from pipeline.artifacts import Workspace, digest_json
from pipeline.params import Params

LOOKED_AT = 2000
"""Images since the promotion that the queue draws from, at most."""
ANSWERED = 0.8
"""Share of the asked images that must be back: one that nobody can tell must not keep the rest from counting."""


def queue_of(episode: Episode) -> str:
    """The queue that is open for the episode: its own, or while it is observed, the observation's."""
    return digest_json(["observing", episode.id])[:16] if episode.promoted else episode.id


def ask(stream: Stream, episode: Episode) -> None:
    """Queue ``label.min_labels`` images at random, once there are as many: a queue that grew would not be uniform."""
    params = stream.params
    most = min(params.watch.observe_images, params.label.min_labels)
    window = stream.since(_promoted(episode), LOOKED_AT) if stream.wealth.seen >= most else None
    if window is None or label_queue.items_of(stream.workspace, queue_of(episode)):
        return
    label = replace(params.label, budget=params.label.min_labels, random_share=1.0)
    asking = replace(
        episode,
        id=queue_of(episode),
        champion=stream.champion,
        why="A new champion is observed: these images, drawn at random, say whether it is as good as the old one.",
    )
    label_queue.write(stream.workspace, asking, window, stream.measure, replace(params, label=label))


def observed(workspace: Workspace, params: Params, episode: Episode, images: int) -> Observed:
    """The new champion's figures beside the old one's, after ``images``."""
    wanted, queue = params.watch.observe_images, queue_of(episode)
    asked = len(label_queue.items_of(workspace, queue))
    new = hits_of(workspace, str(episode.challenger), queue)
    old = hits_of(workspace, episode.champion, episode.id)
    if not old.labelled:
        old = hits_of(workspace, episode.champion)
    enough = asked > 0 and new.labelled >= ANSWERED * min(params.label.min_labels, asked)
    told = f"{images} of {wanted} images (watch.observe_images), {new.labelled} of {asked} asked labels back"
    if not enough:
        return Observed(images, wanted, told, labelled=False)
    if not old.labelled:
        words = f"{told}: {new}; of the old one no randomly asked image is labelled"
        return Observed(images, wanted, words, compared=False)
    low, high = difference(new, old, Z95 if images >= wanted else Z99)
    words = f"{told}: {new} against the old one's {old} on other images, difference {low:+.2f} to {high:+.2f}"
    return Observed(images, wanted, words, worse=high < 0)


def _promoted(episode: Episode) -> datetime:
    return episode.promoted or episode.changed
