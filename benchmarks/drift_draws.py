"""The draws that every contender judges: who is the reference, who is the window, and what happened to it.

A draw names rows of one stack of a set's measurements, so that a rival in another interpreter reads the same
numbers: <work>/<set>-stack.npz (embeddings, probabilities, statistics) and <work>/draws.npz (set, reference,
window padded with -1, rank). The reference and the window share no image. A slow contender judges the first few
of each pool of cells, so that they are spread over the sets and cells and every faster one has judged them, too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.drift_images import CHANGED, KINDS, LEVELS, Measured, Watched

SIZES = (20, 50, 100, 200)
SHARES = (0.1, 0.3, 1.0)
REFERENCE = 200
SEED = 20


@dataclass(frozen=True)
class Cell:
    """One shift at one strength, in a share of the images, at one n; ``shift`` is none without drift."""

    shift: str
    level: int
    share: float
    n: int

    @property
    def name(self) -> str:
        return f"{self.shift}-{self.level} {self.share:.0%} n={self.n}"

    @property
    def pool(self) -> tuple[str, int]:
        """The kind of shift and n, whatever the level, the share and the set."""
        return self.shift, self.n


@dataclass(frozen=True)
class Draw:
    number: int
    set: str
    cell: Cell
    reference: np.ndarray  # rows of the set's stack
    window: np.ndarray
    rank: int = 0  # its place in the cell's pool


@dataclass(frozen=True)
class Stack:
    """All parts of a set below one another; ``starts`` says where each begins."""

    watched: Watched
    all: Measured
    starts: dict[str, int]

    @classmethod
    def of(cls, watched: Watched) -> "Stack":
        starts, at = {}, 0
        for name, part in watched.parts.items():
            starts[name], at = at, at + len(part)
        columns = {
            name: np.concatenate([getattr(part, name) for part in watched.parts.values()])
            for name in Measured.__dataclass_fields__
        }
        return cls(watched, Measured(**columns), starts)


def cells(levels: Sequence[int] = LEVELS, sizes: Sequence[int] = SIZES) -> list[Cell]:
    """Every shift but none; knock-outs remove that share of the images of a class, or of half of the classes."""
    shifts = [(kind, level) for kind in KINDS for level in levels]
    shifts += [("knockout_class", 0), ("knockout_half", 0), ("new_class", 0), ("other_domain", 0)]
    return [Cell(shift, level, share, n) for shift, level in shifts for share in SHARES for n in sizes]


def draws(
    stacks: Sequence[Stack], shifted: Sequence[Cell], *, null: int, each: int, sizes: Sequence[int] = SIZES
) -> list[Draw]:
    """``null`` draws a set and n without drift, ``each`` draws a set and cell with it."""
    found: list[Draw] = []
    for stack in stacks:
        rng = np.random.default_rng([SEED, len(found)])
        wanted = [Cell("none", 0, 0.0, n) for n in sizes for _ in range(null)]
        wanted += [cell for cell in shifted for _ in range(each)]
        for cell in wanted:
            reference, window = _draw(stack, cell, rng)
            found.append(Draw(len(found), stack.watched.name, cell, reference, window))
    return _ranked(found)


def _ranked(found: Sequence[Draw]) -> list[Draw]:
    """With places in their pools: the first draw of each set and cell before the second of any, else by lot."""
    lots = np.random.default_rng(SEED).random(len(found))
    repeats: dict[tuple[str, Cell], int] = {}
    turns: list[int] = []
    for draw in found:
        repeats[draw.set, draw.cell] = repeats.get((draw.set, draw.cell), -1) + 1
        turns.append(repeats[draw.set, draw.cell])
    places: dict[tuple[str, int], int] = {}
    ranks = [0] * len(found)
    for index in sorted(range(len(found)), key=lambda at: (turns[at], lots[at])):
        pool = found[index].cell.pool
        ranks[index] = places[pool] = places.get(pool, -1) + 1
    return [replace(draw, rank=rank) for draw, rank in zip(found, ranks, strict=True)]


def _draw(stack: Stack, cell: Cell, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images of a window are taken from those that were corrupted, but without drift from all."""
    total = len(stack.watched.parts["clean"])
    if cell.shift == "none":
        order = rng.permutation(total)
        size = min(REFERENCE, total - cell.n)
        return order[:size], order[size : size + cell.n]
    rest = rng.permutation(np.arange(CHANGED, total))
    reference = rest[: min(REFERENCE, len(rest))]
    own = rng.permutation(CHANGED)[: cell.n]
    if cell.shift.startswith("knockout"):
        return reference, _without(stack, cell, rng)
    moved = round(cell.share * cell.n)
    part = stack.watched.parts.get(f"{cell.shift}-{cell.level}")
    if part is not None:
        return reference, np.concatenate(
            [stack.starts[f"{cell.shift}-{cell.level}"] + own[:moved], own[moved:]]
        )
    other = stack.watched.parts[cell.shift]
    strange = rng.choice(len(other), moved, replace=moved > len(other))
    return reference, np.concatenate([stack.starts[cell.shift] + strange, own[moved:]])


def _without(stack: Stack, cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """A window that lacks a share of the images of some classes; with replacement where too few are left."""
    labels = stack.watched.parts["clean"].labels[:CHANGED]
    names, counts = np.unique(labels, return_counts=True)
    ranked = names[np.argsort(-counts, kind="stable")]
    gone = ranked[:1] if cell.shift == "knockout_class" else ranked[::2]
    weight = np.where(np.isin(labels, gone), 1.0 - cell.share, 1.0)
    left = np.flatnonzero(rng.random(CHANGED) < weight)
    return rng.choice(left, cell.n, replace=cell.n > len(left))


def write(stacks: Sequence[Stack], found: Sequence[Draw], work: Path) -> None:
    """What a contender in another interpreter reads."""
    for stack in stacks:
        np.savez(
            work / f"{stack.watched.name}-stack.npz",
            embeddings=stack.all.embeddings,
            probabilities=stack.all.probabilities,
            statistics=stack.all.statistics,
        )
    np.savez(
        work / "draws.npz",
        set=np.array([draw.set for draw in found]),
        reference=_padded([draw.reference for draw in found]),
        window=_padded([draw.window for draw in found]),
        quiet=np.array([draw.cell.shift == "none" for draw in found]),
        rank=np.array([draw.rank for draw in found]),
    )


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    out = np.full((len(rows), max(len(row) for row in rows)), -1, dtype=np.int32)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return out


def read(work: Path, shifted: int, quiet: int) -> Iterator[tuple[int, str, np.ndarray, np.ndarray]]:
    """(number, set, reference's rows, window's rows) of so many draws of each pool with drift, and without."""
    with np.load(work / "draws.npz") as stored:
        columns = [stored[name] for name in ("set", "reference", "window", "quiet", "rank")]
    for number, (name, reference, window, still, rank) in enumerate(zip(*columns, strict=True)):
        if rank < (quiet if still else shifted):
            yield number, str(name), reference[reference >= 0], window[window >= 0]
