"""How one training runs: every number that decides its result, in one place."""

from dataclasses import dataclass, field

from pipeline.errors import DataError, StateError

__all__ = ["DivergedError", "Flags", "Recipe", "TooLargeError"]


class DivergedError(DataError):
    """The loss, its gradient or an answer to a validation image was NaN or infinite."""


class TooLargeError(StateError):
    """Not even one image's step fits into memory."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """How the arithmetic is done; speed.py decides by measuring. Another choice gives other last bits."""

    bfloat16: bool = False
    channels_last: bool = True
    compiled: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Two runs with the same recipe on the same machine, data and threads give the same bits."""

    epochs: int
    seed: int
    learning_rate: float  # of the head and the top layer, where no layer is too wide
    batch_size: int = 32  # over all processes
    layer_decay: float = 0.8  # learning rate of a layer over that of the layer above; 1: the same for all
    wide: int = 0  # inputs of a layer, beyond which its rate falls in proportion; 0: none is too wide
    weight_decay: float = 0.02
    mix: float = 0.0  # alpha of mixup and cutmix, drawn by turns; 0: neither
    smoothing: float = 0.0  # of the labels: the share of an image that all classes get, by the plan's prior
    average: float = 0.0  # decay of the moving average that is validated and kept; 0: the network itself
    device: str = "cpu"
    flags: Flags = field(default_factory=Flags)
