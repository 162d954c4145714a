"""The images of the soaked year, and what each champion says of them: rendered once, predicted once, then replayed.

A pool is the population of a regime: distinct images with their true classes. A champion's answers to it are
recorded with its own bundle the first time that they are asked for, so that what stands in for live decoding
is what live decoding would give.
"""

import hashlib
import io
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageFilter

from flows.soak_world import REGIMES, Regime
from pipeline.artifacts import encode_embedding, write_table
from pipeline.bundle import Bundle
from pipeline.cameras import machine_part, photograph
from pipeline.images import decode, statistics

__all__ = ["Answer", "Pools"]


class Answer(NamedTuple):
    """What a champion says of one image, as the service puts it into the log, and how many ``seconds`` that took."""

    label: str
    probabilities: dict[str, float]
    embedding: str
    seconds: float


class Pools:
    """The pools below ``folder``, ``size`` images each; made by :meth:`render`."""

    def __init__(self, folder: Path, size: int, seed: int) -> None:
        self.folder, self.size, self.seed = folder, size, seed
        self._images: dict[str, list[dict[str, Any]]] = {}
        self._answers: dict[tuple[str, str], list[Answer]] = {}
        self._right: dict[tuple[str, str], np.ndarray] = {}

    def render(self, regimes: list[Regime]) -> None:
        """Take every image of ``regimes``, on all cores."""
        self.folder.mkdir(parents=True, exist_ok=True)
        one = partial(_render, folder=self.folder, size=self.size, seed=self.seed)
        # Forking a process that runs threads can hang, so the workers start afresh.
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            list(pool.map(one, [regime.name for regime in regimes]))

    def images(self, regime: str) -> list[dict[str, Any]]:
        """image_id, label, data and the image statistics of each image."""
        if regime not in self._images:
            self._images[regime] = pq.read_table(self.folder / f"{regime}.parquet").to_pylist()
        return self._images[regime]

    def places(self) -> dict[str, tuple[str, int]]:
        """By image id, the regime and the index of every image."""
        return {
            image["image_id"]: (path.stem, index)
            for path in sorted(self.folder.glob("*.parquet"))
            for index, image in enumerate(self.images(path.stem))
        }

    def answers(self, bundle: Path, regime: str) -> list[Answer]:
        """What the bundle in ``bundle`` (its folder's name is its digest) says of each image of a pool."""
        key = (bundle.name, regime)
        if key not in self._answers:
            path = self.folder / "answers" / bundle.name / f"{regime}.parquet"
            if not path.exists():
                self._record(bundle, regime, path)
            self._answers[key] = [
                Answer(row["label"], dict(row["probabilities"]), row["embedding"], row["seconds"])
                for row in pq.read_table(path).to_pylist()
            ]
        return self._answers[key]

    def right(self, bundle: Path, regime: str) -> np.ndarray:
        """(size,) bool: which images of a pool the bundle names rightly."""
        key = (bundle.name, regime)
        if key not in self._right:
            pairs = zip(self.answers(bundle, regime), self.images(regime), strict=True)
            self._right[key] = np.array([answer.label == image["label"] for answer, image in pairs])
        return self._right[key]

    def _record(self, folder: Path, regime: str, path: Path) -> None:
        bundle, started = _opened(folder), time.perf_counter()
        views = np.stack(
            [bundle.preprocessing.view(decode(image["data"]).image) for image in self.images(regime)]
        )
        said = bundle.predict(views)
        seconds, rows = (time.perf_counter() - started) / len(views), []
        for shares, embedding in zip(said.probabilities, said.embedding, strict=True):
            order = np.argsort(-shares, kind="stable")
            chances = [(bundle.classes[i], round(float(shares[i]), 6)) for i in order]
            rows.append(
                {
                    "label": chances[0][0],
                    "probabilities": chances,
                    "embedding": encode_embedding(embedding),
                    "seconds": seconds,
                }
            )
        write_table(path, pa.Table.from_pylist(rows, _ANSWERS))


_ANSWERS = pa.schema(
    [
        ("label", pa.string()),
        ("probabilities", pa.map_(pa.string(), pa.float64())),
        ("embedding", pa.string()),
        ("seconds", pa.float64()),
    ]
)


@lru_cache(maxsize=2)
def _opened(folder: Path) -> Bundle:
    return Bundle.load(folder)


def _render(name: str, folder: Path, size: int, seed: int) -> None:
    """Photograph ``size`` parts, one shot each, and write them as one table."""
    regime = REGIMES[name]
    rng = np.random.default_rng([seed, 11, list(REGIMES).index(name)])
    rows = []
    for label in _classes(rng, regime.mix, size):
        picture = photograph(rng, machine_part(rng, regime.camera, label), regime.camera)
        stream = io.BytesIO()
        (_smeared(rng, picture) if regime.dirty else picture).save(
            stream, "JPEG", quality=regime.camera.quality
        )
        data = stream.getvalue()
        decoded = decode(data)
        numbers: dict[str, Any] = {
            key: round(value, 6) for key, value in statistics(decoded.image).items()
        } | {"width": decoded.width, "height": decoded.height}
        rows.append(
            {
                "image_id": hashlib.sha256(data).hexdigest(),
                "label": label,
                "data": data,
                "statistics": numbers,
            }
        )
    write_table(folder / f"{name}.parquet", pa.Table.from_pylist(rows))


def _classes(rng: np.random.Generator, mix: dict[str, float], size: int) -> list[str]:
    """``size`` classes in the shares of ``mix``, as exactly as whole images allow, in random order."""
    bounds = np.round(np.cumsum(list(mix.values())) / sum(mix.values()) * size).astype(int)
    counts = np.diff(np.concatenate([[0], bounds]))
    names = [name for name, count in zip(mix, counts, strict=True) for _ in range(count)]
    return [names[at] for at in rng.permutation(size)]


def _smeared(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Through grease on the lens: blurred, flat, with a dark stain that lies where it lies."""
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(2)), dtype=np.float32) / 255
    height, width = soft.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    stain = np.exp(-(((rows - 0.35 * height) / 35) ** 2 + ((columns - 0.6 * width) / 28) ** 2))
    seen = (0.7 * soft + 0.1) * (1 - 0.75 * stain[..., None]) + rng.normal(0, 0.008, soft.shape)
    return Image.fromarray((np.clip(seen, 0, 1) * 255).astype(np.uint8))
