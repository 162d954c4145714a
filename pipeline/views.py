"""Decode once: uint8 views on disk, by image and by what makes the view.

``cache/views/<view key>/`` is a row store (see rowstore.py): only images that are new to it are decoded,
on all cores; a kill -9 or a second process costs nothing but the last few hundred decodes. The key holds
the size, the resampling and what this machine's Pillow makes of a probe image.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.artifacts import Workspace
from pipeline.errors import DataError, ImageError
from pipeline.images import decode
from pipeline.rowstore import COMMIT_EVERY, RowStore, Writer
from pipeline.transforms import Preprocessing

__all__ = ["stored", "views"]

SHOW_FROM = 64  # images; fewer need no progress bar
NAMED = 5  # undecodable images named in an error


def views(
    workspace: Workspace,
    paths: Sequence[str],
    image_ids: Sequence[str],
    preprocessing: Preprocessing,
    *,
    max_pixels: int,
    max_bytes: int,
    workers: int | None = None,
) -> np.ndarray:
    """uint8 [n, H, W, 3] views of the images, rows in the order asked; only new images are decoded.

    Memory-mapped where the rows lie in the store in that order, as they do after a first call for
    them; gathered otherwise. ``paths`` are relative to the workspace's root, or absolute.

    Raises:
        DataError: a file is missing, no longer decodes, or is not the image that was ingested.
        StateError: the disk is full.
    """
    store = _store(workspace, preprocessing)
    if not store.holds(image_ids):
        with store.writing(image_ids) as writer:
            missing = {
                image_id: workspace.root / path
                for image_id, path in zip(image_ids, paths, strict=True)
                if image_id not in writer.known
            }
            failures = _decode(writer, missing, preprocessing, max_pixels, max_bytes, workers)
        if failures:
            more = f" and {len(failures) - NAMED} more" if len(failures) > NAMED else ""
            raise DataError(
                f"{len(failures)} of {len(missing)} images can't be used: {'; '.join(failures[:NAMED])}{more}. "
                "Mend or remove them and run `dvc repro`"
            )
    return store.read(image_ids)


def stored(
    workspace: Workspace, image_ids: Sequence[str], preprocessing: Preprocessing
) -> tuple[list[str], np.ndarray]:
    """Of ``image_ids`` those whose views are still kept, and these: uint8 [n, H, W, 3]. Nothing is decoded."""
    store = _store(workspace, preprocessing)
    intact = set(store.intact(image_ids))
    kept = [image_id for image_id in image_ids if image_id in intact]
    return kept, store.read(kept)


def _store(workspace: Workspace, preprocessing: Preprocessing) -> RowStore:
    side = preprocessing.image_size
    return RowStore(workspace.cache / "views" / preprocessing.view_key(), (side, side, 3), np.uint8)


def _decode(
    writer: Writer,
    sources: dict[str, Path],
    preprocessing: Preprocessing,
    max_pixels: int,
    max_bytes: int,
    workers: int | None,
) -> list[str]:
    """Append the views of ``sources`` (image_id → file); what can't be decoded, and why."""

    def one(source: tuple[str, Path]) -> np.ndarray | str:
        image_id, path = source
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != image_id:
                return f"{path}: its bytes have changed since they were ingested"
            return preprocessing.view(decode(data, max_pixels=max_pixels, max_bytes=max_bytes).image)
        except (ImageError, OSError) as error:
            return f"{path}: {error}"

    pending = list(sources.items())
    failures = []
    bar = tqdm(total=len(pending), desc="decode", unit="img", disable=len(pending) < SHOW_FROM)
    # Threads: Pillow decodes and resizes outside the interpreter's lock, and a kill leaves no orphan.
    with bar, ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for start in range(0, len(pending), COMMIT_EVERY):  # in chunks, so that done views don't pile up
            chunk = pending[start : start + COMMIT_EVERY]
            for (image_id, _), view in zip(chunk, pool.map(one, chunk), strict=True):
                bar.update()
                if isinstance(view, str):
                    failures.append(view)
                else:
                    writer.append(image_id, view)
    return failures
