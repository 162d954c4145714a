"""Our training loop beside the bare arithmetic, and what the caches are worth.

    python -m benchmarks.engine                      # grocery20, mobilenetv2_100, some 6 minutes on two cores

- loop: images a second of an epoch as the product trains (decoded views augmented, standardised, loss, clipping,
  step, moving average) over those of bare forward, backward and step on one resident batch: same network from the
  same start, optimizer and threads, with the precision and layout that are fastest for the bare one; then ours with
  those that are fastest for ours. Ours merges BatchNorms into convolutions (see merging.py), so more than 1 is possible.
- frozen: the second reading of all frozen features over the first, which computes them.
- partial: images a second of the top layers on cached activations over those of the same layers trained
  through the whole network, both merged and with the flags that are fastest for each, at several depths: the fewer
  layers are trained, the more the cache is worth.
"""

import argparse
import copy
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.errors import ended
from benchmarks.interleave import interleave, ratio_of_medians
from benchmarks.record import RESULTS, Row, measuring, of_device
from benchmarks.sets import SETS, Prepared, prepare
from pipeline import train
from pipeline.allocation import keep_memory
from pipeline.artifacts import Workspace
from pipeline.params import Params
from pipeline.transfer import speed
from pipeline.transfer.captured import replayed
from pipeline.transfer.cut import cut
from pipeline.transfer.device import deterministic, pick_device
from pipeline.transfer.features import cached_activations, cached_features, kinds
from pipeline.transfer.feeds import ActivationFeed, Feed
from pipeline.transfer.finetune import side
from pipeline.transfer.freeze import freeze, lowest_trained
from pipeline.transfer.merging import merged
from pipeline.transfer.recipe import Flags, Recipe
from pipeline.transfer.steps import Steps
from pipeline.transfer.task import Task
from pipeline.transfer.tuning import labelled, pixel_feed

WHAT = (
    "The training loop beside bare arithmetic on one resident batch, and the caches beside computing again."
)
BATCH = 32
BATCHES = 8  # of a window
DEPTHS = (
    0.1,
    0.25,
    0.5,
)  # of the layers, from the top; partial trains half of them where nothing else is asked for


def task_of(prepared: Prepared) -> Task:
    """The set as a training task, in this process."""
    workspace = Workspace(prepared.workspace, prepared.workspace / "var")
    params = Params.load(workspace.params)
    keep_memory()
    deterministic(0)
    return replace(train.task_of(workspace, params, pick_device("auto")), curves=None)


def flags_of(task: Task, name: str, network: nn.Module, feed: Feed) -> Flags:
    """What speed.py finds fastest for training this network here."""
    inputs = feed.plain(task.data.train[:BATCH]).cpu()
    chosen = speed.decide(
        task.workspace, replace(task.train, compile="off"), copy.deepcopy(network), inputs, len(task.data.classes),
        steps=1000, seconds=1000.0, device=task.device, name=f"benchmark {name}",
    )  # fmt: skip
    print(f"{name}: {chosen.reason}", flush=True)
    return chosen.flags


def whole_flags(task: Task) -> tuple[Flags, Flags]:
    """Of full fine-tuning: what is fastest for the bare arithmetic, and for ours."""
    classifier = task.network(_head(task))
    freeze(classifier, 0.0, keep_statistics=True)
    bare = flags_of(task, "all layers, bare", classifier, pixel_feed(task))
    return bare, flags_of(task, "all layers, merged", merged(classifier, classifier), pixel_feed(task))


def loop(task: Task, flags: Flags, own: Flags) -> dict[str, Callable[[], float]]:
    """Images a second of our loop with ``own`` flags, and of the bare arithmetic with ``flags``."""
    classifier = task.network(_head(task))
    freeze(classifier, 0.0, keep_statistics=True)
    bare = copy.deepcopy(classifier).to(task.device, memory_format=_layout(flags)).train()
    inputs = pixel_feed(task).batch(task.data.train[:BATCH], 0).contiguous(memory_format=_layout(flags))
    labels = torch.from_numpy(task.data.labels[:BATCH]).to(task.device)
    optimizer = torch.optim.AdamW([p for p in bare.parameters() if p.requires_grad], lr=1e-6, fused=True)

    def once() -> None:
        with torch.autocast(task.device, torch.bfloat16, enabled=flags.bfloat16):
            logits = bare(inputs)[0]
        functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    steps = _steps(task, classifier, own)
    contenders = {
        "visionloop": _rate(task, lambda: _epoch(steps)),
        "bare": _rate(task, lambda: _repeated(once)),
    }
    if task.device.startswith("cuda"):
        contenders["bare, captured"] = _captured(task, once, optimizer)
    return contenders


def _captured(task: Task, once: Callable[[], None], optimizer: torch.optim.Optimizer) -> Callable[[], float]:
    """The bare arithmetic without Python between its kernels, as a CUDA graph: captured in the warm-up."""
    made: list[Callable[[], None]] = []

    def work() -> None:
        if not made:
            for group in optimizer.param_groups:
                group["capturable"] = True
            made.append(replayed(once))
        _repeated(made[0])

    return _rate(task, work)


def _repeated(once: Callable[[], None]) -> None:
    for _ in range(BATCHES):
        once()


def partial(task: Task, top: float) -> dict[str, Callable[[], float]]:
    """Images a second of the ``top`` share of the layers: on cached activations, and through the whole network.

    Each with the flags that are fastest for it.
    """
    uncached = task.network(_head(task))
    freeze(uncached, 1 - top, keep_statistics=True)
    cached = copy.deepcopy(uncached)
    freeze(cached, 1 - top, keep_statistics=True)
    lower, upper, place = cut(cached, lowest_trained(cached.backbone, 1 - top))
    stores = [
        cached_activations(
            task.workspace, task.backbone, lower, place, task.pixels, task.data.image_ids,
            view=view, device=task.device,
        )
        for view in kinds(2)
    ]  # fmt: skip
    feed = ActivationFeed(stores, seed=0, device=task.device)
    network = merged(cached, upper)
    flags = flags_of(task, f"top {top:.0%}, cached", network, feed)
    fast = Steps(cached, network, labelled(task, feed), _recipe(task, flags))
    cached.train()
    flags = flags_of(task, f"top {top:.0%}, uncached", merged(uncached, uncached), pixel_feed(task))
    slow = _steps(task, uncached, flags)
    return {"visionloop": _rate(task, lambda: _epoch(fast)), "uncached": _rate(task, lambda: _epoch(slow))}


def frozen(task: Task) -> tuple[float, float]:
    """Seconds of the first and of the second reading of all frozen features."""
    shutil.rmtree(task.workspace.cache / "features", ignore_errors=True)
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        features = cached_features(
            task.workspace, task.backbone, task.pixels, task.data.image_ids, device=task.device
        )
        np.asarray(features).sum()
        taken.append(time.perf_counter() - started)
    return taken[0], taken[1]


def _head(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Random, as large as a fresh linear layer's: under zeros no gradient reaches the backbone, which is not training."""
    count, bound = len(task.data.classes), task.backbone.width**-0.5
    weight = np.random.default_rng(0).uniform(-bound, bound, (count, task.backbone.width))
    return weight.astype(np.float32), np.zeros(count, np.float32)


def _recipe(task: Task, flags: Flags) -> Recipe:
    return Recipe(
        epochs=1000, seed=0, learning_rate=1e-6, batch_size=BATCH, average=task.train.average,
        device=task.device, flags=flags,
    )  # fmt: skip


def _steps(task: Task, classifier: Any, flags: Flags) -> Steps:
    network = merged(classifier, classifier)
    steps = Steps(classifier, network, labelled(task, pixel_feed(task)), _recipe(task, flags))
    classifier.train()
    return steps


def _epoch(steps: Steps) -> None:
    order = np.random.default_rng(0).permutation(len(steps.data.train))
    for number in range(BATCHES):
        steps.step(order[number * BATCH : (number + 1) * BATCH], 0, number)


def _rate(task: Task, work: Callable[[], None]) -> Callable[[], float]:
    def measured() -> float:
        started = time.perf_counter()
        work()
        if task.device.startswith("cuda"):
            torch.cuda.synchronize()
        return BATCHES * BATCH / (time.perf_counter() - started)

    return measured


def _layout(flags: Flags) -> torch.memory_format:
    return torch.channels_last if flags.channels_last else torch.contiguous_format


def _row(case: str, measure: str, rival: str, figures: dict[str, list[float]], unit: str = "images/s") -> Row:
    better: Literal["higher", "lower"] = "higher" if unit == "images/s" else "lower"
    ours, theirs = figures["visionloop"], figures[rival]
    ratio = ratio_of_medians(ours, theirs) if better == "higher" else ratio_of_medians(theirs, ours)
    enough = len(ours) > 2
    return Row(
        case=case, measure=measure, unit=unit, better=better, ours="visionloop", rival=rival,
        ours_value=statistics.median(ours), rival_value=statistics.median(theirs), ratio=ratio.value,
        ratio_ci95=(ratio.low, ratio.high) if enough else None, windows=len(ours), headline=True,
    )  # fmt: skip


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--set", choices=SETS, default="grocery20")
    parser.add_argument("--image-size", type=int, default=128, help="px (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--force", action="store_true", help="measure on a busy machine all the same")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        prepared = prepare(options.set, Path(work), image_size=options.image_size)
        task = task_of(prepared)
        case = f"{options.set}, {task.backbone.name}, {options.image_size} px"
        first, again = frozen(task)
        with measuring(
            of_device("engine"), what=WHAT, state="warm", force=options.force, results=options.results
        ) as result:
            flags, fastest = whole_flags(task)
            result.details = {"shape": side(task)}
            for own in dict.fromkeys((flags, fastest)):
                name = f"training speed, {speed.words(own)}"
                if own != flags:
                    name += f"; bare {speed.words(flags)}"
                figures = interleave(loop(task, flags, own), state="warm", windows=options.windows)
                result.rows += [
                    _row(case, name, rival, figures) for rival in figures if rival != "visionloop"
                ]
                result.details[name] = figures
            for top in DEPTHS:
                figures = interleave(partial(task, top), state="warm", windows=options.windows)
                measure = f"top {top:.0%} of the layers, cached activations"
                result.rows.append(_row(case, measure, "uncached", figures))
                result.details[measure] = figures
            seconds = {"visionloop": [again], "first": [first]}
            result.rows.append(_row(case, "frozen features, read again", "first", seconds, unit="s"))
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
