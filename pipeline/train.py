"""Transfer the backbone to the images at hand: a probe, fine-tuning, or the better of both.

    python -m pipeline train         # split, balance → artifacts/checkpoint/

``auto`` fits the probe on cached frozen features, fine-tunes from its head where the budget allows an
epoch, and keeps the fine-tuned network only when it is better on validation by more than its noise. The
budget is counted on a nominal machine (see transfer/cost.py), never by the clock: the same commit, params
and data give the same network. Killed, it goes on after the last finished epoch.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pipeline.artifacts import SPLIT, Workspace, digest_json, read_json, read_table
from pipeline.backbone import Backbone, load
from pipeline.errors import DataError
from pipeline.params import Params, Train
from pipeline.plots import write_plot
from pipeline.transfer import cost
from pipeline.transfer.calibration import calibrated_losses
from pipeline.transfer.checkpoint import save_checkpoint
from pipeline.transfer.choice import Comparison, compare
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.device import deterministic, pick_device, use_bfloat16
from pipeline.transfer.features import VIEWS, cached_features
from pipeline.transfer.finetune import LEARNING_RATE, DivergedError, Images, Recipe, Tuned, finetune
from pipeline.transfer.freeze import freeze, trained
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.probe import Views, fit_probe
from pipeline.transfer.resume import State, forget, source_digest
from pipeline.views import views

FROZEN_SHARE = 0.5  # of a pretrained backbone's layers, from the image up
BATCH = 32


@dataclass(frozen=True)
class Data:
    """The rows of split.parquet that training sees: training images first, then validation."""

    classes: list[str]
    image_ids: list[str]
    paths: list[str]
    groups: list[str]
    labels: np.ndarray  # [n] codes
    trained: int  # the first so many rows train, the rest validate


@dataclass
class Trained:
    """A network, what it says of the validation images, and how it came to be."""

    strategy: str
    classifier: Classifier
    logits: np.ndarray  # [validation, classes]
    report: list[str]  # sentences
    curve: list[tuple[int, float, str]]  # step, loss, split
    seconds: dict[str, float]
    images_per_second: float
    steps: int = 0
    figures: dict[str, Any] = field(default_factory=dict)  # of each strategy tried, on validation


def run(workspace: Workspace, params: Params) -> int:
    """split.parquet and balance.json → ``artifacts/checkpoint/`` and the learning curve."""
    deterministic(params.seed)
    data = select(read_table(workspace.split, SPLIT).to_pylist())
    plan = Plan.of(read_json(workspace.balance), data.labels[: data.trained], data.classes)
    device = pick_device(params.train.device)
    backbone = load(params.model, root=workspace.root, seed=params.seed)
    kept = train(workspace, params, data, plan, backbone, device)
    info = {
        "strategy": kept.strategy,
        "backbone": backbone.name,
        "backbone_kwargs": backbone.kwargs,
        "classes": data.classes,
        "preprocessing": backbone.preprocessing.to_dict(),
        "fingerprint": backbone.preprocessing.fingerprint(),
        "weights": backbone.weights,
        "validation": {"n": len(data.labels) - data.trained, **kept.figures},
        "train": {
            "n": data.trained,
            "steps": kept.steps,
            "images_per_second": round(kept.images_per_second, 1),
        },
        "seconds": {name: round(value, 2) for name, value in kept.seconds.items()},
        "report": " ".join(kept.report),
    }
    save_checkpoint(workspace.checkpoint, kept.classifier, info)
    write_plot(workspace.plots / "learning_curve.csv", ("step", "loss", "split"), kept.curve)
    forget(workspace.home)
    print(info["report"], flush=True)
    return 0


def select(rows: Sequence[dict[str, Any]]) -> Data:
    """Training and validation rows of split.parquet; the classes are those of the training images.

    Raises:
        DataError: a part is empty, or validation has a class that training has not.
    """
    parts = {name: [row for row in rows if row["split"] == name] for name in ("train", "validation")}
    for name, part in parts.items():
        if not part:
            raise DataError(f"artifacts/split.parquet has no {name} image: see `split` in params.yaml")
    classes = sorted({row["label"] for row in parts["train"]})
    unknown = sorted({row["label"] for row in parts["validation"]} - set(classes))
    if unknown:
        raise DataError(
            f"classes in validation but not in train: {', '.join(unknown[:8])}: collect training images"
        )
    both = parts["train"] + parts["validation"]
    code = {label: number for number, label in enumerate(classes)}
    return Data(
        classes=classes,
        image_ids=[row["image_id"] for row in both],
        paths=[row["path"] for row in both],
        groups=[row["group"] for row in both],
        labels=np.array([code[row["label"]] for row in both]),
        trained=len(parts["train"]),
    )


def train(
    workspace: Workspace, params: Params, data: Data, plan: Plan, backbone: Backbone, device: str
) -> Trained:
    """Try what ``train.strategy`` asks for; the network that is kept, and why, in sentences.

    Raises:
        DataError: too few classes or images, an image that no longer decodes, or (strategy finetune)
            a loss that is no number.
    """
    limits = {"max_pixels": params.data.max_pixels, "max_bytes": params.data.max_bytes}
    pixels = views(workspace, data.paths, data.image_ids, backbone.preprocessing, **limits)
    probe = _probe(workspace, params.seed, data, plan, backbone, device, pixels)
    if params.train.strategy == "probe":
        return probe
    freeze(
        probe.classifier, FROZEN_SHARE if backbone.pretrained else 0.0, keep_statistics=backbone.pretrained
    )
    epochs = _epochs(params.train, data, probe, backbone.preprocessing.image_size, device)
    if epochs == 0:
        return probe
    recipe = Recipe(
        epochs=epochs,
        seed=params.seed,
        batch_size=BATCH if params.train.batch_size == "auto" else params.train.batch_size,
        learning_rate=params.train.learning_rate or LEARNING_RATE,
        device=device,
        bfloat16=use_bfloat16(params.train.precision, device),
    )
    rows = np.arange(len(data.labels))
    images = Images(pixels, data.labels, data.paths, rows[: data.trained], rows[data.trained :])
    state = State(workspace.home, _key(data, plan, backbone, recipe, probe))
    before = {name: tensor.clone() for name, tensor in trained(probe.classifier).items()}
    try:
        tuned = finetune(probe.classifier, images, plan, backbone.preprocessing, recipe, state)
    except DivergedError as error:
        if params.train.strategy == "finetune":
            raise
        probe.report.append(f"Fine-tuning failed, so the probe is kept: {error}.")
        probe.classifier.load_state_dict(before, strict=False)
        return probe
    comparison = compare(probe.logits, tuned.logits, data.labels[data.trained :], data.groups[data.trained :])
    kept = _fine_tuned(probe, tuned, recipe, comparison, data)
    if params.train.strategy == "auto" and not comparison.second_wins:
        probe.classifier.load_state_dict(before, strict=False)
        kept.strategy, kept.logits, kept.steps = "probe", probe.logits, 0
    elif not comparison.second_wins:
        kept.report.append("The fine-tuned network is kept all the same, since train.strategy asks for it.")
    kept.figures |= kept.figures[kept.strategy]
    return kept


def _probe(
    workspace: Workspace,
    seed: int,
    data: Data,
    plan: Plan,
    backbone: Backbone,
    device: str,
    pixels: np.ndarray,
) -> Trained:
    """The head on frozen features, in a network that gives its logits."""
    started = time.perf_counter()
    first, count = data.trained, len(data.labels)
    plain = cached_features(workspace, backbone, pixels, data.image_ids, device=device)
    varied = [
        cached_features(workspace, backbone, pixels[:first], data.image_ids[:first], view=view, device=device)
        for view in VIEWS
        if view != "plain"
    ]
    extracted = time.perf_counter()
    head = fit_probe(
        Views(np.stack([plain[:first], *varied])),
        data.labels[:first],
        data.classes,
        groups=data.groups[:first],
        weights=plan.probe_weights,
        log_prior=plan.log_prior,
        seed=seed,
    )
    classifier = Classifier(backbone.module, backbone.width, len(data.classes))
    with torch.no_grad():
        classifier.head.weight.copy_(torch.from_numpy(head.weight))
        classifier.head.bias.copy_(torch.from_numpy(head.bias))
    logits = head.logits(plain)
    losses = [
        float(calibrated_losses(logits[rows], data.labels[rows]).mean())
        for rows in (slice(first), slice(first, None))
    ]
    figures = _figures(logits[first:], data.labels[first:])
    origin = (
        f"by {head.folds}-fold cross-validation"
        if head.folds
        else "by default: the classes are too small for folds"
    )
    text = (
        f"Probe: a logistic head on the {backbone.width} frozen features of {backbone.name} ({backbone.weights['source']} "
        f"weights), fitted to {first} images and their mirror images, C = {head.strength:g} ({origin}), sampling plan "
        f"{plan.name}. On {count - first} validation images its accuracy is {figures['accuracy']:.3f} and its log loss "
        f"{figures['log_loss']:.3f}."
    )
    return Trained(
        strategy="probe",
        classifier=classifier.eval(),
        logits=logits[first:],
        report=[text],
        curve=[(0, round(losses[0], 6), "train"), (0, round(losses[1], 6), "validation")],
        seconds={"features": extracted - started, "probe": time.perf_counter() - extracted},
        images_per_second=(count + first * len(varied)) / max(extracted - started, 1e-3),
        figures={"probe": figures, **figures},
    )


def _epochs(train: Train, data: Data, probe: Trained, side: int, device: str) -> int:
    """How many epochs to fine-tune; 0, with a sentence, where the budget does not allow one."""
    if train.epochs is not None:
        return train.epochs
    one = cost.measure(probe.classifier, side, device)
    seconds = one.train * data.trained + one.forward * (len(data.labels) - data.trained)
    epochs = cost.epochs_within(train.budget_seconds, seconds)
    if epochs == 0 and train.strategy == "finetune":
        return 1
    if epochs == 0:
        probe.report.append(
            f"Fine-tuning was skipped: one epoch costs about {seconds:.2g} s on the nominal machine, "
            f"train.budget_seconds allows {train.budget_seconds:g} s."
        )
    return epochs


def _fine_tuned(probe: Trained, tuned: Tuned, recipe: Recipe, comparison: Comparison, data: Data) -> Trained:
    """The fine-tuned network beside the probe that it came from, and the sentence that compares them."""
    figures = _figures(tuned.logits, data.labels[data.trained :])
    steps = int(tuned.history[tuned.epoch - 1]["step"])
    winner = "the fine-tuned network" if comparison.second_wins else "the probe"
    text = (
        f"Fine-tuning from the probe's head, {len(tuned.history)} of {recipe.epochs} epochs, best after {tuned.epoch}: "
        f"accuracy {figures['accuracy']:.3f}, log loss {figures['log_loss']:.3f}. The gain in log loss is "
        f"{comparison.gain:.3f} with a standard error of {comparison.error:.3f}, so {winner} is the better one by the rule "
        "(a gain above its standard error, and no loss of accuracy)."
    )
    curve = [
        (int(entry["step"]), float(entry[part]), part)
        for entry in tuned.history
        for part in ("train", "validation")
    ]
    return Trained(
        strategy="finetune",
        classifier=probe.classifier,
        logits=tuned.logits,
        report=[*probe.report, text],
        curve=probe.curve + curve,
        seconds=probe.seconds | {"finetune": tuned.seconds},
        images_per_second=tuned.images / tuned.seconds if tuned.seconds else probe.images_per_second,
        steps=steps,
        figures=probe.figures | {"finetune": figures},
    )


def _figures(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {
        "accuracy": round(float((logits.argmax(axis=1) == labels).mean()), 6),
        "log_loss": round(float(calibrated_losses(logits, labels).mean()), 6),
    }


def _key(data: Data, plan: Plan, backbone: Backbone, recipe: Recipe, probe: Trained) -> str:
    """Digest of everything that decides what fine-tuning gives."""
    parts = {
        "images": list(zip(data.image_ids, data.labels.tolist(), strict=True)),
        "trained": data.trained,
        "plan": plan.name,
        "weights": [backbone.weights["digest"], backbone.name, backbone.kwargs],
        "fingerprint": backbone.preprocessing.fingerprint(),
        "recipe": repr(recipe),
        "head": probe.logits.tobytes().hex(),
        "code": [source_digest(), torch.__version__, torch.get_num_threads()],
    }
    return digest_json(parts)[:32]
