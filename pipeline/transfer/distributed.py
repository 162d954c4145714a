"""Several processes, one training: each takes its share of every batch (torchrun's environment says who is who).

    torchrun --standalone --nproc-per-node 2 -m pipeline train

The global batch, its order, its random views and the schedule are those of a single process; only the
summation of the gradients is split, so the loss curve is the same up to rounding. Every process reads
the same caches (the first to come computes, the others wait); process 0 alone writes results.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import distributed, nn

from pipeline.errors import ParamsError

__all__ = [
    "agreed",
    "averaged",
    "first",
    "from_first",
    "gathered",
    "group",
    "rank",
    "share",
    "world",
    "wrapped",
]


T = TypeVar("T")


def processes(asked: int | str, device: str) -> int:
    """How many processes to start for ``train.processes``; 1 where torchrun started this one already."""
    if "WORLD_SIZE" in os.environ:
        return 1
    if asked == "auto":
        return max(1, torch.cuda.device_count()) if device == "cuda" else 1
    return int(asked)


def launch(count: int, root: Path) -> int:
    """Start the train verb again, ``count`` times, by torchrun; its exit code."""
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "pipeline"]
    return subprocess.run([sys.executable, "-m", *command, "train"], cwd=root, check=False).returncode


def world() -> int:
    """How many processes train together; 1 outside of a group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """This process's number in the group, from 0."""
    return distributed.get_rank() if world() > 1 else 0


def first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def group(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, for the block; the device of this one.

    Raises:
        ParamsError: more processes on this machine than GPUs.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield device
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.startswith("cuda"):
        if local >= torch.cuda.device_count():
            raise ParamsError(
                f"torchrun started process {local} here, but there are {torch.cuda.device_count()} GPUs: "
                "lower --nproc-per-node, or set train.device to cpu"
            )
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def wrapped(network: nn.Module, device: str) -> nn.Module:
    """``network`` with its gradients averaged over the processes; itself where there is only one."""
    if world() == 1 or not any(parameter.requires_grad for parameter in network.parameters()):
        return network
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(network, device_ids=[device] if device.startswith("cuda") else None)


def share(rows: np.ndarray) -> np.ndarray:
    """This process's part of a batch: every world-th row, so that the parts differ by one row at most."""
    return rows[rank() :: world()]


def from_first(make: Callable[[], T]) -> T:
    """What ``make`` gives in the first process, where alone it is called, in all of them."""
    if world() == 1:
        return make()
    held = [make() if rank() == 0 else None]
    distributed.broadcast_object_list(held, src=0)
    made: T = held[0]  # type: ignore[assignment]
    return made


def agreed(value: int) -> bool:
    """Whether all processes hold the same value."""
    if world() == 1:
        return True
    held: list[int] = [0] * world()
    distributed.all_gather_object(held, value)
    return len(set(held)) == 1


def averaged(value: torch.Tensor) -> torch.Tensor:
    """The mean over the processes."""
    if world() == 1:
        return value
    summed = value.clone()
    distributed.all_reduce(summed)
    return summed / world()


def gathered(part: np.ndarray, count: int) -> np.ndarray:
    """[count, ...] rows of all processes in the order before :func:`share` took them apart."""
    if world() == 1:
        return part
    longest = -(-count // world())
    mine = torch.zeros((longest, *part.shape[1:]), dtype=torch.from_numpy(part).dtype)
    mine[: len(part)] = torch.from_numpy(part)
    device = f"cuda:{torch.cuda.current_device()}" if distributed.get_backend() == "nccl" else "cpu"
    parts = [torch.empty_like(mine, device=device) for _ in range(world())]
    distributed.all_gather(parts, mine.to(device))
    whole = np.empty((count, *part.shape[1:]), dtype=part.dtype)
    for number, values in enumerate(parts):
        rows = whole[number :: world()]
        rows[:] = values[: len(rows)].cpu().numpy()
    return whole
