"""An exponential moving average of the trained tensors (Polyak and Juditsky 1992), kept beside them.

Early on it follows the network closely, and only later remembers long: the decay of step t is at most
(1 + t) / (10 + t), as in TensorFlow's ExponentialMovingAverage.
"""

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["Average"]

Tensors = dict[str, torch.Tensor]


class Average:
    """The average of ``tensors`` (live ones, by name); integer buffers are copied, not averaged."""

    def __init__(self, tensors: Tensors, decay: float) -> None:
        self.live = tensors
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        pairs = [(self.tensors[name], tensor.detach()) for name, tensor in tensors.items()]
        self._floating = [pair for pair in pairs if pair[0].is_floating_point()]
        self._whole = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the live tensors in, after optimizer step ``step`` (from 0)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        averages, live = zip(*self._floating, strict=True)
        torch._foreach_lerp_(averages, live, weight)
        for average, value in self._whole:
            average.copy_(value)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the network holds the average; after it, what it held before."""
        kept = {name: tensor.detach().clone() for name, tensor in self.live.items()}
        self._put(self.tensors)
        try:
            yield
        finally:
            self._put(kept)

    def restore(self, tensors: Tensors) -> None:
        """Go on from a saved average."""
        for name, tensor in tensors.items():
            self.tensors[name].copy_(tensor)

    @torch.no_grad()
    def _put(self, tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            self.live[name].copy_(tensor)
