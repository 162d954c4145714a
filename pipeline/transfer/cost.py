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
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["MOST_EPOCHS", "Cost", "Memory", "epochs_within", "frozen", "measure", "memory"]

MULTIPLY_ADDS = 95e9  # per second
ELEMENTS = 2e9  # per second
BACKWARD = 2.0  # times the forward pass, for the layers that are trained
FROZEN = 0.5  # times torch's forward pass, of ONNX Runtime's on a CPU (see frozen.py)
GPU = 100.0  # a GPU counts as so many nominal machines
MOST_EPOCHS = 10  # more gained nothing beyond noise on small sets


@dataclass(frozen=True)
class Cost:
    """Nominal seconds for one image."""

    forward: float
    train: float


@dataclass(frozen=True)
class Memory:
    """Bytes that one optimizer step holds at its peak, by counting; the allocator's own needs come on top."""

    parameters: int  # of the whole network, trained or not
    trained: int  # number of trained parameters
    gradients: int  # and AdamW's two moments
    activations: int  # kept for the backward pass

    @property
    def total(self) -> int:
        """Bytes."""
        return self.parameters + self.gradients + self.activations


def measure(network: nn.Module, shape: tuple[int, ...], device: str, *, merged: bool = False) -> Cost:
    """Count one input of ``shape`` through ``network``; layers without a gradient cost no backward pass.

    Nor does a layer's own weight, where it is frozen: its backward pass goes through to the layers below alone.
    An adapter (see lora.py) changes its layer's weight, once a step for all images, and is not counted.

    Args:
        merged: BatchNorms will be part of their convolutions (see merging.py) and pass over nothing themselves.
    """
    # timm's BatchNormAct2d hands its values to an Identity, which is what is counted of it.
    uncounted = (_BatchNorm, nn.Identity) if merged else ()
    forward = backward = 0.0

    def count(module: nn.Module, _: object, output: object) -> None:
        nonlocal forward, backward
        if not isinstance(output, torch.Tensor) or isinstance(module, uncounted):
            return
        seconds = output.numel() / ELEMENTS
        weight = getattr(module, "weight", None)
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) and isinstance(weight, torch.Tensor):
            places = output.numel() // weight.shape[0]
            seconds += places * weight.numel() / MULTIPLY_ADDS
        forward += seconds
        if output.requires_grad:
            backward += _backward(module) * seconds

    leaves = [module for name, module in network.named_modules() if _is_leaf(name, module)]
    hooks = [module.register_forward_hook(count) for module in leaves]
    modes = {module: module.training for module in network.modules()}
    try:
        place = next(network.parameters()).device
        network.eval()(torch.zeros(1, *shape, device=place))
    finally:
        for module, mode in modes.items():
            module.training = mode
        for hook in hooks:
            hook.remove()
    speed = GPU if device.startswith("cuda") else 1.0
    return Cost(forward / speed, (forward + backward) / speed)


def frozen(network: nn.Module, shape: tuple[int, ...], device: str) -> float:
    """Nominal seconds of one image's pass through a network that is only read."""
    torch_alone = measure(network, shape, device).forward
    return torch_alone if device.startswith("cuda") else FROZEN * torch_alone


def _is_leaf(name: str, module: nn.Module) -> bool:
    """Whether it computes on images itself; a layer with an adapter does, the adapter does not."""
    inside = "parametrizations" in name.split(".")
    return not inside and all(child == "parametrizations" for child, _ in module.named_children())


def _backward(module: nn.Module) -> float:
    """Times the forward pass: half of it is the gradient of the inputs, half that of the layer's own weight."""
    free = [parameter.requires_grad for parameter in module.parameters()]
    return BACKWARD if any(free) or not free else BACKWARD / 2


def memory(network: nn.Module, shape: tuple[int, ...], batch: int) -> Memory:
    """Count what a step on ``batch`` inputs of ``shape`` holds, from what autograd saves of one input and of two."""
    one, two = _saved(network, shape, 1), _saved(network, shape, 2)
    free = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return Memory(
        parameters=sum(p.numel() * p.element_size() for p in network.parameters()),
        trained=sum(p.numel() for p in free),
        gradients=sum(3 * p.numel() * p.element_size() for p in free),
        activations=(two - one) * batch + 2 * one - two,
    )


def _saved(network: nn.Module, shape: tuple[int, ...], count: int) -> int:
    """Bytes that the backward pass of ``count`` inputs needs, but for the parameters themselves."""
    own = {tensor.untyped_storage().data_ptr() for tensor in network.parameters()}
    kept: dict[int, int] = {}
    held: list[torch.Tensor] = []

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and storage.data_ptr() not in kept:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # alive to the end, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        network(torch.zeros(count, *shape))
    return sum(kept.values())


def epochs_within(budget: float, epoch: float) -> int:
    """How many epochs of so many nominal seconds fit into ``budget``; 0 when not even one does."""
    return min(MOST_EPOCHS, int(budget / epoch))
