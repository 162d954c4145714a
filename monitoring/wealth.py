"""The bets on the events of ``monitoring.evidence``: one number a bet, moved image by image.

State, so that a killed watch goes on where its last transaction stood. See ``monitoring.evidence`` for
why the average is an e-process and what threshold it is held against, and ``monitoring.bursts`` for which
images count in full.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from monitoring.bursts import Bursts
from monitoring.evidence import BLOCK, FAMILIES, HEAD_START, ODDS, Event

VERSION = 3


@dataclass
class Wealth:
    """Log wealth of each (event, bet), averaged over starting times; natural logarithms.

    Attributes:
        seen: images so far.
        wealth: (events, bets) log of the sum over starting times of prior weight times gain.
        rest: prior weight of the starting times to come, a stake that lies still.
        gain, onset: (events, bets) the best gain over all starting times, and how many images
            were seen before it began: the estimate of when the event became too frequent.
        bursts: which of the images counted in full.
    """

    events: Sequence[Event]
    seen: int = 0
    rest: float = 1.0
    wealth: np.ndarray = field(init=False)
    gain: np.ndarray = field(init=False)
    onset: np.ndarray = field(init=False)
    bursts: Bursts = field(default_factory=Bursts)

    def __post_init__(self) -> None:
        shape = (len(self.events), len(ODDS))
        self.wealth = np.full(shape, -np.inf)
        self.gain = np.zeros(shape)
        self.onset = np.zeros(shape, dtype=int)
        share = np.array([event.family for event in self.events])
        weights = np.array([1.0 / (len(FAMILIES) * np.sum(share == event.family)) for event in self.events])
        self._log_weight = np.log(weights)[:, None] - np.log(len(ODDS))

    def step(self, happened: np.ndarray, chance: np.ndarray, counts: bool = True) -> float:
        """Take in one image: (events,) what happened, and the largest chance of it; the log e-value after it.

        One that does not count in full can lower the wealth but not raise it.
        """
        log_e = gains(happened, chance)
        if not counts:
            log_e = np.minimum(log_e, 0.0)
        if self.seen % BLOCK == 0:
            weight = min(self.rest, prior(self.seen // BLOCK + 1))
            self.rest -= weight
            self.wealth = np.logaddexp(self.wealth, np.log(max(weight, 1e-300)))
        self.wealth = self.wealth + log_e
        fresh = self.gain <= 0.0
        self.onset = np.where(fresh, self.seen, self.onset)
        self.gain = np.maximum(self.gain, 0.0) + log_e
        self.seen += 1
        return self.log_e

    @property
    def log_e(self) -> float:
        """Log of the average over families, events, bets and starting times."""
        return float(np.logaddexp.reduce(self._log_by_bet().ravel()))

    def _log_by_bet(self) -> np.ndarray:
        return np.logaddexp(self.wealth, np.log(max(self.rest, 1e-300))) + self._log_weight

    def by_event(self) -> np.ndarray:
        """(events,) log of what each event adds to the e-value."""
        return np.asarray(np.logaddexp.reduce(self._log_by_bet(), axis=1))

    def began(self, event: int) -> int:
        """How many images were seen before the event's strongest bet began to gain."""
        return int(self.onset[event, int(np.argmax(self.gain[event]))])

    def to_dict(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "events": [
                [event.statistic, event.direction, event.threshold, event.chance] for event in self.events
            ],
            "seen": self.seen,
            "rest": self.rest,
            "wealth": np.where(np.isfinite(self.wealth), self.wealth, -1e308).tolist(),
            "gain": self.gain.tolist(),
            "onset": self.onset.tolist(),
            "bursts": self.bursts.to_dict(),
        }

    @classmethod
    def from_dict(cls, events: Sequence[Event], raw: dict[str, Any]) -> "Wealth":
        """What ``to_dict`` wrote; a fresh start where it was gained on other events (alpha was changed, say)."""
        wealth = cls(events)
        if not raw or raw["version"] != VERSION or not _same(events, raw["events"]):
            return wealth
        wealth.seen, wealth.rest = raw["seen"], raw["rest"]
        wealth.wealth, wealth.gain = np.array(raw["wealth"]), np.array(raw["gain"])
        wealth.onset = np.array(raw["onset"], dtype=int)
        wealth.bursts = Bursts.from_dict(raw["bursts"])
        return wealth


def gains(happened: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """(..., events) -> (..., events, bets) log of what each bet makes of it. A chance of 1 can't be bet on."""
    bound, odds = chance[..., None], np.array(ODDS)
    certain = bound >= 1.0 - 1e-9
    win = np.log((bound + odds * (1 - bound)) / np.maximum(bound, 1e-12))
    return np.where(certain, 0.0, np.where(happened[..., None], win, np.log1p(-odds)))


def _same(events: Sequence[Event], raw: Sequence[Sequence[Any]]) -> bool:
    """Whether the stored events are these; the last digits of a threshold may differ between machines."""
    if [list(entry[:2]) for entry in raw] != [[event.statistic, event.direction] for event in events]:
        return False
    now = np.array([[event.threshold, event.chance] for event in events])
    return bool(np.allclose(now, np.array([entry[2:] for entry in raw]), rtol=1e-6, atol=1e-9))


def prior(block: int) -> float:
    """Weight of the starting time ``block`` (1, 2, ...): slowly falling, and together at most 1."""
    at = block + HEAD_START
    return float(np.log(HEAD_START) / (at * np.log(at) ** 2))
