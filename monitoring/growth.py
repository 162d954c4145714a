"""Has more changed since a person dismissed a drift that stays?

Against the champion's reference the evidence stays up, whatever else happens. So the windows since the dismissal are held
against each other, by how far the embeddings of each lie from the reference (squared MMD): the last ``LAST`` have to lie
further off than all before them. Of n windows that are exchangeable the last three are the top three with chance
6 / (n (n - 1) (n - 2)), and over all n from 20 on these chances add up to 3 / (19 * 18) = 0.9 %, however often one looks.
What changes the image statistics alone is not seen by it, nor what comes within the first windows after the dismissal.
"""

from collections.abc import Sequence
from datetime import datetime

from monitoring.journal import Step

__all__ = ["grown_since"]

LAST = 3
FIRST = 17
"""Windows since the dismissal that the last ones are compared with, at least."""


def grown_since(steps: Sequence[Step], now: datetime, statistic: float) -> datetime | None:
    """When more began to change: the first of the last windows; None where it did not, or where there are too few to say.

    Args:
        steps: the champion's since the dismissal, in order of time.
        now: the first image of the newest window, which no step tells of yet, and its ``statistic``.
    """
    windows = [
        (datetime.fromisoformat(step.detail["first"]), step.statistic)
        for step in steps
        if step.window is not None and step.statistic is not None
    ] + [(now, statistic)]
    last, before = windows[-LAST:], windows[:-LAST]
    if len(before) < FIRST or min(own for _, own in last) <= max(own for _, own in before):
        return None
    return last[0][0]
