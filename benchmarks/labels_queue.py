"""A champion, the window that it meets, and every way of asking for labels in it, through the product's own code."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property

import numpy as np

from benchmarks.embedded import Embedded
from monitoring.domain_score import domain_scores, scenes_of
from monitoring.drift import yardstick
from monitoring.evidence import Yardstick
from monitoring.label_selection import Candidate, select, spread, uncertainty
from monitoring.label_split import Newcomer, assign
from monitoring.reference import Reference
from monitoring.window import Row, Window
from pipeline.params import Label, Params
from pipeline.transfer.calibration import fit_temperature
from pipeline.transfer.examples import Examples, standardise
from pipeline.transfer.logistic import logistic_path
from pipeline.transfer.probe import Head, fit_probe

__all__ = ["Asked", "Champion", "Situation"]


@dataclass(frozen=True)
class Asked:
    """Rows of the images whose labels were asked, and which of them were drawn at random."""

    rows: np.ndarray
    random: np.ndarray

    @classmethod
    def nothing(cls) -> "Asked":
        return cls(np.zeros(0, dtype=int), np.zeros(0, dtype=bool))


@dataclass(frozen=True)
class Champion:
    """The product's probe on some rows, with its temperature from rows that were held out."""

    head: Head
    trained_rows: np.ndarray
    reference_rows: np.ndarray
    temperature: float

    @classmethod
    def trained(cls, images: Embedded, rows: np.ndarray, reference: np.ndarray, seed: int) -> "Champion":
        """``pipeline.transfer.probe`` on the stored views, no plan: as `dvc repro` with the default params."""
        examples = _examples(images, rows)
        head = fit_probe(examples, images.classes, groups=list(images.groups[rows]), seed=seed)
        temperature = fit_temperature(head.logits(images.features[0][reference]), images.labels[reference])
        return cls(head, rows, reference, temperature)

    def probabilities(self, images: Embedded, rows: np.ndarray) -> np.ndarray:
        """[n, classes], calibrated."""
        logits = self.head.logits(images.features[0][rows]).astype(np.float64) / self.temperature
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))

    def accuracy(self, images: Embedded, rows: np.ndarray) -> float:
        """Share of right answers on some rows."""
        answers = self.head.logits(images.features[0][rows]).argmax(axis=1)
        return float((answers == images.labels[rows]).mean())


@dataclass(frozen=True)
class Situation:
    """A champion, and the rows of the images that production sends it."""

    images: Embedded
    champion: Champion
    window_rows: np.ndarray
    seed: int

    @cached_property
    def window(self) -> Window:
        """As the log keeps it."""
        embeddings = self.images.embeddings[self.window_rows]
        chances = self.champion.probabilities(self.images, self.window_rows).astype(np.float32)
        rows = [
            Row(
                request_id=str(number), time=datetime(2026, 1, 1, tzinfo=UTC), image_id=self.images.ids[row],
                label=self.images.classes[int(chances[number].argmax())], source="", kept=None,
                probabilities=chances[number], embedding=embeddings[number],
                statistics=np.zeros(4, dtype=np.float32), size=(1, 1),
            )
            for number, row in enumerate(self.window_rows)
        ]  # fmt: skip
        return Window(tuple(rows), tuple(self.images.classes))

    @cached_property
    def measure(self) -> Yardstick:
        """With the held-out images as reference."""
        images, rows = self.images, self.champion.reference_rows
        chances = self.champion.probabilities(images, rows).astype(np.float32)
        reference = Reference(
            champion="", digest="", classes=tuple(images.classes), image_ids=tuple(images.ids[row] for row in rows),
            embeddings=images.embeddings[rows], statistics=np.zeros((len(rows), 4), dtype=np.float32),
            probabilities=chances, sizes=np.ones((len(rows), 2)),
            predicted=tuple(images.classes[code] for code in chances.argmax(axis=1)),
            groups=tuple(str(group) for group in images.groups[rows]), domains=("old",) * len(rows), thumbnails=(),
        )  # fmt: skip
        return yardstick(reference, 0.01)

    @cached_property
    def scores(self) -> np.ndarray:
        """(n,) domain scores of the window."""
        reference, embeddings = self.measure.reference, self.window.embeddings.astype(np.float64)
        scenes = scenes_of(embeddings, self.measure.near)
        return domain_scores(reference.embeddings, reference.groups, embeddings, scenes, seed=self.seed)

    @cached_property
    def candidates(self) -> list[Candidate]:
        images = self.images
        return [
            Candidate(number, images.paths[row], images.hashes[row])
            for number, row in enumerate(self.window_rows)
        ]

    def asked(self, way: str, budget: int) -> Asked:
        """What one way of asking asks; each but ``random`` knows no labels but sees what the champion says."""
        if way in ("ours", "chosen"):
            return self._selected(budget, 0.5 if way == "ours" else 0.0)
        if way == "random":
            drawn = np.random.default_rng([self.seed, 1]).permutation(len(self.window_rows))[:budget]
            return Asked(self.window_rows[drawn], np.ones(budget, dtype=bool))
        if way == "entropy":
            picked = np.argsort(-uncertainty(self.window.probabilities), kind="stable")[:budget]
        elif way == "kcenter":
            everywhere = np.ones(len(self.window_rows))
            embeddings = self.window.embeddings.astype(np.float64)
            picked = np.array(
                [one.row for one in spread(self.candidates, [], embeddings, everywhere, budget)]
            )
        return Asked(self.window_rows[picked], np.zeros(budget, dtype=bool))

    def _selected(self, budget: int, share: float) -> Asked:
        params = replace(Params(), seed=self.seed, label=Label(budget=budget, random_share=share))
        near, bits = self.measure.near, params.validate.near_duplicate_bits
        items = select(self.window, self.candidates, self.scores, near=near, bits=bits, params=params)
        rows = {self.images.ids[row]: row for row in self.window_rows}
        return Asked(
            np.array([rows[item.image_id] for item in items]), np.array([item.random for item in items])
        )

    def trained_on(self, asked: Asked) -> np.ndarray:
        """The rows that train where the intake divides the labels, as `python -m monitoring label` does."""
        newcomers = [
            Newcomer(self.images.ids[row], self.images.hashes[row], bool(random))
            for row, random in zip(asked.rows, asked.random, strict=True)
        ]
        splits, _ = assign(newcomers, [], {}, "new", replace(Params(), seed=self.seed))
        return np.array([row for row in asked.rows if splits[self.images.ids[row]][0] == "train"], dtype=int)

    def retrained(self, rows: np.ndarray) -> Champion:
        """The probe on the champion's training images and the newly labelled ones together.

        Its strength is the champion's, so that hundreds of fits need no cross-validation each.
        """
        champion = self.champion
        both = np.concatenate([champion.trained_rows, rows])
        examples = _examples(self.images, both)
        raw, labels, weights = examples.rows(np.arange(len(both)))
        standard, strength = standardise(raw, np.float32), champion.head.strength
        found = logistic_path(standard.values, labels, weights, examples.log_prior, [strength])
        weight, bias = (part.astype(np.float32) for part in standard.fold(*found[0]))
        return replace(champion, head=Head(weight, bias, strength, 0, {}))


def _examples(images: Embedded, rows: np.ndarray) -> Examples:
    ones, prior = np.ones(len(rows)), np.zeros(len(images.classes))
    return Examples(images.features[:, rows], images.labels[rows], ones, prior)
