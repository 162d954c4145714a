"""The champion as the watch sees it: its classes and its held-out reference, straight from the bundle.

The reference holds validation and test images only: fitted embeddings of training images differ from
those of unseen ones, and a comparison with them alarms without drift.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.artifacts import (
    REFERENCE,
    REFERENCES,
    STATISTICS,
    STRESS,
    STRESS_TABLE,
    digest_file,
    read_json,
    read_table,
)
from pipeline.errors import DataError
from pipeline.images import LOOKS
from pipeline.registry import Registry

MIN_DOMAIN = 30
"""Fewer groups than this can't stand for a domain of their own: they join the largest one's pool."""


@dataclass(frozen=True)
class Reference:
    """n held-out images as columns, and which model they belong to.

    Attributes:
        champion, digest: of the bundle, and of the reference's file.
        embeddings (n, d), statistics (n, 4), probabilities (n, classes): float32.
        sizes: (n, 2) width and height in px.
        groups: near-alike shots share one; the tests count a group once.
        domains: where each image came from, small ones pooled with the largest (``MIN_DOMAIN``).
        thumbnails: JPEG bytes, for contact sheets.
        labels: what the images show; empty where that is not known.
        looks: (n, looks) numbers of ``pipeline.images.look``, NaN where not measured; None without any.
        corrupted: a pair for each corruption of held-out images, (m,) confidence and (m,) bool, whether the champion named
            each rightly; empty where the release kept no stress test.
    """

    champion: str
    digest: str
    classes: tuple[str, ...]
    image_ids: tuple[str, ...]
    embeddings: np.ndarray
    statistics: np.ndarray
    probabilities: np.ndarray
    sizes: np.ndarray
    predicted: tuple[str, ...]
    groups: tuple[str, ...]
    domains: tuple[str, ...]
    thumbnails: tuple[bytes, ...]
    labels: tuple[str, ...] = ()
    looks: np.ndarray | None = None
    corrupted: tuple[tuple[np.ndarray, np.ndarray], ...] = ()

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def confidence(self) -> np.ndarray:
        """(n,) the largest probability of each image."""
        return self.probabilities.max(axis=1)

    @property
    def correct(self) -> np.ndarray | None:
        """(n,) bool, whether the champion named each image rightly; None where that is not known."""
        if not self.labels:
            return None
        return np.array([was == said for was, said in zip(self.labels, self.predicted, strict=True)])

    @cached_property
    def representatives(self) -> np.ndarray:
        """Indices of one image a group: the one whose id sorts first, so not chosen by what it shows."""
        first: dict[str, int] = {}
        for index in np.argsort(np.array(self.image_ids)):
            first.setdefault(self.groups[index], int(index))
        return np.array(sorted(first.values()))

    def of_domain(self, domain: str, among: np.ndarray) -> np.ndarray:
        """Those of the indices ``among`` that belong to ``domain``."""
        return np.array([index for index in among if self.domains[index] == domain], dtype=int)


def load(registry: Registry, champion: str, form: str = "onnx") -> Reference:
    """The reference of the bundle with digest ``champion``, as its network of ``serve.format`` sees it.

    Raises:
        StateError: the registry lacks the bundle.
        DataError: the reference is missing, empty or of another shape than the bundle says, or the stress test that the
            release kept is damaged.
    """
    folder = Path(registry.bundle_path(champion))
    classes = tuple(read_json(folder / "bundle.json")["classes"])
    file = folder / REFERENCES[form]
    table = read_table(file, REFERENCE)
    if table.num_rows == 0:
        raise DataError(f"{file} holds no image: bundle again with held-out images")
    ids = tuple(table["image_id"].to_pylist())
    groups = tuple(group or image for group, image in zip(table["group"].to_pylist(), ids, strict=True))
    return Reference(
        champion=champion,
        digest=digest_file(file),
        classes=classes,
        image_ids=ids,
        # As the log rounds them: both sides of a distance carry the same error.
        embeddings=_matrix(table["embedding"]).astype("<f2").astype(np.float32),
        statistics=np.stack([table[name].to_numpy() for name in STATISTICS], axis=1).astype(np.float32),
        probabilities=_matrix(table["probabilities"]),
        sizes=np.stack([table["width"].to_numpy(), table["height"].to_numpy()], axis=1),
        predicted=tuple(table["predicted"].to_pylist()),
        groups=groups,
        domains=_pooled(table["domain"].to_pylist(), groups),
        thumbnails=tuple(table["thumbnail"].to_pylist()),
        labels=_labels(table["label"].to_pylist()),
        looks=_looks(table["look"].to_pylist()),
        corrupted=_corrupted(registry.recipe_path(champion) / STRESS_TABLE, champion),
    )


def _corrupted(file: Path, champion: str) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    if not file.exists():
        return ()
    table = read_table(file, STRESS)
    bundle, kind, severity, name = (
        table[column].to_numpy() for column in ("bundle", "kind", "severity", "name")
    )
    own = np.flatnonzero((bundle == champion) & (kind == "corruption") & (severity > 0))
    found: dict[tuple[str, int], list[int]] = {}
    for row in own:
        found.setdefault((name[row], severity[row]), []).append(int(row))
    confidence, correct = table["confidence"].to_numpy(), table["correct"].to_numpy()
    return tuple((confidence[rows].astype(float), correct[rows].astype(bool)) for rows in found.values())


def _labels(column: Sequence[str | None]) -> tuple[str, ...]:
    known = tuple(label for label in column if label is not None)
    return known if len(known) == len(column) else ()


def _looks(column: Sequence[list[float] | None]) -> np.ndarray | None:
    if all(numbers is None for numbers in column):
        return None
    unknown = [float("nan")] * len(LOOKS)
    return np.array([unknown if numbers is None else numbers for numbers in column], dtype=np.float32)


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    return np.stack(column.to_numpy()).astype(np.float32)


def _pooled(domains: Sequence[str], groups: Sequence[str]) -> tuple[str, ...]:
    """Each image's domain, with the domains of fewer than ``MIN_DOMAIN`` groups merged into the largest."""
    held: dict[str, set[str]] = {}
    for domain, group in zip(domains, groups, strict=True):
        held.setdefault(domain, set()).add(group)
    largest = max(sorted(held), key=lambda name: len(held[name]))
    return tuple(domain if len(held[domain]) >= MIN_DOMAIN else largest for domain in domains)
