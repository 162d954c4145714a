"""Make the challenger champion, if the verdict says so: ``python -m flows.release``.

    python -m flows.release                        # acts on PROMOTE, refuses anything else
    python -m flows.release --approve "<why>"      # takes INSUFFICIENT_EVIDENCE upon yourself, on record
    prefect deployment run release/release         # where a person has to say so, waits for an answer in Prefect's UI

The Bento is built and started in a sandbox, and real images are put to it; only when it answers as the
bundle did offline does the champion pointer move. With ``release.shadow_images`` the challenger first answers so
many requests beside the champion, unseen: the release ends there, and goes on when it is run again (the watch
does). Releasing whoever is champion already does nothing.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, Failed, State

from flows import approval, lineage
from flows.challenger import Challenger, examine
from flows.first_profile import keep_first_profile
from flows.notifications import notify
from flows.pages import plain, verdict_page
from flows.releasing import approval_of, close, leased, leave_to_a_person
from flows.sandbox import ask, golden_images, sandbox
from flows.scratch import scratch
from flows.server import command
from flows.shadow import beside
from flows.tasks import step
from monitoring.episodes import promoting
from monitoring.journal import Journal
from monitoring.leases import Lease
from monitoring.shadow import end, requested
from pipeline import clock, recipe
from pipeline.artifacts import Workspace, read_json, write_json
from pipeline.errors import StateError, VisionloopError
from pipeline.model_card.card import card, gather
from pipeline.params import Params
from pipeline.registry import Registry
from pipeline.serving import address, answering

__all__ = ["Challenger", "examine", "main", "release"]

Say = Callable[[int, str], None]  # a level of logging, and a sentence
_ALREADY = "{} is the champion already: nothing to do"


@flow(name="release", persist_result=False)
def release(why: str = "released on demand", approve: str | None = None) -> State:
    """Build, try and promote the challenger of reports/verdict.json; Failed, in plain words, if it may not be.

    Args:
        why: the reason, for the registry's history and the release's record.
        approve: why to release in spite of a verdict of INSUFFICIENT_EVIDENCE, or where ``release.approval``
            asks for a person's word. Without it, a deployed run waits for somebody to give it.
    """
    workspace = Workspace.here()
    try:
        params = Params.load(workspace.params)
        approve, by = approve or approval_of(workspace), None
        if not approve:
            word = _word(workspace, params, why)
            if isinstance(word, State):
                return word
            approve, by = word
        always = params.release.approval == "required"
        challenger = step("examine", lambda: examine(workspace, approve, by=by, always=always))
        if challenger.is_champion:
            _settle(workspace, params, challenger.digest, get_run_logger().log)
            return Completed(message=_ALREADY.format(challenger.digest[:12]))
        why = challenger.approved["why"] if challenger.approved else why
        with scratch(workspace) as place, leased(workspace, challenger.digest) as lease:
            if requested(workspace) != challenger.digest:
                _try(workspace, params, challenger, why, place)
            waiting = beside(workspace, params, challenger, lease, approve)
            return (
                Completed(message=waiting) if waiting else _promote(workspace, params, challenger, why, lease)
            )
    except VisionloopError as error:
        return Failed(message=str(error))


def _word(workspace: Workspace, params: Params, why: str) -> tuple[str | None, str | None] | State:
    """A person's reason and name, None where none is needed; or how the release ends for want of them.

    Raises:
        RefusedError: nobody's word would help.
    """
    challenger = examine(workspace, "awaited", always=params.release.approval == "required")
    if challenger.approved is None:
        return None, None
    answer = approval.given(workspace, challenger.verdict)
    if answer is None:
        leave_to_a_person(workspace, challenger.digest)
        if not approval.can_wait():
            return approval.hand_over(workspace, challenger.verdict, why)
        answer = approval.ask(workspace, challenger.verdict)
    if not answer.approved:
        return Completed(message=f"not approved by {answer.name}: {answer.why}")
    return answer.why, f"{answer.name}, at the form of {lineage.account()}"


def _try(workspace: Workspace, params: Params, challenger: Challenger, why: str, place: Path) -> None:
    """Build the Bento and put real images to it; then everything is there that a champion needs."""
    logger = get_run_logger()
    digest, registry, store = challenger.digest, Registry(workspace.registry), workspace.home / "bentoml"
    golden = step("golden images", lambda: golden_images(workspace, params))
    step("register", lambda: registry.add(workspace.bundle))
    about = step("model card", lambda: _card(workspace, params, challenger))
    bento = step("build", lambda: _build(workspace, params, about, place))
    logger.info("built %s", bento)
    settings = params.release

    def try_out() -> float:
        with sandbox(bento, store, seconds=settings.sandbox_timeout_seconds, scratch=place) as url:
            return ask(url, golden, digest=digest, limit=settings.max_golden_error)

    def told(worst: float | None, fault: str = "") -> dict[str, Any]:
        limit, images = settings.max_golden_error, len(golden)
        return lineage.infra_validation(
            workspace, digest, bento=bento, images=images, limit=limit, worst=worst, fault=fault
        )

    try:
        worst = step("sandbox", try_out)
    except VisionloopError as error:
        told(None, str(error))
        raise
    logger.info("%d golden images answered as offline, largest difference %.2g", len(golden), worst)
    by, tried = lineage.account(), told(worst)
    # Before the pointer moves: whoever is champion has a recipe, and a record of where it came from.
    step("recipe", lambda: recipe.keep(workspace))
    lineage.record(
        workspace, challenger.verdict, bento=bento, sandbox=tried, by=by, why=why,
        approved=challenger.approved, before=challenger.champion,
    )  # fmt: skip


def _promote(
    workspace: Workspace, params: Params, challenger: Challenger, why: str, lease: Lease | None
) -> State:
    digest, registry, by = challenger.digest, Registry(workspace.registry), lineage.account()

    def move() -> None:
        if lease is None:
            registry.promote(digest, by=by, why=why, expect=challenger.champion)
            return
        with Journal(workspace.journal) as journal:
            fence = promoting(journal, lease, challenger=digest, now=clock.now())
            registry.promote(digest, by=by, why=why, expect=challenger.champion, fence=fence)

    step("promote", move)
    if requested(workspace) == digest:
        end(workspace)
    _settle(workspace, params, digest, get_run_logger().log)
    notify(workspace, now=clock.now())
    _ask_service(params, digest)
    message = f"{digest[:12]} is champion: {read_json(lineage.record_path(workspace, digest))['bento']}"
    page = f"# {plain(message)}\n\n{plain(why)}\n\n{verdict_page(challenger.verdict)}"
    create_markdown_artifact(markdown=page, key="release", description=plain(message))
    return Completed(message=message)


def _card(workspace: Workspace, params: Params, challenger: Challenger) -> str:
    approval = challenger.approved["why"] if challenger.approved else None
    return card(gather(workspace, params, challenger.digest, approval))


def _build(workspace: Workspace, params: Params, about: str, place: Path) -> str:
    from services.bento import build

    return build(workspace.bundle, workspace, params, about, scratch=place)


def _settle(workspace: Workspace, params: Params, digest: str, say: Say) -> None:
    """What follows once ``digest`` is champion; done again where a kill came in between."""
    close(workspace, digest)
    keep_first_profile(workspace, digest, say)
    if params.release.git_commit:
        _commit(workspace, digest, say)


def _ask_service(params: Params, digest: str) -> None:
    """A release stands whoever answers meanwhile; a service that is still on the old bundle is worth a warning."""
    try:
        get_run_logger().info("%s", answering(address(params.serve)).against(digest))
    except StateError as error:
        get_run_logger().warning("%s", error)


def _commit(workspace: Workspace, digest: str, say: Say) -> None:
    """A release stands without its commit: what keeps git from it is said, not raised."""
    target = lineage.record_path(workspace, digest)
    if not target.exists() or read_json(target)["git"] is not None:
        return
    try:
        done = lineage.commit(workspace, digest)
    except StateError as error:
        say(logging.WARNING, str(error))
        return
    write_json(target, read_json(target) | {"git": done})
    say(logging.INFO, f"committed dvc.lock and tagged it {done['tag']}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m flows.release", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--why", default="released on demand", help="kept in the registry's history")
    parser.add_argument(
        "--approve", metavar="WHY", help="release where a person has to say so, with you and WHY on record"
    )
    options = parser.parse_args(arguments)
    workspace = Workspace.here()
    try:  # neither a refusal nor a release that is done already has a server to wait for
        params = Params.load(workspace.params)
        always = params.release.approval == "required"
        challenger = examine(workspace, options.approve or approval_of(workspace), always=always)
        if challenger.is_champion:
            _settle(workspace, params, challenger.digest, lambda _, text: print(text))
            print(_ALREADY.format(challenger.digest[:12]))
            return 0
    except VisionloopError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    return command(lambda: 0 if release(**vars(options), return_state=True).is_completed() else 1)


if __name__ == "__main__":
    sys.exit(main())
