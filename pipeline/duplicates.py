"""Which images are near-copies of each other: near hashes, confirmed by thumbnails.

    pairs = near_pairs(hashes, bits=16, thumbnails=thumbnails)      # [(0, 7), (3, 4), ...]

A hash alone errs on flat images: a difference hash knows only which of two neighbouring cells is the
brighter, so two circuit boards of plain black and white areas can agree in all 256 bits. Hence the second
look at 16 x 16 luma thumbnails: brought to one brightness and contrast, no cell may differ by more than a
small share of the contrast. What passes is a resized, re-encoded or differently exposed copy, or two shots
of a part that did not move; what merely looks similar does not.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.errors import DataError

__all__ = ["alike", "near_array", "near_pairs"]

_HASH_BYTES = 32
_THUMBNAIL_BYTES = 256
_CHUNK = 200_000  # pairs looked at together: 200 MB of thumbnails at the most


def near_pairs(
    hashes: Sequence[str], bits: int, thumbnails: Sequence[bytes | None] | None = None
) -> list[tuple[int, int]]:
    """All pairs i < j of images that are near-copies, in order: ``near_array`` as tuples."""
    pairs = near_array(hashes, bits, thumbnails)
    return list(zip(pairs[:, 0].tolist(), pairs[:, 1].tolist(), strict=True))


def near_array(
    hashes: Sequence[str], bits: int, thumbnails: Sequence[bytes | None] | None = None
) -> np.ndarray:
    """(m, 2) int32, the pairs i < j of images that are near-copies, in order.

    Complete, not approximate: two hashes within ``bits`` agree in at least one of ``bits`` + 1 bands, so
    only images that share a band are compared (multi-index hashing; Norouzi, Punjani and Fleet, 2012).
    100,000 hashes take seconds. Where the bands don't separate, all pairs are compared, in blocks.

    Args:
        hashes: 64 hex digits each, as ``images.dhash`` gives them.
        bits: largest Hamming distance.
        thumbnails: 256 bytes each, as ``images.thumbnail`` gives them; a pair is kept when they agree.
            None, or None for one of the two images: the hashes decide alone.

    Raises:
        DataError: a hash or a thumbnail is not of its length.
    """
    if len(hashes) < 2:
        return np.empty((0, 2), dtype=np.int32)
    words = _words(hashes)
    looks = None if thumbnails is None else _standardised(thumbnails)
    found: list[np.ndarray] = []
    for left, right in _near(words, bits):
        if looks is not None:
            same = _agree(looks, left, right)
            left, right = left[same], right[same]
        if len(left):
            ordered = np.minimum(left, right), np.maximum(left, right)
            found.append(np.stack(ordered, axis=1).astype(np.int32))
    if not found:
        return np.empty((0, 2), dtype=np.int32)
    # One number a pair, sorted in place: a film of one scene has tens of millions.
    keys = np.concatenate([part[:, 0].astype(np.int64) * len(hashes) + part[:, 1] for part in found])
    del found
    keys.sort()
    return np.stack([keys // len(hashes), keys % len(hashes)], axis=1).astype(np.int32)


def alike(first: bytes, second: bytes) -> bool:
    """Do two thumbnails show the same, up to brightness and contrast?"""
    return bool(_agree(_standardised([first, second]), np.array([0]), np.array([1]))[0])


def _words(hashes: Sequence[str]) -> np.ndarray:
    """(n,) hex strings as (4, n) uint64."""
    for text in hashes:
        if len(text) != 2 * _HASH_BYTES:
            raise DataError(
                f"the hash {text!r} has not {2 * _HASH_BYTES} hex digits: run `dvc repro` to scan anew"
            )
    rows = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint64).reshape(-1, 4)
    return np.ascontiguousarray(rows.T)


def _near(words: np.ndarray, bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of indices within ``bits`` of each other, each pair once, in chunks."""
    n = words.shape[1]
    codes = _bands(words, max(bits + 1, 8))
    orders = [np.argsort(band, kind="stable") for band in codes]
    cost = sum(_pairs_in_runs(band[order]) for band, order in zip(codes, orders, strict=True))
    if cost > n * (n - 1) // 2:
        yield from _all_pairs(words, bits)
        return
    for band, order in enumerate(orders):
        for left, right in _neighbours(order, codes[band][order]):
            near = _distance(words[:, left], words[:, right]) <= bits
            left, right = left[near], right[near]
            # A pair that shares an earlier band was met there.
            fresh = ~(codes[:band, left] == codes[:band, right]).any(axis=0)
            yield left[fresh], right[fresh]


def _distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(m,) Hamming distances of the columns of two (4, m) arrays."""
    a, b, c, d = np.bitwise_count(first ^ second)
    return a.astype(np.uint16) + b + c + d


def _bands(words: np.ndarray, count: int) -> np.ndarray:
    """(4, n) words as (count, n) uint64 codes; every bit falls into one band.

    Neighbouring cells of an image go to different bands: a flat region then costs each band a little
    instead of making some bands all alike.
    """
    unpacked = np.unpackbits(np.ascontiguousarray(words.T).view(np.uint8), axis=1)
    codes = np.zeros((count, words.shape[1]), dtype=np.uint64)
    for band in range(count):
        columns = unpacked[:, band::count]
        weights = np.uint64(1) << np.arange(columns.shape[1], dtype=np.uint64)
        codes[band] = (columns * weights).sum(axis=1, dtype=np.uint64)
    return codes


def _pairs_in_runs(ordered: np.ndarray) -> int:
    _, lengths = np.unique(ordered, return_counts=True)
    return int((lengths * (lengths - 1) // 2).sum())


def _neighbours(order: np.ndarray, ordered: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs that share a code, from the indices sorted by code and the codes in that order."""
    alive = np.arange(len(order))
    distance = 1
    while True:
        alive = alive[alive + distance < len(order)]
        alive = alive[ordered[alive] == ordered[alive + distance]]
        if not len(alive):
            return
        for start in range(0, len(alive), _CHUNK):
            part = alive[start : start + _CHUNK]
            yield order[part], order[part + distance]
        distance += 1


def _all_pairs(words: np.ndarray, bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    n = words.shape[1]
    for distance in range(1, n):
        near = np.flatnonzero(_distance(words[:, : n - distance], words[:, distance:]) <= bits)
        for start in range(0, len(near), _CHUNK):
            part = near[start : start + _CHUNK]
            yield part, part + distance


def _standardised(thumbnails: Sequence[bytes | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """((n, 256) of zero mean and unit deviation, (n,) means, (n,) deviations); NaN where there is none."""
    values = np.full((len(thumbnails), _THUMBNAIL_BYTES), np.nan, dtype=np.float32)
    for index, thumbnail in enumerate(thumbnails):
        if thumbnail is None:
            continue
        if len(thumbnail) != _THUMBNAIL_BYTES:
            raise DataError(
                f"thumbnail {index} has {len(thumbnail)} bytes, not {_THUMBNAIL_BYTES}: run `dvc repro` to scan anew"
            )
        values[index] = np.frombuffer(thumbnail, dtype=np.uint8)
    means = values.mean(axis=1)
    values -= means[:, None]
    deviations = np.sqrt(np.mean(values * values, axis=1))
    values /= np.maximum(deviations, 1e-6)[:, None]
    return values, means, deviations


def _agree(
    looks: tuple[np.ndarray, np.ndarray, np.ndarray], left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """(m,) bool: the largest difference between two standardised cells, in gray levels of the flatter image.

    Bounds measured on photographs, paintings, sketches, circuit boards and magnetic tiles: copies (JPEG
    down to quality 40, resized to a half) stay within 3 + 0.2 x contrast, capped at 12 of 255 levels;
    other images that the hash takes for copies begin at 16. An image without contrast has no shape to
    compare, so its brightness must agree as well.
    """
    values, means, deviations = looks
    kept = np.empty(len(left), dtype=bool)
    for start in range(0, len(left), _CHUNK):
        i, j = left[start : start + _CHUNK], right[start : start + _CHUNK]
        contrast = np.minimum(deviations[i], deviations[j])
        difference = np.abs(values[i] - values[j]).max(axis=1) * contrast
        same = difference <= np.minimum(12, 3 + 0.2 * contrast)
        same &= (contrast >= 4) | (np.abs(means[i] - means[j]) <= 8)
        kept[start : start + _CHUNK] = same | np.isnan(difference)
    return kept
