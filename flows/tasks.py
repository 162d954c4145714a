"""The tasks that flows share: one stage of dvc.yaml, or one step of a release, as one Prefect task."""

from collections.abc import Callable
from typing import Any, TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.states import Completed, Failed, State

from flows.pages import publish
from flows.repro_process import Reproducer, StageError
from pipeline.artifacts import Workspace
from pipeline.errors import VisionloopError

T = TypeVar("T")

# A second attempt helps where the first was killed from outside: training goes on from its last checkpoint,
# a scan starts over. A stage that ended by itself would only say the same again.
RETRIES = {"train": 2, "scan": 1}
RETRY_SECONDS = 5.0
# `prefect concurrency-limit create gpu 1` lets one training at a time onto the GPU; without it, no limit.
TAGS = {"train": {"gpu"}}


def _was_killed(_task: Any, _run: Any, state: State) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageError) and error.killed


@task(name="stage", cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=_was_killed)
def _stage(reproducer: Reproducer, stage: str, workspace: Workspace, force: bool) -> State:
    logger = get_run_logger()
    try:
        outcome = reproducer.reproduce(stage, logger.info, force=force)
    except StageError as error:
        publish(stage, workspace)  # what validate found is what a person needs now
        if error.killed and _attempts_left(stage):
            raise
        return Failed(message=str(error))
    publish(stage, workspace)
    done = f"done in {outcome.seconds:.1f} s" if outcome.changed else "nothing to do"
    return Completed(message=f"{stage}: {done}")


def _attempts_left(stage: str) -> bool:
    context = TaskRunContext.get()
    attempt = context.task_run.run_count if context else 1
    return attempt <= RETRIES.get(stage.split("@")[0], 0)


def run_stage(reproducer: Reproducer, stage: str, workspace: Workspace, *, force: bool) -> State:
    """Bring one stage up to date as a task of the running flow, its lines in the task's own log.

    Returns:
        Completed, or Failed with the stage's last error lines as its message.
    """
    verb = stage.split("@")[0]
    named = _stage.with_options(
        name=stage,
        task_run_name=stage,
        tags=TAGS.get(verb, set()),
        retries=RETRIES.get(verb, 0),
        retry_delay_seconds=RETRY_SECONDS,
    )
    return named(reproducer, stage, workspace, force, return_state=True)


@task(name="step", cache_policy=NO_CACHE, persist_result=False)
def _step(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except VisionloopError as error:
        return Failed(message=str(error), data=error)


def step(name: str, work: Callable[[], T]) -> T:
    """Do ``work`` as a task of the running flow: its time and log in the UI, its error without a traceback.

    Raises:
        VisionloopError: what ``work`` raised.
    """
    state = _step.with_options(name=name, task_run_name=name)(work, return_state=True)
    result: Any = state.result(raise_on_failure=False)
    if isinstance(result, BaseException):
        raise result
    return result
