"""What every strategy is given, and what each gives back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.artifacts import Workspace
from pipeline.backbone import Backbone
from pipeline.errors import DataError
from pipeline.params import Data as Limits
from pipeline.params import Train
from pipeline.transfer.calibration import calibrated_losses
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.curve import LiveCurves
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.stages import Standardised, Taps

__all__ = ["Candidate", "Data", "Task", "figures", "select"]


@dataclass(frozen=True)
class Data:
    """The rows of split.parquet that training sees: training images first, then validation."""

    classes: list[str]
    image_ids: list[str]
    paths: list[str]
    groups: list[str]
    domains: list[str]
    labels: np.ndarray  # [n] codes
    trained: int  # the first so many rows train, the rest validate

    @property
    def train(self) -> np.ndarray:
        """Rows that train."""
        return np.arange(self.trained)

    @property
    def validation(self) -> np.ndarray:
        """Rows that validate."""
        return np.arange(self.trained, len(self.labels))


@dataclass(frozen=True)
class Task:
    """One data set, one backbone, one machine: what a strategy starts from."""

    workspace: Workspace
    train: Train  # the section of params.yaml
    seed: int
    data: Data
    plan: Plan
    backbone: Backbone
    device: str
    pixels: np.ndarray  # uint8 [n, H, W, 3], the views of data's rows
    curves: LiveCurves | None = None
    prior: np.ndarray | None = None  # [classes, width], a head from the class names alone; see prior.py
    limits: Limits = field(default_factory=Limits)  # of images that are read besides

    def network(
        self,
        head: tuple[np.ndarray, np.ndarray],
        taps: Taps | None = None,
        standard: Standardised | None = None,
    ) -> Classifier:
        """A fresh copy of the backbone under a head (weight [classes, width], bias [classes]); in eval mode.

        Args:
            taps, standard: of a head that sees the features of every stage.
        """
        import copy

        import torch

        classifier = Classifier(
            copy.deepcopy(self.backbone.module).cpu(),
            taps.width if taps else self.backbone.width,
            len(self.data.classes),
            taps.indices if taps else None,
        )
        if classifier.standard is not None and standard is not None:
            classifier.standard.load_state_dict(standard.state_dict())
        with torch.no_grad():
            classifier.head.weight.copy_(torch.from_numpy(head[0]))
            classifier.head.bias.copy_(torch.from_numpy(head[1]))
        return classifier.eval()


@dataclass
class Candidate:
    """A network, what it says of the validation images, and how it came to be."""

    strategy: str
    classifier: Classifier  # in eval mode, on the CPU
    logits: np.ndarray  # [validation, classes]
    report: str  # a sentence or two
    curve: list[tuple[int, float, str]] = field(default_factory=list)  # step, loss, split
    seconds: dict[str, float] = field(default_factory=dict)
    images_per_second: float = 0.0
    steps: int = 0
    epochs: int = 0  # that it was to be trained for; 0: no one number says it
    figures: dict[str, Any] = field(default_factory=dict)  # on validation; see :func:`figures`
    arithmetic: dict[str, str] = field(
        default_factory=dict
    )  # strategy → how it was computed, and the timings behind it

    last_head: tuple[np.ndarray, np.ndarray] | None = None  # a probe's on the last stage's features alone

    @property
    def head(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight [classes, width] and bias [classes] on the last stage's features: where fine-tuning starts."""
        if self.last_head is not None:
            return self.last_head
        layer = self.classifier.head
        return layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()


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
        domains=[row["domain"] for row in both],
        labels=np.array([code[row["label"]] for row in both]),
        trained=len(parts["train"]),
    )


def figures(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy and log loss (nats, at the logits' own best temperature) of logits [n, classes]."""
    return {
        "accuracy": round(float((logits.argmax(axis=1) == labels).mean()), 6),
        "log_loss": round(float(calibrated_losses(logits, labels).mean()), 6),
    }
