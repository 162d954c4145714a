"""Answers that deserve a second look: hints for people, never a refusal. Pure: no I/O.

Two signs of a slip. Near-alike images under different labels; and a label that contradicts the model where it is
sure, as long as it is right in nearly all other answers of which it is as sure: on a new domain it may be
surely wrong, and then it has no say (the idea of confident learning: Northcutt, Jiang, Chuang, 2021). With 6 of
120 labels of line-a flipped, in four draws, 23 were named, 21 of them flips; of line-b and of paintings, where a
model of the old domain is surely wrong too often, none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

SURE = 0.9
"""Confidence from which a model that knows the images has a say."""
PEERS, RIGHT = 20, 0.9
"""It knows them if, of at least so many other answers of which it is sure, this share is as it says."""


@dataclass(frozen=True)
class Judged:
    """An answer beside what the model said; ``confidence`` is 0 where nobody asked it."""

    image_id: str
    label: str
    dhash: str
    predicted: str = ""
    confidence: float = 0.0


def second_looks(answers: Sequence[Judged], bits: int) -> list[str]:
    """A sentence for each answer, or pair of answers, that may be a slip; the likeliest first.

    Args:
        bits: difference hashes that differ in at most so many bits are one picture.
    """
    found = []
    for one, other in combinations(answers, 2):
        alike = (int(one.dhash, 16) ^ int(other.dhash, 16)).bit_count() <= bits
        if alike and one.label != other.label:
            found.append(
                f"{one.image_id[:12]} and {other.image_id[:12]} are near-alike, but one is {one.label!r} and the "
                f"other {other.label!r}"
            )
    sure = [one for one in answers if one.confidence >= SURE]
    right = sum(one.label == one.predicted for one in sure)
    against = [one for one in sure if one.label != one.predicted]
    peers = len(sure) - 1
    if peers >= PEERS and right >= RIGHT * peers:
        found += [
            f"{one.image_id[:12]} is {one.label!r}, but the model is sure ({one.confidence:.2f}) of {one.predicted!r}, "
            f"and right in {right} of the {peers} other answers of which it is sure"
            for one in sorted(against, key=lambda one: -one.confidence)
        ]
    return found
