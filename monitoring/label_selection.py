"""Which images a label queue asks. Pure: no I/O; the same for the same input.

First a uniformly random part of the distinct scenes, drawn by a hash of the image's id before anything is
chosen, so that no score has a say in it. Then the chosen part: greedy k-center over the embeddings (Sener and
Savarese, "Active learning for convolutional neural networks: a core-set approach", ICLR 2018), where a distance
counts in proportion to how unlike the old images an image is (its domain score) and how unsure the model is of it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from monitoring.evidence import distances
from monitoring.queue_files import Item
from monitoring.window import Window
from pipeline.params import Params

UNSURE = 0.25
"""How much more an image counts of which the model knows nothing than one it is sure of. In a domain where it is
unsure everywhere, a larger weight asks for the odd ones: on sketches 1 lost 3 points of accuracy against .25."""
POSSIBLY_NEW = 0.5
"""Domain score from which an image is more like production than like the reference."""


@dataclass(frozen=True)
class Candidate:
    """A kept production image that could be asked, with what near-alike pictures are told by."""

    row: int
    path: Path
    dhash: str


def select(
    window: Window,
    candidates: Sequence[Candidate],
    scores: np.ndarray,
    *,
    near: float,
    bits: int,
    params: Params,
    asked: Sequence[Item] = (),
) -> list[Item]:
    """What the queue asks: ``asked``, then what of the budget it leaves.

    The random part is uniform over all distinct scenes, those of ``asked`` too, so some of these change sides:
    of an early, short queue half would be random, of the many images that come later few. Where that would
    leave fewer random ones than before, all stays as it is.

    Args:
        candidates: none of them is in ``asked``.
        scores: (n,) of the window's rows, see ``monitoring.domain_score``.
        near: embeddings closer than this are one scene.
        bits: difference hashes that differ in at most so many bits are one picture.
    """
    embeddings = window.embeddings.astype(np.float64)
    order = sorted(candidates, key=lambda one: draw(params.seed, window.rows[one.row].kept_id))
    rows = {row.kept_id: number for number, row in enumerate(window.rows)}
    known = [rows[item.image_id] for item in asked if item.image_id in rows]
    fresh = _distinct(order, embeddings, known, [int(item.dhash, 16) for item in asked], near, bits)
    budget = min(params.label.budget, len(asked) + len(fresh))
    new = {window.rows[one.row].kept_id: one for one in fresh}
    drawn = _drawn([item.image_id for item in asked], list(new), budget, params)
    if not fresh or len(drawn) < sum(item.random for item in asked):
        return list(asked)
    at_random = [one for image_id, one in new.items() if image_id in drawn]
    rest = [one for image_id, one in new.items() if image_id not in drawn]
    worth = scores * (1.0 + UNSURE * uncertainty(window.probabilities))
    taken = known + [one.row for one in at_random]
    chosen = spread(rest, taken, embeddings, worth, budget - len(asked) - len(at_random))
    before = [
        replace(
            item, random=item.image_id in drawn, why=_why(item.domain_score, random=item.image_id in drawn)
        )
        for item in asked
    ]
    return [
        *before,
        *(_item(window, one, scores, random=True) for one in at_random),
        *(_item(window, one, scores, random=False) for one in chosen),
    ]


def draw(seed: int, image_id: str, what: str = "queue") -> bytes:
    """What the images are put in order by, at random: the same for good, whatever else is there."""
    return hashlib.sha256(f"{what}/{seed}/{image_id}".encode()).digest()


def _drawn(asked: Sequence[str], new: Sequence[str], budget: int, params: Params) -> set[str]:
    """The largest random part of all distinct images that the share and, beside ``asked``, the budget allow.

    As large a share of those asked already as of the new ones. By a second draw: in the order of the first one, a
    scene's earliest image stands for it, and the more images it has the earlier that is.
    """
    wanted = int(np.ceil(params.label.random_share * budget))  # up, so that a budget of 1 is an unbiased one
    count = len(asked) + len(new)
    wanted = min(wanted, (budget - len(asked)) * count // max(1, len(new)))
    of_new = min(budget - len(asked), round(wanted * len(new) / max(1, count)))
    parts = ((asked, wanted - of_new), (new, of_new))
    return {
        image_id
        for ids, size in parts
        for image_id in sorted(ids, key=lambda one: draw(params.seed, one, "random"))[:size]
    }


def _distinct(
    order: Sequence[Candidate],
    embeddings: np.ndarray,
    known: Sequence[int],
    hashes: list[int],
    near: float,
    bits: int,
) -> list[Candidate]:
    """The candidates in order, without those near to an earlier one or to a known one."""
    kept: list[Candidate] = []
    for one in order:
        own = int(one.dhash, 16)
        if any((own ^ other).bit_count() <= bits for other in hashes):
            continue
        others = embeddings[[*known, *(other.row for other in kept)]]
        if len(others) and distances(embeddings[[one.row]], others).min() < near**2:
            continue
        kept.append(one)
        hashes = [*hashes, own]
    return kept


def spread(
    rest: Sequence[Candidate], taken: Sequence[int], embeddings: np.ndarray, worth: np.ndarray, count: int
) -> list[Candidate]:
    """Greedy k-center: ``count`` times the one whose distance to all taken ones, times its worth, is largest."""
    chosen: list[Candidate] = []
    if not rest or count < 1:
        return chosen
    points, weights = embeddings[[one.row for one in rest]], worth[[one.row for one in rest]]
    first = embeddings[list(taken)] if taken else points.mean(axis=0, keepdims=True)
    gap = np.sqrt(distances(points, first).min(axis=1))
    for _ in range(min(count, len(rest))):
        best = int(np.argmax(gap * weights))
        chosen.append(rest[best])
        gap = np.minimum(gap, np.sqrt(distances(points, points[[best]])[:, 0]))
        gap[best] = -1.0
    return chosen


def uncertainty(probabilities: np.ndarray) -> np.ndarray:
    """(n, classes) -> (n,) entropy, 1 where all classes are as likely."""
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1)
    return np.asarray(entropy / np.log(max(2, probabilities.shape[1])))


def _why(score: float, *, random: bool) -> str:
    return "random" if random else "novel" if score > POSSIBLY_NEW else "uncertain"


def _item(window: Window, one: Candidate, scores: np.ndarray, *, random: bool) -> Item:
    row = window.rows[one.row]
    return Item(
        image_id=row.kept_id,
        file=f"images/{one.path.name}",
        random=random,
        why=_why(float(scores[one.row]), random=random),
        predicted=row.label,
        confidence=round(float(row.probabilities.max()), 4),
        domain_score=round(float(scores[one.row]), 4),
        source=row.source,
        dhash=one.dhash,
        received=row.image_id,
    )
