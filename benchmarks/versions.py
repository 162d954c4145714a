"""Answers to corrupted versions of images, whose truth is known: a champion, and a challenger that is as robust or less.

Whether a version is named right follows from a normal latent that is partly the image's (and its group's), partly the
model's for the image, and partly its own, against a threshold by corruption and severity: shares, and how alike the
versions of an image and the two models are, are as in real stress tables.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pyarrow as pa

from pipeline.artifacts import STRESS
from pipeline.corruptions import CORRUPTIONS, SEVERITIES
from pipeline.foreign import FOREIGN

__all__ = ["Versions", "stress"]

SHAPE = (len(CORRUPTIONS), len(SEVERITIES))
IMAGE = 0.55  # of the latent's variance: what both models find hard
FOREIGN_IMAGES = 40


@dataclass(frozen=True)
class Versions:
    """``right``: about the share of the corrupted versions that the champion names right."""

    right: float
    less: float = 0.0  # by how much the challenger's latent threshold is lower
    own: float = 0.2  # of the latent's variance: what one model alone finds hard of an image
    alike: float = 0.0  # share of the image's part that its group has in common

    def shares(self, less: float = 0.0) -> np.ndarray:
        """[corruptions, severities] true shares named right."""
        return _cdf(self._thresholds(less))

    @property
    def difference(self) -> np.ndarray:
        """[corruptions, severities] true shares of the challenger less the champion's."""
        return self.shares(self.less) - self.shares()

    def draw(self, groups: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """[n, corruptions, severities] of 0 and 1, the challenger's and the champion's, for images in ``groups`` [n]."""
        image = self._parts(groups, generator)
        ours, theirs = (self._right(image, groups, less, generator) for less in (self.less, 0.0))
        return ours, theirs

    def _right(
        self, image: np.ndarray, groups: np.ndarray, less: float, generator: np.random.Generator
    ) -> np.ndarray:
        latent = np.sqrt(IMAGE) * image + np.sqrt(self.own) * self._parts(groups, generator)
        noise = generator.normal(size=(len(groups), *SHAPE))
        return (
            latent[:, None, None] + np.sqrt(1 - IMAGE - self.own) * noise < self._thresholds(less)
        ).astype(float)

    def _parts(self, groups: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        common = generator.normal(size=int(groups.max()) + 1)[groups]
        return np.sqrt(self.alike) * common + np.sqrt(1 - self.alike) * generator.normal(size=len(groups))

    def _thresholds(self, less: float) -> np.ndarray:
        by_kind, by_severity = np.linspace(0.5, -0.5, SHAPE[0]), np.linspace(0.4, -0.4, SHAPE[1])
        return NormalDist().inv_cdf(self.right) - less + by_kind[:, None] + by_severity


def stress(ids: list[str], ours: np.ndarray, theirs: np.ndarray | None, digests: tuple[str, str]) -> pa.Table:
    """The STRESS table of images [n] that the challenger and the champion name right so [n, corruptions, severities].

    As they are, both name all of them right; of foreign pictures both are unsure.
    """
    parts = []
    for digest, right in zip(digests, (ours, theirs), strict=True):
        if right is None:
            continue
        flat = np.concatenate([np.ones(len(ids)), np.moveaxis(right, 0, 2).ravel()])
        names = [("clean", 0), *((name, severity) for name in CORRUPTIONS for severity in SEVERITIES)]
        parts.append(_rows(digest, "corruption", names, ids, flat > 0))
        parts += [_rows(digest, "foreign", [(name, 0)], [None] * FOREIGN_IMAGES, None) for name in FOREIGN]
    return pa.concat_tables(parts)


def _rows(
    digest: str,
    kind: str,
    names: list[tuple[str, int]],
    ids: list[str] | list[None],
    correct: np.ndarray | None,
) -> pa.Table:
    n, each = len(names) * len(ids), len(ids)
    columns = {
        "bundle": [digest] * n,
        "image_id": ids * len(names),
        "kind": [kind] * n,
        "name": [name for name, _ in names for _ in range(each)],
        "severity": [severity for _, severity in names for _ in range(each)],
        "predicted": ["class-00"] * n,
        "confidence": [0.5] * n,
        "correct": [None] * n if correct is None else correct,
    }
    return pa.table(
        {field.name: pa.array(columns[field.name], field.type) for field in STRESS}, schema=STRESS
    )


def _cdf(values: np.ndarray) -> np.ndarray:
    normal = NormalDist()
    return np.array([normal.cdf(value) for value in values.ravel()]).reshape(values.shape)
