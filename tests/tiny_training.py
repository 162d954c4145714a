"""A workspace ready to train in seconds: noisy stripes and dots at 48 px, and a small network's weights."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.artifacts import MANIFEST, SPLIT, Workspace, write_json, write_table
from pipeline.images import decode, statistics

CLASSES = ("across", "dots", "down")
SIDE = 48
ARCHITECTURE = "mobilenetv3_small_050"


def picture(label: str, generator: np.random.Generator) -> bytes:
    """A PNG of 60 x 52 px that a linear probe on random features tells apart most of the time."""
    y, x = np.mgrid[0:52, 0:60]
    phase = generator.integers(0, 12)
    pattern = {
        "across": (y + phase) // 6 % 2,
        "down": (x + phase) // 6 % 2,
        "dots": ((x + phase) // 6 % 2) * ((y + phase) // 6 % 2),
    }[label]
    pixels = 90 + 70 * pattern[..., None] + generator.normal(0, 16, (52, 60, 3))
    stream = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def make(
    root: Path, weights: Path | str, *, per_class: int = 24, train: dict[str, Any] | None = None
) -> Workspace:
    """Images, manifest, split, balance and params.yaml; in each class 1/6 validate and 1/6 test."""
    workspace = Workspace(root, root / "var")
    generator = np.random.default_rng(0)
    rows = []
    for label in CLASSES:
        (root / "images" / label).mkdir(parents=True)
        for number in range(per_class):
            data = picture(label, generator)
            path = root / "images" / label / f"{number:03}.png"
            path.write_bytes(data)
            rows.append(_row(data, path.relative_to(root).as_posix(), label, number))
    write_table(workspace.manifest, _table(rows, MANIFEST))
    write_table(workspace.split, _table(rows, SPLIT))
    support = {
        "train": per_class * 4 // 6,
        "validation": per_class // 6,
        "test": per_class // 6,
        "weight": 1.0,
    }
    write_json(workspace.balance, {"plan": "none", "classes": dict.fromkeys(CLASSES, support)})
    params = {"model": {"weights": str(weights)}, "train": {"budget_seconds": 0} | (train or {})}
    workspace.params.write_text(json.dumps(params), encoding="utf-8")
    return workspace


def save_weights(folder: Path) -> Path:
    """A timm local-dir with seeded random weights, its own preprocessing and a classifier of 7 classes.

    Its BatchNorm statistics are measured on pictures, so that its random features have a sound scale.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = timm.create_model(ARCHITECTURE, num_classes=7, pad_type="same")
    generator = np.random.default_rng(1)
    shown = [
        Image.open(io.BytesIO(picture(CLASSES[n % 3], generator))).resize((SIDE, SIDE)) for n in range(48)
    ]
    pixels = torch.from_numpy(np.stack(shown).transpose(0, 3, 1, 2) / np.float32(127.5) - 1) * 2
    with torch.no_grad():
        for _ in range(30):
            model.train()(pixels)
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 7,
        "model_args": {"pad_type": "same"},
        "pretrained_cfg": {
            "input_size": [3, SIDE, SIDE],
            "interpolation": "bilinear",
            "crop_pct": 0.96,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "num_classes": 7,
            "classifier": "classifier",
            "license": "apache-2.0",
        },
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _row(data: bytes, path: str, label: str, number: int) -> dict[str, Any]:
    decoded = decode(data)
    image_id = hashlib.sha256(data).hexdigest()
    return {
        "image_id": image_id,
        "path": path,
        "label": label,
        "domain": "drawn",
        "group": image_id,
        "split": ("train", "train", "train", "train", "validation", "test")[number % 6],
        "reason": "assigned",
        "width": decoded.width,
        "height": decoded.height,
        "mode": decoded.mode,
        "format": decoded.format,
        "bytes": len(data),
        **statistics(decoded.image),
    }


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema)
