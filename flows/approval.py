"""A person's word before a release: the deployed run is suspended until somebody answers its form in Prefect's UI.

Asked where the verdict is INSUFFICIENT_EVIDENCE, or always with ``release.approval: required``. A suspended
run holds no worker and outlives them; its answer starts it anew, from the top. Pause and answer are keyed by
the verdict's digest, so that an answer is never taken for another challenger than the one it was about.
"""

from datetime import datetime, timedelta
from typing import Any, Literal

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Completed, State
from pydantic import Field

from flows.notifications import notify
from flows.pages import plain, verdict_page
from monitoring.journal import Journal, Step
from pipeline import clock
from pipeline.artifacts import Workspace, digest_json
from pipeline.params import Params

__all__ = ["Approval", "ask", "can_wait", "expire", "given", "hand_over"]

KEY = "approval-"
DEPLOYMENT = "release/release"
BY_HAND = 'python -m flows.release --approve "<why>"'


class Approval(RunInput):
    """What the form asks."""

    name: str = Field(min_length=1, max_length=200, description="Who decides")
    why: str = Field(min_length=1, max_length=2000, description="Why; it goes on record")
    decision: Literal["approve", "reject"]

    @property
    def approved(self) -> bool:
        return self.decision == "approve"


def can_wait() -> bool:
    """Is this a run of a deployment, which a worker takes up again? A command in a terminal is not."""
    context = FlowRunContext.get()
    return bool(context and context.flow_run and context.flow_run.deployment_id)


def ask(workspace: Workspace, verdict: dict[str, Any]) -> Approval:
    """Suspend the run until the form is answered; the answer, which the journal then holds.

    The first time it does not return: Prefect ends the process. After the answer it is called again and returns.
    """
    digest = str(verdict["challenger"])
    run = str(_run_id())
    if not _is_asked(workspace, verdict, run):
        _record_asked(
            workspace, verdict, f"the flow run {_run_name()} waits for an answer in Prefect's UI", run
        )
        page = f"{plain(_question(verdict))}\n\n{verdict_page(verdict)}"
        create_markdown_artifact(markdown=page, key="approval", description=plain(_question(verdict)))
    answer = suspend_flow_run(
        wait_for_input=Approval.with_initial_data(description=plain(_question(verdict))),
        key=f"{KEY}{digest_json(verdict)[:16]}",
    )
    assert isinstance(answer, Approval)  # noqa: S101  (what was waited for)
    said = f"{answer.name} {'approved' if answer.approved else 'did not approve'} {digest[:12]}: {answer.why}"
    decision = "release_approved" if answer.approved else "release_not_approved"
    _record(workspace, decision, said, verdict, run, name=answer.name, why=answer.why)
    return answer


def given(workspace: Workspace, verdict: dict[str, Any]) -> Approval | None:
    """The answer that was given to this very verdict, if its release was approved and has to be gone on with."""
    if not workspace.journal.exists():
        return None
    with Journal(workspace.journal) as journal:
        about = [step for step in journal.steps() if step.detail.get("verdict") == digest_json(verdict)]
    answers = [step for step in about if step.decision in ("release_approved", "release_not_approved")]
    if not answers or answers[-1].decision != "release_approved":
        return None
    return Approval(name=answers[-1].detail["name"], why=answers[-1].detail["why"], decision="approve")


def hand_over(workspace: Workspace, verdict: dict[str, Any], why: str) -> State:
    """For a run that can't wait itself: start the deployment release/release, which will; Completed, with what is to do."""
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound

    try:
        run = run_deployment(DEPLOYMENT, parameters={"why": why}, timeout=0, as_subflow=False)
    except ObjectNotFound:
        told = f"{_question(verdict)} The server has no deployment {DEPLOYMENT} that could wait: {BY_HAND}"
        _record_asked(workspace, verdict, told, None)
        return Completed(message=told)
    return Completed(
        message=f"{_question(verdict)} The flow run {run.name} of {DEPLOYMENT} waits for the answer"
    )


def expire(workspace: Workspace, params: Params, *, now: datetime) -> list[str]:
    """Answer "reject" for everybody who did not within ``release.approval_timeout_hours``; the names of those runs.

    Prefect's own timeout would only let such a run fail, and say nothing of it here. The watch calls this.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.responses import SetStateStatus

    limit = timedelta(hours=params.release.approval_timeout_hours)
    paused = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))
    ended = []
    with get_client(sync_client=True) as client:
        ours = DeploymentFilter(name=DeploymentFilterName(any_=[DEPLOYMENT.split("/")[1]]))
        for run in client.read_flow_runs(flow_run_filter=paused, deployment_filter=ours):
            state = run.state
            if (
                state is None
                or not str(state.state_details.pause_key).startswith(KEY)
                or now - state.timestamp < limit
            ):
                continue
            why = f"no answer within {params.release.approval_timeout_hours:g} h (release.approval_timeout_hours)"
            answer = {"name": "nobody", "why": why, "decision": "reject"}
            if client.resume_flow_run(run.id, run_input=answer).status == SetStateStatus.ACCEPT:
                ended.append(run.name)
    return ended


def _question(verdict: dict[str, Any]) -> str:
    return f"The verdict is {verdict['decision']}: may {str(verdict['challenger'])[:12]} become champion?"


def _record_asked(workspace: Workspace, verdict: dict[str, Any], how: str, run: str | None) -> None:
    _record(workspace, "approval_asked", f"{_question(verdict)} {how[:1].upper()}{how[1:]}", verdict, run)
    notify(workspace, now=clock.now())


def _record(
    workspace: Workspace, decision: str, reason: str, verdict: dict[str, Any], run: str | None, **said: str
) -> None:
    get_run_logger().info("%s: %s", decision, reason)
    challenger = str(verdict["challenger"])
    with Journal(workspace.journal) as journal:
        episode = journal.open_episode()
        ours = episode is not None and (episode.state == "training" or episode.challenger == challenger)
        journal.record(
            Step(
                time=clock.now(),
                decision=decision,
                reason=reason,
                champion=verdict["champion"],
                episode=episode.id if episode and ours else None,
                evidence=workspace.relative(workspace.verdict),
                detail={"challenger": challenger, "verdict": digest_json(verdict), "flow_run": run, **said},
            )
        )


def _is_asked(workspace: Workspace, verdict: dict[str, Any], run: str) -> bool:
    about = {"verdict": digest_json(verdict), "flow_run": run}
    with Journal(workspace.journal) as journal:
        asked = [step.detail for step in journal.steps() if step.decision == "approval_asked"]
    return any(about.items() <= detail.items() for detail in asked)


def _run_id() -> object:
    context = FlowRunContext.get()
    return context.flow_run.id if context and context.flow_run else None


def _run_name() -> str:
    context = FlowRunContext.get()
    return str(context.flow_run.name) if context and context.flow_run else "of now"
