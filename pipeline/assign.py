"""The rules by which images get their split: pure, and the same for any order of the rows.

Places that are given come first (kept, then official), then what is beside them, then what is new.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.assignments import SPLITS, Kept
from pipeline.errors import IntegrityError
from pipeline.params import Split
from pipeline.placement import (
    ANEW,
    Board,
    Image,
    components,
    connect,
    leave_out_contradictions,
    order,
    place,
    spread,
)

EXCLUDED = "excluded"


@dataclass(frozen=True, slots=True)
class Division:
    """For each image, in the order given: its split (or ``excluded``), the reason, and its joined group."""

    splits: list[str]
    reasons: list[str]
    groups: list[str]


def assign(
    images: Sequence[Image], kept: Sequence[Kept], params: Split, seed: int, near: Iterable[tuple[str, str]]
) -> Division:
    """Divide ``images``, whose near-duplicates are the pairs ``near`` of image ids, given what is ``kept``.

    ``near`` may name images of ``kept`` that are no longer among ``images``: their places still count.

    Raises:
        DataError: an official split contradicts the place that an image has been kept in.
        IntegrityError: kept places put one group, or two near-duplicates, into two splits.
    """
    pairs = sorted({(min(pair), max(pair)) for pair in near}) if params.near_duplicates == "join" else []
    memory = {entry.image_id: entry for entry in kept}
    reasons = _excluded_rows(images, memory)
    rows = {image.image_id: row for row, image in enumerate(images) if row not in reasons}
    carved = _carved([images[row].official for row in rows.values()])
    allowed = [split for split in SPLITS if not carved or split == "train" or split in carved]
    board = place(images, rows, memory, carved)
    connect(board, images, rows, memory, pairs, bool(carved))
    leave_out_contradictions(board, images, rows, memory, pairs)
    spread(board, seed, allowed)
    reached = set(board.settled)
    _deal(board, images, rows, params, seed, allowed)
    splits = [EXCLUDED] * len(images)
    for image_id, row in rows.items():
        node = board.node[image_id]
        if image_id in board.out or node in board.out:
            reasons[row] = "conflict"
            continue
        splits[row] = board.settled[node]
        official, old = images[row].official == splits[row], image_id in memory
        reasons[row] = (
            "official" if official else "kept" if old else "joined" if node in reached else "assigned"
        )
    _prove(images, rows, splits, pairs)
    return Division(
        splits, [reasons[row] for row in range(len(images))], _groups(images, rows, splits, pairs)
    )


def _excluded_rows(images: Sequence[Image], memory: dict[str, Kept]) -> dict[int, str]:
    """Undecodable images, the same bytes under two labels, and all copies of an image but one."""
    reasons: dict[int, str] = {}
    copies: dict[str, list[int]] = defaultdict(list)
    for row, image in enumerate(images):
        if image.decodable:
            copies[image.image_id].append(row)
        else:
            reasons[row] = "undecodable"
    # A held-out copy is worth more than one to train on; the path settles the rest.
    worth = {"test": 0, "validation": 1, "train": 2, None: 3}
    for image_id, rows in copies.items():
        if len(rows) > 1 and len({images[row].label for row in rows}) > 1:
            reasons.update(dict.fromkeys(rows, "conflict"))
        elif len(rows) > 1:
            place = memory[image_id].split if image_id in memory else None

            def rank(row: int, place: str | None = place) -> tuple[bool, int, str]:
                return images[row].official != place, worth[images[row].official], images[row].path

            best = min(rows, key=rank)
            reasons.update({row: "duplicate" for row in rows if row != best})
    return reasons


def _carved(official: list[str | None]) -> set[str]:
    """The held-out parts that a wholly official split lacks; free rows would provide them otherwise."""
    if not official or None in official:
        return set()
    return {"validation", "test"} - {split for split in official if split}


def _deal(
    board: Board, images: Sequence[Image], rows: dict[str, int], params: Split, seed: int, allowed: list[str]
) -> None:
    """Deal what is new out, in hash order, to the split that lacks most of its classes and domains.

    ``lacking`` counts images: a split's share of all that lie in the ``allowed`` splits or are still to be
    dealt, less what it has. So even a class of three gets a test image.
    """
    shares = {
        "train": 1 - params.validation - params.test,
        "validation": params.validation,
        "test": params.test,
    }
    whole = sum(shares[split] for split in allowed)
    lacking: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: dict.fromkeys(allowed, 0.0))
    content: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for image_id, row in rows.items():
        node, stratum = board.node[image_id], (images[row].domain, images[row].label)
        settled = board.settled.get(node)
        if image_id in board.out or node in board.out or (settled and settled not in allowed):
            continue
        for split in allowed:
            lacking[stratum][split] += shares[split] / whole - (split == settled)
        if not settled:
            content[node][stratum] += 1
    for component in sorted(components(board, content), key=lambda nodes: order(seed, nodes[0])):
        strata: Counter[tuple[str, str]] = Counter()
        for node in component:
            strata.update(content[node])
        split = max(allowed, key=lambda s: sum(n * lacking[stratum][s] for stratum, n in strata.items()))
        for stratum, count in strata.items():
            lacking[stratum][split] -= count
        board.settled.update(dict.fromkeys(component, split))


def _groups(
    images: Sequence[Image], rows: dict[str, int], splits: list[str], pairs: list[tuple[str, str]]
) -> list[str]:
    """Each image's group after near-duplicates of one split have joined: the first name of those joined."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.get(name, name) != name:
            parent[name] = name = parent.get(parent[name], parent[name])
        return name

    ties = [(rows[a], rows[b]) for a, b in pairs if a in rows and b in rows]
    copies = [row for row, image in enumerate(images) if rows.get(image.image_id, row) != row]
    ties += [(row, rows[images[row].image_id]) for row in copies]
    for first, second in ties:
        if splits[first] == splits[second] or images[first].image_id == images[second].image_id:
            low, high = sorted((root(images[first].group), root(images[second].group)))
            parent[high] = low
    return [root(image.group) for image in images]


def _prove(
    images: Sequence[Image], rows: dict[str, int], splits: list[str], pairs: list[tuple[str, str]]
) -> None:
    """No free group and no near-duplicates in two splits, whatever the code above believes.

    Images whose split is official on both sides are left to ``validate``.
    """
    place: dict[str, tuple[str, str]] = {}
    for row in rows.values():
        image, split = images[row], splits[row]
        if split == EXCLUDED or image.official:
            continue
        path, other = place.setdefault(image.group, (image.path, split))
        if other != split:
            raise IntegrityError(
                f"the group {image.group!r} would stand in two splits: {path} in {other}, {image.path} in {split}. "
                f"Restore the data.group_pattern that they were assigned under, or {ANEW}"
            )
    for pair in pairs:
        if pair[0] not in rows or pair[1] not in rows:
            continue
        first, second = (rows[image_id] for image_id in pair)
        found = {splits[first], splits[second]} - {EXCLUDED}
        if len(found) > 1 and not (images[first].official and images[second].official):
            raise IntegrityError(
                f"near-duplicates would stand in two splits: {images[first].path} in {splits[first]}, "
                f"{images[second].path} in {splits[second]}. They were assigned under another "
                f"validate.near_duplicate_bits or split.near_duplicates: restore it, or {ANEW}"
            )
