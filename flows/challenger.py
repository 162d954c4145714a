"""What may be released: the bundle in artifacts/, if the verdict about it says so and nothing has changed since."""

from dataclasses import dataclass
from typing import Any

from flows import lineage
from flows.pages import against
from pipeline.artifacts import Workspace, read_json
from pipeline.bundle import verify
from pipeline.errors import DataError, RefusedError
from pipeline.locked import lock_fault
from pipeline.params import Params
from pipeline.registry import Registry
from pipeline.rejudged import verdict_fault


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
            not what dvc.lock names or what the evidence gives when it is judged again; or nobody has approved it
            who would have to.
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
    fault = verdict_fault(workspace, Params.load(workspace.params), verdict)
    if fault:
        raise RefusedError(
            f"reports/verdict.json does not follow from the evidence: {fault}. --approve does not cover that: run "
            "`dvc repro -f gate`"
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


def _short(digest: object) -> str:
    return digest[:12] if isinstance(digest, str) else "nobody"
