"""Training on BatchNorms whose statistics are frozen, each as part of the convolution before it.

Such a BatchNorm is a scale and a shift by channel, so its convolution may run with its own weights times the scale.
The parameters stay what they were, and their gradients go through that product: the same function and the same
gradients, to the rounding of float32. What is saved are the BatchNorm's passes over the activations, of which the
backward one alone is a quarter of a step of MobileNetV2 on a CPU, and the copy of its input that it keeps. folding.py
does the same for networks that are only read, where the product is taken once.
"""

import copy

import torch
from timm.layers import Conv2dSame, pad_same
from torch import fx, nn
from torch.nn.modules.dropout import _DropoutNd

from pipeline.errors import ParamsError
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.cut import Pooled, Upper, whole
from pipeline.transfer.folding import pairs

__all__ = ["Merged", "merged"]


class Merged(nn.Module):
    """A convolution and the BatchNorm behind it, in one pass, with what the BatchNorm does after its own."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.convolution, self.norm = convolution, norm
        after = (getattr(norm, "drop", None), getattr(norm, "act", None))  # of timm's BatchNormAct2d
        self.after = nn.ModuleList(_apart(module) for module in after if module is not None)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu") and _slow_in_bfloat16(self.convolution):
            with torch.autocast("cpu", enabled=False):
                return self._run(inputs.float())
        return self._run(inputs)

    def _run(self, inputs: torch.Tensor) -> torch.Tensor:
        norm, convolution = self.norm, self.convolution
        scale = torch.rsqrt(norm.running_var + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight
        mean = norm.running_mean if convolution.bias is None else norm.running_mean - convolution.bias
        shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
        if isinstance(convolution, Conv2dSame):
            inputs = pad_same(
                inputs, list(convolution.kernel_size), list(convolution.stride), list(convolution.dilation)
            )
        values = convolution._conv_forward(inputs, convolution.weight * scale[:, None, None, None], shift)
        for module in self.after:
            values = module(values)
        return values


def _apart(module: nn.Module) -> nn.Module:
    """The same activation, out of place: in place autograd copies the convolution's output first, to keep it."""
    if not getattr(module, "inplace", False):
        return module
    apart = copy.copy(module)
    apart.inplace = False
    return apart


def _slow_in_bfloat16(convolution: nn.Conv2d) -> bool:
    """Whether oneDNN's backward pass of it takes up to 40 times as long as in float32 on a CPU.

    Depthwise ones do, but for 3 x 3 at stride 1 (oneDNN of torch 2.15, a CPU with avx512_bf16): in MobileNetV2's upper half
    one layer took more than half of the step.
    """
    depthwise = convolution.groups == convolution.in_channels > 1
    plain = tuple(convolution.stride) == (1, 1) and tuple(convolution.kernel_size) == (3, 3)
    return depthwise and not plain


def merged(classifier: Classifier, network: nn.Module) -> nn.Module:
    """``network``, the whole of ``classifier`` or its upper part, with its still BatchNorms merged; the modules are shared.

    What can't be traced, drops at random, or has no such BatchNorm, is given back as it is.
    """
    still = {id(module) for module in classifier.still}
    graph = _graph(classifier, network) if still else None
    if graph is None:
        return network
    own = fx.Graph()
    own.output(own.graph_copy(graph.graph, {}))
    traced = fx.GraphModule(graph, own)
    found = [pair for pair in pairs(traced) if id(pair.norm) in still]
    for number, (before, behind, convolution, norm) in enumerate(found):
        before.target = f"merged_{number}"
        traced.add_submodule(before.target, Merged(convolution, norm))
        behind.replace_all_uses_with(before)
        own.erase_node(behind)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return Upper(traced, classifier.head) if found else network


def _graph(classifier: Classifier, network: nn.Module) -> fx.GraphModule | None:
    """From the network's inputs to the pooled features."""
    if isinstance(network, Upper):
        return network.graph
    if network is not classifier or classifier.stages is not None or _drops(classifier.backbone):
        return None
    training = classifier.training
    try:
        return whole(Pooled(classifier.backbone))
    except ParamsError:
        return None
    finally:
        classifier.train(training)


def _drops(backbone: nn.Module) -> bool:
    """Whether something is dropped at random in training: a trace of eval mode does not know."""
    return any(
        (isinstance(module, _DropoutNd) and module.p > 0)
        or any((getattr(module, name, None) or 0) > 0 for name in ("drop_prob", "drop_rate"))
        for module in backbone.modules()
    )
