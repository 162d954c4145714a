"""What a released bundle came from: ``var/registry/releases/<digest>.json``, and a commit and tag in git.

Whether its built Bento answered stands in it as a check, ``infra_validation``, beside the verdict's; of the last
try, released or refused, in ``<digest>.infra.json``.
"""

import getpass
import socket
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.artifacts import Workspace, digest_file, read_json, write_json
from pipeline.checks import Check
from pipeline.errors import StateError

# What a retrain itself writes into the checkout; a release commits these and nothing else.
OURS = ("dvc.lock", "champion-pin.json", "data/labels.csv", "data/labelled.dvc", "data/expectations.json")


def account() -> str:
    """Who runs this: user@host."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def record_path(workspace: Workspace, digest: str) -> Path:
    return workspace.registry / "releases" / f"{digest}.json"


def infra_validation(
    workspace: Workspace,
    digest: str,
    *,
    bento: str,
    images: int,
    limit: float,
    worst: float | None,
    fault: str,
) -> dict[str, Any]:
    """Write down how the built Bento answered, whatever comes of the release; returns it, a check and its Bento.

    Args:
        images: golden images that were put to it.
        limit: ``release.max_golden_error``.
        worst: the largest difference of a probability; None where it did not answer as offline.
        fault: what it did instead.
    """
    check = Check(
        "infra_validation", "fail" if fault else "pass", worst, None, limit, images,
        "a Bento that starts and answers as the bundle did offline: `python -m flows.release`" if fault
        else f"a difference of a probability of more than {limit:g}",
        kind="integrity", detail=fault or "the built Bento answered as offline",
    )  # fmt: skip
    tried = asdict(check) | {"bento": bento, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(workspace.registry / "releases" / f"{digest}.infra.json", tried)
    return tried


def record(
    workspace: Workspace, verdict: dict[str, Any], *, bento: str, sandbox: dict[str, Any], by: str, why: str,
    approved: dict[str, str] | None, before: str | None,
) -> Path:  # fmt: skip
    """Write down what the release of the verdict's challenger rests on; returns where.

    Args:
        bento: its tag in ``var/bentoml``.
        sandbox: what :func:`infra_validation` wrote.
        approved: who took a verdict of INSUFFICIENT_EVIDENCE upon themselves, and why.
        before: the champion that it takes over from.
    """
    digest = verdict["challenger"]
    bundle = read_json(workspace.bundle / "bundle.json")
    lock = workspace.root / "dvc.lock"
    target = record_path(workspace, digest)
    write_json(
        target,
        {
            "digest": digest,
            "bento": bento,
            "prepared": datetime.now(UTC).isoformat(timespec="seconds"),
            "by": by,
            "why": why,
            "approved": approved,
            "before": before,
            "commit": head(workspace.root),
            "lock": digest_file(lock) if lock.exists() else None,
            "params": digest_file(workspace.params),
            "bundle": {
                name: bundle.get(name) for name in ("strategy", "backbone", "digests", "code", "weights")
            },
            "verdict": verdict,
            "sandbox": sandbox,
            "git": None,
        },
    )
    return target


def commit(workspace: Workspace, digest: str) -> dict[str, str]:
    """Commit dvc.lock and the tracked files beside it, and tag the commit ``release/<digest>``.

    Returns:
        {"commit", "tag"}; the same again where it was done before.

    Raises:
        StateError: the folder is not the root of a git checkout, or something else has changed in it.
    """
    root = workspace.root
    if _git(root, "rev-parse", "--show-toplevel") != str(root.resolve()):
        raise StateError(f"{root} is not the root of a git checkout: nothing was committed")
    changed = [line[3:] for line in _git(root, "status", "--porcelain", "--untracked-files=all").splitlines()]
    others = [name for name in changed if name not in OURS]
    if others:
        raise StateError(
            f"the checkout has other changes ({', '.join(others[:5])}{', …' if len(others) > 5 else ''}), so dvc.lock "
            "was not committed: commit or stash them, then run `python -m flows.release` again"
        )
    if changed:
        _git(root, "add", "--", *changed)
        message = f"Release {digest[:12]}\n\nBundle {digest}\nPromoted by `python -m flows.release`."
        _git(root, *_identity(root), "commit", "--quiet", "--message", message, "--", *changed)
    tag = f"release/{digest[:12]}"
    if not _git(root, "tag", "--list", tag):
        _git(root, "tag", tag)
    return {"commit": _git(root, "rev-parse", "HEAD"), "tag": tag}


def head(root: Path) -> str | None:
    """The commit that is checked out, None outside of git."""
    try:
        return _git(root, "rev-parse", "HEAD")
    except StateError:
        return None


def _identity(root: Path) -> list[str]:
    """Git refuses to commit without a name; where none is set, ours."""
    try:
        _git(root, "config", "user.email")
    except StateError:
        return ["-c", "user.name=visionloop", "-c", "user.email=visionloop@localhost"]
    return []


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except OSError as error:
        raise StateError(f"git can't be run in {root}: {error}") from error
    if done.returncode != 0:
        raise StateError(f"`git {' '.join(arguments)}` failed in {root}: {done.stderr.strip()}")
    return done.stdout.rstrip("\n")
