"""Every strategy on every real set: accuracy on unseen images with its interval, processor seconds, and what auto ships.

    python -m benchmarks.strategies --seeds 0 1 2
    python -m benchmarks.strategies --strategies probe partial auto --seeds 0 1 2 3 4     # negative transfers

All strategies of a set and seed start from the same decoded views, and all but ``again`` from no cached features. Seconds
are the processors' for a strategy's own work, its probe included, in a warm process on ``--threads`` threads; waiting for
a core costs none, so several sets may be measured at once, each in a work folder of its own, whose runs.jsonl are put
together at the end. Each run is appended to that file, so that a measurement that was stopped goes on. Peak memory is of
the process during that work, less what it held before, the most of all seeds.

``scratch`` is the whole network from random weights within the same budget as the others; ``stages`` is the probe on the
features of every stage; ``again`` is the probe once more, as a second training on the same images finds it: with its
features cached. On pacs3_photo each network is also asked about paintings and sketches, which it has never seen. A
negative transfer is a shipped network below its own probe on the test images by more than the paired 95 % interval.
"""

import argparse
import ctypes
import gc
import json
import shutil
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.engine import task_of
from benchmarks.errors import ended
from benchmarks.judge import Judged, compare, held_out_views, judge, pool, preprocessing
from benchmarks.record import RESULTS, Accuracies, Row, measuring
from benchmarks.sets import SETS, Prepared, prepare, real_data
from pipeline.backbone import load
from pipeline.images import decode
from pipeline.intervals import proportion
from pipeline.params import Model, Train
from pipeline.train import train
from pipeline.transfer.classifier import logits_of
from pipeline.transfer.device import deterministic
from pipeline.transfer.feeds import PixelFeed
from pipeline.transfer.resume import forget
from pipeline.transfer.task import Task

ELSEWHERE = {
    "pacs3_photo": ("pacs3", ("art_painting", "sketch"))
}  # set → archive, and domains that nobody trains on
STRATEGIES = ("scratch", "probe", "again", "stages", "partial", "finetune", "progressive", "lora", "auto")
COLUMNS = [
    "on",
    "strategy",
    "accuracy (95 %)",
    "processor s",
    "peak MiB",
    "accuracy on domains never seen",
    "seeds",
]
WHAT = (
    "Accuracy on test images that nobody has seen, by strategy and set, over seeds; processor seconds of the strategy's own "
    "work, its probe included. auto is what ships by default."
)


def run(task: Task, prepared: Prepared, strategy: str, seed: int, budget: float) -> dict[str, Any]:
    """Train by one strategy; what it answers on the test images, and what it took."""
    named: Any = {"scratch": "finetune", "again": "probe", "stages": "probe"}.get(strategy, strategy)
    settings = replace(task.train, strategy=named, budget_seconds=budget)
    if strategy == "stages":
        settings = replace(settings, features="stages")
    if strategy == "scratch":
        model = Model(backbone=task.backbone.name, weights="none", image_size=prepared.image_size)
        task = replace(task, backbone=load(model, root=Path("/"), seed=seed))
        settings = replace(settings, learning_rate=1e-3, epochs=None)
    if strategy != "again":
        shutil.rmtree(task.workspace.cache / "features", ignore_errors=True)
    deterministic(seed)
    before = peak_from_now()
    started = time.process_time()
    kept = train(replace(task, train=settings, seed=seed))
    seconds = time.process_time() - started
    mebibytes = (peak_until_now() - before) / 2**20
    forget(task.workspace)

    def answers(views: np.ndarray) -> np.ndarray:
        feed = PixelFeed(views, task.backbone.preprocessing, seed=0)
        return logits_of(kept.classifier, feed, np.arange(len(views)))

    views, _ = held_out_views(prepared)
    return {
        "set": prepared.name, "seed": seed, "strategy": strategy, "kept": kept.strategy,
        "seconds": round(seconds, 2), "mebibytes": round(mebibytes), "elsewhere": elsewhere(prepared, answers),
        "logits": np.round(answers(views), 4).tolist(), "report": kept.report,
    }  # fmt: skip


def peak_from_now() -> int:
    """Bytes that this process holds in memory, from where the next peak counts (Linux).

    What earlier strategies took and freed goes back to the system first: it would hide what this one takes.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def peak_until_now() -> int:
    """Bytes: the most that this process has held since :func:`peak_from_now`."""
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(kibibytes)


def elsewhere(prepared: Prepared, answers: Callable[[np.ndarray], np.ndarray]) -> dict[str, dict[str, Any]]:
    """Accuracy with its interval on domains that the set's networks have never seen; empty for most sets."""
    archive, domains = ELSEWHERE.get(prepared.name, ("", ()))
    found = {}
    for domain in domains:
        with tarfile.open(real_data() / f"{archive}.tar") as images:
            members = [one for one in images if one.isfile() and f"/{domain}/" in f"/{one.name}"]
            how, views, truth = preprocessing(prepared), [], []
            for one in members:
                stream = images.extractfile(one)
                if stream is not None:
                    views.append(how.view(decode(stream.read()).image))
                    truth.append(prepared.classes.index(Path(one.name).parent.name))
        right = answers(np.stack(views)).argmax(axis=1) == np.array(truth)
        low, high = proportion(right, np.arange(len(right)))
        found[domain] = {"n": len(right), "accuracy": float(right.mean()), "accuracy_ci95": [low, high]}
    return found


def measured(
    sets: Sequence[str], seeds: Sequence[int], strategies: Sequence[str], budget: float, size: int, work: Path
) -> tuple[list[dict[str, Any]], dict[tuple[str, int], Any]]:
    """All runs, those of an earlier call among them, and the truth by set and seed."""
    work.mkdir(parents=True, exist_ok=True)
    log = work / "runs.jsonl"
    runs = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    done = {(one["set"], one["seed"], one["strategy"]) for one in runs}
    truths = {}
    for seed in seeds:
        for name in sets:
            prepared = prepare(name, work, seed=seed, image_size=size)
            truths[name, seed] = held_out_views(prepared)[1]
            task = task_of(prepared)
            for strategy in strategies:
                if (name, seed, strategy) not in done:
                    runs.append(run(task, prepared, strategy, seed, budget))
                    with log.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(runs[-1]) + "\n")
                    judged = judge(np.array(runs[-1]["logits"]), truths[name, seed])
                    print(
                        f"{name} {seed} {strategy:<12} {judged.accuracy:.3f} {runs[-1]['seconds']:.0f} s",
                        flush=True,
                    )
    return runs, truths


def rows(runs: Sequence[dict[str, Any]], truths: dict[tuple[str, int], Any]) -> tuple[list[Row], list[str]]:
    """Each strategy beside the probe of the same set and seed, pooled over seeds; and every negative transfer."""
    found, negative = [], []
    by_key = {(one["set"], one["seed"], one["strategy"]): one for one in runs}
    names = dict.fromkeys(one["strategy"] for one in runs)
    for case in dict.fromkeys(name for name, _ in truths):
        seeds = [seed for name, seed in truths if name == case]
        for strategy in names:
            both = [
                [by_key[case, seed, one] for seed in seeds if (case, seed, one) in by_key]
                for one in (strategy, "probe")
            ]
            if strategy == "probe" or not both[0] or len(both[0]) != len(both[1]):
                continue
            mine, probes = ([_judged(one, truths) for one in side] for side in both)
            found.append(_row(case, strategy, both, mine, probes))
            for one, ours, probe in zip(both[0], mine, probes, strict=True):
                high = compare(ours, probe).high
                if strategy == "auto" and high < 0:
                    negative.append(f"{case}, seed {one['seed']}")
    return found, negative


def _judged(one: dict[str, Any], truths: dict[tuple[str, int], Any]) -> Judged:
    return judge(np.array(one["logits"]), truths[one["set"], one["seed"]])


def _row(
    case: str, strategy: str, both: list[list[dict[str, Any]]], mine: list[Judged], probes: list[Judged]
) -> Row:
    ours, probe = pool(mine), pool(probes)
    difference = compare(ours, probe)
    seconds = [float(np.median([one["seconds"] for one in side])) for side in both]
    return Row(
        case=case, measure="processor seconds of the strategy, and accuracy", unit="s", better="lower",
        ours=f"visionloop {strategy}", rival="visionloop probe", ours_value=seconds[0], rival_value=seconds[1],
        ratio=seconds[1] / seconds[0], ratio_ci95=None, windows=len(mine), headline=False,
        accuracy=Accuracies(
            ours=ours.accuracy, rival=probe.accuracy, n=len(ours.correct),
            difference=difference.value, difference_ci95=(difference.low, difference.high),
        ),
    )  # fmt: skip


def table(runs: Sequence[dict[str, Any]], truths: dict[tuple[str, int], Any]) -> dict[str, Any]:
    """Every strategy on every set, over its seeds: what the pages show."""
    lines = []
    for case in dict.fromkeys(one["set"] for one in runs):
        for strategy in STRATEGIES:
            own = [one for one in runs if one["set"] == case and one["strategy"] == strategy]
            if not own:
                continue
            judged = pool([_judged(one, truths) for one in own])
            low, high = judged.interval
            unseen = {
                domain: np.mean([one["elsewhere"][domain]["accuracy"] for one in own])
                for domain in own[0]["elsewhere"]
            }
            lines.append(
                [
                    case,
                    strategy,
                    f"{judged.accuracy:.3f} ({low:.3f} to {high:.3f})",
                    f"{np.median([one['seconds'] for one in own]):.3g}",
                    f"{max(one['mebibytes'] for one in own):.0f}",
                    ", ".join(f"{domain} {value:.3f}" for domain, value in unseen.items()),
                    str(len(own)),
                ]
            )
    return {"head": COLUMNS, "rows": lines}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--sets",
        nargs="+",
        choices=SETS,
        default=["grocery20", "deeppcb_cls", "magnetic_tile", "pacs3_photo"],
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument(
        "--budget",
        type=float,
        default=Train().budget_seconds,
        help="s on the nominal machine (default: %(default)s)",
    )
    parser.add_argument("--image-size", type=int, default=128, help="px (default: %(default)s)")
    parser.add_argument("--work", type=Path, required=True, help="where images, caches and runs.jsonl lie")
    parser.add_argument("--name", default="strategies", help="of the result (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch's (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with measuring(options.name, what=WHAT, state="warm", timed=False, results=options.results) as result:
        runs, truths = measured(
            options.sets, options.seeds, options.strategies, options.budget, options.image_size, options.work
        )
        runs = [one for one in runs if (one["set"], one["seed"]) in truths]
        result.rows, negative = rows(runs, truths)
        result.details = {
            "table": table(runs, truths),
            "negative_transfers": negative,
            "shipped": sum(one["strategy"] == "auto" for one in runs),
            "runs": [{name: value for name, value in one.items() if name != "logits"} for one in runs],
        }
        print(f"negative transfers: {len(negative)} of {result.details['shipped']} {negative}")
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
