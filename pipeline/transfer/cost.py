"""What training costs, from the network alone: a nominal time on a nominal machine of two CPU cores.

A clock would make the number of epochs, and with it the metrics, depend on what else the machine did. So
the budget in seconds is turned into epochs by counting: multiply-adds of the convolutions and linear
layers, and elements that every layer writes (what bounds networks with depthwise convolutions). The two
rates were fitted to measured inference (float32, channels last, batches of 16 at 224 px, two cores) of
resnet18, densenet121, efficientnet_b0, vit_tiny and two mobilenetv3_small: within 13 % for each. A real
machine is faster or slower by a factor.
"""

from dataclasses import dataclass

import torch
from torch import nn

from pipeline.transfer.classifier import Classifier

__all__ = ["Cost", "epochs_within", "measure"]

MULTIPLY_ADDS = 95e9  # per second
ELEMENTS = 2e9  # per second
BACKWARD = 2.0  # times the forward pass, for the layers that are trained
GPU = 100.0  # a GPU counts as so many nominal machines
MOST_EPOCHS = 12


@dataclass(frozen=True)
class Cost:
    """Nominal seconds for one image."""

    forward: float
    train: float


def measure(classifier: Classifier, side: int, device: str) -> Cost:
    """Count one image of ``side`` px through ``classifier``; layers without a gradient cost no backward pass."""
    forward = backward = 0.0

    def count(module: nn.Module, _: object, output: object) -> None:
        nonlocal forward, backward
        if not isinstance(output, torch.Tensor) or next(module.children(), None) is not None:
            return
        seconds = output.numel() / ELEMENTS
        weight = getattr(module, "weight", None)
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) and isinstance(weight, torch.Tensor):
            places = output.numel() // weight.shape[0]
            seconds += places * weight.numel() / MULTIPLY_ADDS
        forward += seconds
        if output.requires_grad:
            backward += BACKWARD * seconds

    hooks = [module.register_forward_hook(count) for module in classifier.modules()]
    mode = classifier.training
    try:
        place = next(classifier.parameters()).device
        classifier.eval()(torch.zeros(1, 3, side, side, device=place))
    finally:
        classifier.train(mode)
        for hook in hooks:
            hook.remove()
    speed = GPU if device.startswith("cuda") else 1.0
    return Cost(forward / speed, (forward + backward) / speed)


def epochs_within(budget: float, epoch: float) -> int:
    """How many epochs of so many nominal seconds fit into ``budget``; 0 when not even one does."""
    return min(MOST_EPOCHS, int(budget / epoch))
