"""Low-rank adapters (LoRA, Hu et al. 2021) on linear and convolution layers, merged at the end.

A layer's weight becomes W + up @ down, with W frozen and ``up`` starting at zero: training starts exactly
at the probe. Merged, the network has the architecture it had, so nothing that exports or serves it knows.
torch's own parametrization does it for linear layers and convolutions alike, grouped ones too, in a few
lines; peft would bring transformers and accelerate with it.
"""

import torch
from torch import nn
from torch.nn.utils import parametrize

from pipeline.errors import ParamsError
from pipeline.transfer import cost
from pipeline.transfer.choice import is_transformer
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.finetune import side
from pipeline.transfer.freeze import freeze, layer_of, lowest_trained
from pipeline.transfer.task import Candidate, Task
from pipeline.transfer.tuning import BATCH, Settings, epochs, tune

__all__ = ["LowRank", "adapt_layers", "lora", "merge"]

# Of what sums up few inputs, as ``up`` does: it learns faster than ``down`` (LoRA+, Hayou et al. 2024).
LEARNING_RATE = 3e-3
UNFROZEN = 1.0  # of the layers, from the top, that get an adapter


class LowRank(nn.Module):
    """W [out, ...] → W + up [out, r] @ down [r, rest], reshaped like W and scaled by alpha / r (alpha = r here)."""

    def __init__(self, weight: torch.Tensor, rank: int) -> None:
        super().__init__()
        rest = weight[0].numel()
        self.down = nn.Parameter(torch.empty(rank, rest))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def adapt_layers(classifier: Classifier, rank: int, unfrozen: float, seed: int) -> list[str]:
    """Put adapters on the linear and convolution layers of the top ``unfrozen`` share; their names.

    In a transformer these are the attention's layers alone, as in the paper. A layer too small to be
    approximated (a depthwise convolution has 9 weights a channel) gets none. Everything else in the
    backbone is frozen.
    """
    freeze(classifier, 1.0, keep_statistics=True)
    boundary = lowest_trained(classifier.backbone, 1 - unfrozen)
    layers = layer_of(classifier.backbone)
    attends = is_transformer(classifier.backbone)
    names = []
    torch.manual_seed(seed)
    for name, module in list(classifier.backbone.named_modules()):
        if (
            not isinstance(module, (nn.Linear, nn.Conv2d))
            or layers.get(f"{name}.weight", boundary) < boundary
        ):
            continue
        if attends and not (isinstance(module, nn.Linear) and "attn" in name):
            continue
        weight = module.weight
        if rank * (weight.shape[0] + weight[0].numel()) >= weight.numel():
            continue
        parametrize.register_parametrization(module, "weight", LowRank(weight, rank))
        names.append(f"{name}.weight")
    classifier.train(classifier.training)
    return names


def merge(classifier: Classifier) -> None:
    """Fold the adapters into the weights; the network is as it was but for these."""
    for module in list(classifier.backbone.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def lora(task: Task, probe: Candidate) -> Candidate:
    """Train adapters and the head; says what that needs beside full fine-tuning at the same batch.

    Raises:
        ParamsError: no layer is large enough for adapters of that rank.
    """
    shape = side(task)
    batch = BATCH if task.train.batch_size == "auto" else task.train.batch_size
    whole = task.network(probe.head)
    full = cost.memory(whole, shape, batch)
    classifier = task.network(probe.head)
    names = adapt_layers(classifier, task.train.lora_rank, task.train.unfreeze or UNFROZEN, task.seed)
    if not names:
        raise ParamsError(
            f"train.lora_rank is {task.train.lora_rank}: no layer that is trained is large enough to be approximated by that; "
            "lower it, or raise train.unfreeze"
        )
    own = cost.memory(classifier, shape, batch)
    forced = task.train.strategy == "lora"
    count, longer = epochs(task, classifier, shape, forced=forced, name="LoRA")
    settings = Settings(
        name="lora", learning_rate=LEARNING_RATE, layer_decay=1.0, epochs=count, longer=longer
    )
    found = tune(task, probe, classifier, settings)
    merge(found.classifier)
    found.figures |= {
        "trained_parameters": own.trained,
        "counted_megabytes": round(own.total / 1e6, 1),
        "full_trained_parameters": full.trained,
        "full_counted_megabytes": round(full.total / 1e6, 1),
    }
    found.report += (
        f" {len(names)} layers have adapters of rank {task.train.lora_rank}: {own.trained:,} trained parameters and "
        f"{own.total / 1e6:,.0f} MB a step at batch {batch}, by counting; full fine-tuning has {full.trained:,} and "
        f"{full.total / 1e6:,.0f} MB."
    )
    return found
