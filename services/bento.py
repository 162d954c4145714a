"""Builds the Bento: the service's code, the serving params and one bundle, nothing that learns.

    python -m services.bento artifacts/bundle        # prints the tag

    BENTOML_HOME=var/bentoml bentoml serve <tag>     # or the folder; VISIONLOOP_HOME says where the log goes
    BENTOML_HOME=var/bentoml bentoml containerize <tag>

The version is made of the bundle's digest and of everything else that goes in, so the same content gives
the same tag and is built once. BENTOML_HOME lies outside of the folder that is built: inside, BentoML
would copy its own store into the Bento.
"""

import argparse
import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import yaml

from pipeline.artifacts import Workspace, digest_file
from pipeline.bundle import verify
from pipeline.errors import IntegrityError, StateError, VisionloopError
from pipeline.params import Params

__all__ = ["build", "environment", "folder"]

NAME = "visionloop"
CARD = "packed/MODEL_CARD.md"
SOURCE = Path(__file__).resolve().parent.parent
PIPELINE = (
    "__init__", "answers", "artifacts", "bundle", "clock", "errors", "history", "image_statistics", "images",
    "lock", "look", "metadata", "params", "registry", "telemetry", "transforms",
)  # fmt: skip
PACKAGES = ("bentoml", "fastapi", "numpy", "onnxruntime", "pillow", "pyarrow", "python-multipart", "pyyaml")
HOME_IN_CONTAINER = "/home/bentoml/visionloop"


def build(
    bundle: Path,
    workspace: Workspace,
    params: Params,
    card: str | None = None,
    *,
    scratch: Path | None = None,
) -> str:
    """Build the Bento of ``bundle`` into the workspace's store; its tag, ``visionloop:<version>``.

    Args:
        card: the model card, Markdown; it becomes the Bento's README.md, which BentoML shows as its description.
        scratch: the folder of temporary files (default: the system's).

    Raises:
        IntegrityError: the bundle is damaged.
        StateError: BentoML could not build; its own words are in the message.
    """
    digest = verify(bundle)
    with tempfile.TemporaryDirectory(prefix="visionloop-bento-", dir=scratch) as name:
        stage = Path(name)
        _stage(stage, bundle, digest, params, card)
        names = _files(stage)
        content = _digest(stage, [*names, Path("bentofile.yaml")])
        tag = f"{NAME}:{digest[:12]}-{content[:8]}"
        built = folder(workspace, tag)
        if built.exists():
            if (built / "bento.yaml").exists() and _digest(built / "src", names) == _digest(stage, names):
                return tag
            shutil.rmtree(built)  # a build that was killed
        said = _bentoml_build(
            stage, tag.split(":")[1], environment(workspace) | {"TMPDIR": str(stage.parent)}
        )
        if said is not None or not built.exists():
            raise StateError(f"BentoML could not build {tag}:\n{(said or '').strip()[-2000:]}")
    if verify(built / "src/packed/bundle") != digest:
        raise IntegrityError(f"{built}: the packed bundle is not the one that was given; build it again")
    return tag


def _bentoml_build(stage: Path, version: str, environment: dict[str, str]) -> str | None:
    """`bentoml build` in ``stage``; what it said where it failed. It does not outlive this process."""
    command = [sys.executable, "-m", "bentoml", "build", "--version", version, "--output", "tag", "."]
    guarded = [sys.executable, "-I", str(SOURCE / "pipeline/guard.py"), *command]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            guarded, cwd=stage, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
        with process:  # closes the guard's standard input at the end, whatever happens
            code = process.wait()
        output.seek(0)
        return output.read().decode(errors="replace") if code else None


def folder(workspace: Workspace, tag: str) -> Path:
    """Where the built Bento lies; `bentoml serve` takes it as well as the tag."""
    return _store(workspace) / "bentos" / tag.replace(":", "/")


def environment(workspace: Workspace) -> dict[str, str]:
    """This process's environment, with the workspace's own BentoML store."""
    return os.environ | {"BENTOML_HOME": str(_store(workspace))}


def _store(workspace: Workspace) -> Path:
    return workspace.home / "bentoml"


def _stage(stage: Path, bundle: Path, digest: str, params: Params, card: str | None) -> None:
    """Everything that goes into the Bento, and the bentofile that says so."""
    (stage / "services").mkdir()
    for path in (SOURCE / "services").glob("*.py"):
        if path.name != Path(__file__).name:
            shutil.copyfile(path, stage / "services" / path.name)
    for name in PIPELINE:
        whole = SOURCE / "pipeline" / name
        for path in sorted(whole.glob("*.py")) if whole.is_dir() else [whole.with_suffix(".py")]:
            copy = stage / path.relative_to(SOURCE)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
    shutil.copytree(bundle, stage / "packed/bundle")
    serving = {"serve": dataclasses.asdict(params.serve), "log": dataclasses.asdict(params.log)}
    (stage / "packed/params.yaml").write_text(yaml.safe_dump(serving, sort_keys=False), encoding="utf-8")
    about = (
        card
        or f"# visionloop {digest[:12]}\n\nBuilt without a model card: `python -m flows.release` packs one.\n"
    )
    (stage / CARD).write_text(about, encoding="utf-8")
    options = {
        "service": "services.classifier:Classifier",
        "name": NAME,
        "labels": {"bundle": digest[:12]},
        "description": f"file:{CARD}",
        "include": ["services/*.py", "pipeline/**/*.py", "packed/**"],
        "python": {"packages": [f"{name}=={version(name)}" for name in PACKAGES], "lock_packages": False},
        "docker": {
            "distro": "debian",
            "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        },
        # For the image alone, in which BentoML's non-root user serves: what listens there leaves the
        # container only through a port that somebody publishes.
        "envs": [
            {"name": "BENTOML_HOST", "value": "0.0.0.0"},  # noqa: S104
            {"name": "VISIONLOOP_HOME", "value": HOME_IN_CONTAINER},
        ],
    }
    (stage / "bentofile.yaml").write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")


def _files(stage: Path) -> list[Path]:
    """What goes in as it is; BentoML writes the bentofile anew."""
    found = [path.relative_to(stage) for path in stage.rglob("*") if path.is_file()]
    return sorted(path for path in found if path.name != "bentofile.yaml")


def _digest(root: Path, names: list[Path]) -> str:
    """sha256 over the names and contents of these files below ``root``."""
    total = hashlib.sha256()
    for name in names:
        found = digest_file(root / name) if (root / name).is_file() else "missing"
        total.update(f"{name.as_posix()} {found}\n".encode())
    return total.hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Build from the command line; 0 and the tag, or 1 and why not."""
    parser = argparse.ArgumentParser(
        prog="python -m services.bento", description="Build the Bento of a bundle."
    )
    parser.add_argument(
        "bundle", type=Path, nargs="?", help="the bundle's folder (default: artifacts/bundle)"
    )
    options = parser.parse_args(arguments)
    workspace = Workspace.here()
    try:
        print(build(options.bundle or workspace.bundle, workspace, Params.load(workspace.params)))
    except VisionloopError as error:
        print(f"bento: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
