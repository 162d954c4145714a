"""A workspace with a champion, its reference and a prediction log, for the tests of monitoring.

Images are small real PNGs; embeddings are drawn around class centres, so that no network is needed.
"""

import hashlib
import io
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, PngImagePlugin

from monitoring.journal import Journal
from pipeline.artifacts import (
    REFERENCE,
    STATISTICS,
    Workspace,
    encode_embedding,
    encode_log_row,
    write_json,
    write_table,
)
from pipeline.images import LOOKS, decode, look, statistics
from pipeline.metadata import stripped
from pipeline.params import Label, Log, Params, Watch

CLASSES = ("clean", "pit", "scratch")
START = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
SIZE = 16
"""Of the embeddings."""


@dataclass(frozen=True)
class Shot:
    """One image as the world makes it and as the model sees it."""

    data: bytes
    image_id: str
    label: str
    embedding: np.ndarray
    probabilities: np.ndarray
    numbers: dict[str, float]
    look: dict[str, float]


class World:
    """Draws images of three classes; ``dark`` and ``novel`` shift them."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.centres = np.random.default_rng(99).normal(0, 2.0, (len(CLASSES), SIZE))

    def shot(self, *, dark: float = 1.0, novel: float = 0.0, label: str | None = None) -> Shot:
        index = CLASSES.index(label) if label else int(self.rng.choice(3, p=[0.5, 0.3, 0.2]))
        tone = self.rng.normal(0.55 + 0.05 * index, 0.06) * dark
        field = np.kron(self.rng.normal(0, 0.22, (8, 8)), np.ones((5, 5))) + self.rng.normal(
            0, 0.05, (40, 40)
        )
        pixels = np.clip((tone + field * dark)[:, :, None] * np.array([1.0, 0.9, 0.75]), 0, 1)
        stream = io.BytesIO()
        picture = Image.fromarray((pixels * 255).astype(np.uint8))
        picture.save(stream, format="PNG")
        data = stream.getvalue()
        embedding = self.centres[index] + self.rng.normal(0, 0.5, SIZE) + novel
        logits = -((embedding - self.centres) ** 2).sum(axis=1) / 4
        probabilities = np.exp(logits - logits.max())
        numbers = statistics(picture) | {"width": 40, "height": 40}
        chance = probabilities / probabilities.sum()
        seen = look(picture)
        return Shot(data, hashlib.sha256(data).hexdigest(), CLASSES[index], embedding, chance, numbers, seen)


PATH = ("dataset_frozen", "training", "evaluating", "infra_validating", "promoted", "observing")


def walked(journal: Journal, episode_id: str, state: str, *, now: datetime, **changes: Any) -> None:
    """Lead an episode that is on its way to ``state``, by every state in between."""
    episode = journal.episode(episode_id)
    for name in PATH[PATH.index(episode.state) + 1 : PATH.index(state) + 1]:
        episode = journal.move(episode, name, now=now, **changes)


def commented(shot: Shot, comment: str) -> Shot:
    """The same picture in a file that also holds a comment."""
    stream, text = io.BytesIO(), PngImagePlugin.PngInfo()
    text.add_text("Comment", comment)
    Image.open(io.BytesIO(shot.data)).save(stream, format="PNG", pnginfo=text)
    return replace(shot, data=stream.getvalue(), image_id=hashlib.sha256(stream.getvalue()).hexdigest())


def workspace_at(root: Path) -> Workspace:
    workspace = Workspace(root, root / "var")
    workspace.labels.parent.mkdir(parents=True, exist_ok=True)
    workspace.labels.write_text("image_id,path,label,domain,group,split,labelled_by,time\n", encoding="utf-8")
    return workspace


def params_for_tests(**watch: Any) -> Params:
    return Params(
        watch=Watch(**{"window": 50, "min_window": 20, "permutations": 99} | watch),
        label=Label(budget=20, min_labels=10),
        log=Log(),
    )


def promote(workspace: Workspace, shots: list[Shot], name: str = "first", since: datetime = START) -> str:
    """Make a champion of a fake bundle whose reference holds ``shots``; returns its digest."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    folder = workspace.registry / "bundles" / digest
    write_json(folder / "bundle.json", {"format": 1, "classes": list(CLASSES)})
    write_table(
        folder / "reference.parquet", pa.Table.from_pylist([_reference(shot) for shot in shots], REFERENCE)
    )
    write_json(
        workspace.registry / "champion.json",
        {"digest": digest, "since": since.isoformat(), "by": "test", "why": name},
    )
    return digest


def _reference(shot: Shot) -> dict[str, Any]:
    return {
        "image_id": shot.image_id,
        "domain": "line-a",
        "group": shot.image_id,
        "label": shot.label,
        "predicted": CLASSES[int(shot.probabilities.argmax())],
        "probabilities": shot.probabilities.tolist(),
        "embedding": shot.embedding.tolist(),
        "width": 40,
        "height": 40,
        "look": [shot.look[name] for name in LOOKS],
        "thumbnail": shot.data,
    } | {name: shot.numbers[name] for name in STATISTICS}


def log_row(
    shot: Shot, model: str, request_id: str, time: datetime, *, source: str, kept: bool
) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "time": time.isoformat(),
        "model": model,
        "image_id": shot.image_id,
        "label": CLASSES[int(shot.probabilities.argmax())],
        "abstain": False,
        "probabilities": {name: float(p) for name, p in zip(CLASSES, shot.probabilities, strict=True)},
        "embedding": encode_embedding(shot.embedding),
        "statistics": shot.numbers,
        "source": source,
        "kept": f"{shot.image_id[:2]}/{shot.image_id}.png" if kept else None,
        "seconds": 0.01,
    }


def answer(
    workspace: Workspace,
    model: str,
    shots: list[Shot],
    *,
    start: datetime = START,
    writer: str = "w-0",
    source: str = "line-a",
    kept: bool = True,
) -> None:
    """Append the service's rows for the shots, a second apart, and keep their images."""
    for number, shot in enumerate(shots):
        time = start + timedelta(seconds=number)
        segment = workspace.log / f"{time:%Y-%m-%d}" / f"{writer}.log"
        segment.parent.mkdir(parents=True, exist_ok=True)
        request_id = f"{writer}-{time.timestamp():.0f}-{number}"
        row = log_row(shot, model, request_id, time, source=source, kept=kept)
        data, extension = stripped(shot.data, decode(shot.data)) if kept else (b"", "")
        if kept:
            digest = hashlib.sha256(data).hexdigest()
            row["kept"] = f"{digest[:2]}/{digest}{extension}"
        with segment.open("ab") as stream:
            stream.write(encode_log_row(row))
        if kept:
            image = workspace.log / "images" / row["kept"]
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(data)
