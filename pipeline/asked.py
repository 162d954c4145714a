"""Which bundles are asked about held-out images, and the mark that they leave on a table of their answers."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import artifacts
from pipeline.artifacts import Workspace
from pipeline.bundle import NETWORKS, Bundle, Form
from pipeline.errors import DataError, StateError
from pipeline.registry import Registry

__all__ = ["ORIGIN", "as_served", "pinned", "pinned_champion", "read_origin"]

ORIGIN = b"visionloop"  # the metadata key that says which bundle answered


def read_origin(path: Path) -> dict[str, Any]:
    """{"bundle": digest, "classes": [...]} of a table of predictions; empty where no bundle made it.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
        return dict(json.loads(metadata.get(ORIGIN, b"{}")))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: run `dvc repro evaluate` first") from error
    except (pa.ArrowInvalid, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}): run `dvc repro -f evaluate`") from error


def pinned(workspace: Workspace) -> str | None:
    """The digest that champion-pin.json names; None where it names nobody.

    Raises:
        DataError: champion-pin.json is missing, or of another shape.
    """
    pin = artifacts.read_json(workspace.champion_pin)
    if not isinstance(pin, dict) or "digest" not in pin:
        raise DataError('champion-pin.json must be {"digest": ...}: run `python -m pipeline.registry pin`')
    digest: str | None = pin["digest"]
    return digest


def pinned_champion(workspace: Workspace) -> Path | None:
    """The bundle that champion-pin.json names; None where it names nobody.

    Raises:
        DataError: champion-pin.json is of another shape.
        StateError: the registry does not hold the pinned bundle.
    """
    digest = pinned(workspace)
    if digest is None:
        return None
    path = Registry(workspace.registry).bundle_path(digest)
    if not path.is_dir():
        raise StateError(
            f"champion-pin.json names {digest[:12]}…, which is not in {workspace.registry}: set VISIONLOOP_HOME to "
            "the folder that holds it, or run `python -m pipeline.registry pin` to compare with the champion here"
        )
    return path


def as_served(path: Path, form: Form) -> Bundle:
    """A champion answers as it would be served: by its network of ``serve.format``, where it has one."""
    return Bundle.load(path, form=form if (path / NETWORKS[form]).exists() else "onnx")
