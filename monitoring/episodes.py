"""How an episode moves: each move is compare-and-set, checked against ``monitoring.states``, with its row of reasons.

A move that the table does not have does nothing and returns False: an event that comes twice, late or in
another order changes nothing.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from monitoring import leases
from monitoring.journal import Episode, Journal, Step
from monitoring.leases import Lease
from monitoring.states import WORKING, allowed
from pipeline.artifacts import digest_json
from pipeline.errors import StateError
from pipeline.params import Params


def configuration(params: Params) -> str:
    """A digest of the settings under which the watch decides."""
    return digest_json({"watch": asdict(params.watch), "label": asdict(params.label)})


def identity(champion: str, reference: str, window: str, configuration: str) -> str:
    """An episode's id: the same event gives the same one, so that it opens once."""
    return digest_json([champion, reference, window, configuration])[:16]


def mark_retrain_started(
    journal: Journal, episode_id: str, *, now: datetime, labels: int, dataset: str | None = None
) -> Lease | None:
    """A retrain begins with ``labels`` labelled images, data/labels.csv being ``dataset``: call it before the work.

    Returns:
        The lease to work under; None where the episode does not wait for a retrain, or somebody is at it: of
        two schedulers one gets it, and a repeated event does nothing.
    """
    with journal.transaction():
        episode = journal.episode(episode_id)
        if not allowed(episode.state, "dataset_frozen"):
            return None
        lease = leases.take(journal, episode_id)
        if lease is None:
            return None
        journal.move(
            episode, "dataset_frozen", now=now, retrain_started=now, labels_used=labels, dataset=dataset,
            asks=None, approved=None,
        )  # fmt: skip
        reason = f"retraining started with {labels} labelled images of episode {episode_id}"
        step = replace(step_about(episode, now, "dataset_frozen", reason), detail={"started": True})
        journal.record(step)
    return lease


def advance(
    journal: Journal, lease: Lease, state: str, *, now: datetime, why: str, **changes: Any
) -> Episode:
    """The worker that holds the lease goes one state on.

    Raises:
        StateError: the lease is somebody else's by now, or the episode was closed meanwhile.
    """
    with leases.fenced(journal, lease):
        episode = journal.move(journal.episode(lease.episode), state, now=now, **changes)
        journal.record(step_about(episode, now, state, why))
    return episode


def mark_rejected(
    journal: Journal, episode_id: str, *, challenger: str, why: str, now: datetime, lease: Lease | None = None
) -> bool:
    """The verdict is REJECT: a person is asked, and drift of this signature opens no other episode."""
    told = f"the challenger was not promoted: {why}"
    return _move(journal, episode_id, "rejected", told, now, lease, challenger=challenger, refused=now)


def mark_failed(
    journal: Journal, episode_id: str, *, why: str, now: datetime, lease: Lease | None = None
) -> bool:
    """The retrain broke (an exception, not a verdict): it may be started again after the cooldown."""
    return _move(journal, episode_id, "failed", f"the retrain broke: {why}", now, lease)


def mark_promoted(
    journal: Journal, episode_id: str, *, challenger: str, now: datetime, lease: Lease | None = None
) -> bool:
    """The pointer has moved to the episode's challenger."""
    why = f"the challenger {challenger[:12]} was promoted"
    return _move(journal, episode_id, "promoted", why, now, lease, challenger=challenger, promoted=now)


@contextlib.contextmanager
def promoting(journal: Journal, lease: Lease, *, challenger: str, now: datetime) -> Iterator[None]:
    """Around the move of the pointer: the lease can't change hands, and the episode moves with it.

    Raises:
        StateError: the lease is somebody else's by now, or the episode is not at that point (any more).
    """
    with leases.fenced(journal, lease):
        episode = journal.episode(lease.episode)
        if not allowed(episode.state, "promoted"):
            raise StateError(
                f"episode {episode.id} is {episode.state}: its challenger is not to be promoted now"
            )
        yield
        mark_promoted(journal, episode.id, challenger=challenger, now=now)


def ask_human(
    journal: Journal, episode_id: str, *, asks: str, why: str, now: datetime, lease: Lease | None = None,
    challenger: str | None = None,
) -> bool:  # fmt: skip
    """Nobody but a person goes on from here; ``asks`` is a key of ``monitoring.policy.ASKED``."""
    more = {"challenger": challenger} if challenger else {}
    return _move(journal, episode_id, "needs_human", why, now, lease, asks=asks, **more)


def mark_rolled_back(journal: Journal, episode_id: str, *, why: str, now: datetime) -> bool:
    """The old champion is back; drift of this signature opens no other episode until a person says so."""
    return _move(journal, episode_id, "rolled_back", why, now, None, refused=now)


def supersede(journal: Journal, episode_id: str, *, champion: str, now: datetime) -> bool:
    """Somebody else became champion meanwhile (a rollback, a release by hand); closes the episode."""
    return _move(journal, episode_id, "superseded", f"{champion[:12]} became champion meanwhile", now, None)


def dismiss(journal: Journal, episode_id: str, *, why: str, now: datetime) -> bool:
    """A person says that the drift needs no new model; closes the episode."""
    return _move(journal, episode_id, "dismissed", f"dismissed: {why}", now, None, approved=None)


def silent(journal: Journal, champion: str) -> Episode | None:
    """The last closed episode of the champion that keeps drift like its own from opening another."""
    found = [
        one
        for one in journal.episodes()
        if one.champion == champion and not one.is_open and not one.approved
        if one.refused or one.state == "dismissed"
    ]
    return found[-1] if found else None


def approve(journal: Journal, episode_id: str, *, by: str, why: str, now: datetime) -> Episode:
    """A person lets an episode go on that waits for one: with a retrain, or with the challenger's release.

    Before a retrain it lifts the cooldown, the month's budget and the number of labels, once; on a closed
    episode that was refused or dismissed, the silence about drift like its own.

    Raises:
        StateError: the episode waits for nobody.
    """
    with journal.transaction():
        episode = journal.episode(episode_id)
        said = f"{by} at {now:%Y-%m-%d %H:%M} UTC: {why}"
        if episode.state == "rejected":
            episode = journal.move(episode, "needs_human", now=now, asks="rejected")
        if episode.state == "needs_human":
            after = (
                "infra_validating" if episode.asks in ("verdict", "release", "shadow") else "awaiting_labels"
            )
        elif episode.state in ("awaiting_labels", "failed") or silent(journal, episode.champion) == episode:
            after = episode.state
        else:
            raise StateError(
                f"episode {episode_id} is {episode.state}, which waits for nobody: see `python -m monitoring status`"
            )
        # What was refused is no reason for silence any more; the release needs to know who took it on.
        episode = journal.move(episode, after, now=now, asks=None, approved=said, refused=None)
        told = {
            "infra_validating": "its release goes on",
            "awaiting_labels": "it may retrain",
            "failed": "it may retrain",
        }
        what = told.get(after, "drift of its kind may open an episode again")
        journal.record(step_about(episode, now, "approved", f"approved by {said} ({what})"))
    return episode


def retrains_since(journal: Journal, since: datetime) -> int:
    """How many retrains have started since then."""
    return sum(time >= since for time in journal.retrains())


def abandoned(journal: Journal, episode: Episode, now: datetime) -> bool:
    """Fail an episode whose worker is gone without a word; whether it was so."""
    if episode.state not in WORKING:
        return False
    with journal.transaction():
        who = leases.holder(journal, episode.id)
        # Nobody's work but the release's is left lying on purpose, between two workers.
        if who == "alive" or (who == "nobody" and episode.state == "infra_validating"):
            return False
        leases.revoke(journal, episode.id)
        why = f"its worker ended without a word while {episode.state}"
        return mark_failed(journal, episode.id, why=why, now=now)


def step_about(episode: Episode, now: datetime, decision: str, reason: str) -> Step:
    """A row about the episode."""
    return Step(time=now, champion=episode.champion, episode=episode.id, decision=decision, reason=reason)


def _move(
    journal: Journal,
    episode_id: str,
    state: str,
    why: str,
    now: datetime,
    lease: Lease | None,
    **changes: Any,
) -> bool:
    with leases.fenced(journal, lease) if lease else contextlib.nullcontext(), journal.transaction():
        episode = journal.episode(episode_id)
        if not allowed(episode.state, state):
            return False
        journal.move(episode, state, now=now, **changes)
        journal.record(step_about(episode, now, state, why))
    return True
