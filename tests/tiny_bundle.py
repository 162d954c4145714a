"""A whole bundle in milliseconds: a real ONNX network that looks at an image's mean colour."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.artifacts import digest_file
from pipeline.transforms import Preprocessing

CLASSES = ("red", "green", "blue")
PREPROCESSING = Preprocessing(
    image_size=32, resize=36, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
)


def make(folder: Path, *, gain: float = 4.0, classes: tuple[str, ...] = CLASSES) -> str:
    """Write a bundle that names the strongest channel, the surer the larger ``gain``; its digest."""
    folder.mkdir(parents=True)
    onnx.save(_network(gain, len(classes)), folder / "model.onnx")
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    info = {
        "format": 1,
        "classes": list(classes),
        "preprocessing": PREPROCESSING.to_dict(),
        "fingerprint": PREPROCESSING.fingerprint(),
        "temperature": 1.0,
        "embedding_size": 3,
        "strategy": "probe",
        "backbone": "mean-colour",
        "files": {name: digest_file(folder / name) for name in ("model.onnx", "model.safetensors")},
    }
    (folder / "bundle.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    return digest_file(folder / "bundle.json")


def _network(gain: float, classes: int) -> onnx.ModelProto:
    head = np.zeros((3, classes), dtype=np.float32)
    np.fill_diagonal(head, gain)
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
        [numpy_helper.from_array(head, "head")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
