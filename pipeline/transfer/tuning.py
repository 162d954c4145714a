"""What the strategies that train by gradient have in common: budget, speed, state, and what they say."""

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from pipeline.artifacts import digest_json
from pipeline.transfer import cost, distributed, speed
from pipeline.transfer.blending import SOUP, blended, domains
from pipeline.transfer.choice import compare
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.course import Rival, Tuned
from pipeline.transfer.device import out_of_memory
from pipeline.transfer.feeds import Feed, PixelFeed
from pipeline.transfer.loop import fit
from pipeline.transfer.merging import merged
from pipeline.transfer.objective import Alignment
from pipeline.transfer.rates import WIDE
from pipeline.transfer.recipe import Flags, Recipe
from pipeline.transfer.resume import State, source_digest
from pipeline.transfer.steps import Labelled
from pipeline.transfer.task import Candidate, Task, figures

__all__ = ["Settings", "SkippedError", "epochs", "labelled", "pixel_feed", "tune"]

BATCH = 32
LONGER = 2  # times the budget, for a challenger that soon beats the probe


class SkippedError(Exception):
    """A strategy does not fit into the budget; the message is a sentence."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a strategy decides of its recipe."""

    name: str
    learning_rate: float
    rate_share: float = 1.0  # of the rate that params.yaml asks for instead
    layer_decay: float = 0.8
    wide: int = WIDE  # see Recipe
    smoothing: float = 0.0  # of the labels, where params.yaml asks for no other
    epochs: int
    longer: int = 0  # epochs of auto's challenger that soon beats the probe
    flags: Flags | None = None  # None: measured
    mix: bool = True  # whether params.yaml's mixing applies (it needs pixels)
    phase: int = 0
    unlabelled: str = ""  # digest of the images that an alignment sees


def pixel_feed(task: Task) -> PixelFeed:
    """The task's views, augmented as params.yaml says."""
    return PixelFeed(
        task.pixels,
        task.backbone.preprocessing,
        seed=task.seed,
        device=task.device,
        augment=task.train.augment,
    )


def labelled(task: Task, feed: Feed) -> Labelled:
    """The task's labels beside a feed of its rows."""
    data = task.data
    return Labelled(feed, data.labels, data.paths, data.train, data.validation, task.plan)


def epochs(
    task: Task, network: nn.Module, shape: tuple[int, ...], *, forced: bool, name: str, before: float = 0.0
) -> tuple[int, int]:
    """How many epochs fit into the budget, and how many ``auto`` gives a challenger that soon beats the probe.

    Args:
        before: nominal seconds that are spent first.

    Raises:
        SkippedError: not even one does, and params.yaml does not force the strategy.
    """
    train = task.train
    if train.epochs is not None:
        return train.epochs, 0
    one = _counted(task, network, shape)
    seconds = one.train * len(task.data.train) + one.forward * len(task.data.validation)
    count = cost.epochs_within(max(train.budget_seconds - before, 0.0), seconds)
    if count == 0 and not forced:
        raise SkippedError(
            f"{name.capitalize()} was skipped: one epoch costs about {seconds + before:.2g} s on the nominal machine, "
            f"train.budget_seconds allows {train.budget_seconds:g} s."
        )
    ample = LONGER * train.budget_seconds - before if train.strategy == "auto" else 0.0
    return max(count, 1), cost.epochs_within(max(ample, 0.0), seconds)


def tune(
    task: Task,
    start: Candidate,
    classifier: Classifier,
    settings: Settings,
    *,
    network: nn.Module | None = None,
    feed: Feed | None = None,
    alignment: Alignment | None = None,
) -> Candidate:
    """Train what is free in ``classifier`` from where it stands; a candidate with all its figures.

    Raises:
        DivergedError: the loss is no number in the first epoch.
    """
    whole = classifier if network is None else network
    module = merged(classifier, whole)
    data = labelled(task, feed or pixel_feed(task))
    recipe, reason = _recipe(task, module, data, settings, _nominal(task, whole, data))
    state = State(task.workspace.unfinished, _key(task, start, recipe, settings))
    snapshots = SOUP if domains(task) > 1 else 0
    before = {name: value.clone() for name, value in classifier.state_dict().items()}

    labels = data.labels[data.validation]
    groups = [task.data.groups[row] for row in data.validation]
    rival = Rival(
        start.logits,
        lambda logits: compare(start.logits, logits, labels, groups).second_wins,
        settings.longer,
    )
    tuned = fit(
        classifier, module, data, recipe, state,
        alignment=alignment, snapshots=snapshots, rival=rival if task.train.strategy == "auto" else None,
        curve=functools.partial(task.curves.log, settings.name) if task.curves else None,
    )  # fmt: skip
    said = f" {blended(task, classifier, module, data, tuned, before)}" if snapshots else ""
    return replace(
        _candidate(task, start, classifier, tuned, recipe, settings, said),
        arithmetic={settings.name: reason},
    )


def _counted(task: Task, network: nn.Module, shape: tuple[int, ...]) -> cost.Cost:
    """Of an image; pretrained statistics stay still, so their BatchNorms are merged."""
    return cost.measure(network, shape, task.device, merged=task.backbone.pretrained)


def _nominal(task: Task, network: nn.Module, data: Labelled) -> float:
    """Seconds of training for an epoch on the nominal machine."""
    shape = tuple(data.feed.plain(data.train[:1]).shape[1:])
    try:
        one = _counted(task, network, shape)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return math.inf  # not even one image fits: the training says so
    return one.train * len(data.train)


def _recipe(
    task: Task, network: nn.Module, data: Labelled, settings: Settings, epoch: float
) -> tuple[Recipe, str]:
    train = task.train
    batch = BATCH if train.batch_size == "auto" else train.batch_size
    flags, reason = settings.flags, ""
    if flags is None:
        sample = data.feed.plain(data.train[: min(batch, len(data.train))]).cpu()
        steps = settings.epochs * -(-len(data.train) // batch)
        free = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        name = f"{task.backbone.name} {task.backbone.kwargs} {settings.name} {settings.phase} {free}"
        chosen = distributed.from_first(
            lambda: speed.decide(
                task.workspace, train, copy.deepcopy(network), sample, len(task.data.classes),
                steps=steps, seconds=settings.epochs * epoch, device=task.device, name=name,
            )
        )  # fmt: skip
        flags, reason = chosen.flags, chosen.reason
    return Recipe(
        epochs=settings.epochs,
        seed=task.seed,
        learning_rate=(
            settings.learning_rate
            if train.learning_rate is None
            else train.learning_rate * settings.rate_share
        ),
        batch_size=batch,
        layer_decay=settings.layer_decay,
        wide=settings.wide,
        mix=train.mix if settings.mix else 0.0,
        smoothing=settings.smoothing if train.label_smoothing is None else train.label_smoothing,
        average=train.average,
        device=task.device,
        flags=flags,
    ), reason


def _candidate(
    task: Task,
    start: Candidate,
    classifier: Classifier,
    tuned: Tuned,
    recipe: Recipe,
    settings: Settings,
    said: str,
) -> Candidate:
    data = task.data
    labels = data.labels[data.validation]
    outcome: dict[str, Any] = figures(tuned.logits, labels)
    comparison = compare(start.logits, tuned.logits, labels, [data.groups[row] for row in data.validation])
    ended = f" {tuned.ended[:1].upper()}{tuned.ended[1:]}." if tuned.ended else ""
    if tuned.planned > recipe.epochs:
        ended = f" It beat the {start.strategy} in one of its first two epochs and so had {LONGER} times train.budget_seconds.{ended}"
    if not tuned.ended and task.train.epochs is None and tuned.epoch == tuned.planned < cost.MOST_EPOCHS:
        ended += f" It was best at its last epoch: a train.budget_seconds above {task.train.budget_seconds:g} may give more."
    text = (
        f"{settings.name.capitalize()}, {len(tuned.history)} of {tuned.planned} epochs, the network after epoch {tuned.epoch}: accuracy "
        f"{outcome['accuracy']:.3f}, log loss {outcome['log_loss']:.3f}; the gain over the {start.strategy} is "
        f"{comparison.gain:.3f} with a standard error of {comparison.error:.3f}. Arithmetic: {speed.words(recipe.flags)}.{said}{ended}"
    )
    return Candidate(
        strategy=settings.name,
        classifier=classifier,
        logits=tuned.logits,
        report=text,
        curve=tuned.curve,
        seconds={settings.name: tuned.seconds},
        images_per_second=tuned.images_per_second,
        steps=tuned.step,
        epochs=tuned.planned,
        figures=outcome,
    )


def _key(task: Task, start: Candidate, recipe: Recipe, settings: Settings) -> str:
    """Digest of everything that decides what this training gives."""
    data = task.data
    parts = {
        "images": list(zip(data.image_ids, data.labels.tolist(), strict=True)),
        "trained": data.trained,
        "plan": [task.plan.name, task.plan.loss_weights.tolist()],
        "weights": [task.backbone.weights["digest"], task.backbone.name, task.backbone.kwargs],
        "fingerprint": task.backbone.preprocessing.fingerprint(),
        # Of several processes each has a GPU of its own, and all must find the one state.
        "recipe": repr(replace(recipe, device=recipe.device.split(":")[0])),
        "settings": repr(settings),
        "params": repr(task.train),
        "start": start.logits.tobytes().hex(),
        "code": [source_digest(), *speed.machine()],
    }
    return digest_json(parts)[:32]


Strategy = Callable[[Task, Candidate], Candidate]
