"""torch's ONNX exporter, as it is called everywhere here."""

import contextlib
import ctypes
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from pipeline.errors import ParamsError
from pipeline.transfer.device import out_of_memory

__all__ = ["export", "require_exportable", "write_onnx"]

OPSET = 17


def require_exportable(network: nn.Module, side: int) -> None:
    """Write the network as ONNX for nothing: before training it, which would be for nothing else.

    Raises:
        ParamsError: it can't be written.
    """
    with tempfile.TemporaryDirectory(prefix="visionloop-onnx-") as folder:
        write_onnx(network, side, Path(folder) / "model.onnx")


def write_onnx(network: nn.Module, side: int, target: Path) -> None:
    """images [n, 3, side, side] → logits [n, classes], embedding [n, width]; n is free, the sides are not."""
    outputs = ["logits", "embedding"]
    export(
        network.eval(),
        torch.zeros(2, 3, side, side),
        str(target),
        inputs=["images"],
        outputs=outputs,
        free=True,
    )


def export(
    network: nn.Module,
    example: torch.Tensor,
    target: str | io.BytesIO,
    *,
    inputs: list[str],
    outputs: list[str],
    free: bool = False,
) -> None:
    """Write the network as ONNX; ``free``: the number of images is, else it is the example's.

    Raises:
        ParamsError: it has an operation that torch's exporter does not know.
    """
    axes = {name: {0: "n"} for name in inputs + outputs} if free else None
    with warnings.catch_warnings(), _no_output():
        # The exporter without torch.export calls itself legacy, in several ways: the new one needs onnxscript
        # and is no better for these networks.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # Sizes become constants of the graph: meant, since the bundle's preprocessing fixes them.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        try:
            torch.onnx.export(
                network,
                (example,),
                target,
                input_names=inputs,
                output_names=outputs,
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
        except RuntimeError as error:  # its own are of this type, too
            if out_of_memory(error):
                raise
            why = " ".join(str(error).split())[:200]
            raise ParamsError(
                f"this network can't be written as ONNX, which a bundle needs ({why}): name another one in model.backbone; "
                "`python -m pipeline select` tries several"
            ) from error


@contextlib.contextmanager
def _no_output() -> Iterator[None]:
    """Nothing reaches standard output: an exporter that fails prints the whole graph, from C++, and can't be told not to."""
    libc = ctypes.CDLL(None)
    sys.stdout.flush()
    libc.fflush(None)
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        libc.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)
