"""Images that no class of anybody's is on: noise, and pictures of other things, made from a seed.

What a model says of them shows whether it abstains where it should. Foreign pictures are drawn, not
photographed: stripes, tiles, cells and clouds in random colours, so that nothing has to be shipped or
fetched, and so that they are hardly ever what a user's own classes look like.
"""

from collections.abc import Callable

import numpy as np

__all__ = ["FOREIGN", "foreign"]

COUNT = 48  # images a kind


def foreign(kind: str, side: int, seed: int, count: int = COUNT) -> np.ndarray:
    """uint8 [count, side, side, 3] views of ``kind``, a key of FOREIGN."""
    generator = np.random.default_rng([seed, sorted(FOREIGN).index(kind)])
    return np.stack([FOREIGN[kind](side, generator) for _ in range(count)])


def _noise(side: int, generator: np.random.Generator) -> np.ndarray:
    """Uniform noise in squares of 1, 2, 4 … pixels: a dead sensor, a broken stream."""
    block = int(2 ** generator.integers(0, 5))
    cells = generator.integers(0, 256, (-(-side // block), -(-side // block), 3), dtype=np.uint8)
    return cells.repeat(block, axis=0).repeat(block, axis=1)[:side, :side]


def _pictures(side: int, generator: np.random.Generator) -> np.ndarray:
    """One of the drawings below, in two random colours."""
    draw = (_stripes, _tiles, _cells, _clouds)[int(generator.integers(4))]
    colours = generator.integers(0, 256, (2, 3))
    share = draw(side, generator)[..., None]
    return np.rint(colours[0] * (1 - share) + colours[1] * share).astype(np.uint8)


def _plane(side: int, generator: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:side, 0:side] / side
    angle = generator.uniform(0, np.pi)
    return np.asarray(x * np.cos(angle) + y * np.sin(angle))


def _stripes(side: int, generator: np.random.Generator) -> np.ndarray:
    return np.asarray(np.sin(_plane(side, generator) * generator.uniform(15, 120)) > 0, dtype=float)


def _tiles(side: int, generator: np.random.Generator) -> np.ndarray:
    rate = generator.uniform(8, 40)
    first, second = _plane(side, generator), _plane(side, generator)
    return np.asarray((np.sin(first * rate) * np.sin(second * rate)) > 0, dtype=float)


def _cells(side: int, generator: np.random.Generator) -> np.ndarray:
    """Shade by the nearest of some random points (a Voronoi diagram)."""
    points = generator.uniform(0, 1, (int(generator.integers(6, 40)), 2))
    y, x = np.mgrid[0:side, 0:side] / side
    distance = (y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2
    return np.asarray(generator.uniform(0, 1, len(points))[distance.argmin(axis=-1)])


def _clouds(side: int, generator: np.random.Generator) -> np.ndarray:
    """A sum of random waves, coarse ones stronger."""
    total = np.zeros((side, side))
    for rate in (6, 12, 24, 48):
        total += np.sin(_plane(side, generator) * rate + generator.uniform(0, 6)) / rate
    return np.asarray((total - total.min()) / max(float(np.ptp(total)), 1e-9))


FOREIGN: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "noise": _noise,
    "pictures": _pictures,
}
