"""Who stands beside whom, and how splits spread from those who have one.

What belongs together is a *node*: a group of images that are free to go anywhere, or one single image whose
split is given. Nodes that hold near-duplicates of one another, or images of one group, stand side by side.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.assignments import Kept
from pipeline.errors import DataError, IntegrityError

ANEW = (
    "remove data/assignments.csv to assign everything anew, knowing that an earlier champion may have been "
    "trained on images that then become test images"
)


@dataclass(frozen=True, slots=True)
class Image:
    """What a row of the manifest brings to the split; ``official`` is its given split, if any."""

    image_id: str
    path: str
    label: str
    domain: str
    group: str
    official: str | None
    decodable: bool


@dataclass
class Board:
    """Where every node stands."""

    node: dict[str, str] = field(default_factory=dict)  # image id → node
    settled: dict[str, str] = field(default_factory=dict)  # node → split
    kept: set[str] = field(default_factory=set)  # nodes settled by an earlier run
    official: set[str] = field(default_factory=set)  # nodes of one image whose split is given
    beside: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    out: set[str] = field(default_factory=set)  # image ids and nodes that are left out as conflicts


def order(seed: int, group: str) -> str:
    """The place of a group in the queue: nobody's choice, and the same on every machine."""
    return hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()


def place(images: Sequence[Image], rows: dict[str, int], memory: dict[str, Kept], carved: set[str]) -> Board:
    """Every image on its node, and the splits that are given: kept ones and official ones."""
    board = Board()
    for image_id, row in rows.items():
        image, place = images[row], memory[image_id].split if image_id in memory else None
        free = image.official is None or (bool(carved) and image.official == "train")
        board.node[image_id] = node = f"group {image.group}" if free else f"image {image_id}"
        if place and image.official in ("validation", "test") and place != image.official:
            raise DataError(
                f"{image.path} is officially {image.official}, but data/assignments.csv has kept it in {place}: "
                f"restore the official split that it was assigned under, or {ANEW}"
            )
        # Held out once, held out for good: what was carved out of an official train part stays out.
        split = place or (None if free else image.official)
        if split and board.settled.setdefault(node, split) != split:
            raise IntegrityError(
                f"the group {image.group!r} stands in {board.settled[node]} and {split} by data/assignments.csv: "
                f"restore the data.group_pattern that it was assigned under, or {ANEW}"
            )
        if not free:
            board.official.add(node)
        if place:
            board.kept.add(node)
    for image_id, entry in memory.items():
        if image_id not in rows:  # it has left the data; what it was next to has not
            board.node[image_id] = node = f"image {image_id}"
            board.settled[node] = entry.split
            board.kept.add(node)
    return board


def connect(
    board: Board,
    images: Sequence[Image],
    rows: dict[str, int],
    memory: dict[str, Kept],
    pairs: list[tuple[str, str]],
    carving: bool,
) -> None:
    """Put near-duplicates side by side, and images of one group that are on nodes of their own."""
    free = {board.node[image_id] for image_id in rows} - board.official
    fresh = board.official - board.kept if carving else set()  # validate's business: official beside official

    def join(first: str, second: str) -> None:
        if first != second and first not in fresh and second not in fresh:
            board.beside[first].add(second)
            board.beside[second].add(first)

    for first_id, second_id in pairs:
        if first_id in board.node and second_id in board.node:
            join(board.node[first_id], board.node[second_id])
    # Excluded copies count here: they tie their group to the copy that stays.
    memberships = [(image.image_id, image.group) for image in images]
    memberships += [(entry.image_id, entry.group) for entry in memory.values() if entry.image_id not in rows]
    for image_id, group in memberships:
        if image_id in board.node and f"group {group}" in free:
            join(board.node[image_id], f"group {group}")


def leave_out_contradictions(
    board: Board,
    images: Sequence[Image],
    rows: dict[str, int],
    memory: dict[str, Kept],
    pairs: list[tuple[str, str]],
) -> None:
    """Newcomers whose own place, given by an official split or a kept group, is too near to another split."""
    for node in board.official - board.kept:
        if any(
            other in board.kept and board.settled[other] != board.settled[node]
            for other in board.beside[node]
        ):
            board.out.add(node)
    for pair in pairs:
        nodes = [board.node.get(image_id, "") for image_id in pair]
        places = {board.settled.get(node) for node in nodes}
        if len(places) < 2 or None in places or board.out.intersection(nodes):
            continue
        for image_id, other in (pair, pair[::-1]):
            newcomer = image_id in rows and image_id not in memory
            if newcomer and (other in memory or images[rows[image_id]].official is None):
                board.out.add(image_id)


def spread(board: Board, seed: int, allowed: list[str]) -> None:
    """Carry splits to the nodes beside, step by step; a node between two splits is left out and carries nothing."""
    waiting = {
        other for node in board.settled if node not in board.out for other in board.beside[node]
    } - board.settled.keys()
    while waiting:
        reached: set[str] = set()
        for node in sorted(waiting, key=lambda name: order(seed, name)):
            splits = {
                board.settled[n] for n in board.beside[node] if n in board.settled and n not in board.out
            }
            if len(splits) == 1 and splits.issubset(allowed):
                board.settled[node] = splits.pop()
                reached |= board.beside[node]
            else:
                board.out.add(node)
        waiting = reached - board.settled.keys() - board.out


def components(board: Board, nodes: Iterable[str]) -> list[list[str]]:
    """``nodes`` that hang together, each component sorted."""
    left = set(nodes)
    found = []
    for start in sorted(left):
        if start not in left:
            continue
        left.discard(start)
        component, queue = [start], [start]
        while queue:
            near = board.beside.get(queue.pop(), set()) & left
            left -= near
            component += near
            queue += near
        found.append(sorted(component))
    return found
