"""The strategies beside the probe, by the name that ``train.strategy`` gives them."""

from collections.abc import Callable

from pipeline.transfer.adapt import adapt
from pipeline.transfer.finetune import finetune
from pipeline.transfer.lora import lora
from pipeline.transfer.partial import partial
from pipeline.transfer.progressive import progressive
from pipeline.transfer.task import Candidate, Task

__all__ = ["STRATEGIES"]

STRATEGIES: dict[str, Callable[[Task, Candidate], Candidate]] = {
    "partial": partial,
    "finetune": finetune,
    "progressive": progressive,
    "lora": lora,
    "adapt": adapt,
}
