"""Which strategies to try on how much data, and which of the networks ships.

The rules of ``train.strategy: auto``: with fewer than 10 images a class only a probe can be trusted; up to
2,000 images its challenger trains few parameters (the top layers of a convolutional network, low-rank
adapters of a transformer); above, the whole network, its lower layers more slowly, or the upper half where the
budget does not allow an epoch of that. A network that can't be cut for partial fine-tuning is fine-tuned. A
challenger ships only when it is better on validation by more than its noise, so what ships is never expected to
be worse than the probe; none is trained where validation could not tell even a perfect one from the probe.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from pipeline.transfer.calibration import calibrated_losses
from pipeline.transfer.task import Task

__all__ = [
    "Comparison",
    "challengers",
    "clustered_error",
    "compare",
    "is_transformer",
    "planned",
    "unbeatable",
]

FEW = 10  # training images a class, below which only the probe is tried
INSTEAD = {"partial": "finetune"}  # of a strategy that this network or disk can't do
MIDDLING = 2_000  # training images, up to which few parameters are trained
TELLING = 2.0  # standard errors by which a perfect network must be better, for any to be worth training


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same validation images; differences are the second minus the first."""

    accuracy: tuple[float, float]
    loss: tuple[float, float]  # mean log loss in nats, each at its own best temperature
    gain: float  # loss[0] - loss[1]
    error: float  # standard error of the gain, over groups
    second_wins: bool


def is_transformer(backbone: nn.Module) -> bool:
    """Whether most weights sit in linear layers: attention and its feed-forward layers, not convolutions."""
    linear = sum(m.weight.numel() for m in backbone.modules() if isinstance(m, nn.Linear))
    convolution = sum(m.weight.numel() for m in backbone.modules() if isinstance(m, nn.modules.conv._ConvNd))
    attends = any(
        "attn" in name.lower() or "attention" in name.lower() for name, _ in backbone.named_modules()
    )
    return attends and linear > convolution


def challengers(images: int, classes: int, *, transformer: bool, pretrained: bool) -> tuple[list[str], str]:
    """The strategies to try beside the probe, and why, in a sentence."""
    each = images / classes
    if not pretrained:
        return ["finetune"], "Random weights have nothing to keep, so the whole network is trained."
    if each < FEW:
        return [], f"With {each:.1f} training images a class, fewer than {FEW}, only the probe is tried."
    if images <= MIDDLING:
        name = "lora" if transformer else "partial"
        kind = "a transformer" if transformer else "a convolutional network"
        return [
            name
        ], f"For {images:,} training images, at most {MIDDLING:,}, and {kind}, the challenger is {name}."
    return [
        "finetune"
    ], f"For {images:,} training images, more than {MIDDLING:,}, the challenger is fine-tuning."


def planned(task: Task) -> tuple[list[str], str]:
    """The strategies that ``train.strategy`` asks for beside the probe, and why, in a sentence or none."""
    asked, data, backbone = task.train.strategy, task.data, task.backbone
    if asked != "auto":
        return ([] if asked == "probe" else [asked]), ""
    return challengers(
        data.trained, len(data.classes),
        transformer=is_transformer(backbone.module), pretrained=backbone.pretrained,
    )  # fmt: skip


def compare(first: np.ndarray, second: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> Comparison:
    """Compare logits [n, classes] of two networks on n validation images.

    The second wins where its log loss is lower by more than one standard error of the paired difference
    and its accuracy is not lower. The log loss sees far smaller differences than counting errors does, and
    each network's own temperature keeps mere overconfidence out of it. Images of one group count once.
    """
    losses = [calibrated_losses(logits, labels) for logits in (first, second)]
    accuracy = [float((logits.argmax(axis=1) == labels).mean()) for logits in (first, second)]
    difference = losses[0] - losses[1]
    gain = float(difference.mean())
    error = clustered_error(difference, groups)
    wins = gain > error and accuracy[1] >= accuracy[0]
    loss = (float(losses[0].mean()), float(losses[1].mean()))
    return Comparison((accuracy[0], accuracy[1]), loss, gain, error, wins)


def unbeatable(logits: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> str:
    """Why these validation images can't tell any network from the one with these logits; empty where they can.

    A perfect network has a log loss of 0: none can gain more than the loss of this one. Where this one makes no
    mistake, a lower loss would be surer words for the same answers.
    """
    told = f"these {len(labels)} validation images"
    if (logits.argmax(axis=1) == labels).all():
        return f"It is right on {told}, so no challenger was trained."
    losses = calibrated_losses(logits, labels)
    most, error = float(losses.mean()), clustered_error(losses, groups)
    if most > TELLING * error:
        return ""
    return (
        f"Even a network without a mistake would gain {most:.3f} on {told}, with a standard "
        f"error of {error:.3f}: less than {TELLING:g} of them, so no challenger was trained."
    )


def clustered_error(values: np.ndarray, groups: Sequence[str]) -> float:
    """Standard error of the mean of values [n] whose groups are independent, their members not."""
    codes = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)[1]
    count = int(codes.max()) + 1
    if count < 2:
        return float("inf")
    sums = np.bincount(codes, weights=values - values.mean(), minlength=count)
    return float(np.sqrt((sums**2).sum() * count / (count - 1)) / len(values))
