"""One optimizer step after the other: network, loss, optimizer, schedule, moving average.

AdamW at learning rates of each layer's own (see rates.py): its groups carry ``lr_scale``, which timm's scheduler
applies at every step. Warm-up, then a cosine to zero over a number of steps that is fixed beforehand, but for
one stretching.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import ParamsError, StateError
from pipeline.transfer import distributed
from pipeline.transfer.average import Average
from pipeline.transfer.captured import Captured
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.device import laid_out, out_of_memory, sent
from pipeline.transfer.divergence import Watch, refused
from pipeline.transfer.feeds import Feed
from pipeline.transfer.freeze import trained
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.objective import Alignment, Examples, Objective
from pipeline.transfer.rates import parameter_groups
from pipeline.transfer.recipe import Recipe, TooLargeError
from pipeline.transfer.resume import pack_optimizer, unpack_optimizer

__all__ = ["Labelled", "Steps"]

WARM_UP = 0.3  # of all steps; less lets the first ones undo the probe where BatchNorm statistics are frozen
CLIP = 1.0  # norm of the gradient


@dataclass(frozen=True)
class Labelled:
    """The rows of a feed that are learnt from and judged by."""

    feed: Feed
    labels: np.ndarray  # [n] codes, of every row of the feed
    paths: Sequence[str]  # [n], to name an image in an error
    train: np.ndarray  # rows
    validation: np.ndarray  # rows
    plan: Plan  # how the training rows count


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
        self.classifier = laid_out(classifier, recipe.device, layout)
        network.to(recipe.device)
        self.data, self.recipe, self.alignment = data, recipe, alignment
        self.forward: Callable = distributed.wrapped(network, recipe.device)
        if recipe.flags.compiled:
            self.forward = torch.compile(self.forward)
        self.least = _least(classifier)  # images of a batch
        self.count = len(self.batches(data.train))  # steps an epoch
        self.micro = recipe.batch_size  # images at once; fewer where memory is short
        groups = parameter_groups(classifier, recipe)
        if alignment is not None and any(True for _ in alignment.parameters()):
            groups.append({"params": list(alignment.to(recipe.device).parameters()), "lr_scale": 1.0})
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
        alone = recipe.device.startswith("cuda") and distributed.world() == 1 and alignment is None
        self.captured = (
            Captured(self._once, recipe.batch_size, self.optimizer, recipe.device) if alone else None
        )
        self.watch = Watch(data.paths, self.count)
        self.schedule = self._scheduled()
        self.names = {id(parameter): name for name, parameter in classifier.named_parameters()}
        if alignment is not None:
            self.names |= {id(p): f"alignment.{name}" for name, p in alignment.named_parameters()}
        self.average = Average(trained(classifier), recipe.average) if recipe.average else None
        learnt = data.labels[data.train]
        self.objective = Objective(data.plan, learnt, classifier.head.out_features, recipe, alignment)

    def batches(self, order: np.ndarray) -> list[np.ndarray]:
        """An epoch's training rows in batches; a last one that is too small is left out of this epoch.

        Raises:
            ParamsError: no batch is large enough.
        """
        size = self.recipe.batch_size
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        found = [part for part in parts if len(part) >= self.least]
        if not found:
            raise ParamsError(
                f"train.batch_size is {size} for {len(order)} images, but the BatchNorms of random weights need batches of "
                f"{self.least} at least: raise it"
            )
        return found

    def stretch(self, epochs: int) -> None:
        """From now on the schedule is that of a training of so many epochs."""
        self.recipe = self.objective.recipe = replace(self.recipe, epochs=epochs)
        self.schedule = self._scheduled()

    def _scheduled(self) -> CosineLRScheduler:
        steps = self.recipe.epochs * self.count
        return CosineLRScheduler(
            self.optimizer,
            t_initial=steps,
            warmup_t=max(1, round(WARM_UP * steps)),
            warmup_prefix=False,
            t_in_epochs=False,
        )

    def step(self, batch: np.ndarray, epoch: int, step: int) -> torch.Tensor:
        """Learn from the training rows number ``batch``; their mean loss, which a GPU may still be at.

        Raises:
            DivergedError: the loss or its gradient is no number, and nothing was learnt from it; names the batch and its
                images. On a GPU it comes a step late.
            TooLargeError: not even one image fits into memory.
            StateError: one of several processes is short of memory.
        """
        self.schedule.step_update(step)
        torch.manual_seed(self.recipe.seed * 1_000_003 + step)  # dropout and mixing, the same after a resume
        examples = self._examples(batch, epoch)
        told = self._replayed(examples)
        if told is None:
            told = self._learnt(examples, step)
        self.watch.look(told, self.data.train[batch], epoch, step)
        if self.average:
            self.average.update(step)
        return told[0]

    def _examples(self, batch: np.ndarray, epoch: int) -> Examples:
        """This process's part, scaled to the whole batch's weighted mean."""
        mine, weights = self._mine(batch), self.objective.weights
        # The processes' gradients are averaged; one that got no image of a short batch counts nothing.
        scale = distributed.world() / float(weights[batch].sum()) * (len(distributed.share(batch)) > 0)
        rows = self.data.train[mine]
        numbers = sent(np.append(weights[mine].numpy(), np.float32(scale)), self.recipe.device)
        inputs, labels = self.data.feed.batch(rows, epoch), sent(self.data.labels[rows], self.recipe.device)
        return Examples(self._laid_out(inputs), labels, numbers[:-1], numbers[-1])

    def _replayed(self, examples: Examples) -> torch.Tensor | None:
        """What ``_learnt`` gives, by the captured step; None: not of this batch."""
        size = len(examples.targets)
        if self.captured is None or self.micro < size or not self.captured.ready(size):
            return None
        return self.captured(self.objective.mixed(examples))

    def _once(self, mixed: Examples) -> torch.Tensor:
        """``_learnt``, of a batch that fits into memory: what is captured."""
        loss = self.objective(self.forward, mixed, 0, 0.0)
        loss.backward()
        return self._updated(loss.detach())

    def _learnt(self, examples: Examples, step: int) -> torch.Tensor:
        """Gradients and the update: [2] loss of the batch and norm of its gradient."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss = self._gradients(examples, step)
                break
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                self._halve(error)
        return self._updated(loss)

    def _gradients(self, examples: Examples, step: int) -> torch.Tensor:
        """Gradients of the batch's loss, summed up over parts that fit into memory; the loss."""
        progress = step / (self.recipe.epochs * self.count)
        size = len(examples.targets)
        loss = torch.zeros_like(examples.scale)
        for start in range(0, size, self.micro):
            last = start + self.micro >= size
            with contextlib.nullcontext() if last else _unsynchronised(self.forward):
                mixed = self.objective.mixed(examples.part(start, self.micro))
                share = self.objective(self.forward, mixed, step, progress)
                share.backward()
            loss = loss + share.detach()
        return distributed.averaged(loss)

    def _updated(self, loss: torch.Tensor) -> torch.Tensor:
        """Clip the gradient and update, but for what is no number: clipped by it, it would make every weight NaN."""
        norm = torch.nn.utils.clip_grad_norm_(self.classifier.parameters(), CLIP, foreach=True)
        told = torch.stack([loss, norm])
        self.optimizer.found_inf = refused(told)  # type: ignore[attr-defined]  # as torch's GradScaler sets it
        self.optimizer.step()
        return told

    def _laid_out(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs if self.recipe.flags.channels_last or inputs.dim() != 4 else inputs.contiguous()

    def _mine(self, batch: np.ndarray) -> np.ndarray:
        """This process's part of the batch; never empty, since all of them must take part in the sum."""
        part = distributed.share(batch)
        return part if len(part) else batch[:1]

    def _halve(self, error: Exception) -> None:
        if distributed.world() > 1:  # the others are amid the step: nothing can be tried again here alone
            raise StateError("the batch does not fit into memory: lower train.batch_size") from error
        if self.micro <= self.least:
            few = "a single image does" if self.least == 1 else f"{self.least} images do"
            raise TooLargeError(
                f"{few} not fit into memory: lower model.image_size, or train on another device"
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


def _least(classifier: Classifier) -> int:
    """Images that a batch must have: two where a BatchNorm takes its statistics from it."""
    classifier.train()
    live = any(isinstance(module, _BatchNorm) and module.training for module in classifier.modules())
    return 2 * distributed.world() if live else 1


def _unsynchronised(network: Callable) -> contextlib.AbstractContextManager:
    wait = getattr(network, "no_sync", None)
    return wait() if wait else contextlib.nullcontext()
