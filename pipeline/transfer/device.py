"""Where training runs and in which precision, and what keeps its results the same each time."""

import os
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from pipeline.errors import ParamsError

__all__ = ["deterministic", "laid_out", "out_of_memory", "pick_device", "sent"]

Module = TypeVar("Module", bound=nn.Module)


def deterministic(seed: int) -> None:
    """Seed torch and keep it to deterministic algorithms; where it has none, it warns."""
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # else cuBLAS may sum in another order each time
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
    torch.manual_seed(seed)


def pick_device(asked: str) -> str:
    """cpu or cuda for ``train.device``.

    Raises:
        ParamsError: a GPU was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if asked == "auto":
        return "cuda" if available else "cpu"
    if asked.startswith("cuda") and not available:
        raise ParamsError(
            f"train.device is {asked}, but torch {torch.__version__} sees no GPU here: set it to auto"
        )
    return asked


def out_of_memory(error: Exception) -> bool:
    """Whether memory was short, of a GPU or (in words alone) of the machine."""
    words = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in words
        or "can't allocate memory" in words
    )


def laid_out(module: Module, device: str, layout: torch.memory_format) -> Module:
    """``module`` on the device, with what it has of images' and convolutions' four dimensions in that layout.

    ``Module.to`` tries the layout on five dimensions, too, for which torch has none of that name.
    """
    module.to(device)
    return module._apply(lambda tensor: tensor.to(memory_format=layout) if tensor.dim() == 4 else tensor)


def sent(values: np.ndarray, device: str) -> torch.Tensor:
    """``values`` on the device. A GPU gets them behind the work that it already has: neither side waits for the other."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else tensor
