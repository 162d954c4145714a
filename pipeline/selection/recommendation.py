"""From measurements to a choice: ranks, the Pareto front, and the rule. Pure: no files, no clock, no network."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Measured", "pareto", "ranks", "recommended"]


@dataclass(frozen=True)
class Measured:
    """What the rule looks at."""

    accuracy: float  # share of images
    standard_error: float  # of the accuracy
    milliseconds: float  # an image


def pareto(measured: Sequence[Measured]) -> list[int]:
    """Places of those that no other beats: none is as fast and more accurate, nor as accurate and faster.

    From the fastest to the most accurate. Of two that are equal in both, both stay.
    """

    def beaten(one: Measured) -> bool:
        return any(
            other.accuracy >= one.accuracy
            and other.milliseconds <= one.milliseconds
            and (other.accuracy > one.accuracy or other.milliseconds < one.milliseconds)
            for other in measured
        )

    front = [place for place, one in enumerate(measured) if not beaten(one)]
    return sorted(front, key=lambda place: (measured[place].milliseconds, place))


def recommended(measured: Sequence[Measured]) -> tuple[int, int]:
    """(the place to take, the place of the most accurate): the one-standard-error rule of Breiman et al. 1984.

    The fastest on the Pareto front whose accuracy is at most the best one's standard error below the best one's:
    what a difference within the noise does not earn, time does.

    Raises:
        ValueError: nothing was measured.
    """
    if not measured:
        raise ValueError("there is nothing to choose from")
    front = pareto(measured)
    best = front[-1]
    enough = measured[best].accuracy - measured[best].standard_error
    return next(place for place in front if measured[place].accuracy >= enough), best


def ranks(values: Sequence[float]) -> list[int]:
    """1 for the largest value; equal ones share the better rank."""
    return [1 + sum(other > value for other in values) for value in values]
