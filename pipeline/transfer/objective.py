"""What a step minimises: cross entropy, weighted and adjusted by the plan, on mixed or plain images, and an alignment."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipeline.transfer.feeds import Feed
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.recipe import Recipe

__all__ = ["Alignment", "Objective"]


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

    def __call__(
        self,
        network: Callable,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
        step: int,
        progress: float,
    ) -> torch.Tensor:
        """Sum of the weighted losses of ``inputs`` [n, ...] with ``labels`` and ``weights`` [n], on the device."""
        place = self.recipe.device
        targets, weights = labels.to(place), weights.to(place)
        if self.mix is not None and len(inputs) > 1:
            inputs, targets = self.mix(inputs, targets)
            weights = targets @ self.by_class
        logits, embedding = self._run(network, inputs)
        loss = (self._losses(logits.float() + self.prior, targets) * weights).sum()
        if self.alignment is not None:
            aligned = self._aligned(self.alignment, network, embedding.float(), step, progress)
            loss = loss + aligned * weights.sum()
        return loss

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
