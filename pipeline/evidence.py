"""All that a verdict is made from, read from disk: the only part of the gate that does."""

import contextlib
import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from safetensors import SafetensorError, safe_open

from pipeline import artifacts, leak, peeks
from pipeline.artifacts import REFERENCE, REFERENCES, STRESS, Workspace, digest_file
from pipeline.asked import pinned, read_origin
from pipeline.bundle import Form, verify
from pipeline.errors import DataError, IntegrityError
from pipeline.params import Params
from pipeline.registry import Registry
from pipeline.slices import Masks, slices

__all__ = ["Evidence", "gather", "without_copies"]

Head = tuple[np.ndarray, np.ndarray]  # weight [classes, width], bias [classes]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a verdict is made from; the tables of predictions are of the PREDICTIONS schema."""

    challenger: str  # the bundle's digest
    damage: str | None  # why the bundle is not what its digest says
    info: dict[str, Any]  # bundle.json
    form: Form  # of its networks, the one that is served and was judged
    references: dict[str, pa.Table]  # by form: what its networks answered when it was sealed
    head: Head | None  # of model.safetensors
    sources: dict[str, str]  # digests of what lies here: manifest, split
    predictions: pa.Table
    origin: dict[str, Any]  # which bundle made the predictions, with which classes
    metrics: dict[str, Any]
    validation: dict[str, Any]
    champion: str | None  # the pinned digest
    champion_predictions: pa.Table
    champion_origin: dict[str, Any]
    champion_labels: dict[str, str]  # image_id → label, when it was sealed
    masks: Masks  # slices of the test images, in the order of ``predictions``
    stress: pa.Table  # of the STRESS schema
    stress_origin: dict[str, Any]
    performance: dict[str, Any]
    leak: str | None  # what shows that the network has seen test images
    alike: frozenset[str]  # paths of test images that are set aside, since they look like ones trained on
    peek: int  # the how manyth challenger this is on these test images
    champion_info: dict[str, Any] = field(default_factory=dict)  # its bundle.json
    past: dict[str, int] = field(
        default_factory=dict
    )  # images trained on that have left the data: see leak.past_counts


def without_copies(evidence: Evidence) -> Evidence:
    """The evidence but for the test images that look like ones trained on."""
    if not evidence.alike:
        return evidence
    paths, splits = (
        np.array(evidence.predictions[name].to_pylist(), dtype=object) for name in ("path", "split")
    )
    kept = ~np.isin(paths, sorted(evidence.alike)) | (splits != "test")
    tests = kept[splits == "test"]
    masks = {
        kind: {name: rows[tests] for name, rows in found.items()} for kind, found in evidence.masks.items()
    }
    masks = {
        kind: {name: rows for name, rows in found.items() if rows.any()} for kind, found in masks.items()
    }
    return replace(evidence, predictions=evidence.predictions.filter(pa.array(kept)), masks=masks)


def gather(workspace: Workspace, params: Params) -> Evidence:
    """Read the evidence; a damaged bundle is part of it. The look at the test images is put on record.

    Raises:
        DataError: a file is missing, damaged or of another shape.
    """
    try:
        challenger, damage = verify(workspace.bundle), None
        info = artifacts.read_json(workspace.bundle / "bundle.json")
    except IntegrityError as error:
        raw = workspace.bundle / "bundle.json"
        challenger = hashlib.sha256(raw.read_bytes()).hexdigest() if raw.exists() else "missing"
        damage, info = str(error), {}
    champion = pinned(workspace)
    predictions = artifacts.read_table(workspace.predictions, artifacts.PREDICTIONS)
    test = predictions.filter(pc.equal(predictions["split"], "test"))
    copies = artifacts.read_json(workspace.leak)
    leaked = leak.fault(copies, artifacts.read_table(workspace.split, artifacts.SPLIT), challenger)
    sources = [source.path for source in params.data.sources]
    manifest = artifacts.read_table(workspace.manifest, artifacts.MANIFEST)
    return Evidence(
        challenger=challenger,
        damage=damage,
        info=info,
        form=params.serve.format,
        references={} if damage else _references(workspace),
        head=None if damage else _head(workspace),
        sources={name: digest_file(getattr(workspace, name)) for name in ("manifest", "split")},
        predictions=predictions,
        origin=read_origin(workspace.predictions),
        metrics=artifacts.read_json(workspace.metrics),
        validation=artifacts.read_json(workspace.validation),
        champion=champion,
        champion_predictions=artifacts.read_table(workspace.champion_predictions, artifacts.PREDICTIONS),
        champion_origin=read_origin(workspace.champion_predictions),
        champion_labels=_labels(workspace, champion),
        masks=slices(test, manifest, params.gate.slices, sources),
        stress=artifacts.read_table(workspace.stress, STRESS),
        stress_origin=read_origin(workspace.stress),
        performance=_performance(workspace),
        leak=leaked,
        alike=frozenset() if leaked else frozenset(leak.alike(copies)),  # of a file that is as it was written
        peek=0 if damage else peeks.count(workspace, challenger, test["image_id"].to_pylist()),
        champion_info=_champion_info(workspace, champion),
        past={} if leaked else leak.past_counts(copies),
    )


def _references(workspace: Workspace) -> dict[str, pa.Table]:
    return {
        form: artifacts.read_table(workspace.bundle / name, REFERENCE)
        for form, name in REFERENCES.items()
        if (workspace.bundle / name).exists()
    }


def _labels(workspace: Workspace, champion: str | None) -> dict[str, str]:
    if champion is None:
        return {}
    path = Registry(workspace.registry).bundle_path(champion) / REFERENCES["onnx"]
    if not path.exists():
        return {}
    table = artifacts.read_table(path, REFERENCE)
    return dict(zip(table["image_id"].to_pylist(), table["label"].to_pylist(), strict=True))


def _champion_info(workspace: Workspace, champion: str | None) -> dict[str, Any]:
    path = Registry(workspace.registry).bundle_path(champion) / "bundle.json" if champion else None
    return dict(artifacts.read_json(path)) if path and path.exists() else {}


def _head(workspace: Workspace) -> Head | None:
    """The linear head of model.safetensors; None where it holds none."""
    with contextlib.suppress(SafetensorError, OSError):
        with safe_open(workspace.bundle / "model.safetensors", framework="numpy") as tensors:
            weight, bias = (tensors.get_tensor(f"head.{name}") for name in ("weight", "bias"))
        return weight.astype(np.float64), bias.astype(np.float64)
    return None


def _performance(workspace: Workspace) -> dict[str, Any]:
    measured = artifacts.read_json(workspace.performance)
    if not isinstance(measured, dict) or not measured.keys() >= {"challenger", "champion"}:
        raise DataError(f"{workspace.performance} is of another shape: run `dvc repro -f performance`")
    return measured
