"""The training loop: epochs, validation, early stopping on a fixed budget, and a state to resume from.

The schedule ends at a rate of zero, so the last epoch is the one to keep, and a few dozen validation images
can't tell it from a neighbour: an earlier epoch is kept only where validation prefers it by more than a standard
error. By the same measure training stops early, in the schedule's last third alone, since a network may be worse
while the rate is high that ends the best. Beside a rival, one that is clearly behind it in the last third is
given up; one that beats it in one of its first two epochs, hardly out of warm-up, has much to gain and trains
longer.

Every random draw follows from (seed, epoch, row), so a run that was killed and resumed ends bit for bit
where an undisturbed one does.
"""

import math
import sys
import time
from typing import Protocol

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from pipeline.transfer import course, distributed
from pipeline.transfer.calibration import calibrated_losses
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.course import Rival, Tuned, given_up, past_its_best
from pipeline.transfer.divergence import NAMED
from pipeline.transfer.objective import Alignment
from pipeline.transfer.recipe import DivergedError, Recipe
from pipeline.transfer.resume import State
from pipeline.transfer.steps import Labelled, Steps

__all__ = ["Curve", "fit"]


class Curve(Protocol):
    """Takes the losses as training goes."""

    def __call__(self, step: int, **losses: float) -> None: ...


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
    rival: Rival | None = None,
) -> Tuned:
    """Train what is not frozen in ``classifier``; keep the last epoch, or the best where it is clearly better.

    Args:
        network: maps the feed's inputs to (logits, embedding); the classifier itself, or its upper part.
        snapshots: keep the tensors of so many last epochs.

    Raises:
        DivergedError: the loss, its gradient or a validation logit is no number, before any epoch was finished; later it ends the training.
        TooLargeError: not even a single image fits into memory.
    """
    steps = Steps(classifier, network, data, recipe, alignment)
    tuned = Tuned({}, np.empty(0), 0, recipe.epochs)
    epoch = _resume(steps, tuned, state)
    for entry in tuned.history:
        _tell(curve, entry)
    each = len(data.train)
    bar = tqdm(
        total=tuned.planned * each,
        initial=epoch * each,
        desc="train",
        unit="img",
        disable=not distributed.first(),
    )
    with bar:
        while epoch < tuned.planned and not past_its_best(tuned):
            if given_up(tuned):
                tuned.ended = f"it was given up after epoch {epoch}, behind the network that it had to beat"
                break
            try:
                loss = _epoch(steps, tuned, epoch, bar)
                _judge(steps, tuned, epoch, loss, rival)
            except DivergedError as error:
                if not tuned.epoch:
                    raise
                tuned.ended = f"it was stopped, since {error}"
                print(f"warning: train: {tuned.ended}; epoch {tuned.epoch} is kept", file=sys.stderr)
                break
            last = tuned.history[-1]
            bar.set_postfix(loss=f"{loss:.3f}", validation=f"{last['validation']:.3f}")
            _tell(curve, last)
            if snapshots:
                tuned.snapshots = (
                    [*tuned.snapshots[1 - snapshots :], steps.kept()] if snapshots > 1 else [steps.kept()]
                )
            if epoch < course.SOON and rival and rival.longer > tuned.planned and rival.beaten(tuned.logits):
                tuned.planned, bar.total = rival.longer, rival.longer * each
                steps.stretch(rival.longer)
            if state and distributed.first():
                _save(steps, tuned, epoch, state)
            epoch += 1
    if not tuned.ended and tuned.epoch < len(tuned.history) and tuned.history[-1]["behind"] <= 1:
        tuned.logits, tuned.epoch = steps.predict(data.validation), len(tuned.history)
        tuned.tensors = steps.kept()
    classifier.load_state_dict(tuned.tensors, strict=False)
    classifier.to("cpu").eval()
    return tuned


def _tell(curve: Curve | None, entry: dict[str, float]) -> None:
    if curve and distributed.first():
        curve(int(entry["step"]), train=entry["train"], validation=entry["validation"])


def _resume(steps: Steps, tuned: Tuned, state: State | None) -> int:
    """How many epochs are done already; ``steps`` and ``tuned`` are put where they were then."""
    kept = state.load() if state else None
    if not distributed.agreed(kept[0] if kept else 0):
        if distributed.first():
            print("train: not every process finds the same state to go on from; it starts afresh", flush=True)
        return 0
    if kept is None:
        return 0
    done, tensors, facts = kept
    steps.restore(tensors)
    tuned.tensors = _below("best.", tensors)
    tuned.logits, tuned.epoch, tuned.history = tensors["logits"].numpy(), facts["best"], facts["history"]
    tuned.timed = [(int(images), float(seconds)) for images, seconds in facts["timed"]]
    if facts["planned"] != tuned.planned:
        tuned.planned = facts["planned"]
        steps.stretch(tuned.planned)
    tuned.snapshots = [_below(f"snapshot-{number}.", tensors) for number in range(facts["snapshots"])]
    if distributed.first():
        print(f"train: resumed after epoch {done} of {tuned.planned}", flush=True)
    return done


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _epoch(steps: Steps, tuned: Tuned, epoch: int, bar: tqdm) -> float:
    """One pass over the training rows; its mean loss."""
    recipe = steps.recipe
    steps.classifier.train()
    order = steps.data.plan.order(np.random.default_rng([recipe.seed, 1, epoch]))
    losses = torch.zeros((), dtype=torch.float64, device=recipe.device)
    started = time.perf_counter()
    batches = steps.batches(order)
    for number, batch in enumerate(batches):
        losses += steps.step(batch, epoch, epoch * steps.count + number).double() * len(batch)
        bar.update(len(batch))
    steps.watch.settle()
    images = sum(len(batch) for batch in batches)
    loss = float(losses) / images
    tuned.timed.append((images, time.perf_counter() - started))
    return loss


def _judge(steps: Steps, tuned: Tuned, epoch: int, loss: float, rival: Rival | None) -> None:
    """Validate this epoch, and remember it where it is the best so far.

    Raises:
        DivergedError: an answer is no number; names the images.
    """
    data = steps.data
    labels = data.labels[data.validation]
    logits = steps.predict(data.validation)
    wrong = data.validation[~np.isfinite(logits).all(axis=1)]
    if len(wrong):
        named = ", ".join(data.paths[row] for row in wrong[:NAMED])
        raise DivergedError(
            f"after epoch {epoch + 1} the network answers {len(wrong)} of {len(labels)} validation images with NaN or "
            f"infinity: {named}{', …' if len(wrong) > NAMED else ''}; look at these images, or lower train.learning_rate"
        )
    losses = calibrated_losses(logits, labels)
    worse = losses - calibrated_losses(tuned.logits, labels) if tuned.epoch else -losses
    short = losses - calibrated_losses(rival.logits, labels) if rival else -losses
    entry = {
        "step": (epoch + 1) * steps.count,
        "train": round(loss, 6),
        "validation": round(float(losses.mean()), 6),
        "behind": round(float(worse.mean() / _error(worse)), 4),
        "short": round(float(short.mean() / _error(short)), 4),
    }
    tuned.history.append(entry)
    if worse.mean() < 0:
        tuned.tensors, tuned.logits, tuned.epoch = steps.kept(), logits, epoch + 1


def _error(values: np.ndarray) -> float:
    """Standard error of the mean of values [n], the images taken as independent."""
    return max(float(values.std() / math.sqrt(len(values))), 1e-9)


def _save(steps: Steps, tuned: Tuned, epoch: int, state: State) -> None:
    tensors = {f"best.{name}": value for name, value in tuned.tensors.items()}
    tensors |= {"logits": torch.from_numpy(tuned.logits)} | steps.pack()
    for number, snapshot in enumerate(tuned.snapshots):
        tensors |= {f"snapshot-{number}.{name}": value for name, value in snapshot.items()}
    facts = {
        "best": tuned.epoch,
        "history": tuned.history,
        "timed": tuned.timed,
        "planned": tuned.planned,
        "snapshots": len(tuned.snapshots),
    }
    state.save(epoch + 1, tensors, facts)
