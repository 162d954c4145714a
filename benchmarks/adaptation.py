"""What a few labels of a new domain are worth: accuracy there against the share of its images that is labelled.

    VISIONLOOP_REAL_DATA=... python -m benchmarks.adaptation

Photographs have labels. Of another domain's images 40 % are its test set; of the rest, the pool, none to all
are labelled, drawn at random class by class, and all may be looked at without their labels. Every contender
trains on all training photographs, too; 20 % of the photographs say whether anything is lost there. A seed
divides all images anew; intervals are over seeds, so of the division and of which images got labels.
Writes results/adaptation.json and results/adaptation.png.
"""

import argparse
import hashlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adaptation_chart import NAMES, draw
from benchmarks.errors import ended
from benchmarks.record import RESULTS, measuring
from benchmarks.sets import ROOT, WEIGHTS, real_data, unpack
from pipeline.artifacts import Workspace
from pipeline.backbone import Backbone, load
from pipeline.params import Data as Limits
from pipeline.params import Model, Train
from pipeline.sources import SUFFIXES
from pipeline.transfer.adapt import adapt
from pipeline.transfer.classifier import logits_of
from pipeline.transfer.features import cached_features
from pipeline.transfer.feeds import PixelFeed
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.linear import probe
from pipeline.transfer.task import Candidate, Data, Task
from pipeline.views import views

SOURCE, TARGETS = "photo", ("art_painting", "sketch")
TARGET_TEST, SOURCE_TEST, SOURCE_VALIDATION = 0.4, 0.2, 0.15
FROZEN = ("probe", "balanced", "coral")  # a head alone is new
WHAT = (
    "Accuracy on held-out images of a new domain by the share of its other images that is labelled: mean over seeds, "
    "each of which divides the images anew, with Student's 95 % interval over them. Nothing is timed."
)


class Images:
    """Every image of pacs3 once: where it lies, what it is, its view and its frozen features."""

    def __init__(self, work: Path, backbone: Backbone) -> None:
        self.backbone = backbone
        self.workspace = Workspace(work, work / "var")
        shutil.rmtree(work / "pacs3", ignore_errors=True)
        unpack("pacs3", work)
        first: dict[str, Path] = {}
        for path in sorted(path for path in (work / "pacs3").rglob("*") if path.suffix in SUFFIXES):
            first.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
        self.ids, self.paths = list(first), list(first.values())
        self.domains = np.array([path.parts[-3] for path in self.paths])
        self.classes = sorted({path.parts[-2] for path in self.paths})
        self.labels = np.array([self.classes.index(path.parts[-2]) for path in self.paths])
        limits = {"max_pixels": Limits().max_pixels, "max_bytes": Limits().max_bytes}
        names = [str(path) for path in self.paths]
        self.pixels = views(self.workspace, names, self.ids, backbone.preprocessing, **limits)
        self.features = cached_features(self.workspace, backbone, self.pixels, self.ids)

    def shuffled(self, domain: str, generator: np.random.Generator) -> np.ndarray:
        """A domain's rows in random order, of which any first k hold the classes alike, as far as k allows."""
        drawn = []
        for code in range(len(self.classes)):
            rows = np.flatnonzero((self.domains == domain) & (self.labels == code))
            drawn += [
                (place, generator.random(), row) for place, row in enumerate(generator.permutation(rows))
            ]
        return np.array([row for *_, row in sorted(drawn)])

    def task(self, trained: np.ndarray, validation: np.ndarray, pool: Path, seed: int) -> Task:
        """Train on some rows, validate on others; the folder ``pool`` holds images without labels."""
        rows = np.concatenate([trained, validation])
        ids = [self.ids[row] for row in rows]
        data = Data(
            self.classes, ids, [str(self.paths[row]) for row in rows], ids, self.domains[rows].tolist(),
            self.labels[rows], len(trained),
        )  # fmt: skip
        ones = np.ones(len(trained))
        plan = Plan("none", ones, ones, np.zeros(len(self.classes)), None)
        train = Train(strategy="adapt", target=str(pool))
        return Task(self.workspace, train, seed, data, plan, self.backbone, "cpu", self.pixels[rows])

    def accuracy(self, name: str, candidate: Candidate, rows: np.ndarray) -> float:
        """Of a contender's candidate on some rows."""
        weight, bias = candidate.head
        if name in FROZEN:
            logits = self.features[rows] @ weight.T + bias
        else:
            logits = logits_of(
                candidate.classifier, PixelFeed(self.pixels, self.backbone.preprocessing, seed=0), rows
            )
        return float((logits.argmax(axis=1) == self.labels[rows]).mean())


def candidate(name: Any, task: Task, plain: Candidate) -> Candidate:
    """What a contender makes of ``task``; ``plain`` is its probe."""
    if name == "probe":
        return plain
    if name == "balanced":
        domains = task.data.domains[: task.data.trained]
        return probe(replace(task, plan=task.plan.by_domain(domains, 1.0)))
    return adapt(replace(task, train=replace(task.train, adapt=name)), plain)


def one_division(images: Images, target: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every contender at every share of labels, on the same test images."""
    generator = np.random.default_rng(seed)
    photos, others = images.shuffled(SOURCE, generator), images.shuffled(target, generator)
    ends = np.cumsum([round(share * len(photos)) for share in (SOURCE_TEST, SOURCE_VALIDATION)])
    photo_test, validation, replayed = np.split(photos, ends)
    new_test, pool = np.split(others, [round(TARGET_TEST * len(others))])
    folder = images.workspace.root / "pool"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for row in pool:
        (folder / f"{images.ids[row]}{images.paths[row].suffix}").hardlink_to(images.paths[row])
    found = []
    for percent in options.percent:
        labelled = pool[: round(percent / 100 * len(pool))]
        task = images.task(np.concatenate([replayed, labelled]), validation, folder, seed)
        plain = probe(task)
        for name in options.contenders:
            made = candidate(name, task, plain)
            new, old = (images.accuracy(name, made, rows) for rows in (new_test, photo_test))
            found.append(
                {
                    "target": target, "seed": seed, "percent": percent, "labelled": len(labelled),
                    "contender": name, "new": new, "old": old,
                }
            )  # fmt: skip
            print(f"{target:<14}{seed:>3}{percent:>5} %  {name:<10}{new:.3f}  {SOURCE} {old:.3f}", flush=True)
    return found


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over the seeds: mean and Student's 95 % interval of both accuracies, for each case."""
    from scipy.stats import t

    keys = ("target", "percent", "labelled", "contender")
    found = []
    for case in sorted({tuple(row[key] for key in keys) for row in rows}):
        of_case = [row for row in rows if tuple(row[key] for key in keys) == case]
        entry: dict[str, Any] = dict(zip(keys, case, strict=True)) | {"seeds": len(of_case)}
        for name in ("new", "old"):
            values = np.array([row[name] for row in of_case])
            half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
            ends = [round(float(values.mean() + sign * half), 4) for sign in (-1, 1)]
            entry[name] = {"accuracy": round(float(values.mean()), 4), "ci95": ends}
        found.append(entry)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adaptation", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--work", type=Path, default=ROOT / "var/bench/adaptation")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--contenders", nargs="+", choices=NAMES, default=list(NAMES)[:-1])
    parser.add_argument("--percent", nargs="+", type=int, default=[0, 2, 5, 10, 100], help="labelled")
    parser.add_argument("--seeds", type=int, default=10, help="divisions of the images, at least two")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the result goes")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    with measuring("adaptation", what=WHAT, state="warm", timed=False, results=options.results) as result:
        model = Model(weights=str(real_data() / WEIGHTS), image_size=128)
        images = Images(options.work.absolute(), load(model, root=ROOT, seed=0))
        rows = [
            r
            for target in options.targets
            for seed in range(options.seeds)
            for r in one_division(images, target, seed, options)
        ]
        result.details = {"cases": means(rows), "rows": rows}
        draw(options.results / "adaptation.png", result.details["cases"], SOURCE)
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
