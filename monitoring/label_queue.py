"""What to ask people: ``var/queue/<episode>/`` with images, queue.csv, labelstudio.json and a README.txt.

Part of the budget is drawn uniformly at random: it alone estimates the accuracy without bias, and it alone
gives test images. The rest is chosen: uncertain and novel images, spread out by k-center. Near-alike images
are asked once. ``manifest.json`` keeps which is which; predictions are hints and never become labels.
"""

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monitoring.evidence import Yardstick, distances
from monitoring.journal import Episode
from monitoring.labels import read_labels
from monitoring.queue_files import Item, describe, is_untouched
from monitoring.window import Window, kept_file
from pipeline.artifacts import Workspace, atomic_path, read_json, sync_folder
from pipeline.errors import ImageError, StateError
from pipeline.images import decode, dhash
from pipeline.params import Params

POOL = 1000
"""Candidates that are decoded and compared; of more, this many are drawn at random."""


@dataclass(frozen=True)
class Candidate:
    """A kept production image that could be asked, with what it is chosen by."""

    row: int
    path: Path
    dhash: str


def folder_of(workspace: Workspace, episode_id: str) -> Path:
    """Raises StateError where ``episode_id`` can't be a folder's name."""
    if not re.fullmatch(r"[0-9a-f]{8,64}", episode_id):
        raise StateError(f"{episode_id!r} is no episode id: see `python -m monitoring status`")
    return workspace.queue / episode_id


def items_of(workspace: Workspace, episode_id: str) -> list[Item]:
    """What the episode's queue asks; empty where none is written."""
    manifest = folder_of(workspace, episode_id) / "manifest.json"
    return [Item(**item) for item in read_json(manifest)["items"]] if manifest.exists() else []


def labels_of(workspace: Workspace, episode: Episode) -> int:
    """Labelled images that belong to the episode: of its queue, or given since it opened."""
    asked = {item.image_id for item in items_of(workspace, episode.id)}
    return sum(
        label.image_id in asked or label.time >= episode.opened for label in read_labels(workspace.labels)
    )


def select(
    window: Window,
    candidates: Sequence[Candidate],
    novelty: np.ndarray,
    *,
    near: float,
    bits: int,
    params: Params,
    asked: Sequence[Item] = (),
) -> list[Item]:
    """Choose what of the budget ``asked`` leaves from the candidates; pure, the same for the same input.

    Args:
        novelty: (n,) of the window's rows. near: embeddings closer than this are one scene.
        bits: difference hashes that differ in at most so many bits are one picture.
    """
    embeddings = window.embeddings.astype(np.float64)
    order = sorted(candidates, key=lambda one: _draw(params.seed, window.rows[one.row].image_id))
    ids = {item.image_id for item in asked}
    known = embeddings[[row for row, one in enumerate(window.rows) if one.kept_id in ids]]
    distinct = _distinct(order, embeddings, known, [int(item.dhash, 16) for item in asked], near, bits)
    budget = max(0, min(params.label.budget - len(asked), len(distinct)))
    # Rounded up, so that a budget of 1 is an unbiased one.
    at_random = distinct[: int(np.ceil(params.label.random_share * budget))]
    rest = distinct[len(at_random) :]
    entropy = _entropy(window.probabilities)
    chosen = _spread(rest, at_random, embeddings, _ranks(entropy) + _ranks(novelty), budget - len(at_random))
    middle = float(np.median(novelty)) if len(novelty) else 0.0
    items = [_item(window, one, novelty, "random", random=True) for one in at_random]
    for one in chosen:
        why = "novel" if novelty[one.row] > middle else "uncertain"
        items.append(_item(window, one, novelty, why, random=False))
    return items


def _draw(seed: int, image_id: str) -> bytes:
    return hashlib.sha256(f"queue/{seed}/{image_id}".encode()).digest()


def _distinct(
    order: Sequence[Candidate],
    embeddings: np.ndarray,
    known: np.ndarray,
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
        others = np.concatenate([known, embeddings[[other.row for other in kept]]])
        if len(others) and distances(embeddings[[one.row]], others).min() < near**2:
            continue
        kept.append(one)
        hashes = [*hashes, own]
    return kept


def _spread(
    rest: Sequence[Candidate],
    taken: Sequence[Candidate],
    embeddings: np.ndarray,
    score: np.ndarray,
    count: int,
) -> list[Candidate]:
    """The most telling fraction of ``rest``, thinned to ``count`` by greedy k-center (Sener, Savarese, 2018)."""
    telling = sorted(rest, key=lambda one: -score[one.row])[: 3 * count]
    chosen: list[Candidate] = []
    if not telling or count < 1:
        return chosen
    points = embeddings[[one.row for one in telling]]
    gap = np.full(len(telling), np.inf)
    if taken:
        gap = distances(points, embeddings[[one.row for one in taken]]).min(axis=1)
    for _ in range(min(count, len(telling))):
        best = int(np.argmax(gap))
        chosen.append(telling[best])
        gap = np.minimum(gap, distances(points, points[[best]])[:, 0])
        gap[best] = -1.0
    return chosen


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    return np.asarray(-(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1))


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable") / max(1, len(values) - 1)


def _item(window: Window, one: Candidate, novelty: np.ndarray, why: str, *, random: bool) -> Item:
    row = window.rows[one.row]
    return Item(
        image_id=one.path.stem,
        file=f"images/{one.path.name}",
        random=random,
        why=why,
        predicted=row.label,
        confidence=round(float(row.probabilities.max()), 4),
        novelty=round(float(novelty[one.row]), 4),
        source=row.source,
        dhash=one.dhash,
        received=row.image_id,
    )


def candidates_of(
    workspace: Workspace, window: Window, params: Params, asked: Sequence[Item] = ()
) -> list[Candidate]:
    """The window's images that were kept, decode, and are neither labelled nor asked; each image once."""
    known = {label.image_id for label in read_labels(workspace.labels)} | {item.image_id for item in asked}
    order = sorted(range(len(window)), key=lambda row: _draw(params.seed, window.rows[row].image_id))
    found: list[Candidate] = []
    for row in order:
        path = kept_file(workspace.log / "images", window.rows[row])
        if path is None or known & {path.stem, window.rows[row].image_id}:
            continue
        known.add(path.stem)
        try:
            data = path.read_bytes()
            picture = decode(data, max_pixels=params.data.max_pixels, max_bytes=params.data.max_bytes).image
        except (ImageError, OSError):
            continue
        if hashlib.sha256(data).hexdigest() == path.stem:
            found.append(Candidate(row, path, dhash(picture)))
        if len(found) == POOL:
            break
    return found


def write(
    workspace: Workspace, episode: Episode, window: Window, measure: Yardstick, params: Params
) -> list[Item]:
    """Write the episode's queue, or fill one up that is short of the budget and that nobody has begun.

    Returns:
        The items; none where no image was kept, and README.txt says so.
    """
    target = folder_of(workspace, episode.id)
    asked = items_of(workspace, episode.id)
    begun = (target / "manifest.json").exists()
    if begun and (len(asked) >= params.label.budget or not is_untouched(target)):
        return asked
    candidates = candidates_of(workspace, window, params, asked)
    bits, novelty = params.validate.near_duplicate_bits, measure.novelty(window.embeddings)
    new = select(window, candidates, novelty, near=measure.near, bits=bits, params=params, asked=asked)
    if begun and not new:
        return asked
    items = [*asked, *new]
    sources = {f"images/{candidate.path.name}": candidate.path for candidate in candidates}
    with contextlib.nullcontext(target) if begun else _incoming(target) as folder:
        for item in new:
            with atomic_path(folder / item.file) as temporary:
                shutil.copyfile(sources[item.file], temporary)
        describe(folder, episode, items, measure.reference.classes, params)
    return items


@contextlib.contextmanager
def _incoming(target: Path) -> Iterator[Path]:
    """A folder that becomes ``target`` when the block ends: a queue appears whole or not at all."""
    incoming = target.with_name(f".incoming-{target.name}")
    shutil.rmtree(incoming, ignore_errors=True)
    (incoming / "images").mkdir(parents=True)
    yield incoming
    if target.exists():
        shutil.rmtree(target)  # without a manifest it is a leftover
    incoming.rename(target)
    sync_folder(target.parent)
