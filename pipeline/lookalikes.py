"""Pairs of a test image and one trained on that a network finds alike and that lie on one another.

The network's embedding suggests pairs, alignment decides: a network finds any two tins alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import alignment
from pipeline.bundle import Bundle

__all__ = ["Seen", "lookalikes"]

NEIGHBOURS = 3  # of each test image, among those trained on, that are laid on it
UNLIKELY = 0.99  # quantile of all similarities under which a pair is not looked at
ENOUGH = 0.9  # similarity that is always looked at
BLOCK = 512  # test images compared at once with all that were trained on
PAIRS = 128  # pairs whose views are held at once


@dataclass(frozen=True)
class Seen:
    """Images by id, and their views: uint8 [n, H, W, 3], memory-mapped or not."""

    ids: list[str]
    views: np.ndarray


def lookalikes(
    bundle: Bundle, test: Seen, trained: list[Seen], known: set[tuple[str, str]], seed: int
) -> tuple[list[dict[str, Any]], float]:
    """Pairs that the network finds alike and that lie on one another; the least similarity that was looked at.

    ``trained`` may come in several parts, the first not empty. ``known`` pairs of ids, found more cheaply, are
    not looked at again.
    """
    parts = [part for part in trained if part.ids]
    ids = [image_id for part in parts for image_id in part.ids]
    embedded = np.concatenate([_embeddings(bundle, part.views) for part in parts])
    middle = embedded.mean(axis=0)
    embedded = _unit(embedded - middle)
    both = [_unit(_embeddings(bundle, test.views, mirror=mirror) - middle) for mirror in (False, True)]
    least = _least(both[0], embedded, seed)
    near = (pair for block in _neighbours(both, embedded, least) for pair in block)
    candidates = np.array([p for p in near if (test.ids[p[0]], ids[p[1]]) not in known], dtype=int)
    found = []
    for start in range(0, len(candidates), PAIRS):
        pair = candidates[start : start + PAIRS]
        sides = np.asarray(test.views[pair[:, 0]]), _rows(parts, pair[:, 1])
        likeness = alignment.align(*map(alignment.luma, sides))
        for row in np.flatnonzero(likeness.same):
            entry = {"kind": "embedding", "test_id": test.ids[pair[row, 0]], "train_id": ids[pair[row, 1]]}
            found.append(entry | {"mirrored": bool(likeness.mirrored[row])})
    return found, least


def _rows(parts: list[Seen], rows: np.ndarray) -> np.ndarray:
    """Views by their row in all ``parts`` together, without laying these together in memory."""
    taken = np.empty((len(rows), *parts[0].views.shape[1:]), dtype=parts[0].views.dtype)
    first = 0
    for part in parts:
        here = (rows >= first) & (rows < first + len(part.ids))
        taken[here] = part.views[rows[here] - first]
        first += len(part.ids)
    return taken


def _embeddings(bundle: Bundle, seen: np.ndarray, *, mirror: bool = False) -> np.ndarray:
    """float32 [n, d] of uint8 [n, H, W, 3] views, some at a time."""
    parts = []
    for start in range(0, len(seen), BLOCK):
        part = np.asarray(seen[start : start + BLOCK])
        parts.append(bundle.predict(np.ascontiguousarray(part[:, :, ::-1]) if mirror else part).embedding)
    return np.concatenate(parts)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _least(test: np.ndarray, train: np.ndarray, seed: int) -> float:
    """The similarity that few pairs of different images reach, from the data: nearly all pairs are such."""
    generator = np.random.default_rng(seed)
    rows = generator.permutation(len(test))[:200]
    columns = generator.permutation(len(train))[:5000]
    return min(ENOUGH, float(np.quantile(test[rows] @ train[columns].T, UNLIKELY)))


def _neighbours(both: list[np.ndarray], train: np.ndarray, least: float) -> Iterator[list[tuple[int, int]]]:
    """(test row, training row) of the nearest few, as they are or mirrored, block by block."""
    count = min(NEIGHBOURS, len(train))
    for start in range(0, len(both[0]), BLOCK):
        similar = both[0][start : start + BLOCK] @ train.T
        np.maximum(similar, both[1][start : start + BLOCK] @ train.T, out=similar)
        nearest = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        rows, places = np.nonzero(np.take_along_axis(similar, nearest, axis=1) >= least)
        yield [(start + int(row), int(nearest[row, place])) for row, place in zip(rows, places, strict=True)]
