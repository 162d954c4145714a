"""Before the pointer moves: the challenger answers the same requests beside the champion, unseen by the client."""

from prefect import get_run_logger

from flows import lineage
from flows.challenger import Challenger
from monitoring.episodes import advance, ask_human
from monitoring.journal import Journal
from monitoring.leases import Lease
from monitoring.policy import ASKED
from monitoring.shadow import begin, end, requested, shadowed
from pipeline import clock
from pipeline.artifacts import Workspace, read_json, write_json
from pipeline.errors import RefusedError
from pipeline.params import Params

__all__ = ["beside"]


def beside(
    workspace: Workspace, params: Params, challenger: Challenger, lease: Lease | None, approve: str | None
) -> str | None:
    """None where the pointer may move; else how far the challenger is beside the champion.

    Raises:
        RefusedError: it failed there, or agrees too little; a person is asked.
    """
    wanted, digest = params.release.shadow_images, challenger.digest
    seen = shadowed(workspace, digest, wanted, params.release.min_shadow_agreement)
    if not wanted or challenger.champion is None:
        return None
    record = lineage.record_path(workspace, digest)
    if approve and seen.against:
        told = f"{seen.words}: {seen.against}; approved all the same: {approve}"
        write_json(record, read_json(record) | {"shadow": told})
        return None
    if seen.images >= wanted and seen.against:
        end(workspace)
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
    if requested(workspace) != digest:
        now = clock.now()
        begin(workspace, digest, wanted, now)
        if lease is not None:
            with Journal(workspace.journal) as journal:
                why = f"{digest[:12]} answers beside the champion, unseen, for {wanted} images (release.shadow_images)"
                advance(journal, lease, "shadow", now=now, why=why)
    return (
        f"shadow: {digest[:12]} has answered {seen.images} of {wanted} images beside the champion; run `python -m "
        "flows.release` again, or let the watch do it"
    )
