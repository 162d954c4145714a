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
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, get_run_logger
from prefect.states import Completed, Failed, State

from flows.notifications import notify
from flows.pages import against
from flows.release import release as release_flow
from flows.repro_process import reproducer
from flows.server import command
from flows.tasks import run_stage
from monitoring.journal import Episode, Journal, Step, mark_failed, mark_rejected, mark_retrain_started
from pipeline.artifacts import Workspace, read_json
from pipeline.errors import VisionloopError
from pipeline.params import Params
from pipeline.registry import pin

LAST_STAGE = "gate"


@flow(name="retrain", persist_result=False)
def retrain(
    reason: str = "on demand", episode: str | None = None, release: bool = False, force: bool = False
) -> State:
    """Reproduce the pipeline up to the verdict; on PROMOTE release it, where ``release`` says so.

    Args:
        reason: why, for the journal and the release's record.
        episode: the drift episode that asked for it. Its state is read again: where it does not wait
            for a retrain (any more), nothing happens, so that an event may come twice.
        force: run every stage even where nothing has changed.
    """
    logger = get_run_logger()
    workspace = Workspace.here()
    try:
        params = Params.load(workspace.params)
        begun = episode is None or _begun(workspace, episode, params.watch.cooldown_hours)
    except VisionloopError as error:
        return Failed(message=str(error))
    if not begun:
        logger.info("episode %s does not wait for a retrain", episode)
        return Completed(message=f"episode {episode} does not wait for a retrain: nothing to do")
    with _accounted_for(workspace, episode):
        logger.info("retraining: %s", reason)
        state, decision = _to_verdict(workspace, episode, reason=reason, force=force)
        if release and decision in ("PROMOTE", "INSUFFICIENT_EVIDENCE"):
            released = as_our_own(release_flow(why=reason, return_state=True))
            # Of a verdict that no person may approve either, the verdict stays the result.
            state = released if decision == "PROMOTE" or released.is_completed() else state
    if state.is_failed():
        _fail(workspace, episode, str(state.message))
    notify(workspace, now=datetime.now(UTC))
    return state


def as_our_own(state: State) -> State:
    """Of another run's state that is handed on, Prefect would keep "1/1 states failed", not the reason."""
    return Completed(message=state.message) if state.is_completed() else Failed(message=state.message)


def _to_verdict(
    workspace: Workspace, episode: str | None, *, reason: str, force: bool
) -> tuple[State, str | None]:
    """Completed with the verdict as its message, and the decision; or Failed with the reason."""
    try:
        failed = _reproduce(workspace, force=force)
        if failed is not None:
            return as_our_own(failed), None
        verdict = read_json(workspace.verdict)
    except VisionloopError as error:
        return Failed(message=str(error)), None
    result = f"{verdict['decision']} for {str(verdict['challenger'])[:12]}{_because(verdict)}"
    get_run_logger().info("%s", result)
    _journal(workspace, episode, verdict, reason, result)
    return Completed(message=result), verdict["decision"]


def _reproduce(workspace: Workspace, *, force: bool) -> State | None:
    """Run the stages; the state of the one that failed, if one did."""
    with reproducer(workspace.root) as dvc:
        pin(workspace)
        for stage in dvc.plan(LAST_STAGE):
            state = run_stage(dvc, stage, workspace, force=force)
            if not state.is_completed():
                return state
    return None


def _begun(workspace: Workspace, episode: str, cooldown_hours: float) -> bool:
    """Take the episode on, if it waits for a retrain; of two who try at once, one gets it."""
    from monitoring.label_queue import labels_of  # 2 s of statistics, for episodes alone

    now = datetime.now(UTC)
    with Journal(workspace.journal) as journal, journal.transaction():
        known = journal.episode(episode)
        labels = labels_of(workspace, known)
        if not _waits(known, labels, now, timedelta(hours=cooldown_hours)):
            return False
        if known.state == "training":
            mark_failed(journal, episode, why="it left no outcome (was it killed?)", now=now)
        return mark_retrain_started(journal, episode, now=now, labels=labels)


def _waits(episode: Episode, labels: int, now: datetime, cooldown: timedelta) -> bool:
    """Is there something to do that the retrain before, if there was one, has not done?"""
    if episode.state == "rejected":
        return labels > episode.labels_used
    if episode.state in ("failed", "training"):
        return episode.retrain_started is None or now - episode.retrain_started >= cooldown
    return episode.state == "awaiting_labels"


@contextmanager
def _accounted_for(workspace: Workspace, episode: str | None) -> Iterator[None]:
    """Whatever breaks the flow, cancelling it included, the episode says so and can be tried again."""
    try:
        yield
    except BaseException as error:
        _fail(workspace, episode, str(error) or type(error).__name__)
        raise


def _fail(workspace: Workspace, episode: str | None, why: str) -> None:
    if episode is not None:
        with Journal(workspace.journal) as journal:
            mark_failed(journal, episode, why=why, now=datetime.now(UTC))


def _journal(
    workspace: Workspace, episode: str | None, verdict: dict[str, Any], reason: str, result: str
) -> None:
    now = datetime.now(UTC)
    with Journal(workspace.journal) as journal:
        if episode is not None and verdict["decision"] != "PROMOTE":
            mark_rejected(journal, episode, challenger=verdict["challenger"], why=result, now=now)
            return
        journal.record(
            Step(
                time=now,
                decision="verdict",
                reason=f"retrain ({reason}): {result}",
                champion=verdict["champion"],
                episode=episode,
                evidence=workspace.relative(workspace.verdict),
            )
        )


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
