"""Wake up, look at the log, decide, and say so: ``python -m flows.watch``.

    python -m flows.watch           # the decision goes into the journal, and out as an event
    python -m flows.watch --act     # and where it is `retrain` or `release`: do it, here and now

Deployed, it runs every 15 minutes and only tells: the event ``visionloop.retrain.requested`` starts the
deployment ``retrain`` (``python -m flows.automation`` makes the automation). Either way the retrain reads
the episode's state again, so a second event, or a second ``--act``, does nothing.
"""

import argparse
import base64
import sys
from pathlib import Path

import httpx
from prefect import flow, get_run_logger
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.events import emit_event
from prefect.exceptions import PrefectException
from prefect.states import Completed, Failed, State

from flows.automation import DRIFT_OPENED, RETRAIN_REQUESTED
from flows.notifications import notify
from flows.pages import plain
from flows.server import command
from flows.tasks import step
from monitoring.watch import Outcome, wake
from pipeline import clock
from pipeline.artifacts import Workspace
from pipeline.errors import StateError, VisionloopError
from pipeline.params import Params
from pipeline.serving import address, answering


@flow(name="watch", persist_result=False)
def watch(act: bool = False, draw: bool = True) -> State:
    """Look at what the log holds since the last wake-up.

    Args:
        act: where the decision is `retrain` or `release`, do it here, instead of asking for it by an event.
        draw: bring the dashboard up to date too; a later wake-up draws what this one leaves out.
    """
    logger = get_run_logger()
    workspace = Workspace.here()
    try:
        params = Params.load(workspace.params)
        outcome = step("wake", lambda: wake(workspace, params, now=clock.now(), draw=draw))
    except VisionloopError as error:
        return Failed(message=str(error))
    logger.info("%s: %s", outcome.decision, outcome.reason)
    if outcome.report_error is not None:
        logger.warning("the dashboard was not drawn: %s", outcome.report_error)
    create_markdown_artifact(markdown=_page(outcome), key="watch", description=plain(outcome.decision))
    if outcome.decision == "drift_open" and (sheet := _sheet(outcome)) is not None:
        # A page from http:// may not open file://, so the picture itself goes along.
        picture = base64.b64encode(sheet.read_bytes()).decode("ascii")
        create_image_artifact(image_url=f"data:image/png;base64,{picture}", key="contact-sheet")
    if outcome.decision == "rolled_back" and outcome.episode is not None:
        _ask_service(params, outcome.episode.champion)
    if outcome.retrain and act and outcome.episode is not None:
        from flows.retrain import as_our_own, retrain  # which is seldom

        notify(workspace, now=clock.now())
        return as_our_own(retrain(outcome.reason, outcome.episode.id, release=True, return_state=True))
    _tell(outcome)
    notify(workspace, now=clock.now())
    _expire(workspace, params)
    return Completed(message=f"{outcome.decision}: {outcome.reason}")


def _ask_service(params: Params, champion: str) -> None:
    """The pointer is back; a running service keeps the bundle that it started with."""
    try:
        get_run_logger().info("%s", answering(address(params.serve)).against(champion))
    except StateError as error:
        get_run_logger().warning("%s", error)


def _page(outcome: Outcome) -> str:
    """What changed, in words, and where the rest lies."""
    lines = [f"# {plain(outcome.decision)}", "", plain(outcome.reason), ""]
    lines += [f"- {name}: {plain(value)}" for name, value in _details(outcome) if value is not None]
    return "\n".join(lines) + "\n"


def _details(outcome: Outcome) -> list[tuple[str, object]]:
    episode, sheet = outcome.episode, _sheet(outcome)
    return [
        ("Champion", outcome.champion and outcome.champion[:12]),
        ("New windows", len(outcome.windows)),
        ("Episode", episode and f"{episode.id} ({episode.state})"),
        ("What changed", outcome.explanation),
        ("Pictures, production beside held-out images", sheet),
        ("Label queue", outcome.queue),
    ]


def _sheet(outcome: Outcome) -> Path | None:
    """The episode's contact sheet, where there is one."""
    sheet = outcome.evidence and outcome.evidence / "contact-sheet.png"
    return sheet if sheet and sheet.is_file() else None


def _tell(outcome: Outcome) -> None:
    """One event for what others may act on; without a server to take it, nothing happens."""
    # A retrain that finds its release begun goes on with that.
    name = {"drift_open": DRIFT_OPENED, "retrain": RETRAIN_REQUESTED, "release": RETRAIN_REQUESTED}.get(
        outcome.decision
    )
    if name is None or outcome.episode is None:
        return
    payload = {
        "episode": outcome.episode.id,
        "reason": outcome.reason,
        "explanation": outcome.explanation or "",
    }
    resource = {"prefect.resource.id": f"visionloop.champion.{outcome.champion}"}
    emit_event(event=name, resource=resource, payload=payload)
    get_run_logger().info("sent the event %s for episode %s", name, outcome.episode.id)


def _expire(workspace: Workspace, params: Params) -> None:
    """Releases that nobody answered for; a server that is busy is asked again at the next look."""
    from flows import approval

    try:
        for name in approval.expire(workspace, params, now=clock.now()):
            get_run_logger().info("nobody answered the release %s in time: it is not approved", name)
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("releases that wait for approval were not looked at: %s", error)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.watch", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--act", action="store_true", help="retrain (and release on PROMOTE) where that is decided"
    )
    parser.add_argument("--no-dashboard", action="store_true", help="leave the drawing to a later wake-up")
    options = parser.parse_args(arguments)
    draw = not options.no_dashboard
    return command(lambda: 0 if watch(act=options.act, draw=draw, return_state=True).is_completed() else 1)


if __name__ == "__main__":
    sys.exit(main())
