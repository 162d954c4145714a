"""What a pretrained backbone is worth: probes on its frozen features, beside random weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch import nn

from pipeline.intervals import Interval, codes, proportion
from pipeline.paired import paired_intervals

HOW = (
    "logistic regression (C=0.01) on standardised frozen features, tested on parts of line-a that it was not fitted on and "
    "on line-b, without and with some of line-b's labels; 95 % intervals, shots of one part taken together; differences "
    "on the same images"
)


@torch.inference_mode()
def features(network: nn.Module, paths: list[Path], side: int) -> np.ndarray:
    """Frozen features, (n, d) float32, of the images at `paths`, resized to side x side."""
    rows = []
    for start in range(0, len(paths), 32):
        images = []
        for path in paths[start : start + 32]:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
                if image.size != (side, side):
                    image = image.resize((side, side), Image.Resampling.BICUBIC)
                images.append(np.asarray(image, dtype=np.float32) / 255)
        batch = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) - 0.5) / 0.5
        rows.append(network(batch).flatten(1).numpy())
    return np.concatenate(rows)


def probe(known: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Predicted labels (m,) of `asked` (m, d) after a logistic regression on `known` (n, d), standardised."""
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    known, asked = ((x - mean) / np.maximum(deviation, 1e-4) for x in (known, asked))
    return LogisticRegression(C=0.01, max_iter=2000).fit(known, labels).predict(asked)


def with_interval(right: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Accuracy of `right` (n,) booleans with its 95 % interval; images of one group (n,) are alike."""
    index = codes(groups.tolist())
    return {
        "accuracy": round(float(right.mean()), 3),
        "ci95": rounded(proportion(right, index)),
        "n": len(right),
        "groups": int(index.max()) + 1,
    }


def paired(first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Accuracy of `first` minus that of `second`, (n,) booleans of the same images, with its 95 % interval."""
    difference = first.astype(int) - second
    [interval] = paired_intervals(difference, codes(groups.tolist()))
    return {"difference": round(float(difference.mean()), 3), "ci95": rounded(interval)}


def rounded(interval: Interval) -> list[float]:
    """Both ends with three digits, as the card has them."""
    return [round(end, 3) for end in interval]


def share_of(name: str) -> float:
    """A fixed number in 0..1 for a group's name: which split it falls into."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32


def camera_images(root: Path) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """One camera's shots, their classes and their parts."""
    paths = sorted(root.glob("*/*.jpg"))
    parts = [path.stem.split("_")[0] for path in paths]
    return paths, np.array([path.parent.name for path in paths]), np.array(parts)


Answers = dict[str, tuple[np.ndarray, np.ndarray]]
"""Setting -> which held-out images a probe got right (n,), and their parts (n,)."""


def measure_sample(
    network: nn.Module, sample: Path, side: int, labelled: int = 100
) -> tuple[dict[str, Any], Answers]:
    """Probe figures on the sample: line-a's held-out parts, line-b without and with `labelled` of its shots."""
    (a, a_class, a_part), (b, b_class, b_part) = (
        camera_images(sample / camera) for camera in ("line-a", "line-b")
    )
    a, b = features(network, a, side), features(network, b, side)
    test = np.array([share_of(part) < 0.25 for part in a_part])
    parts = np.unique(b_part)
    shown = np.isin(
        b_part, np.random.default_rng(0).permutation(parts)[: round(labelled * len(parts) / len(b_part))]
    )
    before = probe(a[~test], a_class[~test], np.concatenate([a[test], b]))
    both, both_class = np.concatenate([a[~test], b[shown]]), np.concatenate([a_class[~test], b_class[shown]])
    after = probe(both, both_class, np.concatenate([a[test], b[~shown]]))
    count = int(test.sum())
    right: Answers = {
        "line_a": (before[:count] == a_class[test], a_part[test]),
        "line_b": (before[count:] == b_class, b_part),
        "line_b_after_labels": (after[count:] == b_class[~shown], b_part[~shown]),
        "line_a_after_labels": (after[:count] == a_class[test], a_part[test]),
    }
    figures: dict[str, Any] = {setting: with_interval(*answer) for setting, answer in right.items()}
    on_a = right["line_a"][0]
    figures["line_a"] |= {
        "macro_f1": round(float(f1_score(a_class[test], before[:count], average="macro")), 3),
        "recall": {
            str(name): round(float(on_a[a_class[test] == name].mean()), 3) for name in np.unique(a_class)
        },
    }
    figures["line_b_after_labels"]["labelled"] = int(shown.sum())
    return figures, right


def measure_real(network: nn.Module, folder: Path, side: int) -> dict[str, Any]:
    """Probe accuracy on a folder of <class>/<train|val|test>*.jpg, by its official split."""
    paths = sorted(folder.rglob("*.jpg"))
    labels, test = (
        np.array([p.parent.name for p in paths]),
        np.array([p.name.startswith("test") for p in paths]),
    )
    x = features(network, paths, side)
    right = probe(x[~test], labels[~test], x[test]) == labels[test]
    return with_interval(right, np.arange(len(right)))


def measure(
    networks: dict[str, nn.Module], samples: list[Path], real_images: Path | None, side: int
) -> dict[str, Any]:
    """Probe figures of each network on each sample and on real images; of the first, minus each other's as well."""
    figures: dict[str, Any] = {"how": HOW}
    first, *others = networks
    for sample in samples:
        measured = {name: measure_sample(network, sample, side) for name, network in networks.items()}
        figures[sample.name] = {name: of for name, (of, _) in measured.items()}
        right = {name: answers for name, (_, answers) in measured.items()}
        for other in others:
            figures[sample.name][f"{first}_minus_{other}"] = {
                setting: paired(answer, right[other][setting][0], parts)
                for setting, (answer, parts) in right[first].items()
            }
    if real_images:
        figures[f"real_{real_images.name}"] = {
            name: measure_real(network, real_images, side) for name, network in networks.items()
        }
    return figures
