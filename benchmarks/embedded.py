"""Images as a champion's frozen network sees them: decoded and embedded once, through the product's own caches."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.sets import ROOT, WEIGHTS, real_data, unpack
from pipeline.artifacts import Workspace
from pipeline.backbone import load
from pipeline.images import decode, dhash
from pipeline.params import Data, Model
from pipeline.sample import generate
from pipeline.sources import SUFFIXES
from pipeline.transfer.features import cached_features, kinds
from pipeline.transfer.linear import VIEWS
from pipeline.views import views

__all__ = ["Embedded", "pacs3", "sample"]


@dataclass(frozen=True)
class Embedded:
    """n images of several domains."""

    ids: list[str]
    paths: list[Path]
    hashes: list[str]
    classes: list[str]
    labels: np.ndarray  # [n] codes of the classes
    domains: np.ndarray  # [n]
    groups: np.ndarray  # [n]; shots of one part share one
    features: np.ndarray  # [views, n, width] float32, what the probe is fitted to; the first is the embedding

    @property
    def embeddings(self) -> np.ndarray:
        """[n, width] as the prediction log rounds them."""
        return self.features[0].astype("<f2").astype(np.float32)

    def divided(
        self, domain: str, shares: tuple[float, ...], generator: np.random.Generator
    ) -> list[np.ndarray]:
        """A domain's rows in random order, cut into parts of these shares of its groups, and the rest."""
        rows = np.flatnonzero(self.domains == domain)
        groups = generator.permutation(np.unique(self.groups[rows]))
        cuts = np.cumsum([round(share * len(groups)) for share in shares])
        return [
            generator.permutation(rows[np.isin(self.groups[rows], part)]) for part in np.split(groups, cuts)
        ]


def pacs3(work: Path) -> Embedded:
    """Photographs, paintings and sketches of seven things, by the weights of ``VISIONLOOP_REAL_DATA``."""
    folder = work / "pacs3"
    if not folder.exists():
        unpack("pacs3", work)
    return _embedded(work, folder, Model(weights=str(real_data() / WEIGHTS)))


def sample(work: Path) -> Embedded:
    """The embedded sample's two cameras, by the bundled weights."""
    folder = work / "sample"
    if not folder.exists():
        generate(folder)
    return _embedded(work, folder, Model())


def _embedded(work: Path, folder: Path, model: Model) -> Embedded:
    workspace, backbone = Workspace(work, work / "var"), load(model, root=ROOT, seed=0)
    first: dict[str, Path] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES):
        first.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
    ids, paths = list(first), list(first.values())
    limits = {"max_pixels": Data().max_pixels, "max_bytes": Data().max_bytes}
    pixels = views(workspace, [str(path) for path in paths], ids, backbone.preprocessing, **limits)
    features = [cached_features(workspace, backbone, pixels, ids, view=view) for view in kinds(VIEWS)]
    classes = sorted({path.parts[-2] for path in paths})
    return Embedded(
        ids=ids,
        paths=paths,
        hashes=[dhash(decode(path.read_bytes()).image) for path in paths],
        classes=classes,
        labels=np.array([classes.index(path.parts[-2]) for path in paths]),
        domains=np.array([path.parts[-3] for path in paths]),
        groups=np.array([(re.search(r"part-\d+", path.name) or [path.as_posix()])[0] for path in paths]),
        features=np.stack(features),
    )
