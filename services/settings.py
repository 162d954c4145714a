"""What a service process runs with: params, state folder, bundle. Where each comes from, in order:

params   a built Bento's own copy; else params.yaml of the current folder
bundle   VISIONLOOP_BUNDLE (a folder); else the one packed into the Bento; else the registry's champion
log      VISIONLOOP_HOME; else ``var/`` below the current folder
token    VISIONLOOP_TOKEN; without it the service asks for none
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import Workspace
from pipeline.bundle import Bundle, Form
from pipeline.errors import IntegrityError, ParamsError, StateError
from pipeline.params import Params
from pipeline.registry import Registry

SOURCE = Path(__file__).resolve().parent.parent
PACKED = SOURCE / "packed"  # in a built Bento: bundle/ and params.yaml


@dataclass(frozen=True)
class Settings:
    """``problem`` is why the service can't start; it is raised when it is about to, not at import."""

    params: Params
    problem: str | None = None

    @classmethod
    def load(cls) -> "Settings":
        try:
            return cls(Params.load(PACKED / "params.yaml" if PACKED.is_dir() else Workspace.here().params))
        except ParamsError as error:
            return cls(Params(), str(error))


def workspace() -> Workspace:
    """Where the log goes and the registry lies.

    Raises:
        StateError: that would be inside the built Bento, which stays as it was built.
    """
    here = Workspace.here()
    if PACKED.is_dir() and here.home.resolve().is_relative_to(SOURCE.parent):
        raise StateError(
            f"the prediction log would go into the built Bento ({here.home}): set VISIONLOOP_HOME to another folder"
        )
    return here


def bundle_path(place: Workspace) -> Path:
    """The folder of the bundle to answer with.

    Raises:
        StateError: there is no champion yet.
    """
    if chosen := os.environ.get("VISIONLOOP_BUNDLE"):
        return Path(chosen).absolute()
    if PACKED.is_dir():
        return PACKED / "bundle"
    registry = Registry(place.registry)
    champion = registry.champion()
    if champion is None:
        raise StateError(
            f"no champion in {place.registry}: `python -m flows.release` promotes one, or set VISIONLOOP_BUNDLE "
            "to a bundle's folder (artifacts/bundle)"
        )
    return registry.bundle_path(champion.digest)


def open_bundle(path: Path, threads: int, form: Form = "onnx") -> Bundle:
    """Load a bundle's network of ``serve.format``; one from the registry must be what its folder is named after.

    Raises:
        IntegrityError: a file has changed, there is no such network, or the preprocessing is another one here.
    """
    bundle = Bundle.load(path, threads=threads, form=form)
    if path.parent.name == "bundles" and bundle.digest != path.name:
        raise IntegrityError(f"{path / 'bundle.json'} has changed: its sha256 is {bundle.digest[:12]}…")
    return bundle


def token() -> str | None:
    """The bearer token that clients must show, or None.

    Raises:
        ParamsError: VISIONLOOP_TOKEN is set, but empty: somebody believes that the service is protected.
    """
    value = os.environ.get("VISIONLOOP_TOKEN")
    if value is not None and not value.strip():
        raise ParamsError(
            "VISIONLOOP_TOKEN is set but empty: give it a value, or unset it to ask for no token"
        )
    return value
