"""A step of training as one CUDA graph: a GPU replays its hundreds of kernels without Python between them.

Small batches leave a GPU idle otherwise: a step of MobileNetV2 at 128 px, batch 32, kept an H100 busy for 3.6 ms of
the 32 ms that Python took to start its kernels. What a graph reads lies where it lay at capture, so each batch is
copied there, and so are the learning rates.
"""

from collections.abc import Callable

import numpy as np
import torch

from pipeline.transfer.device import out_of_memory, sent
from pipeline.transfer.objective import Examples

__all__ = ["Captured", "replayed"]

AFTER = 2  # batches done in the ordinary way first: they create what a capture may not, the optimizer's state above all


class Captured:
    """``learn``, which takes batches of ``size`` examples, captured with the first one that comes after ``AFTER`` others.

    Where an operation can't be captured, or memory is too short for the graph's own, nothing is ever ready.
    """

    def __init__(
        self,
        learn: Callable[[Examples], torch.Tensor],
        size: int,
        optimizer: torch.optim.Optimizer,
        device: str,
    ) -> None:
        self.learn, self.size, self.device = learn, size, device
        self.optimizer, self.groups = optimizer, optimizer.param_groups
        self.rates = torch.zeros(len(self.groups), device=device)
        self.seen, self.possible = 0, True
        self.graph: torch.cuda.CUDAGraph | None = None

    def ready(self, size: int) -> bool:
        """Whether a batch of so many examples, the next one, is to be learnt from here."""
        if size != self.size or not self.possible:
            return False
        self.seen += 1
        return self.seen > AFTER

    def __call__(self, examples: Examples) -> torch.Tensor | None:
        """What ``learn`` gives, a tensor of its own; None: it can't be captured."""
        if self.graph is None:
            try:
                self.graph = self._capture(examples)
            except RuntimeError:
                self.possible = False
                return None
        for place, value in zip(self.examples, examples, strict=True):
            place.copy_(value, non_blocking=True)
        rates = np.array([group["lr"] for group in self.groups], dtype=np.float32)
        self.rates.copy_(sent(rates, self.device), non_blocking=True)
        self.graph.replay()
        return self.told.clone()

    def _capture(self, examples: Examples) -> torch.cuda.CUDAGraph:
        """Nothing is learnt by it: a capture notes the kernels, and does not start them."""
        self.examples = Examples(*(value.clone() for value in examples))
        before = [group["lr"] for group in self.groups]
        for group, rate in zip(self.groups, self.rates.unbind(), strict=True):
            group |= {"lr": rate, "capturable": True}
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.told = self.learn(self.examples)
        finally:
            for group, value in zip(self.groups, before, strict=True):
                group |= {"lr": value, "capturable": False}
        return graph


def replayed(work: Callable[[], None]) -> Callable[[], None]:
    """``work`` as training will do it on a GPU: done ``AFTER`` times, then as a graph; itself, where it can't be captured.

    Raises:
        torch.OutOfMemoryError: memory is short.
    """
    for _ in range(AFTER):
        work()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            work()
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        return work
    return graph.replay
