"""How a training went, and when validation ends it before its schedule does."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

__all__ = ["Rival", "Tuned", "given_up", "past_its_best"]

SOON = 2  # epochs, in one of which a rival that is beaten foretells much to gain
PATIENCE = 3  # epochs in a row that validation finds worse than the best, or the rival, beyond its noise
LATE = 2 / 3  # of the schedule, before which they don't end it: at a high rate they foretell nothing


@dataclass(frozen=True)
class Rival:
    """The network to be better than."""

    logits: np.ndarray  # [validation, classes]
    beaten: Callable[[np.ndarray], bool]  # whether by a network with these logits
    longer: int  # epochs to train instead, where it is beaten soon


@dataclass
class Tuned:
    """The kept epoch's tensors, and how training went."""

    tensors: dict[str, torch.Tensor]  # what ``trained`` names, on the CPU
    logits: np.ndarray  # [validation, classes] of the kept epoch
    epoch: int  # the kept one, from 1; while training goes, the one with the lowest validation loss
    planned: int  # epochs that it was to have
    # Step, loss of training and of validation, and by how many standard errors the best epoch so far, and the
    # rival, are better.
    history: list[dict[str, float]] = field(default_factory=list)
    timed: list[tuple[int, float]] = field(default_factory=list)  # images and seconds of each epoch
    ended: str = ""  # why, where it was not by schedule
    snapshots: list[dict[str, torch.Tensor]] = field(default_factory=list)  # of the last epochs, if asked for

    @property
    def seconds(self) -> float:
        """Of training, in all processes that it took, without validation."""
        return sum(seconds for _, seconds in self.timed)

    @property
    def images_per_second(self) -> float:
        """Of the epochs after the first, which also starts what the others find ready; of that where it is the only one."""
        steady = self.timed[1:] or self.timed
        return sum(images for images, _ in steady) / sum(seconds for _, seconds in steady) if steady else 0.0

    @property
    def step(self) -> int:
        """Optimizer steps up to the kept epoch."""
        return int(self.history[self.epoch - 1]["step"]) if self.epoch else 0

    @property
    def curve(self) -> list[tuple[int, float, str]]:
        """Step, loss, split."""
        return [
            (int(entry["step"]), float(entry[part]), part)
            for entry in self.history
            for part in ("train", "validation")
        ]


def past_its_best(tuned: Tuned) -> bool:
    """Whether validation told, epoch after epoch, that the best one lies behind."""
    return len(tuned.history) > PATIENCE and _worse(tuned, "behind")


def given_up(tuned: Tuned) -> bool:
    """Whether the network is clearly behind its rival, and the rate too low for it to catch up."""
    return len(tuned.history) >= PATIENCE and _worse(tuned, "short")


def _worse(tuned: Tuned, by: str) -> bool:
    late = len(tuned.history) >= LATE * tuned.planned
    return late and all(entry[by] > 1 for entry in tuned.history[-PATIENCE:])
