"""Unsupervised adaptation: what unlabelled images of another domain can teach. A challenger, never a default.

``train.target`` names a folder of images without labels (the images that production sent, say). Whether
the adapted network is better can't be seen on labelled source images: the gate decides on the test sets.
"""

import hashlib
import time
from pathlib import Path

import numpy as np

from pipeline.artifacts import digest_json
from pipeline.errors import DataError, ParamsError
from pipeline.sources import SUFFIXES
from pipeline.transfer import distributed
from pipeline.transfer.align import Adversary, adapt_statistics, coral
from pipeline.transfer.classifier import Classifier, logits_of
from pipeline.transfer.features import cached_features
from pipeline.transfer.feeds import PixelFeed
from pipeline.transfer.finetune import UNFROZEN, side
from pipeline.transfer.freeze import freeze
from pipeline.transfer.linear import stored_features, training_examples
from pipeline.transfer.probe import fit_probe
from pipeline.transfer.task import Candidate, Task, figures
from pipeline.transfer.tuning import Settings, epochs, tune
from pipeline.views import views

__all__ = ["adapt", "target_views"]

LEARNING_RATE = 1.5e-4  # of the head and the top layer
FEWEST = 20  # unlabelled images, below which nothing is estimated from them


def adapt(task: Task, probe: Candidate) -> Candidate:
    """Adapt to the unlabelled images in ``train.target`` by ``train.adapt``.

    Raises:
        ParamsError: no target is named, or the method does not suit the backbone.
        DataError: the target has too few images, or one that does not decode.
    """
    started = time.perf_counter()
    target, ids = target_views(task)
    method = {"coral": _coral, "adabn": _adabn, "dann": _dann}[task.train.adapt]
    found = method(task, probe, target, ids)
    found.seconds.setdefault("adapt", time.perf_counter() - started)
    return found


def target_views(task: Task) -> tuple[np.ndarray, list[str]]:
    """uint8 [m, H, W, 3] views of the unlabelled images, and their ids, in alphabetical order of their paths.

    Raises:
        ParamsError: no target is named.
        DataError: it is no folder, or has too few images.
    """
    named = task.train.target
    if named is None:
        raise ParamsError(
            "train.strategy is adapt, but train.target names no folder of unlabelled images (var/log/images, say)"
        )
    folder = task.workspace.root / Path(named).expanduser()
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if len(paths) < FEWEST:
        raise DataError(f"train.target {folder} has {len(paths)} images; adapting needs at least {FEWEST}")
    first: dict[str, Path] = {}
    for path in paths:
        first.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
    ids = list(first)
    pixels = views(
        task.workspace, [str(path) for path in first.values()], ids, task.backbone.preprocessing,
        max_pixels=task.limits.max_pixels, max_bytes=task.limits.max_bytes,
    )  # fmt: skip
    return pixels, ids


def _coral(task: Task, probe: Candidate, target: np.ndarray, ids: list[str]) -> Candidate:
    """A head on the source features as they are and as they would be in the target domain."""
    data = task.data
    plain, varied = stored_features(task)
    shown = cached_features(task.workspace, task.backbone, target, ids, device=task.device)
    aligned = coral(plain[: data.trained], shown)
    examples = training_examples(task, plain, [*varied, aligned])
    groups = data.groups[: data.trained]
    head = fit_probe(examples, data.classes, groups=groups, seed=task.seed, head=task.train.head)
    text = f"CORAL: the head also learnt from features recoloured like {len(ids)} unlabelled images"
    return _candidate(task, "coral", (head.weight, head.bias), head.logits(plain[data.trained :]), text)


def _adabn(task: Task, probe: Candidate, target: np.ndarray, ids: list[str]) -> Candidate:
    """The probe on BatchNorm statistics of the target."""
    classifier = task.network(probe.head)
    feed = PixelFeed(target, task.backbone.preprocessing, seed=task.seed)
    count = adapt_statistics(classifier.backbone, feed, np.arange(len(ids)))
    own = PixelFeed(task.pixels, task.backbone.preprocessing, seed=task.seed)
    logits = logits_of(classifier, own, task.data.validation)
    text = f"AdaBN: {count} BatchNorms have the statistics of {len(ids)} unlabelled images"
    return _candidate(task, "adabn", probe.head, logits, text, classifier)


def _dann(task: Task, probe: Candidate, target: np.ndarray, ids: list[str]) -> Candidate:
    """Fine-tuning against a discriminator of the domains."""
    if distributed.world() > 1:
        raise ParamsError("train.adapt is dann, which trains in one process: set train.processes to 1")
    classifier = task.network(probe.head)
    unfrozen = task.train.unfreeze or UNFROZEN
    freeze(classifier, 1 - unfrozen, keep_statistics=True)
    feed = PixelFeed(target, task.backbone.preprocessing, seed=task.seed, device=task.device)
    adversary = Adversary(task.backbone.width, feed, np.arange(len(ids)), task.seed)
    count, _ = epochs(task, classifier, side(task), forced=True, name="domain-adversarial training")
    settings = Settings(
        name="adapt",
        learning_rate=LEARNING_RATE,
        wide=0,
        epochs=count,
        mix=False,
        unlabelled=digest_json(ids),
    )
    found = tune(task, probe, classifier, settings, alignment=adversary)
    found.report = f"DANN against {len(ids)} unlabelled images. {found.report}"
    return found


def _candidate(
    task: Task,
    method: str,
    head: tuple[np.ndarray, np.ndarray],
    logits: np.ndarray,
    text: str,
    classifier: Classifier | None = None,
) -> Candidate:
    outcome = figures(logits, task.data.labels[task.data.validation])
    said = (
        f"{text}. On validation images of the labelled domain its accuracy is {outcome['accuracy']:.3f} and its log loss "
        f"{outcome['log_loss']:.3f}; what it gives on the other domain only labelled images of that one can say."
    )
    return Candidate(
        strategy="adapt",
        classifier=classifier or task.network(head),
        logits=logits,
        report=said,
        figures={"method": method, **outcome},
    )
