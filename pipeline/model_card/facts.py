"""All that a card is made from, read from the workspace."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline import artifacts
from pipeline.artifacts import Workspace, digest_file
from pipeline.errors import DataError
from pipeline.params import Params

__all__ = ["Facts", "gather"]


@dataclass(frozen=True)
class Facts:
    """All that a card is made from."""

    digest: str
    info: dict[str, Any]  # bundle.json
    verdict: dict[str, Any]
    metrics: dict[str, Any]
    params: Params
    manifest: pa.Table | None  # of the images that it was made from; None where they are not on record here
    split: pa.Table | None
    approval: str | None  # why a person released it in spite of an undecided verdict


def gather(workspace: Workspace, params: Params, digest: str, approval: str | None = None) -> Facts:
    """Read the facts about the bundle ``digest`` in the workspace.

    A manifest or split that is not the one that the bundle names is left out: its counts are not this network's.

    Raises:
        DataError: a report is missing or damaged.
    """
    info = artifacts.read_json(workspace.bundle / "bundle.json")
    digests = info.get("digests", {})

    def read(name: str, schema: pa.Schema) -> pa.Table | None:
        path = getattr(workspace, name)
        fits = path.exists() and digest_file(path) == digests.get(name)
        return artifacts.read_table(path, schema) if fits else None

    verdict = artifacts.read_json(workspace.verdict)
    if verdict["challenger"] != digest:
        raise DataError(
            f"{workspace.verdict} is about another bundle than {digest[:12]}: run `dvc repro gate`"
        )
    return Facts(
        digest=digest,
        info=info,
        verdict=verdict,
        metrics=artifacts.read_json(workspace.metrics),
        params=params,
        manifest=read("manifest", artifacts.MANIFEST),
        split=read("split", artifacts.SPLIT),
        approval=approval,
    )
