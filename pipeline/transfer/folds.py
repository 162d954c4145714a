"""Cross-validation of a strategy: how good what is trained is expected to be, from all images but the test set's.

``train.folds: k`` in params.yaml. Training and validation images are dealt into k folds, groups kept together;
k times the whole training, its own validation included, runs on the other folds, and what it makes of the fold
it has not seen is kept. A small data set's one validation split says little; all its images say more.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from pipeline.metrics import measure
from pipeline.transfer.calibration import fit_temperature
from pipeline.transfer.classifier import logits_of
from pipeline.transfer.confidence import RESAMPLES, prediction_table
from pipeline.transfer.feeds import PixelFeed
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.linear import probe_logits
from pipeline.transfer.stratify import stratified_folds
from pipeline.transfer.task import Candidate, Data, Task

__all__ = ["CrossValidation", "cross_validate"]


@dataclass(frozen=True)
class CrossValidation:
    """Figures for checkpoint.json, a sentence about them, and how long it took."""

    figures: dict[str, Any]
    report: str
    seconds: float


def cross_validate(
    task: Task, strategy: str, train: Callable[[Task], Candidate], *, epochs: int = 0
) -> CrossValidation:
    """Train ``strategy`` by ``train`` without each of ``train.folds`` folds in turn, and judge it on that fold.

    ``epochs`` are as many as what ships was to have; 0: as params.yaml says.

    Each fold's logits are divided by the temperature of its own inner validation images. The intervals take
    groups as independent; that folds share training images makes them a little too narrow, and there is no
    unbiased estimate of by how much (Bengio and Grandvalet 2004).
    """
    started = time.perf_counter()
    data = task.data
    pairs = stratified_folds(data.labels, data.groups, task.train.folds, seed=task.seed)
    parts = [_parted(task, fitted) for fitted, _ in pairs]
    found = [part for part in parts if part is not None]
    if not pairs or len(found) < len(parts):
        reason = "a class has too few groups of images to be in each fold's training and validation part"
        return CrossValidation({"folds": 0, "reason": reason}, f"Not cross-validated: {reason}.", 0.0)
    logits = np.zeros((len(data.labels), len(data.classes)))
    for (trained, validation), (_, held) in zip(found, pairs, strict=True):
        variant = _variant(task, strategy, epochs, trained, validation)
        kept = train(variant)
        temperature = fit_temperature(kept.logits, data.labels[validation])
        logits[held] = _answers(task, kept, held) / temperature
    rows = np.sort(np.concatenate([held for _, held in pairs]))
    table = prediction_table(
        logits[rows], data.labels[rows], [data.groups[row] for row in rows], data.classes
    )
    judged = measure(table, data.classes, resamples=RESAMPLES, seed=task.seed)
    figures = {
        "folds": len(pairs),
        "strategy": strategy,
        "n": judged["n"],
        "groups": judged["groups"],
        "accuracy": judged["accuracy"],
        "accuracy_ci95": judged["accuracy_ci95"],
        "log_loss": judged["nll"],
        "log_loss_ci95": judged["nll_ci95"],
        "fold_accuracy": [
            round(float((logits[held].argmax(axis=1) == data.labels[held]).mean()), 6) for _, held in pairs
        ],
    }
    return CrossValidation(figures, _sentence(figures), time.perf_counter() - started)


def _answers(task: Task, kept: Candidate, rows: np.ndarray) -> np.ndarray:
    """[len(rows), classes] logits of a network for the task's images; a probe's are its head on cached features."""
    if kept.strategy == "probe":
        return probe_logits(task, kept, rows)
    return logits_of(
        kept.classifier, PixelFeed(task.pixels, task.backbone.preprocessing, seed=task.seed), rows
    )


def _parted(task: Task, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(training, validation) rows out of ``rows``, in about the task's own proportion; None where a class is too small."""
    share = len(task.data.validation) / len(task.data.labels)
    groups = [task.data.groups[row] for row in rows]
    number = max(2, round(1 / share))
    inner = stratified_folds(task.data.labels[rows], groups, number, seed=task.seed)
    return (rows[inner[0][0]], rows[inner[0][1]]) if inner else None


def _variant(task: Task, strategy: str, epochs: int, trained: np.ndarray, validation: np.ndarray) -> Task:
    """The task on these rows alone: the same strategy for as many epochs, its plan made for the rows, nothing logged."""
    data, rows = task.data, np.concatenate([trained, validation])
    part = Data(
        classes=data.classes,
        image_ids=[data.image_ids[row] for row in rows],
        paths=[data.paths[row] for row in rows],
        groups=[data.groups[row] for row in rows],
        domains=[data.domains[row] for row in rows],
        labels=data.labels[rows],
        trained=len(trained),
    )
    return replace(
        task,
        train=replace(task.train, strategy=cast(Any, strategy), epochs=epochs or task.train.epochs),
        data=part,
        plan=_plan(task, trained),
        pixels=task.pixels[rows],
        curves=None,
    )


def _plan(task: Task, trained: np.ndarray) -> Plan:
    """The task's plan for other training images, classes and domains weighed as in the task."""
    plan = task.plan.again(task.data.labels[trained], task.data.classes)
    return plan.by_domain([task.data.domains[row] for row in trained], task.train.domain_balance)


def _sentence(figures: dict[str, Any]) -> str:
    low, high = figures["accuracy_ci95"]
    interval = figures["log_loss_ci95"]
    return (
        f"{figures['folds']}-fold cross-validation of {figures['strategy']} over {figures['n']} training and validation "
        f"images: accuracy {figures['accuracy']:.3f} (95 %: {low:.3f} to {high:.3f}), log loss {figures['log_loss']:.3f}"
        + (f" (95 %: {interval[0]:.3f} to {interval[1]:.3f})." if interval else ".")
    )
