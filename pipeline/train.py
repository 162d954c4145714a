"""Transfer the backbone to the images at hand, by the strategy that params.yaml names or the evidence prefers.

    python -m pipeline train         # split, balance → artifacts/checkpoint/
    torchrun --standalone --nproc-per-node 2 -m pipeline train

``auto`` fits the probe on cached frozen features, tries the challenger that suits the amount of data where
validation could tell a better network and the budget allows an epoch (fine-tuning, where the network can't be
cut for partial), and keeps it only when it is better on validation by more than its noise. The budget is counted
on a nominal machine (see transfer/cost.py), never by the clock. Killed, it goes on after
the last finished epoch. ``train.processes`` starts torchrun on this machine's GPUs; for several machines
start torchrun yourself.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.allocation import keep_memory
from pipeline.artifacts import SPLIT, Workspace, read_json, read_table, write_json
from pipeline.backbone import load
from pipeline.environment import environment
from pipeline.errors import ParamsError
from pipeline.params import Params
from pipeline.plots import write_plot
from pipeline.transfer import distributed
from pipeline.transfer.checkpoint import save_checkpoint
from pipeline.transfer.choice import INSTEAD, compare, planned, unbeatable
from pipeline.transfer.curve import LiveCurves
from pipeline.transfer.device import deterministic, pick_device
from pipeline.transfer.exporter import require_exportable
from pipeline.transfer.folds import CrossValidation, cross_validate
from pipeline.transfer.frozen import fell_back
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.linear import probe as fit_linear
from pipeline.transfer.plan_test import Outcome, settle_plan
from pipeline.transfer.prior import read_prior
from pipeline.transfer.recipe import DivergedError, TooLargeError
from pipeline.transfer.resume import forget
from pipeline.transfer.strategies import STRATEGIES
from pipeline.transfer.task import Candidate, Task, select
from pipeline.transfer.tuning import SkippedError
from pipeline.views import views


def run(workspace: Workspace, params: Params) -> int:
    """split.parquet and balance.json → ``artifacts/checkpoint/`` and the learning curves."""
    picked = pick_device(params.train.device)
    count = distributed.processes(params.train.processes, picked)
    if count > 1:
        return distributed.launch(count, workspace.root)
    keep_memory()
    deterministic(params.seed)
    with distributed.group(picked) as device:
        task = task_of(workspace, params, device)
        contest = settle_plan(task, read_json(workspace.balance))
        if contest is not None:
            task = replace(task, plan=contest.plan)
        kept = train(task)
        crossed = (
            cross_validate(task, kept.strategy, train, epochs=kept.epochs) if params.train.folds else None
        )
        if distributed.first():
            _write(workspace, task, kept, contest, crossed)
    return 0


def task_of(workspace: Workspace, params: Params, device: str) -> Task:
    """What there is to learn in this workspace: its split, plan, backbone and decoded views."""
    data = select(read_table(workspace.split, SPLIT).to_pylist())
    plan = Plan.of(read_json(workspace.balance), data.labels[: data.trained], data.classes)
    plan = plan.by_domain(data.domains[: data.trained], params.train.domain_balance)
    backbone = load(params.model, root=workspace.root, seed=params.seed)
    limits = {"max_pixels": params.data.max_pixels, "max_bytes": params.data.max_bytes}
    pixels = views(workspace, data.paths, data.image_ids, backbone.preprocessing, **limits)
    curves = LiveCurves(workspace.curves) if distributed.first() else None
    named = params.model.prior
    prior = read_prior(workspace.root / named, data.classes, backbone.width) if named else None
    return Task(
        workspace, params.train, params.seed, data, plan, backbone, device, pixels, curves, prior, params.data
    )


def train(task: Task) -> Candidate:
    """Try what ``train.strategy`` asks for; the network that is kept, with the whole story in its report.

    Raises:
        DataError: too few classes or images, an image that no longer decodes, or, where a strategy was asked
            for by name, a loss that is no number before a first epoch was finished.
        ParamsError: a strategy was asked for by name that this network or disk can't do, or the network can't be exported.
        StateError: memory is short, for a strategy asked for by name or one of several processes.
    """
    probe = fit_linear(task)
    if fell_back():
        require_exportable(probe.classifier, task.backbone.preprocessing.image_size)
    asked: str = task.train.strategy
    names, why = planned(task)
    if asked == "probe":
        return probe
    report, tried = [probe.report, why], [probe]
    if asked == "auto" and names and (no_use := unbeatable(probe.logits, *_judged_by(task))):
        names = []
        report.append(no_use)
    for name in names:
        try:
            tried.append(STRATEGIES[name](task, probe))
            report.append(tried[-1].report)
        except SkippedError as error:
            report.append(str(error))
        except (DivergedError, ParamsError, TooLargeError) as error:
            if asked != "auto":
                raise
            report.append(f"{name.capitalize()} was not possible: {error}.")
            if name in INSTEAD and isinstance(error, ParamsError):
                names.append(INSTEAD[name])
                report.append(f"Instead, {names[-1]} is tried.")
    return _chosen(task, tried, [part for part in report if part])


def _chosen(task: Task, tried: list[Candidate], report: list[str]) -> Candidate:
    """The last network that beats the one before it by more than its noise, or the one that was asked for."""
    labels, groups = _judged_by(task)
    best = tried[0]
    for other in tried[1:]:
        wins = compare(best.logits, other.logits, labels, groups).second_wins
        rule = "a gain above its standard error, and no loss of accuracy"
        if wins:
            report.append(f"By the rule ({rule}) {other.strategy} is kept.")
        elif task.train.strategy == "auto":
            report.append(f"By the rule ({rule}) the {best.strategy} is kept.")
        else:
            report.append(
                f"By the rule ({rule}) the {best.strategy} would be kept; {other.strategy} is kept all the same, since "
                "train.strategy asks for it."
            )
        best = other if wins or task.train.strategy != "auto" else best
    figures = {one.strategy: one.figures for one in tried}
    return replace(
        best,
        report=" ".join(report),
        figures={**figures, **{name: best.figures[name] for name in ("accuracy", "log_loss")}},
        seconds={name: value for one in tried for name, value in one.seconds.items()},
        arithmetic={name: value for one in tried for name, value in one.arithmetic.items()},
        curve=[point for one in tried[:1] + tried[-1:] * (len(tried) > 1) for point in one.curve],
    )


def _judged_by(task: Task) -> tuple[np.ndarray, list[str]]:
    """Labels and groups of the validation images."""
    rows = task.data.validation
    return task.data.labels[rows], [task.data.groups[row] for row in rows]


def _write(
    workspace: Workspace,
    task: Task,
    kept: Candidate,
    contest: Outcome | None,
    crossed: CrossValidation | None,
) -> None:
    seconds = kept.seconds | ({"cross_validation": crossed.seconds} if crossed else {})
    data, backbone = task.data, task.backbone
    figures = kept.figures if kept.strategy in kept.figures else {kept.strategy: kept.figures, **kept.figures}
    info: dict[str, Any] = {
        "strategy": kept.strategy,
        "backbone": backbone.name,
        "backbone_kwargs": backbone.kwargs,
        "classes": data.classes,
        "preprocessing": backbone.preprocessing.to_dict(),
        "fingerprint": backbone.preprocessing.fingerprint(),
        "weights": backbone.weights,
        "validation": {"n": len(data.validation), **figures},
        "train": {
            "n": data.trained,
            "steps": kept.steps,
            "images_per_second": round(kept.images_per_second, 1),
        },
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "arithmetic": kept.arithmetic,
        "environment": environment(),
        "imbalance": contest.figures if contest else None,
        "cross_validation": crossed.figures if crossed else None,
        "report": " ".join(part.report for part in (contest, kept, crossed) if part),
    }
    save_checkpoint(workspace.checkpoint, kept.classifier, info)
    score = {"kept": kept.strategy, "validation_images": len(data.validation)}
    score |= {f"validation_{name}": kept.figures[name] for name in ("accuracy", "log_loss")}
    write_json(workspace.training, score)
    write_plot(workspace.plots / "learning_curve.csv", ("step", "loss", "split"), kept.curve)
    forget(workspace)
    print(info["report"], flush=True)
