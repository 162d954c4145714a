"""One optimizer step after the other: network, loss, optimizer, schedule, moving average.

AdamW with timm's layer-decayed learning rates: its groups carry ``lr_scale``, which timm's scheduler
applies at every step. Warm-up, then a cosine to zero over a number of steps that is fixed beforehand.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.nn import functional

from pipeline.errors import StateError
from pipeline.transfer import distributed
from pipeline.transfer.average import Average
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.feeds import Feed
from pipeline.transfer.freeze import trained
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.recipe import DivergedError, Recipe
from pipeline.transfer.resume import pack_optimizer, unpack_optimizer

__all__ = ["Alignment", "Labelled", "Steps"]

WARM_UP = 0.1  # of all steps
CLIP = 1.0  # norm of the gradient
NAMED = 8  # images named when the loss is no number


@dataclass(frozen=True)
class Labelled:
    """The rows of a feed that are learnt from and judged by."""

    feed: Feed
    labels: np.ndarray  # [n] codes, of every row of the feed
    paths: Sequence[str]  # [n], to name an image in an error
    train: np.ndarray  # rows
    validation: np.ndarray  # rows
    plan: Plan  # how the training rows count


class Alignment(nn.Module):
    """A further loss on the embeddings of labelled and of unlabelled images; see align.py."""

    feed: Feed
    rows: np.ndarray  # of the unlabelled images in ``feed``

    def forward(self, source: torch.Tensor, target: torch.Tensor, progress: float) -> torch.Tensor:
        """The loss of two batches of embeddings [n, width] at ``progress`` (0 to 1) of the training."""
        raise NotImplementedError


class Steps:
    """The state of one training. ``network`` maps the feed's inputs to (logits, embedding)."""

    def __init__(
        self,
        classifier: Classifier,
        network: nn.Module,
        data: Labelled,
        recipe: Recipe,
        alignment: Alignment | None = None,
    ) -> None:
        layout = torch.channels_last if recipe.flags.channels_last else torch.contiguous_format
        self.classifier = classifier.to(recipe.device, memory_format=layout)  # type: ignore[call-overload]
        network.to(recipe.device)
        self.data, self.recipe, self.alignment = data, recipe, alignment
        self.forward: Callable = distributed.wrapped(network, recipe.device)
        if recipe.flags.compiled:
            self.forward = torch.compile(self.forward)
        self.count = math.ceil(len(data.train) / recipe.batch_size)  # steps an epoch
        self.micro = recipe.batch_size  # images at once; fewer where memory is short
        groups = _groups(classifier, recipe)
        if alignment is not None and any(True for _ in alignment.parameters()):
            groups.append({"params": list(alignment.to(recipe.device).parameters()), "lr_scale": 1.0})
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
        self.schedule = CosineLRScheduler(
            self.optimizer,
            t_initial=recipe.epochs * self.count,
            warmup_t=max(1, round(WARM_UP * recipe.epochs * self.count)),
            warmup_prefix=False,
            t_in_epochs=False,
        )
        self.names = {id(parameter): name for name, parameter in classifier.named_parameters()}
        if alignment is not None:
            self.names |= {id(p): f"alignment.{name}" for name, p in alignment.named_parameters()}
        self.average = Average(trained(classifier), recipe.average) if recipe.average else None
        classes = classifier.head.out_features
        self.weights = torch.from_numpy(data.plan.loss_weights.astype(np.float32))
        self.by_class = torch.from_numpy(_by_class(data, classes)).to(recipe.device)
        self.prior = torch.from_numpy(data.plan.log_prior.astype(np.float32)).to(recipe.device)
        self.mix = _mix(recipe.mix, classes) if recipe.mix else None

    def step(self, batch: np.ndarray, epoch: int, step: int) -> float:
        """Learn from the training rows number ``batch``; their mean loss.

        Raises:
            DivergedError: the loss is no number; names the batch and its images.
            StateError: not even one image fits into memory.
        """
        self.schedule.step_update(step)
        torch.manual_seed(self.recipe.seed * 1_000_003 + step)  # dropout and mixing, the same after a resume
        rows = self.data.train[batch]
        inputs = self._laid_out(self.data.feed.batch(distributed.share(rows), epoch))
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss = self._gradients(batch, inputs, step)
                break
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                self._halve(error)
        if not math.isfinite(loss):
            named = [self.data.paths[row] for row in rows[:NAMED]]
            more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
            raise DivergedError(
                f"the training loss became {loss} in epoch {epoch + 1}, batch {step % self.count + 1} of {self.count}: "
                f"{', '.join(named)}{more}; look at these images, or lower train.learning_rate"
            )
        torch.nn.utils.clip_grad_norm_(self.classifier.parameters(), CLIP, foreach=True)
        self.optimizer.step()
        if self.average:
            self.average.update(step)
        return loss

    def _laid_out(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs if self.recipe.flags.channels_last or inputs.dim() != 4 else inputs.contiguous()

    def _gradients(self, batch: np.ndarray, inputs: torch.Tensor, step: int) -> float:
        """Gradients of the whole batch's weighted mean loss, summed up over parts that fit into memory."""
        mine = distributed.share(batch)
        labels = torch.from_numpy(self.data.labels[self.data.train[mine]])
        scale = distributed.world() / float(
            self.weights[batch].sum()
        )  # the processes' gradients are averaged
        loss = 0.0
        for start in range(0, len(mine), self.micro):
            part = slice(start, start + self.micro)
            last = start + self.micro >= len(mine)
            with contextlib.nullcontext() if last else _unsynchronised(self.forward):
                share = self._loss(inputs[part], labels[part], self.weights[mine[part]], step) * scale
                share.backward()
            loss += float(share.detach())
        return float(distributed.gathered(np.array([loss]), distributed.world()).mean())

    def _loss(
        self, inputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, step: int
    ) -> torch.Tensor:
        """Sum of the weighted losses of one part, on the device."""
        recipe, place = self.recipe, self.recipe.device
        targets, weights = labels.to(place), weights.to(place)
        if self.mix is not None and len(inputs) > 1:
            inputs, targets = self.mix(inputs, targets)
            weights = targets @ self.by_class
        with torch.autocast(place.split(":")[0], torch.bfloat16, enabled=recipe.flags.bfloat16):
            logits, embedding = self.forward(inputs)
        losses = functional.cross_entropy(
            logits.float() + self.prior, targets, reduction="none", label_smoothing=recipe.smoothing
        )
        loss = (losses * weights).sum()
        if self.alignment is not None:
            loss = loss + self._aligned(self.alignment, embedding.float(), step) * weights.sum()
        return loss

    def _aligned(self, alignment: Alignment, embedding: torch.Tensor, step: int) -> torch.Tensor:
        generator = np.random.default_rng([self.recipe.seed, 2, step])
        rows = generator.choice(
            alignment.rows, size=len(embedding), replace=len(alignment.rows) < len(embedding)
        )
        with torch.autocast(
            self.recipe.device.split(":")[0], torch.bfloat16, enabled=self.recipe.flags.bfloat16
        ):
            target = self.forward(alignment.feed.batch(rows, step))[1]
        return alignment(embedding, target.float(), step / (self.recipe.epochs * self.count))

    def _halve(self, error: Exception) -> None:
        if self.micro == 1 or distributed.world() > 1:
            raise StateError(
                "a single image does not fit into memory: lower model.image_size, or train on another device"
                if self.micro == 1
                else "the batch does not fit into memory: lower train.batch_size"
            ) from error
        self.micro = (self.micro + 1) // 2
        print(f"train: out of memory; batches now run in parts of {self.micro} images", flush=True)

    @torch.inference_mode()
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """float32 [len(rows), classes] logits of the plain images, in float32 and eval mode."""
        self.classifier.eval()
        network = self.forward
        network = getattr(network, "_orig_mod", network)
        network = getattr(network, "module", network)
        with self.average.in_place() if self.average else contextlib.nullcontext():
            mine = distributed.share(rows)
            parts = [
                network(self.data.feed.plain(mine[start : start + self.micro]))[0].float().cpu().numpy()
                for start in range(0, len(mine), self.micro)
            ]
        none = np.empty((0, self.classifier.head.out_features), dtype=np.float32)
        return distributed.gathered(np.concatenate([none, *parts]), len(rows))

    def kept(self) -> dict[str, torch.Tensor]:
        """The tensors to keep of this moment, on the CPU: the moving average where there is one."""
        tensors = self.average.tensors if self.average else trained(self.classifier)
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def pack(self) -> dict[str, torch.Tensor]:
        """Everything that a resume needs."""
        packed = {f"model.{name}": value for name, value in trained(self.classifier).items()}
        if self.average:
            packed |= {f"average.{name}": value for name, value in self.average.tensors.items()}
        if self.alignment is not None:
            packed |= {f"alignment.{name}": value for name, value in self.alignment.state_dict().items()}
        return packed | pack_optimizer(self.optimizer, self.names)

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Go on from what ``pack`` gave."""

        def below(prefix: str) -> dict[str, torch.Tensor]:
            return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}

        self.classifier.load_state_dict(below("model."), strict=False)
        if self.average:
            self.average.restore(below("average."))
        if self.alignment is not None:
            self.alignment.load_state_dict(below("alignment."))
        unpack_optimizer(self.optimizer, self.names, tensors)


def _groups(classifier: Classifier, recipe: Recipe) -> list[dict[str, object]]:
    """The head at the full rate, and the backbone's groups: timm's layer decay, or one rate for all."""
    head = list(classifier.head.parameters())
    groups: list[dict[str, object]] = [{"params": head, "weight_decay": 0.0, "lr_scale": 1.0}]
    if not any(parameter.requires_grad for parameter in classifier.backbone.parameters()):
        return groups
    if recipe.layer_decay == 1 or not hasattr(classifier.backbone, "group_matcher"):
        plain = param_groups_weight_decay(classifier.backbone, weight_decay=recipe.weight_decay)
        return groups + [group | {"lr_scale": 1.0} for group in plain if group["params"]]
    return groups + param_groups_layer_decay(
        classifier.backbone, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay
    )


def _by_class(data: Labelled, classes: int) -> np.ndarray:
    """[classes] float32: the loss weight of each class's images."""
    labels = data.labels[data.train]
    sums = np.bincount(labels, weights=data.plan.loss_weights, minlength=classes)
    return (sums / np.maximum(np.bincount(labels, minlength=classes), 1)).astype(np.float32)


def _mix(alpha: float, classes: int) -> Callable:
    """torchvision's MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019), one or the other for each batch."""
    from torchvision.transforms import v2

    return v2.RandomChoice(
        [v2.MixUp(alpha=alpha, num_classes=classes), v2.CutMix(alpha=alpha, num_classes=classes)]
    )


def _unsynchronised(network: Callable) -> contextlib.AbstractContextManager:
    wait = getattr(network, "no_sync", None)
    return wait() if wait else contextlib.nullcontext()


def _out_of_memory(error: Exception) -> bool:
    words = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in words
        or "can't allocate memory" in words
    )
