"""The episode that a release belongs to: who works on it, what a person said of it, and when it waits for one."""

from collections.abc import Iterator
from contextlib import contextmanager

from monitoring import leases
from monitoring.episodes import advance, ask_human, mark_promoted
from monitoring.journal import Journal
from monitoring.leases import Lease, beating
from monitoring.policy import ASKED
from monitoring.states import allowed
from pipeline import clock
from pipeline.artifacts import Workspace, read_json
from pipeline.errors import StateError

__all__ = ["approval_of", "close", "leased", "leave_to_a_person"]


def approval_of(workspace: Workspace) -> str | None:
    """What a person said with `python -m monitoring approve`, where that let this challenger's release go on."""
    if not workspace.journal.exists() or not workspace.verdict.exists():
        return None
    with Journal(workspace.journal) as journal:
        episode = journal.open_episode()
    if episode is None or episode.state != "infra_validating":
        return None
    # A retrain on the side may have left another challenger here, which nobody has approved.
    return episode.approved if read_json(workspace.verdict).get("challenger") == episode.challenger else None


@contextmanager
def leased(workspace: Workspace, digest: str) -> Iterator[Lease | None]:
    """The lease of the episode that the challenger was trained for; None where there is none.

    Raises:
        StateError: another worker is at it.
    """
    lease = _lease(workspace, digest) if workspace.journal.exists() else None
    if lease is None:
        yield None
        return
    with beating(workspace.journal, lease):
        yield lease


def _lease(workspace: Workspace, digest: str) -> Lease | None:
    with Journal(workspace.journal) as journal, journal.transaction():
        episode = journal.open_episode()
        if episode is None or episode.challenger != digest:
            return None
        lease = leases.take(journal, episode.id)
        if lease is None:
            raise StateError(
                f"another worker is at the release of {digest[:12]} for episode {episode.id}: wait for it, and see "
                "`python -m monitoring status`"
            )
        if allowed(episode.state, "infra_validating"):  # it waited for a person, or had failed
            advance(
                journal,
                lease,
                "infra_validating",
                now=clock.now(),
                why="its release was started by hand",
            )
    return lease


def leave_to_a_person(workspace: Workspace, digest: str) -> None:
    """The challenger's episode, where it has one, waits for the answer: no wake-up shall ask again."""
    if not workspace.journal.exists():
        return
    with Journal(workspace.journal) as journal:
        episode = journal.open_episode()
        if episode is not None and episode.challenger == digest:
            why = f"the release of {digest[:12]} waits for a person's word. {ASKED['release']}"
            ask_human(journal, episode.id, asks="release", why=why, now=clock.now())


def close(workspace: Workspace, digest: str) -> None:
    """The drift episode that this challenger was trained for has its answer."""
    if not workspace.journal.exists():
        return
    with Journal(workspace.journal) as journal:
        episode = journal.open_episode()
        if episode is not None and episode.challenger == digest:
            mark_promoted(journal, episode.id, challenger=digest, now=clock.now())
