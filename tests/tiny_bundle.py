"""A whole bundle in milliseconds: a real ONNX network that looks at an image's mean colour."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.numpy import save_file

from pipeline.artifacts import STATISTICS, digest_file, write_table
from pipeline.bundle import Bundle, open_session
from pipeline.reference import reference_table
from pipeline.transforms import Preprocessing

CLASSES = ("red", "green", "blue")
PREPROCESSING = Preprocessing(
    image_size=32, resize=36, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
)


def make(
    folder: Path,
    *,
    gain: float = 4.0,
    classes: tuple[str, ...] = CLASSES,
    int8: bool = False,
    held_out: Sequence[tuple[Path, dict[str, Any]]] = (),
    **info: Any,
) -> str:
    """Write a bundle that names the strongest channel, the surer the larger ``gain``; its digest.

    With ``int8``, a second network lies where the quantised one would: the same one, a little less sure.
    ``held_out``: images with their rows of the split, which its reference is made of. ``info``: other
    entries of bundle.json.
    """
    folder.mkdir(parents=True)
    onnx.save(_network(gain, len(classes)), folder / "model.onnx")
    if int8:
        onnx.save(_network(gain * 0.99, len(classes)), folder / "model.int8.onnx")
    head = np.ascontiguousarray(_head(gain, len(classes)).T)
    save_file(
        {"head.weight": head, "head.bias": np.zeros(len(classes), np.float32)}, folder / "model.safetensors"
    )
    papers: dict[str, Any] = {
        "format": 1,
        "classes": list(classes),
        "preprocessing": PREPROCESSING.to_dict(),
        "fingerprint": PREPROCESSING.fingerprint(),
        "temperature": 1.0,
        "embedding_size": 3,
        "strategy": "probe",
        "backbone": "mean-colour",
        "validation": {"method": "temperature"},
        "parity": {"error": 1e-6, "limit": 1e-3},
        "weights": {"digest": "w" * 64, "licence": "MIT"},
        "digests": dict.fromkeys(("params", "lock", "weights"), "d" * 64),
        "code": {"commit": "e" * 40, "dirty": False},
    } | info
    if held_out:
        _write_reference(folder, papers, held_out)
    files = sorted(path.name for path in folder.iterdir())
    papers["files"] = {name: digest_file(folder / name) for name in files}
    (folder / "bundle.json").write_text(json.dumps(papers, indent=2) + "\n", encoding="utf-8")
    return digest_file(folder / "bundle.json")


def _write_reference(
    folder: Path, papers: dict[str, Any], held_out: Sequence[tuple[Path, dict[str, Any]]]
) -> None:
    draft = Bundle(folder, "", papers | {"files": {}}, open_session(folder, papers, 1))
    views = np.stack([PREPROCESSING.view(Image.open(path)) for path, _ in held_out])
    measured = dict.fromkeys(STATISTICS, 0.5) | {"width": 40, "height": 40}
    rows = [measured | row for _, row in held_out]
    write_table(
        folder / "reference.parquet", reference_table(rows, draft.predict(views), views, draft.classes)
    )


def _head(gain: float, classes: int) -> np.ndarray:
    head = np.zeros((3, classes), dtype=np.float32)
    np.fill_diagonal(head, gain)
    return head


def _network(gain: float, classes: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "head"], ["logits"]),
    ]
    size = PREPROCESSING.image_size
    graph = helper.make_graph(
        nodes,
        "mean-colour",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, size, size])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 3]),
        ],
        [numpy_helper.from_array(_head(gain, classes), "head")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
