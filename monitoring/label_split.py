"""Which split a labelled production image goes to, decided once. Pure: no I/O."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monitoring.labels import Label
from pipeline.params import Params


@dataclass(frozen=True)
class Newcomer:
    """A labelled image without a split; ``random``: it was drawn uniformly at random."""

    image_id: str
    dhash: str
    random: bool


def assign(
    newcomers: Sequence[Newcomer],
    existing: Sequence[Label],
    hashes: Mapping[str, str | None],
    domain: str,
    params: Params,
) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Split and group of each newcomer, and a reason for each one that is left out.

    Near-alike images share a group and a split. A group near to images taken before takes their split;
    one that would bring a chosen image into the test set, or that is near to two splits, is left out.
    Of the others the random ones go to the test set until it has ``label.test_share`` of the domain's
    labels, in the order of their ids' hashes; then to validation as ``split.validation`` says.
    """
    groups = _groups(newcomers, params.validate.near_duplicate_bits)
    splits: dict[str, tuple[str, str]] = {}
    left_out: list[str] = []
    free: list[list[Newcomer]] = []
    for group in groups:
        near = _near(group, existing, hashes, params.validate.near_duplicate_bits)
        found = {label.split for label in near}
        if not near:
            free.append(group)
        elif len(found) > 1:
            left_out += [f"{one.image_id[:12]} is near-alike to images in {sorted(found)}" for one in group]
        elif found == {"test"} and not all(one.random for one in group):
            left_out += [
                f"{one.image_id[:12]} is near-alike to a test image, and was chosen, not drawn"
                for one in group
            ]
        else:
            splits |= {one.image_id: (near[0].split, near[0].group) for one in group}
    _share_out(free, splits, [label for label in existing if label.domain == domain], params)
    return splits, left_out


def _share_out(
    free: list[list[Newcomer]], splits: dict[str, tuple[str, str]], own: Sequence[Label], params: Params
) -> None:
    coming = len(splits) + sum(len(group) for group in free)
    total = len(own) + coming
    counts = {
        name: sum(label.split == name for label in own) + sum(split == name for split, _ in splits.values())
        for name in ("test", "validation")
    }
    wanted = {
        "test": round(params.label.test_share * total),
        "validation": round(params.split.validation * total),
    }
    for group in sorted(free, key=lambda group: _draw(params.seed, group[0].image_id)):
        split = "train"
        if all(one.random for one in group) and counts["test"] + len(group) <= wanted["test"]:
            split = "test"
        elif counts["validation"] + len(group) <= wanted["validation"]:
            split = "validation"
        if split in counts:
            counts[split] += len(group)
        splits |= {one.image_id: (split, group[0].image_id) for one in group}


def _groups(newcomers: Sequence[Newcomer], bits: int) -> list[list[Newcomer]]:
    """Connected sets of near-alike newcomers, each sorted by id."""
    groups: list[list[Newcomer]] = []
    for one in sorted(newcomers, key=lambda newcomer: newcomer.image_id):
        near = [group for group in groups if any(_alike(one.dhash, other.dhash, bits) for other in group)]
        joined = [one, *(other for group in near for other in group)]
        groups = [group for group in groups if not any(group is other for other in near)]
        groups.append(sorted(joined, key=lambda newcomer: newcomer.image_id))
    return groups


def _near(
    group: Sequence[Newcomer], existing: Sequence[Label], hashes: Mapping[str, str | None], bits: int
) -> list[Label]:
    return [
        label
        for label in existing
        if (known := hashes.get(label.image_id)) and any(_alike(known, one.dhash, bits) for one in group)
    ]


def _alike(one: str, other: str, bits: int) -> bool:
    return (int(one, 16) ^ int(other, 16)).bit_count() <= bits


def _draw(seed: int, image_id: str) -> bytes:
    return hashlib.sha256(f"label/{seed}/{image_id}".encode()).digest()
