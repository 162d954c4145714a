"""From the data as it is now to a verdict, every stage a task: ``python -m flows.retrain``.

    python -m flows.retrain                       # what has changed, up to the verdict
    python -m flows.retrain --release             # and release the challenger if the verdict is PROMOTE
    python -m flows.retrain --episode <id>        # for a drift episode; nothing happens unless it waits for it

The stages are those upstream of ``gate`` in dvc.yaml, in DVC's order; what is up to date is not run. A
verdict other than PROMOTE is a result: the flow is Completed and the journal holds it. A stage that
breaks makes the flow Failed, with the stage's last lines as the reason.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

from prefect import flow, get_run_logger
from prefect.states import Completed, Failed, State

from flows.notifications import notify
from flows.pages import against
from flows.release import release as release_flow
from flows.repro_process import Reproducer, reproducer
from flows.server import command
from flows.tasks import run_stage
from monitoring import leases
from monitoring.episodes import (
    abandoned,
    advance,
    ask_human,
    mark_failed,
    mark_rejected,
    mark_retrain_started,
)
from monitoring.journal import Episode, Journal, Step
from monitoring.leases import Lease, beating
from monitoring.policy import ASKED, left_of_cooldown
from pipeline import clock
from pipeline.artifacts import Workspace, digest_file, read_json
from pipeline.errors import StateError, VisionloopError
from pipeline.params import Params
from pipeline.registry import pin

LAST_STAGE = "gate"
FIRST_TRAINING = "train"
STATE_AT = {FIRST_TRAINING: "training", "evaluate": "evaluating"}
"""The state of the episode from that stage on; before, its data are being frozen."""
FREEZES = 3


@flow(name="retrain", persist_result=False)
def retrain(
    reason: str = "on demand", episode: str | None = None, release: bool = False, force: bool = False
) -> State:
    """Reproduce the pipeline up to the verdict; on PROMOTE release it, where ``release`` says so.

    Args:
        reason: why, for the journal and the release's record.
        episode: the drift episode that asked for it. Its state is read again: where it does not wait
            for a retrain (any more), nothing happens, so that an event may come twice; where its release
            was begun, that goes on.
        force: run every stage even where nothing has changed.
    """
    logger = get_run_logger()
    workspace = Workspace.here()
    try:
        params = Params.load(workspace.params)
        if episode is not None and _is_releasing(workspace, episode):
            return _release(workspace, episode, reason)
        lease = _begun(workspace, episode, params.watch.cooldown_hours) if episode else None
    except VisionloopError as error:
        return Failed(message=str(error))
    if episode is not None and lease is None:
        logger.info("episode %s does not wait for a retrain", episode)
        return Completed(message=f"episode {episode} does not wait for a retrain: nothing to do")
    with _accounted_for(workspace, lease):
        logger.info("retraining: %s", reason)
        state, decision = _to_verdict(workspace, lease, reason=reason, force=force, release=release)
        if state.is_failed():
            _fail(workspace, lease, str(state.message))
    if release and decision == "PROMOTE":
        state = _release(workspace, episode, reason)
    elif release and decision == "INSUFFICIENT_EVIDENCE":
        asked = as_our_own(release_flow(why=reason, return_state=True))
        # Of a verdict that no person may approve either, the verdict stays the result.
        state = asked if asked.is_completed() else state
    notify(workspace, now=clock.now())
    return state


def _release(workspace: Workspace, episode: str | None, reason: str) -> State:
    """Release the challenger; what stands in its way fails the episode, to be tried again."""
    state = as_our_own(release_flow(why=reason, return_state=True))
    if state.is_failed() and episode is not None:
        with Journal(workspace.journal) as journal:
            if _is_releasing(workspace, episode):
                mark_failed(journal, episode, why=str(state.message), now=clock.now())
    return state


def as_our_own(state: State) -> State:
    """Of another run's state that is handed on, Prefect would keep "1/1 states failed", not the reason."""
    return Completed(message=state.message) if state.is_completed() else Failed(message=state.message)


def _to_verdict(
    workspace: Workspace, lease: Lease | None, *, reason: str, force: bool, release: bool
) -> tuple[State, str | None]:
    """Completed with the verdict as its message, and the decision; or Failed with the reason."""
    try:
        failed = _reproduce(workspace, lease, force=force)
        if failed is not None:
            return as_our_own(failed), None
        verdict = read_json(workspace.verdict)
        result = f"{verdict['decision']} for {str(verdict['challenger'])[:12]}{_because(verdict)}"
        get_run_logger().info("%s", result)
        _journal(workspace, lease, verdict, reason, result, release=release)
    except VisionloopError as error:
        return Failed(message=str(error)), None
    return Completed(message=result), verdict["decision"]


def _reproduce(workspace: Workspace, lease: Lease | None, *, force: bool) -> State | None:
    """Run the stages; the state of the one that failed, if one did."""
    with reproducer(workspace.root) as dvc:
        pin(workspace)
        plan = dvc.plan(LAST_STAGE)
        training = plan.index(FIRST_TRAINING) if FIRST_TRAINING in plan else len(plan)
        state = _freeze(dvc, plan[:training], workspace, lease, force=force)
        if state is not None:
            return state
        for stage in plan[training:]:
            if lease and (entered := STATE_AT.get(stage)):
                _advance(workspace, lease, entered, f"stage {stage} begins")
            state = run_stage(dvc, stage, workspace, force=force)
            if not state.is_completed():
                return state
    return None


def _freeze(
    dvc: Reproducer, stages: list[str], workspace: Workspace, lease: Lease | None, *, force: bool
) -> State | None:
    """The stages of the data; again where labels came back while they ran, so that those are in it, or not."""
    for _ in range(FREEZES):
        before = _labels_digest(workspace)
        for stage in stages:
            state = run_stage(dvc, stage, workspace, force=force)
            if not state.is_completed():
                return state
        if _labels_digest(workspace) == before:
            return None
        if lease is not None:
            _freeze_again(workspace, lease)
    return Failed(
        message=f"labels came back during each of {FREEZES} readings of the data: retrain when they are in"
    )


def _labels_digest(workspace: Workspace) -> str | None:
    return digest_file(workspace.labels) if workspace.labels.exists() else None


def _freeze_again(workspace: Workspace, lease: Lease) -> None:
    from monitoring.triggers import labels_back

    with Journal(workspace.journal) as journal:
        labels = labels_back(workspace, journal.episode(lease.episode))
        advance(
            journal, lease, "dataset_frozen", now=clock.now(), why=f"frozen again with {labels} labels",
            labels_used=labels, dataset=_labels_digest(workspace),
        )  # fmt: skip


def _advance(workspace: Workspace, lease: Lease, state: str, why: str, **changes: Any) -> None:
    with Journal(workspace.journal) as journal:
        advance(journal, lease, state, now=clock.now(), why=why, **changes)


def _is_releasing(workspace: Workspace, episode: str) -> bool:
    """Its verdict is there and the release was begun, or is to be; nobody else is at it."""
    with Journal(workspace.journal) as journal:
        state = journal.episode(episode).state
        return state in ("infra_validating", "shadow") and leases.holder(journal, episode) == "nobody"


def _begun(workspace: Workspace, episode: str, cooldown_hours: float) -> Lease | None:
    """Take the episode on, if it waits for a retrain; of two who try at once, one gets it."""
    from monitoring.triggers import labels_back  # 2 s of statistics, for episodes alone

    now = clock.now()
    with Journal(workspace.journal) as journal, journal.transaction():
        abandoned(journal, journal.episode(episode), now)
        known = journal.episode(episode)
        if not _waits(known, now, cooldown_hours):
            return None
        labels, dataset = labels_back(workspace, known), _labels_digest(workspace)
        return mark_retrain_started(journal, episode, now=now, labels=labels, dataset=dataset)


def _waits(episode: Episode, now: datetime, cooldown_hours: float) -> bool:
    """Is there something to do that the retrain before, if there was one, has not done?"""
    if episode.state == "failed" and not episode.approved:
        return left_of_cooldown(now, episode.retrain_started, cooldown_hours) <= timedelta(0)
    return episode.state in ("awaiting_labels", "failed")


@contextmanager
def _accounted_for(workspace: Workspace, lease: Lease | None) -> Iterator[None]:
    """A heartbeat; and whatever breaks the flow, cancelling it included, the episode says so and can be tried again."""
    if lease is None:
        yield
        return
    with beating(workspace.journal, lease):
        try:
            yield
        except BaseException as error:
            _fail(workspace, lease, str(error) or type(error).__name__)
            raise


def _fail(workspace: Workspace, lease: Lease | None, why: str) -> None:
    if lease is None:
        return
    # A worker that was replaced has nothing to say any more.
    with suppress(StateError), Journal(workspace.journal) as journal:
        mark_failed(journal, lease.episode, why=why, now=clock.now(), lease=lease)


def _journal(
    workspace: Workspace,
    lease: Lease | None,
    verdict: dict[str, Any],
    reason: str,
    result: str,
    *,
    release: bool,
) -> None:
    now, decision, challenger = clock.now(), verdict["decision"], verdict["challenger"]
    with Journal(workspace.journal) as journal, journal.transaction():
        if lease is not None and decision == "REJECT":
            mark_rejected(journal, lease.episode, challenger=challenger, why=result, now=now, lease=lease)
            return
        journal.record(
            Step(
                time=now,
                decision="verdict",
                reason=f"retrain ({reason}): {result}",
                champion=verdict["champion"],
                episode=lease.episode if lease else None,
                evidence=workspace.relative(workspace.verdict),
            )
        )
        if lease is None:
            return
        if decision == "PROMOTE" and release:
            advance(journal, lease, "infra_validating", now=now, why=result, challenger=challenger)
            return
        asks = "release" if decision == "PROMOTE" else "verdict"
        why = f"{result}: {ASKED[asks]}"
        ask_human(journal, lease.episode, asks=asks, why=why, now=now, lease=lease, challenger=challenger)


def _because(verdict: dict[str, Any]) -> str:
    """What stands against it, in words."""
    names = [check["name"] for check in against(verdict)]
    return f": {', '.join(names)}" if names else ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m flows.retrain", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--reason", default="on demand", help="why; kept in the journal")
    parser.add_argument("--episode", help="the drift episode to retrain for")
    parser.add_argument(
        "--release", action="store_true", help="release the challenger if the verdict is PROMOTE"
    )
    parser.add_argument("--force", action="store_true", help="run every stage, changed or not")
    options = parser.parse_args(arguments)

    def run() -> int:
        state = retrain(**vars(options), return_state=True)
        return 0 if state.is_completed() else 1

    return command(run)


if __name__ == "__main__":
    sys.exit(main())
