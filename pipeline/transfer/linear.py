"""The probe as a strategy: a linear head on cached frozen features, in a network that gives its logits."""

import time

import numpy as np

from pipeline.transfer.boundary import Halves, activations, planned_halves
from pipeline.transfer.calibration import calibrated_losses
from pipeline.transfer.examples import Examples
from pipeline.transfer.features import cached_features, features_above, kinds
from pipeline.transfer.prior import scaled
from pipeline.transfer.probe import fit_probe
from pipeline.transfer.task import Candidate, Task, figures

__all__ = ["probe", "stored_features", "training_examples"]

VIEWS = 2  # stored of each training image, where params.yaml asks for no other number


def stored_features(task: Task) -> tuple[np.ndarray, list[np.ndarray]]:
    """[n, width] of all images as they are, and [trained, width] of the training images' further views.

    Where partial fine-tuning follows, they are read off the activations that it needs anyway.
    """
    names = kinds(task.train.views or VIEWS)
    halves = planned_halves(task)
    if halves is None or halves.views < len(names):
        found = [_from_pixels(task, view) for view in names]
    else:
        stores = activations(task, halves, len(names))
        found = [_from_activations(task, halves, *one) for one in zip(stores, names, strict=True)]
    return found[0], found[1:]


def _from_pixels(task: Task, view: str) -> np.ndarray:
    ids = _shown(task, view)
    return cached_features(
        task.workspace, task.backbone, task.pixels[: len(ids)], ids, view=view, device=task.device
    )


def _from_activations(task: Task, halves: Halves, store: np.ndarray, view: str) -> np.ndarray:
    return features_above(
        task.workspace, task.backbone, halves.upper.graph, halves.place, store, _shown(task, view),
        view=view, device=task.device,
    )  # fmt: skip


def _shown(task: Task, view: str) -> list[str]:
    """Only training images are shown in other views than the plain one."""
    return task.data.image_ids if view == "plain" else task.data.image_ids[: task.data.trained]


def training_examples(task: Task, plain: np.ndarray, varied: list[np.ndarray]) -> Examples:
    """The training images in all stored views, counted as the task's plan says."""
    data, plan = task.data, task.plan
    features, labels = np.stack([plain[: data.trained], *varied]), data.labels[: data.trained]
    prior = None if task.prior is None else scaled(task.prior, features[0], labels)
    return Examples(features, labels, plan.probe_weights, plan.log_prior, prior)


def probe(task: Task) -> Candidate:
    """Fit the head; what it says of the validation images, and how it came to be."""
    started = time.perf_counter()
    data, plan, backbone = task.data, task.plan, task.backbone
    first, count = data.trained, len(data.labels)
    plain, varied = stored_features(task)
    extracted = time.perf_counter()
    examples = training_examples(task, plain, varied)
    head = fit_probe(examples, data.classes, groups=data.groups[:first], seed=task.seed, head=task.train.head)
    logits = head.logits(plain)
    losses = [
        float(calibrated_losses(logits[rows], data.labels[rows]).mean())
        for rows in (slice(first), slice(first, None))
    ]
    outcome = figures(logits[first:], data.labels[first:])
    origin = (
        f"by {head.folds}-fold cross-validation"
        if head.folds
        else "by default: the classes are too small for folds"
    )
    strength = f"C = {head.strength:g}" if head.kind == "logistic" else f"penalty {head.strength:g}"
    views = f"{len(varied) + 1} stored views of {first} images" if varied else f"{first} images"
    text = (
        f"Probe: a {head.kind} head on the {backbone.width} frozen features of {backbone.name} "
        f"({backbone.weights['source']} weights), fitted to {views}, {strength} ({origin}), sampling plan "
        f"{plan.name}. On {count - first} validation images its accuracy is {outcome['accuracy']:.3f} and its log loss "
        f"{outcome['log_loss']:.3f}."
    )
    if task.prior is not None:
        text += (
            " Its penalty pulls towards what model.prior says of the class names."
            if head.prior
            else " What model.prior says of the class names does not help it and is left out."
        )
    if task.curves:
        task.curves.log("probe", 0, train=losses[0], validation=losses[1])
    return Candidate(
        strategy="probe",
        classifier=task.network((head.weight, head.bias)),
        logits=logits[first:],
        report=text,
        curve=[(0, round(losses[0], 6), "train"), (0, round(losses[1], 6), "validation")],
        seconds={"features": extracted - started, "probe": time.perf_counter() - extracted},
        images_per_second=(count + first * len(varied)) / max(extracted - started, 1e-3),
        figures=outcome,
    )
