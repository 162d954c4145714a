"""A bundle's INT8 network: static quantisation by ONNX Runtime, kept only where it agrees with float32.

Weights are signed 8-bit integers, each output channel with a scale of its own, activations unsigned ones, whose
ranges are measured on training images (Nagel et al. 2021, chapter 3; onnxruntime.quantization, QDQ). What a CPU
without VNNI instructions makes of it may differ, since its 16-bit sums saturate: so whether it agrees is measured
where the bundle is made, and a release asks the service the same images again.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bundle import NETWORKS, Bundle, open_session
from pipeline.intervals import codes, proportion
from pipeline.params import Bundle as Limits
from pipeline.transfer.footprint import megabytes

__all__ = ["Judged", "quantise", "spread", "try_int8"]

CALIBRATION_IMAGES = 128


@dataclass(frozen=True)
class Judged:
    """Whether the INT8 network is in the bundle, its figures for bundle.json, and a sentence."""

    bundle: Bundle | None  # the draft that answers with it; None where it was refused
    figures: dict[str, Any]
    report: str


def try_int8(
    draft: Bundle,
    calibration: np.ndarray,
    validation: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    limits: Limits,
) -> Judged:
    """Quantise ``draft``'s network beside it; the file stays only where it is within ``limits``.

    Where the whole does not do, less is quantised: without the first convolution and the head, next to the image
    and to the answer, where there is least to average errors over; then without the depthwise convolutions too,
    whose channels have few weights each. Whatever ONNX Runtime can't run counts as outside of the limits.

    Args:
        calibration: uint8 [m, H, W, 3] views of training images, which the activations' ranges come from.
        validation: uint8 [n, H, W, 3] views of ``labels`` [n] (codes) in ``groups`` [n].
    """
    expected = draft.predict(validation).logits.argmax(axis=1)
    source, target = draft.path / NETWORKS["onnx"], draft.path / NETWORKS["int8"]
    inputs = [draft.preprocessing.normalise(calibration[row][None]) for row in spread(len(calibration))]
    outcome: dict[str, Any] = {}
    for excluded, names in _attempts(source).items():
        outcome = {"in_float32": excluded}
        try:
            quantise(source, target, inputs, exclude=names)
            session = open_session(draft.path, draft.info, None, "int8")
            network = Bundle(draft.path, "", draft.info, session, "int8")
            answer = network.predict(validation).logits.argmax(axis=1)
        except Exception as error:  # ONNX Runtime's own, of a dozen unrelated types
            outcome["why"] = f"ONNX Runtime can't run it ({' '.join(str(error).split())[:200]})"
            continue
        outcome |= _figures(expected, answer, labels, groups)
        why = _against(outcome, limits)
        if not why:
            outcome |= {"kept": True, "megabytes": megabytes(target)}
            return Judged(network, outcome, _sentence(outcome, "kept beside float32"))
        outcome["why"] = why
    target.unlink(missing_ok=True)
    outcome["kept"] = False
    return Judged(None, outcome, _sentence(outcome, f"left out of the bundle, since {outcome['why']}"))


def quantise(
    source: Path, target: Path, inputs: Sequence[np.ndarray], *, exclude: Sequence[str] = ()
) -> None:
    """Write the INT8 network of the ONNX file ``source`` to ``target``.

    Args:
        inputs: float32 [1, 3, H, W] each, standardised; the activations' ranges are those that occur here.
        exclude: names of nodes that stay float32.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Inputs(CalibrationDataReader):  # type: ignore[misc]
        """One image at a time, as the calibrator asks for them."""

        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {"images": image}

    source, target = source.absolute(), target.absolute()
    # What it tries and gives up lies in the current folder.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, contextlib.chdir(folder):
        prepared = str(Path(folder) / "prepared.onnx")
        try:
            quant_pre_process(str(source), prepared)
        except Exception:  # an incomplete inference of symbolic shapes: of type Exception itself
            quant_pre_process(str(source), prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, str(target), Inputs(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax, nodes_to_exclude=list(exclude),
        )  # fmt: skip


def spread(count: int) -> np.ndarray:
    """Rows of at most CALIBRATION_IMAGES of ``count`` images, evenly spread, since images lie sorted by class."""
    return np.linspace(0, count - 1, min(count, CALIBRATION_IMAGES)).round().astype(int)


def _attempts(source: Path) -> dict[str, list[str]]:
    """What stays float32, in words → the nodes' names; the boldest attempt first."""
    import onnx

    nodes = onnx.load(str(source)).graph.node
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    products = [node.name for node in nodes if node.op_type in ("Gemm", "MatMul")]
    sizes = _sizes(nodes)
    ends = [node.name for node in convolutions[:1]] + products[-1:]
    depthwise = [
        node.name
        for node in convolutions
        if any(entry.name == "group" and entry.i > 1 for entry in node.attribute)
    ]
    return {
        "nothing": sizes,
        "first convolution and head": sizes + ends,
        "first convolution, depthwise convolutions and head": sizes + ends + depthwise,
    }


def _sizes(nodes: Sequence[Any]) -> list[str]:
    """Names of the nodes that work out how much to pad or how to reshape: rounded to 8 bits, they are wrong."""
    made = {output for node in nodes if node.op_type == "Shape" for output in node.output}
    found = []
    for node in nodes:  # in the order of computation
        if (
            node.op_type not in ("Pad", "Reshape", "Resize", "Expand", "Slice") and made & set(node.input)
        ) or (node.op_type in ("Reshape", "Slice") and node.input[0] in made):
            found.append(node.name)
            made |= set(node.output)
    return found


def _figures(
    expected: np.ndarray, answer: np.ndarray, labels: np.ndarray, groups: Sequence[str]
) -> dict[str, Any]:
    same = answer == expected
    low, high = proportion(same, codes(list(groups)))
    accuracy = float((answer == labels).mean())
    return {
        "images": len(labels),
        "agreement": round(float(same.mean()), 6),
        "agreement_ci95": [round(low, 6), round(high, 6)],
        "accuracy": round(accuracy, 6),
        "accuracy_drop": round(float((expected == labels).mean()) - accuracy, 6),
    }


def _against(figures: dict[str, Any], limits: Limits) -> str:
    """Which limit it breaks, in words; empty where none."""
    if figures["agreement"] < limits.min_int8_agreement:
        return f"the limit is {limits.min_int8_agreement:g} (bundle.min_int8_agreement)"
    if figures["accuracy_drop"] > limits.max_int8_drop:
        return f"the accuracy may drop by {limits.max_int8_drop:g} (bundle.max_int8_drop)"
    return ""


def _sentence(outcome: dict[str, Any], verdict: str) -> str:
    what = "INT8" if outcome["in_float32"] == "nothing" else f"INT8 ({outcome['in_float32']} in float32)"
    if "agreement" not in outcome:
        return f"{what}: {verdict}."
    low, high = outcome["agreement_ci95"]
    return (
        f"{what} gives the class of float32 to {outcome['agreement']:.3f} (95 %: {low:.3f} to {high:.3f}) of "
        f"{outcome['images']} validation images, with an accuracy of {outcome['accuracy']:.3f} instead of "
        f"{outcome['accuracy'] + outcome['accuracy_drop']:.3f}: {verdict}."
    )
