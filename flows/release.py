"""Make the challenger champion, if the verdict says so: ``python -m flows.release``.

    python -m flows.release                        # acts on PROMOTE, refuses anything else
    python -m flows.release --approve "<why>"      # takes INSUFFICIENT_EVIDENCE upon yourself, on record
    prefect deployment run release/release         # where a person has to say so, waits for an answer in Prefect's UI

The Bento is built and started in a sandbox, and real images are put to it; only when it answers as the
bundle did offline does the champion pointer move. Releasing whoever is champion already does nothing.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, Failed, State

from flows import approval, lineage
from flows.notifications import notify
from flows.pages import against, plain, verdict_page
from flows.sandbox import ask, golden_images, sandbox
from flows.scratch import scratch
from flows.server import command
from flows.tasks import step
from monitoring.journal import Journal, mark_promoted
from pipeline import recipe
from pipeline.artifacts import Workspace, read_json, write_json
from pipeline.bundle import verify
from pipeline.errors import DataError, RefusedError, StateError, VisionloopError
from pipeline.locked import lock_fault
from pipeline.model_card.card import card, gather
from pipeline.params import Params
from pipeline.registry import Registry
from pipeline.serving import address, answering

Say = Callable[[int, str], None]  # a level of logging, and a sentence
_ALREADY = "{} is the champion already: nothing to do"


@dataclass(frozen=True)
class Challenger:
    """What may be released: a bundle, the verdict about it, and the champion that it was judged against."""

    digest: str
    verdict: dict[str, Any]
    champion: str | None
    approved: dict[str, str] | None

    @property
    def is_champion(self) -> bool:
        return self.digest == self.champion


def examine(
    workspace: Workspace, approve: str | None = None, *, by: str | None = None, always: bool = False
) -> Challenger:
    """The challenger, if it may be released.

    Args:
        approve: why to release in spite of a verdict of INSUFFICIENT_EVIDENCE.
        by: who says so (default: whoever runs this).
        always: ``release.approval: required``: a verdict of PROMOTE needs a person's word too.

    Raises:
        RefusedError: the verdict is not PROMOTE (and not approved), is about another bundle or champion, or is
            not what dvc.lock names; or nobody has approved it who would have to.
        IntegrityError: artifacts/bundle is damaged.
    """
    verdict = _verdict(workspace)
    digest = verify(workspace.bundle)
    champion = Registry(workspace.registry).champion()
    standing = champion.digest if champion else None
    if verdict["challenger"] != digest:
        raise RefusedError(
            f"the verdict is about {str(verdict['challenger'])[:12]}, artifacts/bundle is {digest[:12]}: run "
            "`python -m flows.retrain` (or `dvc repro`), so that what is judged is what ships"
        )
    if digest == standing:
        return Challenger(digest, verdict, standing, None)
    fault = lock_fault(workspace)
    if fault:
        raise RefusedError(
            f"{fault}: it was changed after `dvc repro`, or never came from it; run `dvc repro gate`"
        )
    _check_decision(verdict, approve)
    if verdict["champion"] != standing:
        raise RefusedError(
            f"the verdict compares with {_short(verdict['champion'])}, but the champion is {_short(standing)}: run "
            "`python -m flows.retrain`, which judges against the champion of now"
        )
    if always and not (approve or "").strip():
        raise RefusedError(
            'release.approval is required: `python -m flows.release --approve "<why>"`, or '
            "`prefect deployment run release/release`, which waits for an answer in Prefect's UI"
        )
    needed = always or verdict["decision"] == "INSUFFICIENT_EVIDENCE"
    approved = {"by": by or lineage.account(), "why": str(approve)} if needed else None
    return Challenger(digest, verdict, standing, approved)


def _verdict(workspace: Workspace) -> dict[str, Any]:
    verdict = read_json(workspace.verdict)
    missing = {"decision", "challenger", "champion", "checks"} - set(
        verdict if isinstance(verdict, dict) else ()
    )
    if missing:
        raise DataError(f"{workspace.verdict} lacks {sorted(missing)}: run `dvc repro -f gate`")
    return dict(verdict)


def _check_decision(verdict: dict[str, Any], approve: str | None) -> None:
    open_checks = against(verdict)
    names = ", ".join(f"{check['name']} ({check['outcome']})" for check in open_checks)
    if verdict["decision"] == "REJECT":
        raise RefusedError(
            f"the verdict is REJECT: {names}. It is not released, with or without --approve: "
            "reports/verdict.json says what would have to change"
        )
    if verdict["decision"] == "PROMOTE" and not open_checks:
        return
    if verdict["decision"] != "INSUFFICIENT_EVIDENCE":
        raise RefusedError(
            f"reports/verdict.json says {verdict['decision']!r}, which does not follow from its checks "
            f"({names or 'none stands against it'}): run `dvc repro -f gate`"
        )
    broken = [check["name"] for check in open_checks if check.get("kind") == "integrity"]
    if broken:
        raise RefusedError(
            f"{', '.join(broken)} did not pass, which --approve does not cover: run `dvc repro`"
        )
    if approve is None or not approve.strip():
        raise RefusedError(
            f"the verdict is INSUFFICIENT_EVIDENCE: {names}. Collect more test images, or take it upon "
            'yourself with `python -m flows.release --approve "<why>"`, which is put on record'
        )


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
        by = None
        verdict = None if approve else _to_approve(workspace, params)
        answer = approval.given(workspace, verdict) if verdict else None
        if verdict and answer is None:
            if not approval.can_wait():
                return approval.hand_over(workspace, verdict, why)
            answer = approval.ask(workspace, verdict)
        if answer is not None:
            if not answer.approved:
                return Completed(message=f"not approved by {answer.name}: {answer.why}")
            approve, by = answer.why, f"{answer.name}, at the form of {lineage.account()}"
        always = params.release.approval == "required"
        challenger = step("examine", lambda: examine(workspace, approve, by=by, always=always))
        if challenger.is_champion:
            _settle(workspace, params, challenger.digest, get_run_logger().log)
            return Completed(message=_ALREADY.format(challenger.digest[:12]))
        with scratch(workspace) as place:
            return _release(
                workspace,
                params,
                challenger,
                challenger.approved["why"] if challenger.approved else why,
                place,
            )
    except VisionloopError as error:
        return Failed(message=str(error))


def _to_approve(workspace: Workspace, params: Params) -> dict[str, Any] | None:
    """The verdict that a person has to decide about; None where none has to.

    Raises:
        RefusedError: nobody's word would help.
    """
    challenger = examine(workspace, "awaited", always=params.release.approval == "required")
    return challenger.verdict if challenger.approved else None


def _release(workspace: Workspace, params: Params, challenger: Challenger, why: str, place: Path) -> State:
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

    worst = step("sandbox", try_out)
    logger.info("%d golden images answered as offline, largest difference %.2g", len(golden), worst)
    by = lineage.account()
    tried = {"images": len(golden), "largest_error": worst}
    # Before the pointer moves: whoever is champion has a recipe, and a record of where it came from.
    step("recipe", lambda: recipe.keep(workspace))
    lineage.record(
        workspace, challenger.verdict, bento=bento, sandbox=tried, by=by, why=why,
        approved=challenger.approved, before=challenger.champion,
    )  # fmt: skip
    step("promote", lambda: registry.promote(digest, by=by, why=why, expect=challenger.champion))
    _settle(workspace, params, digest, logger.log)
    notify(workspace, now=datetime.now(UTC))
    _ask_service(params, digest)
    message = f"{digest[:12]} is champion: {bento}"
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
    _close_episode(workspace, digest)
    if params.release.git_commit:
        _commit(workspace, digest, say)


def _ask_service(params: Params, digest: str) -> None:
    """A release stands whoever answers meanwhile; a service that is still on the old bundle is worth a warning."""
    try:
        get_run_logger().info("%s", answering(address(params.serve)).against(digest))
    except StateError as error:
        get_run_logger().warning("%s", error)


def _close_episode(workspace: Workspace, digest: str) -> None:
    """The drift episode that this challenger was trained for has its answer."""
    if not workspace.journal.exists():
        return
    with Journal(workspace.journal) as journal:
        episode = journal.open_episode()
        if episode is not None and (episode.state == "training" or episode.challenger == digest):
            mark_promoted(journal, episode.id, challenger=digest, now=datetime.now(UTC))


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


def _short(digest: object) -> str:
    return digest[:12] if isinstance(digest, str) else "nobody"


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
        challenger = examine(workspace, options.approve, always=params.release.approval == "required")
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
