"""torch's ONNX exporter, as it is called everywhere here."""

import io
import warnings

import torch
from torch import nn

__all__ = ["export"]

OPSET = 17


def export(
    network: nn.Module,
    example: torch.Tensor,
    target: str | io.BytesIO,
    *,
    inputs: list[str],
    outputs: list[str],
    free: bool = False,
) -> None:
    """Write the network as ONNX; ``free``: the number of images is, else it is the example's."""
    axes = {name: {0: "n"} for name in inputs + outputs} if free else None
    with warnings.catch_warnings():
        # The exporter without torch.export calls itself legacy, in several ways: the new one needs onnxscript
        # and is no better for these networks.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # Sizes become constants of the graph: meant, since the bundle's preprocessing fixes them.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
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
