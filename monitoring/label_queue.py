"""What to ask people: ``var/queue/<episode>/`` with images, queue.csv, labelstudio.json and a README.txt.

Part of the budget is drawn uniformly at random: it alone estimates the accuracy without bias, and it alone
gives test images. The rest is chosen (``monitoring.label_selection``). Near-alike images are asked once.
``manifest.json`` keeps which is which; predictions are hints and never become labels.
"""

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from monitoring.domain_score import domain_scores, scenes_of
from monitoring.evidence import Yardstick
from monitoring.journal import Episode
from monitoring.label_selection import Candidate, draw, select
from monitoring.labels import read_labels
from monitoring.queue_files import Item, describe, is_untouched
from monitoring.window import Window, kept_file
from pipeline.artifacts import Workspace, atomic_path, read_json, sync_folder
from pipeline.errors import ImageError, StateError
from pipeline.images import decode, dhash
from pipeline.params import Params

POOL = 1000
"""Candidates that are decoded and compared; of more, this many are drawn at random."""


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


def candidates_of(
    workspace: Workspace, window: Window, params: Params, asked: Sequence[Item] = ()
) -> list[Candidate]:
    """The window's images that were kept, decode, and are neither labelled nor asked; each image once."""
    known = {label.image_id for label in read_labels(workspace.labels)} | {item.image_id for item in asked}
    order = sorted(range(len(window)), key=lambda row: draw(params.seed, window.rows[row].kept_id))
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
    reference, near = measure.reference, measure.near
    scores = domain_scores(
        reference.embeddings,
        reference.groups,
        window.embeddings,
        scenes_of(window.embeddings.astype(np.float64), near),
        seed=params.seed,
    )
    bits = params.validate.near_duplicate_bits
    items = select(window, candidates, scores, near=near, bits=bits, params=params, asked=asked)
    if begun and items == asked:
        return asked
    sources = {f"images/{candidate.path.name}": candidate.path for candidate in candidates}
    with contextlib.nullcontext(target) if begun else _incoming(target) as folder:
        for item in items[len(asked) :]:
            with atomic_path(folder / item.file) as temporary:
                shutil.copyfile(sources[item.file], temporary)
        first, last = window.rows[0].time, window.rows[-1].time
        describe(folder, episode, items, reference.classes, params, first=first, last=last)
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
