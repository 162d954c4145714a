"""Faults of weights, preprocessing and bundles, for the fire drill."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
from onnx import helper, numpy_helper
from safetensors.numpy import load_file, save_file

import pipeline
from flows.drill_workspace import Drill, Fault
from pipeline.artifacts import PREDICTIONS, REFERENCE, digest_file, read_json, read_table, write_table
from pipeline.registry import Registry
from pipeline.transfer.calibration import fit_temperature
from pipeline.transforms import Preprocessing

__all__ = ["FAULTS", "worse"]

HEAD = ("head.weight", "head.bias")
BUNDLED = Path(pipeline.__file__).parent / "weights/bundled"


def _checkpoint(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Drill], None]:
    """Other weights in the checkpoint, with the digest that goes with them."""

    def plant(drill: Drill) -> None:
        folder = drill.workspace.checkpoint
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        (folder / "model.safetensors").unlink()
        save_file(tensors, folder / "model.safetensors")
        info = read_json(folder / "checkpoint.json") | {"sha256": digest_file(folder / "model.safetensors")}
        drill.replace(folder / "checkpoint.json", json.dumps(info).encode())

    return plant


def _nan(tensors: dict[str, np.ndarray]) -> None:
    name = next(name for name in tensors if name.endswith("weight") and name not in HEAD)
    tensors[name] = tensors[name].copy()
    tensors[name].flat[0] = np.nan


def _permuted(tensors: dict[str, np.ndarray]) -> None:
    for name in HEAD:
        tensors[name] = np.roll(tensors[name], 1, axis=0).copy()


def _forgotten(tensors: dict[str, np.ndarray]) -> None:
    """A somewhat worse model: noise on the head, as a training that was stopped too early."""
    weight = tensors["head.weight"]
    noise = np.random.default_rng(0).normal(0, 1.0, weight.shape).astype(weight.dtype)
    tensors["head.weight"] = weight + 0.35 * noise * weight.std()


def _network(change: Callable[[onnx.ModelProto], None]) -> Callable[[Drill], None]:
    """Another ONNX network in the bundle, sealed again."""

    def plant(drill: Drill) -> None:
        path = drill.workspace.bundle / "model.onnx"
        model = onnx.load(path)
        change(model)
        path.unlink()
        onnx.save(model, path)
        drill.seal()

    return plant


def _other_arguments(drill: Drill) -> None:
    """The weights' config.json lost a model argument: they load strictly, into other strides and paddings."""
    folder = drill.workspace.root / "weights"
    shutil.copytree(BUNDLED, folder)
    config = read_json(folder / "config.json")
    del config["model_args"]["output_stride"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    drill.params(model={"weights": "weights"})


def _padding(model: onnx.ModelProto) -> None:
    """The padded convolutions pad on one side, as TensorFlow's do."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Conv" and attribute.name == "pads" and any(attribute.ints):
                top, left, bottom, right = attribute.ints
                attribute.ints[:] = [0, 0, top + bottom, left + right]


def _slow(model: onnx.ModelProto) -> None:
    """A long detour on the way to the logits, which adds nothing to them."""
    size = 640
    graph = model.graph
    weight = np.full((size, size), 1 / size, dtype=np.float32)
    graph.initializer.append(numpy_helper.from_array(weight, "detour"))
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "nothing"))
    graph.initializer.append(numpy_helper.from_array(np.ones((size, 1), np.float32), "column"))
    last = next(node for node in graph.node if "logits" in node.output)
    last.output[list(last.output).index("logits")] = "direct"
    nodes = [
        helper.make_node("ReduceMean", ["direct"], ["start"], keepdims=1),
        helper.make_node("Mul", ["column", "start"], ["tall"]),
        helper.make_node(
            "Mul", ["detour", "tall"], ["way0"]
        ),  # depends on the image: can't be computed beforehand
    ]
    steps = 12
    nodes += [helper.make_node("MatMul", [f"way{i}", "detour"], [f"way{i + 1}"]) for i in range(steps)]
    nodes += [
        helper.make_node("ReduceMean", [f"way{steps}"], ["end"], keepdims=0),
        helper.make_node("Mul", ["end", "nothing"], ["zero"]),
        helper.make_node("Add", ["direct", "zero"], ["logits"]),
    ]
    graph.node.extend(nodes)


def _large(model: onnx.ModelProto) -> None:
    """40 MB that nothing reads; the drill's limit is 20."""
    ballast = np.random.default_rng(0).integers(0, 255, 40_000_000, dtype=np.uint8)
    model.graph.initializer.append(numpy_helper.from_array(ballast, "ballast"))


def _of_the_champion(drill: Drill) -> None:
    """The network of another bundle under this one's papers."""
    registry = Registry(drill.workspace.registry)
    champion = registry.champion()
    assert champion is not None  # noqa: S101  (the drill has made one)
    other = registry.bundle_path(champion.digest)
    drill.replace(drill.workspace.bundle / "model.onnx", (other / "model.onnx").read_bytes())
    drill.seal()


def _preprocessing(**changes: Any) -> Callable[[Drill], None]:
    """Other preprocessing in bundle.json, its fingerprint computed anew."""

    def plant(drill: Drill) -> None:
        info = read_json(drill.workspace.bundle / "bundle.json")
        changed = replace(Preprocessing.from_dict(info["preprocessing"]), **changes)
        drill.seal(preprocessing=changed.to_dict(), fingerprint=changed.fingerprint())

    return plant


def _bgr(drill: Drill) -> None:
    """Blue before red: the network's first convolution reads the channels the other way round."""

    def swap(model: onnx.ModelProto) -> None:
        first = next(node for node in model.graph.node if node.op_type == "Conv")
        kernel = next(tensor for tensor in model.graph.initializer if tensor.name == first.input[1])
        swapped = numpy_helper.to_array(kernel)[:, ::-1].copy()
        kernel.CopyFrom(numpy_helper.from_array(swapped, kernel.name))

    _network(swap)(drill)


def _fingerprint(drill: Drill) -> None:
    """A bundle made by another Pillow, or by other code."""
    drill.seal(fingerprint="0" * 64)


def _flipped(drill: Drill) -> None:
    path = drill.workspace.bundle / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    drill.replace(path, bytes(data))


def _on_test(drill: Drill) -> None:
    """The temperature fitted to the test images, and every stored answer made to agree with it."""
    folder = drill.workspace.bundle
    info = read_json(folder / "bundle.json")
    reference = read_table(folder / "reference.parquet", REFERENCE)
    predictions = read_table(drill.workspace.predictions, PREDICTIONS).to_pylist()
    tested = {row["image_id"] for row in predictions if row["split"] == "test"}
    stored = np.array(reference["probabilities"].to_pylist(), dtype=np.float64)
    logits = np.log(np.maximum(stored, 1e-30)) * info["temperature"]
    rows = [row for row, image_id in enumerate(reference["image_id"].to_pylist()) if image_id in tested]
    labels = [info["classes"].index(reference["label"][row].as_py()) for row in rows]
    temperature = fit_temperature(logits[rows], np.array(labels))
    scaled = np.exp(logits / temperature - (logits / temperature).max(axis=1, keepdims=True))
    answers = pa.array(
        list((scaled / scaled.sum(axis=1, keepdims=True)).astype(np.float32)),
        REFERENCE.field("probabilities").type,
    )
    place = REFERENCE.names.index("probabilities")
    (folder / "reference.parquet").unlink()
    write_table(folder / "reference.parquet", reference.set_column(place, REFERENCE.field(place), answers))
    drill.seal(temperature=temperature)


worse = _checkpoint(_forgotten)

FAULTS = [
    Fault("nan_weights", "NaN in the weights", _checkpoint(_nan), "bundle", "bundle", "no numbers|nan"),
    Fault("head_permuted", "rows of the head permuted", _checkpoint(_permuted), "bundle", "gate: accuracy", "more correct"),
    Fault("worse_model", "a challenger clearly worse than the champion", worse, "bundle",
          "gate: noninferiority", "newly wrong"),
    Fault("wrong_mean", "another mean and deviation", _preprocessing(mean=(0.2, 0.2, 0.2), std=(0.4, 0.4, 0.4)),
          "leak", "gate: integrity_parity", "otherwise than when the bundle was sealed"),
    Fault("wrong_resize", "another resize before the crop", _preprocessing(resize=192), "leak",
          "gate: integrity_parity", "otherwise than when the bundle was sealed"),
    Fault("bgr", "BGR for RGB", _bgr, "leak", "gate: integrity_parity", "otherwise than when the bundle was sealed"),
    Fault("wrong_padding", "a retrain whose weights lost a model argument: the same weights, other strides and paddings",
          _other_arguments, "train", "gate: architecture", "output_stride is not set, the champion's 8"),
    Fault("padding_edited", "padding of another framework in a sealed ONNX", _network(_padding), "leak", "gate: integrity_parity",
          "otherwise than when the bundle was sealed"),
    Fault("other_preprocessing", "preprocessing that this machine does not do", _fingerprint, "leak", "leak",
          "preprocessing gives another result"),
    Fault("flipped_byte", "a bundle with a flipped byte", _flipped, "gate", "gate: integrity_bundle", r"model\.onnx has changed"),
    Fault("other_network", "the ONNX of another model", _of_the_champion, "leak", "gate: integrity_parity",
          "otherwise than when the bundle was sealed"),
    Fault("calibrated_on_test", "a temperature fitted to the test images, everything else made to agree", _on_test,
          "leak", "gate: integrity_calibration", "fitted to other images"),
    Fault("slow", "ten times the latency", _network(_slow), "leak", "gate: slowdown", "times the champion"),
    Fault("large", "twice the size limit", _network(_large), "leak", "gate: size", "gate.max_size_mb"),
]  # fmt: skip
