"""Make a released bundle again, from nothing but what it was made from, and certify what came out.

    python -m pipeline reproduce release/0123456789ab        # or a digest, or a Bento's tag

Its commit is checked out into a fresh folder, the parameters and labels of its recipe are laid over it, images
that DVC tracks are fetched and re-hashed, and `dvc repro gate` computes every stage anew, with empty caches.
``certificate.json`` says bit-equal, equal within tolerance, or diverged, and from which artifact on.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

from pipeline import assignments
from pipeline.artifacts import SPLIT, Workspace, read_table, write_json
from pipeline.certificate import DIVERGED, certify, summary
from pipeline.errors import StateError
from pipeline.params import Params
from pipeline.recipe import Recipe, find
from pipeline.registry import Registry
from pipeline.stored import dvc_files

TAIL = 2000  # characters of a command's output in an error


def run(workspace: Workspace, name: str, into: Path | None) -> int:
    """Reproduce the bundle ``name`` below ``into`` (default: var/reproductions); 0, or 1 where it diverged.

    Raises:
        StateError: the bundle, its commit or its images are not to be had, or a stage failed.
    """
    recipe = find(workspace, name)
    place = _place(workspace, recipe, into)
    started = time.perf_counter()
    fresh = Workspace(place / "workspace", place / "workspace/var")
    _clone(workspace, recipe, fresh.root)
    images = _fetch(workspace, fresh)
    _bring_state(workspace, recipe, fresh)
    _bring_assignments(recipe, fresh)
    print(f"reproduce: dvc repro gate, in {fresh.root}", flush=True)
    _dvc(fresh.root, "repro", "--no-run-cache", "gate")
    certificate = certify(workspace, recipe, fresh)
    certificate |= {
        "images": images,
        "seconds": round(time.perf_counter() - started, 1),
        "folder": str(place),
    }
    write_json(place / "certificate.json", certificate)
    print(summary(certificate))
    print(f"{place / 'certificate.json'} holds it all", flush=True)
    return 1 if certificate["outcome"] == DIVERGED else 0


def _place(workspace: Workspace, recipe: Recipe, into: Path | None) -> Path:
    """An empty folder: our own is cleared, anybody else's is not."""
    place = (into or workspace.home / "reproductions" / recipe.digest[:12]).absolute()
    if into is None and place.exists():
        shutil.rmtree(place)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise StateError(f"{place} is not empty: name a folder that is not there yet with --into")
    place.mkdir(parents=True, exist_ok=True)
    return place


def _clone(workspace: Workspace, recipe: Recipe, root: Path) -> None:
    """The commit, and the recipe's inputs over it; without dvc.lock, so that nothing counts as made already."""
    # Shared: also a commit that no branch reaches any more is there.
    _run(
        workspace.root,
        "git",
        "clone",
        "--quiet",
        "--shared",
        "--no-checkout",
        str(workspace.root.resolve()),
        str(root),
    )
    _run(root, "git", "checkout", "--quiet", "--detach", recipe.commit)
    for name in recipe.inputs:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(recipe.folder / name, root / name)
    (root / "dvc.lock").unlink(missing_ok=True)


def _fetch(workspace: Workspace, fresh: Workspace) -> dict[str, str]:
    """The images that no stage makes, and relative weights: path → where they came from.

    Raises:
        StateError: they are neither in DVC's cache or remote nor in the workspace.
    """
    local = workspace.root / ".dvc/config.local"
    if local.exists():  # addresses and credentials of remotes
        shutil.copyfile(local, fresh.root / ".dvc/config.local")
    _dvc(fresh.root, "config", "--local", "cache.dir", str(fresh.root / ".dvc/cache"))
    origin = dict.fromkeys(_pull(workspace, fresh), "DVC")
    params = Params.load(fresh.params)
    stages = yaml.safe_load((fresh.root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    made = [
        str(out)
        for stage in stages.values()
        for out in stage.get("do", stage).get("outs", [])
        if isinstance(out, str)
    ]
    for name in filter(
        None,
        [
            *(source.path for source in params.data.sources),
            params.model.weights,
            params.model.prior,
            params.train.target,
        ],
    ):
        inside = not Path(name).is_absolute() and not any(Path(name).is_relative_to(out) for out in made)
        if inside and not (fresh.root / name).exists() and (workspace.root / name).exists():
            _copy(workspace.root / name, fresh.root / name)
            origin[name] = (
                "the workspace: neither git nor DVC tracks it, so only its digests in the manifest vouch for it"
            )
    return origin


def _pull(workspace: Workspace, fresh: Workspace) -> list[str]:
    """What the .dvc files name, from the workspace's cache or the default remote; objects are re-hashed."""
    pointers = dvc_files(fresh.root)
    if not pointers:
        return []
    cache = _dvc(workspace.root, "cache", "dir").strip()
    _dvc(fresh.root, "remote", "add", "--local", "--force", "workspace-cache", str(workspace.root / cache))
    _dvc(fresh.root, "config", "--local", "remote.workspace-cache.verify", "true")
    try:
        _dvc(fresh.root, "pull", "--remote", "workspace-cache", *pointers)
    except StateError:
        _dvc(fresh.root, "pull", *pointers)
    return [pointer.removesuffix(".dvc") for pointer in pointers]


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    else:
        shutil.copytree(source, target)


def _bring_state(workspace: Workspace, recipe: Recipe, fresh: Workspace) -> None:
    """The pinned champion, which the verdict compares with, and the choice of arithmetic, which is a measurement."""
    pinned = yaml.safe_load(fresh.champion_pin.read_text(encoding="utf-8"))["digest"]
    if pinned is not None:
        Registry(fresh.registry).add(Registry(workspace.registry).bundle_path(pinned))
    if recipe.arithmetic.is_dir():
        shutil.copytree(recipe.arithmetic, fresh.cache / "speed")


def _bring_assignments(recipe: Recipe, fresh: Workspace) -> None:
    """data/assignments.csv as it was before that split, which kept places and gave new ones to the rest."""
    after = recipe.folder / "data/assignments.csv"
    if not after.exists():
        return
    rows = read_table(recipe.folder / "artifacts/split.parquet", SPLIT).to_pylist()
    new = {row["image_id"] for row in rows if row["reason"] in ("assigned", "joined")}
    before = [place for place in assignments.load(after) if place.image_id not in new]
    if before:
        assignments.save(fresh.assignments, before)


def _dvc(root: Path, *arguments: str) -> str:
    return _run(root, sys.executable, "-m", "dvc", *arguments)


def _run(root: Path, *command: str) -> str:
    """The command's standard output; it sees this environment's programs and no state but its folder's own."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("VISIONLOOP_HOME", "PYTHONPATH", "DVC_ROOT")
    } | {"PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = " ".join(command[2:] if command[0] == sys.executable else command)
        raise StateError(f"`{words}` failed in {root}:\n{(done.stdout + done.stderr).strip()[-TAIL:]}")
    return done.stdout
