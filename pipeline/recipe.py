"""What a released bundle can be made again from, kept at its release: ``var/registry/recipes/<digest>/``.

The code is a commit; the images are DVC's or lie where params.yaml says. What is neither, and what the result
is compared with, is copied here: parameters, pin, labels, the choice of arithmetic, predictions, metrics. And what the
bundle said of corrupted images, by which the watch knows how far its accuracy without labels may be off.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import STRESS_TABLE, Workspace, atomic_path, read_json, write_json
from pipeline.environment import environment
from pipeline.errors import StateError
from pipeline.params import Params
from pipeline.registry import Registry
from pipeline.stored import dvc_files

INPUTS = ("params.yaml", "champion-pin.json", "data/labels.csv")  # and every *.dvc file
EXPECTED = (
    "dvc.lock",
    "data/assignments.csv",
    "artifacts/split.parquet",
    "artifacts/predictions.parquet",
    "reports/metrics.json",
)


@dataclass(frozen=True)
class Recipe:
    """One bundle's. ``inputs`` are put into a checkout of ``commit``, ``folder`` holds what is expected."""

    digest: str
    folder: Path
    commit: str
    inputs: list[str]
    environment: dict[str, Any]

    @property
    def arithmetic(self) -> Path:
        """The records of ``cache/speed``: which precision and layout were measured to be the fastest."""
        return self.folder / "speed"


def keep(workspace: Workspace) -> None:
    """Copy what belongs to ``artifacts/bundle`` into its recipe; called when it is released."""
    from pipeline.bundle import verify

    target = Registry(workspace.registry).recipe_path(verify(workspace.bundle))
    pointers = dvc_files(workspace.root)
    inputs = [name for name in (*INPUTS, *pointers) if (workspace.root / name).exists()]
    for name in (*inputs, *EXPECTED, STRESS_TABLE):
        if (workspace.root / name).exists():
            _copy(workspace.root / name, target / name)
    for path in (workspace.cache / "speed").glob("*.json"):
        _copy(path, target / "speed" / path.name)
    write_json(target / "recipe.json", {"inputs": inputs, "environment": environment()})


def find(workspace: Workspace, name: str) -> Recipe:
    """The recipe of a bundle by its digest (or how it begins), by its git tag or by its Bento's tag.

    Raises:
        StateError: there is no such bundle or recipe, or it was made of code that no commit holds.
    """
    start = name.removeprefix("release/").removeprefix("visionloop:").split("-")[0].lower()
    registry = Registry(workspace.registry)
    found = [digest for digest in registry.digests() if digest.startswith(start)]
    if len(found) != 1 or len(start) < 6:
        known = ", ".join(digest[:12] for digest in found or registry.digests()) or "none"
        raise StateError(
            f"{name!r} names {len(found)} bundles of {registry.folder}; give a digest (6 digits or more), a tag "
            f"release/<digest> or a Bento's tag, of one of: {known}"
        )
    digest = found[0]
    folder = registry.recipe_path(digest)
    if not (folder / "recipe.json").exists():
        raise StateError(
            f"{digest[:12]} has no recipe in {folder}: `python -m flows.release` keeps one when it releases, so this bundle "
            "came in otherwise and can't be made again from here"
        )
    _require_its_params(folder, registry, digest)
    kept = read_json(folder / "recipe.json")
    return Recipe(digest, folder, _commit(workspace, registry, digest), kept["inputs"], kept["environment"])


def _require_its_params(folder: Path, registry: Registry, digest: str) -> None:
    from pipeline.transfer.papers import params_digest

    found = params_digest(Params.load(folder / "params.yaml"))
    if found != read_json(registry.bundle_path(digest) / "bundle.json")["digests"]["params"]:
        raise StateError(
            f"{folder / 'params.yaml'} is not what {digest[:12]} was made with: it was changed between `dvc repro` and the "
            "release. Put the file that it was made with in its place"
        )


def _commit(workspace: Workspace, registry: Registry, digest: str) -> str:
    code = read_json(registry.bundle_path(digest) / "bundle.json").get("code") or {}
    if not code.get("commit"):
        raise StateError(
            f"{digest[:12]} was made outside of a git checkout: bundle.json names no commit, so its code is lost"
        )
    if code.get("dirty"):
        raise StateError(
            f"{digest[:12]} was made from changes to pipeline/ or dvc.yaml that were not committed (on top of "
            f"{code['commit'][:12]}): that code can't be restored. Commit before `dvc repro`, then it can"
        )
    known = subprocess.run(
        ["git", "cat-file", "-e", f"{code['commit']}^{{commit}}"], cwd=workspace.root, capture_output=True, check=False
    )  # fmt: skip
    if known.returncode != 0:
        raise StateError(
            f"{digest[:12]} was made from the commit {code['commit'][:12]}, which {workspace.root} does not have: `git fetch`, "
            "or run this in the checkout that it comes from"
        )
    return str(code["commit"])


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
