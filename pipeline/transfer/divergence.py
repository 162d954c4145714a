"""Whether the loss and its gradient are numbers, asked without holding a GPU up.

The optimizer itself refuses an update by what is no number (see ``refused``), so it may be asked afterwards: a GPU
works behind, and to ask it of this step's loss would let it run dry. It is asked when the next step is under way.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from pipeline.transfer.recipe import DivergedError

__all__ = ["NAMED", "Watch", "refused"]

NAMED = 8  # images named when the loss or its gradient is no number


def refused(told: torch.Tensor) -> torch.Tensor:
    """float32 [], 1 where the loss or the norm in ``told`` [2] is no number: fused optimizers then change nothing."""
    return (~torch.isfinite(told).all()).float()


class Watch:
    """Looks at (loss, norm of the gradient) of one step after the other; ``count``: steps of an epoch."""

    def __init__(self, paths: Sequence[str], count: int) -> None:
        self.paths, self.count = paths, count
        self._asked: Callable[[], None] | None = None

    def look(self, told: torch.Tensor, rows: np.ndarray, epoch: int, step: int) -> None:
        """Of a step that learns from ``rows``; on a GPU what is looked at is the step before.

        Raises:
            DivergedError: one of the two is no number; names the batch and its images.
        """
        if not told.is_cuda:
            self._judge(told.tolist(), rows, epoch, step)
            return
        known, there = told.to("cpu", non_blocking=True), torch.cuda.Event()
        there.record()

        def answer() -> None:
            there.synchronize()
            self._judge(known.tolist(), rows, epoch, step)

        self.settle()
        self._asked = answer

    def settle(self) -> None:
        """Look at the last step.

        Raises:
            DivergedError: as above.
        """
        asked, self._asked = self._asked, None
        if asked:
            asked()

    def _judge(self, told: list[float], rows: np.ndarray, epoch: int, step: int) -> None:
        loss, norm = told
        if not math.isfinite(loss):
            raise self._diverged(f"the training loss became {loss}", rows, epoch, step)
        if not math.isfinite(norm):
            raise self._diverged(
                f"the norm of the gradient became {norm}, at a loss of {loss:.3g},", rows, epoch, step
            )

    def _diverged(self, what: str, rows: np.ndarray, epoch: int, step: int) -> DivergedError:
        named = ", ".join(self.paths[row] for row in rows[:NAMED])
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        return DivergedError(
            f"{what} in epoch {epoch + 1}, batch {step % self.count + 1} of {self.count}: {named}{more}; "
            "look at these images, or lower train.learning_rate"
        )
