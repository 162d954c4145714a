"""The training loop: epochs, validation, early stopping on a fixed budget, and a state to resume from.

Every random draw follows from (seed, epoch, row), so a run that was killed and resumed ends bit for bit
where an undisturbed one does.
"""

import math
import sys
import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from pipeline.transfer import distributed
from pipeline.transfer.calibration import calibrated_losses
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.objective import Alignment
from pipeline.transfer.recipe import DivergedError, Recipe
from pipeline.transfer.resume import State
from pipeline.transfer.steps import Labelled, Steps

__all__ = ["Curve", "Tuned", "fit"]

PATIENCE = 3  # epochs without a better validation loss


class Curve(Protocol):
    """Takes the losses as training goes."""

    def __call__(self, step: int, **losses: float) -> None: ...


@dataclass
class Tuned:
    """The best epoch's tensors, and how training went."""

    tensors: dict[str, torch.Tensor]  # what ``trained`` names, on the CPU
    logits: np.ndarray  # [validation, classes] of the best epoch
    epoch: int  # the best one, from 1
    history: list[dict[str, float]] = field(default_factory=list)  # step, loss of training and validation
    images: int = 0  # shown in this process, for the speed
    seconds: float = 0.0  # of training in this process, without validation
    ended: str = ""  # why, where it was not by schedule
    snapshots: list[dict[str, torch.Tensor]] = field(
        default_factory=list
    )  # of the last epochs, where asked for

    @property
    def step(self) -> int:
        """Optimizer steps up to the best epoch."""
        return int(self.history[self.epoch - 1]["step"]) if self.epoch else 0

    @property
    def curve(self) -> list[tuple[int, float, str]]:
        """Step, loss, split."""
        return [
            (int(entry["step"]), float(entry[part]), part)
            for entry in self.history
            for part in ("train", "validation")
        ]


def fit(
    classifier: Classifier,
    network: nn.Module,
    data: Labelled,
    recipe: Recipe,
    state: State | None = None,
    *,
    alignment: Alignment | None = None,
    curve: Curve | None = None,
    snapshots: int = 0,
) -> Tuned:
    """Train what is not frozen in ``classifier`` and keep the epoch with the lowest validation loss.

    Args:
        network: maps the feed's inputs to (logits, embedding); the classifier itself, or its upper part.
        snapshots: keep the tensors of so many last epochs (of this process).

    Raises:
        DivergedError: the loss is no number, before any epoch was finished; later it ends the training.
        StateError: not even a single image fits into memory.
    """
    steps = Steps(classifier, network, data, recipe, alignment)
    tuned = Tuned({}, np.empty(0), 0)
    started = _resume(steps, tuned, state, recipe.epochs)
    for entry in tuned.history:
        _tell(curve, entry)
    total = recipe.epochs * len(data.train)
    bar = tqdm(
        total=total,
        initial=started * len(data.train),
        desc="train",
        unit="img",
        disable=not distributed.first(),
    )
    with bar:
        for epoch in range(started, recipe.epochs):
            if epoch - tuned.epoch >= PATIENCE and tuned.epoch:
                break
            try:
                loss = _epoch(steps, tuned, epoch, bar)
            except DivergedError as error:
                if not tuned.epoch:
                    raise
                tuned.ended = f"it was stopped, since {error}"
                print(f"warning: train: {tuned.ended}; epoch {tuned.epoch} is kept", file=sys.stderr)
                break
            _judge(steps, tuned, epoch, loss)
            last = tuned.history[-1]
            bar.set_postfix(loss=f"{loss:.3f}", validation=f"{last['validation']:.3f}")
            _tell(curve, last)
            if snapshots:
                tuned.snapshots = (
                    [*tuned.snapshots[1 - snapshots :], steps.kept()] if snapshots > 1 else [steps.kept()]
                )
            if state and distributed.first():
                _save(steps, tuned, epoch, state)
    classifier.load_state_dict(tuned.tensors, strict=False)
    classifier.to("cpu").eval()
    return tuned


def _tell(curve: Curve | None, entry: dict[str, float]) -> None:
    if curve and distributed.first():
        curve(int(entry["step"]), train=entry["train"], validation=entry["validation"])


def _resume(steps: Steps, tuned: Tuned, state: State | None, epochs: int) -> int:
    """How many epochs are done already; ``steps`` and ``tuned`` are put where they were then."""
    kept = state.load() if state else None
    if kept is None:
        return 0
    done, tensors, facts = kept
    steps.restore(tensors)
    tuned.tensors = {name[5:]: value for name, value in tensors.items() if name.startswith("best.")}
    tuned.logits, tuned.epoch, tuned.history = tensors["logits"].numpy(), facts["best"], facts["history"]
    if distributed.first():
        print(f"train: resumed after epoch {done} of {epochs}", flush=True)
    return done


def _epoch(steps: Steps, tuned: Tuned, epoch: int, bar: tqdm) -> float:
    """One pass over the training rows; its mean loss."""
    recipe = steps.recipe
    steps.classifier.train()
    order = steps.data.plan.order(np.random.default_rng([recipe.seed, 1, epoch]))
    losses = 0.0
    started = time.perf_counter()
    for number in range(steps.count):
        batch = order[number * recipe.batch_size : (number + 1) * recipe.batch_size]
        losses += steps.step(batch, epoch, epoch * steps.count + number) * len(batch)
        bar.update(len(batch))
    tuned.seconds += time.perf_counter() - started
    tuned.images += len(order)
    return losses / len(order)


def _judge(steps: Steps, tuned: Tuned, epoch: int, loss: float) -> None:
    """Validate this epoch, and keep it where it is the best so far."""
    data = steps.data
    logits = steps.predict(data.validation)
    validation = float(calibrated_losses(logits, data.labels[data.validation]).mean())
    best = min((entry["validation"] for entry in tuned.history), default=math.inf)
    entry = {"step": (epoch + 1) * steps.count, "train": round(loss, 6), "validation": round(validation, 6)}
    tuned.history.append(entry)
    if entry["validation"] < best:
        tuned.tensors, tuned.logits, tuned.epoch = steps.kept(), logits, epoch + 1


def _save(steps: Steps, tuned: Tuned, epoch: int, state: State) -> None:
    tensors = {f"best.{name}": value for name, value in tuned.tensors.items()}
    tensors |= {"logits": torch.from_numpy(tuned.logits)} | steps.pack()
    state.save(epoch + 1, tensors, {"best": tuned.epoch, "history": tuned.history})
