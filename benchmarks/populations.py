"""Predictions whose truth is known, to draw test sets from: simulated ones, and real ones with planted changes.

    population = simulated(accuracy=0.9, classes=20, group=1, alike=0.0, seed=0)
    rows, groups = population.draw(500, generator)
    ours = population.changed(rows, groups, Change(losses=0.05), generator)      # truly 5 points worse

A test set is whole groups, drawn with replacement until there are n images: what holds over the population is
the truth. A changed answer is a swap of two probabilities, so that a table stays consistent row by row.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from pipeline import artifacts
from pipeline.evaluate import tabulate

SECOND = 0.3  # share of a population's groups that are of the second of two domains


@dataclass(frozen=True)
class Change:
    """What a challenger does differently: shares of all images that become right and wrong."""

    wins: float = 0.0
    losses: float = 0.0
    where: str = "anywhere"
    """Of the losses: anywhere, classes (the fewest that hold them), domain (the second); or, of both, unsure: at each
    confidence as many become right as become wrong where the network is calibrated, so that it stays so."""
    alike: float = 0.0  # share of the groups whose shots all change, or all don't


@dataclass(frozen=True)
class Population:
    """Images in groups, and what a network says of them."""

    name: str
    labels: np.ndarray  # [n] codes
    probabilities: np.ndarray  # [n, classes]
    groups: np.ndarray  # [n] integers, in order

    @cached_property
    def right(self) -> np.ndarray:
        """[n] bool."""
        return self.probabilities.argmax(axis=1) == self.labels

    @property
    def classes(self) -> list[str]:
        return [f"class-{number:02}" for number in range(self.probabilities.shape[1])]

    @cached_property
    def second(self) -> np.ndarray:
        """[n] bool: which images are of the second domain; whole groups, scattered."""
        return (self.groups * 2654435761 % 1000) < SECOND * 1000

    def draw(self, n: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """[n] rows of whole groups drawn with replacement, the last cut short, and their new groups' numbers."""
        starts = np.searchsorted(self.groups, np.arange(self.groups[-1] + 2))
        drawn = generator.integers(0, len(starts) - 1, size=n)
        sizes = (starts[1:] - starts[:-1])[drawn]
        count = int(np.searchsorted(sizes.cumsum(), n)) + 1
        rows = [np.arange(starts[group], starts[group + 1]) for group in drawn[:count]]
        return np.concatenate(rows)[:n], np.repeat(np.arange(count), sizes[:count])[:n]

    def changed(
        self, rows: np.ndarray, groups: np.ndarray, change: Change, generator: np.random.Generator
    ) -> np.ndarray:
        """[n, classes] probabilities of a challenger over ``rows`` that differs by ``change`` in truth."""
        right = self.right
        losing = right * self._place(change, right)
        winning = ~right * (self._confidence if change.where == "unsure" else 1.0)
        losing, winning = (
            weights * (share / max(weights.mean(), 1e-12))
            for weights, share in ((losing, change.losses), (winning, change.wins))
        )
        if max(losing.max(), winning.max()) > 1:
            raise ValueError(
                f"{self.name} has too few answers for {change}: shares {losing.max():.2f}, {winning.max():.2f}"
            )
        chance = shared_uniforms(groups, change.alike, generator)
        flip = (losing + winning)[rows] > chance
        return np.where(flip[:, None], self._opposite[rows], self.probabilities[rows])

    def _place(self, change: Change, right: np.ndarray) -> np.ndarray:
        if change.where == "domain":
            return self.second
        if change.where == "unsure":
            return 1 - self._confidence
        if change.where == "classes":  # the largest, until three quarters of their right answers are enough
            hits = np.bincount(self.labels[right], minlength=len(self.classes)) / len(right)
            largest = np.argsort(-hits)
            count = int(np.searchsorted(hits[largest].cumsum() * 0.75, change.losses)) + 1
            return np.isin(self.labels, largest[:count])
        return np.ones(len(right), dtype=bool)

    @cached_property
    def _confidence(self) -> np.ndarray:
        return self.probabilities.max(axis=1)

    @cached_property
    def _opposite(self) -> np.ndarray:
        """The probabilities with every right answer made wrong (first and second swapped) and every wrong one right."""
        swapped, every = self.probabilities.copy(), np.arange(len(self.labels))
        order = np.argsort(self.probabilities, axis=1)
        first = order[:, -1]
        other = np.where(self.right, order[:, -2], self.labels)
        swapped[every, first], swapped[every, other] = (
            self.probabilities[every, other],
            self.probabilities[every, first],
        )
        return swapped

    def table(
        self, rows: np.ndarray, groups: np.ndarray, probabilities: np.ndarray, digest: str, *, domains: bool
    ) -> pa.Table:
        """The PREDICTIONS table of a drawn test set."""
        number = np.arange(len(rows)).astype(str)
        second = self.second[rows] if domains else np.zeros(len(rows), dtype=bool)
        columns = {
            "image_id": number,
            "path": number,
            "label": np.array(self.classes)[self.labels[rows]],
            "domain": np.where(second, "line-b", "line-a"),
            "group": groups.astype(str),
            "split": np.full(len(rows), "test"),
            "reason": np.full(len(rows), "assigned"),
        }
        images = pa.table({name: pa.array(c, pa.string()) for name, c in columns.items()}, artifacts.SPLIT)
        return tabulate(images, probabilities.astype(np.float32), self.classes, digest)


def shared_uniforms(groups: np.ndarray, alike: float, generator: np.random.Generator) -> np.ndarray:
    """[n] uniforms; in a share ``alike`` of the groups all images have the same one."""
    count = int(groups.max()) + 1
    together = generator.random(count) < alike
    return np.where(together[groups], generator.random(count)[groups], generator.random(len(groups)))


def simulated(
    *, accuracy: float, classes: int, group: int, alike: float, seed: int, overconfidence: float = 1.4
) -> Population:
    """4,000 groups of one image, or of 1 to ``group``, each of one class; half as many images of the last as of the first.

    Scores are normal around the label, with a share ``alike`` of the noise common to a group; their scale gives
    the ``accuracy``. Their softmax is calibrated where ``overconfidence`` is 1 (linear discriminant analysis).
    """
    generator = np.random.default_rng(seed)
    count = 4000
    sizes = np.ones(count, dtype=int) if group == 1 else generator.integers(1, group + 1, count)
    weights = np.linspace(2, 1, classes)
    label = generator.choice(classes, p=weights / weights.sum(), size=count)
    groups = np.repeat(np.arange(count), sizes)
    labels = label[groups]
    common = generator.normal(size=(count, classes))[groups]
    noise = np.sqrt(alike) * common + np.sqrt(1 - alike) * generator.normal(size=common.shape)
    onehot = np.eye(classes)[labels]
    low, high = 0.01, 200.0
    for _ in range(40):
        middle = (low + high) / 2
        reached = ((middle * onehot + np.sqrt(middle) * noise).argmax(axis=1) == labels).mean()
        low, high = (middle, high) if reached < accuracy else (low, middle)
    scores = overconfidence * (low * onehot + np.sqrt(low) * noise)
    likely = np.exp(scores - scores.max(axis=1, keepdims=True))
    shots = "single images" if group == 1 else f"groups of 1 to {group}"
    name = f"simulated, accuracy {accuracy:g}, {classes} classes, {shots}"
    return Population(name, labels, likely / likely.sum(axis=1, keepdims=True), groups)


def of_table(name: str, predictions: pa.Table, classes: list[str]) -> Population:
    """The test images of a real table of predictions."""
    test = predictions.filter(pa.compute.equal(predictions["split"], "test"))
    code = {label: number for number, label in enumerate(classes)}
    labels = np.array([code[label] for label in test["label"].to_pylist()])
    groups = np.unique(np.array(test["group"].to_pylist()), return_inverse=True)[1]
    order = np.argsort(groups, kind="stable")
    probabilities = np.array(test["probabilities"].to_pylist())
    return Population(name, labels[order], probabilities[order], groups[order])
