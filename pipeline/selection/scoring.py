"""What a backbone's frozen features are worth on the training images: a probe, cross-validated, and LogME."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import DataError
from pipeline.intervals import Z95, Interval, codes, proportion
from pipeline.selection.logme import logme
from pipeline.transfer.examples import Examples
from pipeline.transfer.probe import fit_probe

__all__ = ["Images", "Score", "sample", "score"]

FOLDS = 5
MOST_IMAGES = 2_000  # a standard error of .007 at an accuracy of .9; the time grows with them


@dataclass(frozen=True)
class Images:
    """The training images that every candidate is judged on."""

    paths: list[str]
    image_ids: list[str]
    groups: list[str]
    labels: np.ndarray  # [n] codes
    classes: list[str]

    @property
    def folds(self) -> int:
        """How many folds there are: no more than groups in the smallest class."""
        group = codes(self.groups)
        return min(
            FOLDS, *(len(np.unique(group[self.labels == label])) for label in range(len(self.classes)))
        )


@dataclass(frozen=True)
class Score:
    """A probe's accuracy on images that it was not fitted to, and how sure it is."""

    accuracy: float
    standard_error: float  # half the interval's width / 1.96
    interval: Interval  # 95 %
    logme: float  # nats per image


def sample(rows: Sequence[dict[str, str]], seed: int, most: int = MOST_IMAGES) -> Images:
    """The training rows of split.parquet; of more than ``most``, whole groups drawn class by class.

    Raises:
        DataError: there are fewer than two classes, or a class has images of one group only.
    """
    rows = [row for row in rows if row["split"] == "train"]
    classes = sorted({row["label"] for row in rows})
    if len(classes) < 2:
        raise DataError(
            f"artifacts/split.parquet has {len(rows)} training images of {len(classes)} classes: a choice needs two"
        )
    code = {label: number for number, label in enumerate(classes)}
    labels = np.array([code[row["label"]] for row in rows])
    kept = _drawn(labels, codes([row["group"] for row in rows]), most, seed)
    found = Images(
        paths=[rows[row]["path"] for row in kept],
        image_ids=[rows[row]["image_id"] for row in kept],
        groups=[rows[row]["group"] for row in kept],
        labels=labels[kept],
        classes=classes,
    )
    if found.folds < 2:
        group = codes(found.groups)
        alone = [name for name in classes if len(np.unique(group[found.labels == code[name]])) < 2]
        raise DataError(
            f"the training images of {', '.join(alone[:8])} are all of one group, so there is nothing to cross-validate: "
            "collect more, or mend data.group_pattern in params.yaml"
        )
    return found


def _drawn(labels: np.ndarray, groups: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Rows of whole groups, about ``most`` of them: of each class its share, and at least so many groups as folds."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(int(groups.max()) + 1)
    chosen: set[int] = set()
    for label in np.unique(labels):
        sizes = np.bincount(groups[labels == label], minlength=len(order))[order]
        before = np.cumsum(sizes) - sizes  # images of this class in the groups that come first
        enough = before < most * (labels == label).mean()
        first = np.cumsum(sizes > 0) <= FOLDS
        chosen |= set(order[(sizes > 0) & (enough | first)].tolist())
    return np.flatnonzero(np.isin(groups, list(chosen)))


def score(features: np.ndarray, images: Images, seed: int) -> Score:
    """Judge float32 [n, width] features of ``images``.

    Each image is named by a head that saw neither it nor its group: stratified folds by group, and within each
    the same standardisation and search for C as training's own probe (nested, so that the choice of C costs no
    honesty). The interval knows of the groups (see intervals.py), but not that the folds share training images,
    which makes it a little narrow (Bengio and Grandvalet 2004).
    """
    hits = _out_of_fold(features, images, seed) == images.labels
    interval = proportion(hits, codes(images.groups))
    return Score(
        accuracy=float(hits.mean()),
        standard_error=(interval[1] - interval[0]) / (2 * Z95),
        interval=interval,
        logme=logme(features, images.labels, len(images.classes)),
    )


def _out_of_fold(features: np.ndarray, images: Images, seed: int) -> np.ndarray:
    """[n] predicted codes."""
    from sklearn.model_selection import StratifiedGroupKFold

    predicted = np.empty(len(features), dtype=np.int64)
    splitter = StratifiedGroupKFold(images.folds, shuffle=True, random_state=seed)
    for fitted, held in splitter.split(features, images.labels, codes(images.groups)):
        examples = Examples(
            features[None, fitted], images.labels[fitted], np.ones(len(fitted)), np.zeros(len(images.classes))
        )
        groups = [images.groups[row] for row in fitted]
        head = fit_probe(examples, images.classes, groups=groups, seed=seed)
        predicted[held] = head.logits(features[held]).argmax(axis=1)
    return predicted
