"""Does one image show a part of the other? Two views laid on one another, mirrored or not, and compared in detail.

    likeness = align(first, second)      # [n, S, S] luma each
    likeness.same                        # [n] bool

A crop is found by trying boxes of one image against the whole of the other, both ways round, first at 16 x 16, then
by climbing at 32 x 32 and 48 x 48. Rough shapes agree between any two photographs of one product, or two boards,
so what decides is the detail: what is left when each 5 x 5 neighbourhood's mean is taken off, block by block.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SIDE = 128  # px of the luma that is compared
PAIRS = 128  # compared at once; bounds the memory at some 100 MB
ROUGH, SHAPE = 0.6, 0.85  # correlations at 16 and 32 px under which a pair is given up
# Measured on photographs of groceries, circuit boards and magnetic tiles. Copies that were cropped by up to 10 %, mirrored,
# recoloured or saved as JPEG lie above both in 85 to 100 %; of pairs that only look alike, two boards came to 0.93.
DETAIL, WORST_BLOCK = 0.9, 0.945
LARGEST_CROP = 0.6  # share of a side that a crop must have kept


@dataclass(frozen=True)
class Likeness:
    """How well n pairs agree where they lie best on one another."""

    detail: np.ndarray  # [n] correlation of the detail
    block: np.ndarray  # [n] agreement of the worst of 16 blocks
    mirrored: np.ndarray  # [n] bool

    @property
    def same(self) -> np.ndarray:
        """[n] bool: one is a copy of the other, or of a part of it."""
        return (self.detail >= DETAIL) & (self.block >= WORST_BLOCK)


def luma(views: np.ndarray) -> np.ndarray:
    """float32 [n, SIDE, SIDE] luma (ITU-R 601-2) of uint8 [n, H, W, 3] views."""
    gray = views.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    zero = np.zeros(1, dtype=np.float32)
    down, across = (_sampler(size, SIDE, zero, zero + 1) for size in gray.shape[1:])
    return down @ gray @ across.transpose(0, 2, 1)


def align(first: np.ndarray, second: np.ndarray) -> Likeness:
    """Of each pair of [n, SIDE, SIDE] luma, how alike the two are at their best alignment."""
    parts = [
        _align(first[start : start + PAIRS], second[start : start + PAIRS])
        for start in range(0, len(first), PAIRS)
    ]
    detail, block, mirrored = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Likeness(detail, block, mirrored)


def _align(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both ways round; the better by detail counts."""
    n = len(first)
    detail, block, mirrored = np.zeros(n), np.zeros(n), np.zeros(n, dtype=bool)
    for whole, part in ((first, second), (second, first)):
        rough, mirror, box = _rough(_shrunk(whole, 32), _shrunk(part, 16))
        known = (detail >= DETAIL) & (block >= WORST_BLOCK)  # the other way round
        rows = np.flatnonzero((rough >= ROUGH) & ~known)
        if not len(rows):
            continue
        turned = np.where(mirror[rows, None, None], whole[rows, :, ::-1], whole[rows])
        shape, box = _climb(_shrunk(turned, 64), _shrunk(part[rows], 32), box[rows], 0.03, 7, _unit)
        kept = shape >= SHAPE
        rows, turned, box = rows[kept], turned[kept], box[kept]
        if not len(rows):
            continue
        target = _shrunk(part[rows], 48)
        found, box = _climb(turned, target, box, 0.01, 5, _fine)
        better = found > detail[rows]
        rows = rows[better]
        if not len(rows):
            continue
        detail[rows] = found[better]
        block[rows] = _worst_block(_cut(turned[better], box[better], 48), target[better])
        mirrored[rows] = mirror[rows]
    return detail, block, mirrored


def _sampler(size: int, out: int, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """[n, out, size] matrices that sample ``out`` points from ``start`` on (shares of the side), antialiased."""
    fine = max(1, -(-size // out))
    steps = (np.arange(out * fine, dtype=np.float32) + 0.5) / (out * fine)
    place = np.clip((start[:, None] + length[:, None] * steps) * size - 0.5, 0, size - 1)
    weights = np.maximum(0, 1 - np.abs(place[:, :, None] - np.arange(size, dtype=np.float32)))
    return weights.reshape(len(start), out, fine, size).mean(axis=2).astype(np.float32)


def _shrunk(images: np.ndarray, out: int) -> np.ndarray:
    matrix = _sampler(images.shape[1], out, np.zeros(1), np.ones(1))[0]
    return matrix @ images @ matrix.T


def _cut(images: np.ndarray, boxes: np.ndarray, out: int) -> np.ndarray:
    """[n, out, out] of each image's square box [n, (side, top, left)], in shares of the image."""
    size = images.shape[1]
    down = _sampler(size, out, boxes[:, 1], boxes[:, 0])
    across = _sampler(size, out, boxes[:, 2], boxes[:, 0])
    return down @ images @ across.transpose(0, 2, 1)


def _unit(images: np.ndarray) -> np.ndarray:
    """[n, pixels] of zero mean and length one."""
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-3)


def _detail(images: np.ndarray, width: int) -> np.ndarray:
    """What is left when the mean of each neighbourhood is taken off."""
    size = images.shape[1]
    near = np.abs(np.arange(size)[:, None] - np.arange(size)) <= width // 2
    box = (near / near.sum(axis=1, keepdims=True)).astype(np.float32)
    return images - box @ images @ box.T


def _fine(images: np.ndarray) -> np.ndarray:
    return _unit(_detail(images, 5)[:, 1:-1, 1:-1])


def _rough(whole: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best correlation over a grid of boxes, whether mirrored, and the box."""
    target, n = _unit(part), len(whole)
    best, mirror, box = np.full(n, -2.0), np.zeros(n, dtype=bool), np.zeros((n, 3), dtype=np.float32)
    for side in (1.0, 0.95, 0.9, 0.85, 0.8):
        places = np.linspace(0, 1 - side, 3) if side < 1 else [0.0]
        for top in places:
            for left in places:
                here = np.array([[side, top, left]], dtype=np.float32)
                for turned, images in ((False, whole), (True, whole[:, :, ::-1])):
                    score = (_unit(_cut(images, here, 16)) * target).sum(axis=1)
                    better = score > best
                    best[better], mirror[better], box[better] = score[better], turned, here
    return best, mirror, box


def _climb(
    whole: np.ndarray,
    part: np.ndarray,
    boxes: np.ndarray,
    step: float,
    rounds: int,
    form: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Move and resize each box as long as the correlation of ``form`` grows; halve the step where none helps."""
    target, out = form(part), part.shape[1]

    def score(tried: np.ndarray) -> np.ndarray:
        return (form(_cut(whole, tried, out)) * target).sum(axis=1)

    boxes, steps = boxes.copy(), np.full(len(boxes), step, dtype=np.float32)
    best = score(boxes)
    for _ in range(rounds):
        grown = np.zeros(len(boxes), dtype=bool)
        for move in ((1, -0.5, -0.5), (-1, 0.5, 0.5), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)):
            tried = boxes + steps[:, None] * np.array(move, dtype=np.float32)
            tried[:, 0] = np.clip(tried[:, 0], LARGEST_CROP, 1.02)
            found = score(tried)
            better = found > best
            best[better], boxes[better] = found[better], tried[better]
            grown |= better
        steps[~grown] /= 2
    return best, boxes


def _worst_block(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[n] agreement, 1 less the share of the detail that differs, of the worst of 4 x 4 blocks.

    A quarter of the mean detail is added to each block's own, so that flat blocks do not decide.
    """
    one, two = (
        _detail(_unit(images).reshape(images.shape), 7).reshape(len(images), 4, 12, 4, 12)
        for images in (first, second)
    )
    differs, all_ = (values.sum(axis=(2, 4)) for values in ((one - two) ** 2, one**2 + two**2))
    mean = all_.mean(axis=(1, 2), keepdims=True)
    return np.asarray(1 - (differs / np.maximum(all_ + 0.25 * mean, 1e-9)).max(axis=(1, 2)))
