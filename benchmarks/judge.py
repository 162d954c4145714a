"""One jury for all contenders: the same test images, through the same preprocessing, in float32.

views, truth = held_out_views(prepared)
ours, rival = judge(logits, truth), judge(other_logits, truth)
compare(ours, rival)        # difference of the accuracies, with the paired 95 % interval
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.sets import Prepared
from pipeline.images import decode
from pipeline.intervals import Interval, codes, proportion
from pipeline.paired import paired_intervals
from pipeline.transforms import Preprocessing


@dataclass(frozen=True)
class Truth:
    """What the test images are, in the order of the views."""

    labels: np.ndarray  # [n] codes into the sorted classes
    groups: np.ndarray  # [n] names: <set>/<object>; near-duplicates share one


@dataclass(frozen=True)
class Judged:
    """A contender's answers, image by image."""

    correct: np.ndarray  # [n] bool
    groups: np.ndarray  # [n]

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())

    @property
    def interval(self) -> Interval:
        return proportion(self.correct, codes(self.groups.tolist()))


@dataclass(frozen=True)
class Difference:
    """Ours less the rival's, on the same images."""

    value: float
    low: float
    high: float
    n: int


def preprocessing(prepared: Prepared) -> Preprocessing:
    """What the weights ask for, at the benchmark's image size: the same rule as visionloop's and timm's own."""
    config = json.loads((prepared.weights / "config.json").read_text(encoding="utf-8"))["pretrained_cfg"]
    side = prepared.image_size
    return Preprocessing(
        image_size=side,
        resize=max(side, int(side / config["crop_pct"])),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop_mode=config["crop_mode"],
    )


def held_out_views(prepared: Prepared) -> tuple[np.ndarray, Truth]:
    """uint8 [n, H, W, 3] views of the test images, and what they are."""
    code = {name: number for number, name in enumerate(prepared.classes)}
    images, how = prepared.images("test"), preprocessing(prepared)
    views = np.stack([how.view(decode(image.path.read_bytes()).image) for image in images])
    labels = np.array([code[image.label] for image in images])
    return views, Truth(labels, np.array([f"{prepared.name}/{image.group}" for image in images]))


def judge(logits: np.ndarray, truth: Truth) -> Judged:
    """[n, classes] logits against the truth."""
    if logits.shape[0] != len(truth.labels) or not np.isfinite(logits).all():
        raise ValueError(f"logits {logits.shape} for {len(truth.labels)} test images, or some are no numbers")
    return Judged(logits.argmax(axis=1) == truth.labels, truth.groups)


def compare(ours: Judged, rival: Judged) -> Difference:
    """With Tango's score interval, shots of one object counted for what they are worth."""
    difference = ours.correct.astype(int) - rival.correct.astype(int)
    low, high = paired_intervals(difference, codes(ours.groups.tolist()))[0]
    return Difference(float(difference.mean()), low, high, len(difference))


def pool(parts: Sequence[Judged]) -> Judged:
    """Several sets or seeds as one; an object counts once, however many seeds have tested it."""
    return Judged(
        np.concatenate([part.correct for part in parts]), np.concatenate([part.groups for part in parts])
    )
