"""Before the pointer moves: the challenger answers the same requests beside the champion, unseen by the client."""

from prefect import get_run_logger

from flows import lineage
from flows.challenger import Challenger
from monitoring import shadow
from monitoring.episodes import advance, ask_human
from monitoring.journal import Journal, Step
from monitoring.leases import Lease
from monitoring.policy import ASKED, Shadowed
from pipeline import clock
from pipeline.artifacts import Workspace, read_json, write_json
from pipeline.errors import RefusedError, StateError
from pipeline.params import Params
from pipeline.serving import address, answering

__all__ = ["beside"]


def beside(
    workspace: Workspace, params: Params, challenger: Challenger, lease: Lease | None, approve: str | None
) -> str | None:
    """None where the pointer may move; else how far the challenger is beside the champion.

    Raises:
        RefusedError: it failed there, or agrees too little; a person is asked.
    """
    digest, wanted = challenger.digest, shadow.wanted(params.release.shadow_images)
    if not wanted or challenger.champion is None:
        return None
    seen = shadow.shadowed(workspace, digest, wanted, params.release.min_shadow_agreement)
    record = lineage.record_path(workspace, digest)
    against = seen.against or _idle(workspace, challenger, lease, seen)
    if approve and against:
        told = f"{seen.words}: {against}" if seen.words else against
        write_json(record, read_json(record) | {"shadow": f"{told}; approved all the same: {approve}"})
        return None
    if seen.images >= wanted and seen.against:
        shadow.end(workspace)
        told = f"{seen.words}: {seen.against}"
        if lease is not None:
            with Journal(workspace.journal) as journal:
                why = f"{told}. {ASKED['shadow']}"
                ask_human(journal, lease.episode, asks="shadow", why=why, now=clock.now(), lease=lease)
        raise RefusedError(f'{told}; take it upon yourself with `python -m flows.release --approve "<why>"`')
    if seen.images >= wanted:
        get_run_logger().info("%s", seen.words)
        write_json(record, read_json(record) | {"shadow": seen.words})
        return None
    if shadow.requested(workspace) != digest:
        missing = _missing(params, challenger)
        if missing is not None:
            write_json(record, read_json(record) | {"shadow": missing})
            _journal(workspace, challenger, lease, missing)
            return None
        now = clock.now()
        shadow.begin(workspace, digest, wanted, now)
        if lease is not None:
            with Journal(workspace.journal) as journal:
                why = f"{digest[:12]} answers beside the champion, unseen, for {wanted} images (release.shadow_images)"
                advance(journal, lease, "shadow", now=now, why=why)
    return (
        f"shadow: {digest[:12]} has answered {seen.images} of {wanted} images beside the champion; run `python -m "
        "flows.release` again, or let the watch do it"
    )


def _idle(workspace: Workspace, challenger: Challenger, lease: Lease | None, seen: Shadowed) -> str | None:
    """That too few images came, where the shadow had begun and a person has taken the episode out of it."""
    if lease is None or shadow.requested(workspace) != challenger.digest or seen.images >= seen.wanted:
        return None
    with Journal(workspace.journal) as journal:
        if journal.episode(lease.episode).state == "shadow":
            return None
    return f"it has answered {seen.images} of {seen.wanted} images only"


def _missing(params: Params, challenger: Challenger) -> str | None:
    """Why there is nothing to shadow; None where a service answers with the champion, or a number of images is set."""
    if params.release.shadow_images != "auto":
        return None
    try:
        found = answering(address(params.serve))
    except StateError as error:
        return f"{error}: nothing to shadow"
    if found.digest is None:
        return f"no service answers at {found.url}: nothing to shadow"
    if found.digest != challenger.champion:
        said = f"answers with {found.digest[:12]}, not with the champion {str(challenger.champion)[:12]}"
        return f"the service at {found.url} {said}: nothing to shadow"
    return None


def _journal(workspace: Workspace, challenger: Challenger, lease: Lease | None, reason: str) -> None:
    """That the release goes on without a shadow, where there is a journal."""
    get_run_logger().info("%s", reason)
    if not workspace.journal.exists():
        return
    with Journal(workspace.journal) as journal:
        journal.record(
            Step(
                time=clock.now(),
                decision="infra_validating",
                reason=reason,
                champion=challenger.champion,
                episode=lease.episode if lease else None,
            )
        )
