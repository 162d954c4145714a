"""The probe as a strategy: a linear head on cached frozen features, in a network that gives its logits."""

import time
from dataclasses import dataclass, replace

import numpy as np

from pipeline.errors import ParamsError
from pipeline.transfer.boundary import Halves, activations, planned_halves
from pipeline.transfer.calibration import calibrated_losses
from pipeline.transfer.examples import Examples
from pipeline.transfer.features import cached_features, features_above, kinds
from pipeline.transfer.prior import scaled
from pipeline.transfer.probe import Head, fit_probe
from pipeline.transfer.stages import Standardised, Taps, every_stage
from pipeline.transfer.task import Candidate, Task, figures

__all__ = ["probe", "probe_logits", "stored_features", "training_examples"]

VIEWS = 2  # stored of each training image, where params.yaml asks for no other number


def stored_features(task: Task) -> tuple[np.ndarray, list[np.ndarray]]:
    """[n, width] of all images as they are, and [trained, width] of the training images' further views.

    Where the features of every stage are asked for, they are the last of those; where partial fine-tuning follows, they
    are read off the activations that it needs anyway.
    """
    taps = _taps(task)
    if taps is not None:
        plain, varied = _staged(task, taps)
        width = task.backbone.width
        return plain[:, -width:], [view[:, -width:] for view in varied]
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


@dataclass(frozen=True)
class _Fitted:
    """A head, and the features that it sees of all images."""

    head: Head
    plain: np.ndarray  # [n, width]
    views: int
    taps: Taps | None = None
    standard: Standardised | None = None

    @property
    def loss(self) -> float:
        """Log loss on held-out folds in nats; infinite where there were none."""
        return min(self.head.search.values(), default=float("inf"))


def probe(task: Task) -> Candidate:
    """Fit the head; what it says of the validation images, and how it came to be.

    Raises:
        ParamsError: ``train.features`` is stages, and the network has none or a prior pulls at the last.
    """
    started = time.perf_counter()
    plain, varied = stored_features(task)
    extracted = time.perf_counter()
    last = kept = _fitted(task, plain, varied)
    said, taps = "", _taps(task)
    if taps is not None:
        kept, said = _preferred(task, last, _standardised(task, taps, *_staged(task, taps)))
    found = _candidate(task, kept, said)
    found.last_head = last.head.weight, last.head.bias
    found.seconds = {"features": extracted - started, "probe": time.perf_counter() - extracted}
    seen = len(task.data.labels) + task.data.trained * (kept.views - 1)
    found.images_per_second = seen / max(extracted - started, 1e-3)
    return found


def _taps(task: Task) -> Taps | None:
    """The stages whose features count beside the last, or none."""
    asked = task.train.features
    if asked == "last" or (asked == "auto" and task.prior is not None):
        return None
    if task.prior is not None:
        raise ParamsError(
            "train.features is stages, but model.prior is a head on the last features alone: take one of them"
        )
    try:
        return every_stage(task.backbone.module, task.backbone.preprocessing.image_size)
    except ParamsError:
        if asked == "stages":
            raise
        return None


def _staged(task: Task, taps: Taps) -> tuple[np.ndarray, list[np.ndarray]]:
    """As :func:`stored_features`, of every stage."""
    found = [
        cached_features(
            task.workspace, task.backbone, task.pixels[: len(_shown(task, view))], _shown(task, view),
            view=view, device=task.device, taps=taps,
        )
        for view in kinds(task.train.views or VIEWS)
    ]  # fmt: skip
    return found[0], found[1:]


def _fitted(task: Task, plain: np.ndarray, varied: list[np.ndarray]) -> _Fitted:
    data = task.data
    head = fit_probe(
        training_examples(task, plain, varied),
        data.classes,
        groups=data.groups[: data.trained],
        seed=task.seed,
        head=task.train.head,
    )
    return _Fitted(head, plain, len(varied) + 1)


def _standardised(task: Task, taps: Taps, plain: np.ndarray, varied: list[np.ndarray]) -> _Fitted:
    standard = Standardised(taps.width).fit(plain[: task.data.trained])
    fitted = _fitted(task, standard.numbers(plain), [standard.numbers(view) for view in varied])
    return replace(fitted, taps=taps, standard=standard)


def _preferred(task: Task, last: _Fitted, staged: _Fitted) -> tuple[_Fitted, str]:
    """By held-out log loss over the same folds, or as params.yaml says; and why, in a sentence."""
    if task.train.features == "stages":
        return staged, ""
    kept = staged if staged.loss < last.loss else last
    if not last.head.search:
        return kept, " The classes are too small for folds, so the last stage's features are taken."
    which = "every stage" if kept is staged else "the last stage alone"
    return kept, (
        f" Held-out log loss {staged.loss:.3f} with the features of every stage, {last.loss:.3f} with the last stage's: "
        f"those of {which} are taken."
    )


def _candidate(task: Task, kept: _Fitted, said: str) -> Candidate:
    data, plan, backbone, head = task.data, task.plan, task.backbone, kept.head
    first, count = data.trained, len(data.labels)
    logits = head.logits(kept.plain)
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
    views = f"{kept.views} stored views of {first} images" if kept.views > 1 else f"{first} images"
    of = backbone.name if kept.taps is None else f"every stage of {backbone.name}"
    text = (
        f"Probe: a {head.kind} head on the {kept.plain.shape[1]} frozen features of {of} "
        f"({backbone.weights['source']} weights), fitted to {views}, {strength} ({origin}), sampling plan "
        f"{plan.name}. On {count - first} validation images its accuracy is {outcome['accuracy']:.3f} and its log loss "
        f"{outcome['log_loss']:.3f}.{said}"
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
        classifier=task.network((head.weight, head.bias), kept.taps, kept.standard),
        logits=logits[first:],
        report=text,
        curve=[(0, round(losses[0], 6), "train"), (0, round(losses[1], 6), "validation")],
        figures=outcome,
    )


def probe_logits(task: Task, kept: Candidate, rows: np.ndarray) -> np.ndarray:
    """[len(rows), classes] what a probe says of the task's images, from the stored features."""
    layer, taps, standard = kept.classifier.head, kept.classifier.stages, kept.classifier.standard
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    if taps is None or standard is None:
        plain = stored_features(task)[0]
    else:
        plain = standard.numbers(_staged(task, Taps(taps, layer.in_features))[0])
    answers: np.ndarray = plain[rows] @ weight.T + bias
    return answers
