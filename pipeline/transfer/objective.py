"""What a step minimises: cross entropy, weighted and adjusted by the plan, on mixed or plain images, and an alignment."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipeline.transfer.feeds import Feed
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.recipe import Recipe

__all__ = ["Alignment", "Examples", "Objective"]


class Examples(NamedTuple):
    """A batch, or a part of one, on the device."""

    inputs: torch.Tensor  # [n, ...]
    targets: torch.Tensor  # codes [n], or shares [n, classes]
    weights: torch.Tensor  # [n]
    scale: torch.Tensor  # [], of the sum of their losses

    def part(self, start: int, size: int) -> "Examples":
        """``size`` of them, or what is left, from number ``start`` on."""
        inputs, targets, weights = (values[start : start + size] for values in self[:3])
        return Examples(inputs, targets, weights, self.scale)


class Alignment(nn.Module):
    """A further loss on the embeddings of labelled and of unlabelled images; see align.py."""

    feed: Feed
    rows: np.ndarray  # of the unlabelled images in ``feed``

    def forward(self, source: torch.Tensor, target: torch.Tensor, progress: float) -> torch.Tensor:
        """The loss of two batches of embeddings [n, width] at ``progress`` (0 to 1) of the training."""
        raise NotImplementedError


class Objective:
    """The loss of a part of a batch; ``labels`` [n] are the codes of the plan's training rows."""

    def __init__(
        self, plan: Plan, labels: np.ndarray, classes: int, recipe: Recipe, alignment: Alignment | None
    ) -> None:
        self.recipe, self.alignment = recipe, alignment
        self.weights = torch.from_numpy(plan.loss_weights.astype(np.float32))
        self.prior = torch.from_numpy(plan.log_prior.astype(np.float32)).to(recipe.device)
        sums = np.bincount(labels, weights=plan.loss_weights, minlength=classes)
        of_class = (sums / np.maximum(np.bincount(labels, minlength=classes), 1)).astype(np.float32)
        self.by_class = torch.from_numpy(of_class).to(recipe.device)
        self.mix = _mix(recipe.mix, classes) if recipe.mix else None

    def mixed(self, examples: Examples) -> Examples:
        """What is learnt from; mixed images have shares [n, classes] for targets."""
        if self.mix is None or len(examples.inputs) == 1:
            return examples
        inputs, targets = self.mix(examples.inputs, examples.targets)
        return Examples(inputs, targets, targets @ self.by_class, examples.scale)

    def __call__(self, network: Callable, examples: Examples, step: int, progress: float) -> torch.Tensor:
        """Sum of the weighted losses, scaled."""
        inputs, targets, weights, scale = examples
        logits, embedding = self._run(network, inputs)
        loss = (self._losses(logits.float() + self.prior, targets) * weights).sum()
        if self.alignment is not None:
            aligned = self._aligned(self.alignment, network, embedding.float(), step, progress)
            loss = loss + aligned * weights.sum()
        return scale * loss

    def _losses(self, adjusted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """[n] of ``adjusted`` logits, the prior added; softened labels give a share of each image to all classes.

        That share goes by the prior: of equal shares a rare class would get more than its images, and the plain logits,
        from which the prior is missing, would then name it before the right one.
        """
        losses = functional.cross_entropy(adjusted, targets, reduction="none")
        if self.recipe.smoothing == 0:
            return losses
        spread = -functional.log_softmax(adjusted, dim=1) @ functional.softmax(self.prior, dim=0)
        return torch.lerp(losses, spread, self.recipe.smoothing)

    def _aligned(
        self, alignment: Alignment, network: Callable, embedding: torch.Tensor, step: int, progress: float
    ) -> torch.Tensor:
        generator = np.random.default_rng([self.recipe.seed, 2, step])
        few = len(alignment.rows) < len(embedding)
        rows = generator.choice(alignment.rows, size=len(embedding), replace=few)
        target = self._run(network, alignment.feed.batch(rows, step))[1]
        return alignment(embedding, target.float(), progress)

    def _run(self, network: Callable, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kind = self.recipe.device.split(":")[0]
        with torch.autocast(kind, torch.bfloat16, enabled=self.recipe.flags.bfloat16):
            return network(inputs)


def _mix(alpha: float, classes: int) -> Callable:
    """torchvision's MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019), one or the other for each batch."""
    from torchvision.transforms import v2

    return v2.RandomChoice(
        [v2.MixUp(alpha=alpha, num_classes=classes), v2.CutMix(alpha=alpha, num_classes=classes)]
    )
