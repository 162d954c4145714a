"""Which labels are probably wrong: confident learning (Northcutt, Jiang and Chuang 2021).

A class's threshold is the mean probability that its own images get for it: a model that is less sure of one
class than of another is no evidence against that class's labels. An image whose probability for another class
reaches that class's threshold is a suspect. The method is a few lines; cleanlab, its authors' library, is under
the AGPL.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["Suspect", "find_suspects"]


@dataclass(frozen=True)
class Suspect:
    """One image; positions are those of the arrays that were given."""

    row: int
    suggested: int  # the code of the likelier class
    label_probability: float  # of the label as given
    suggested_probability: float

    @property
    def margin(self) -> float:
        """How far the given label lies behind the suggested one; the smaller, the more suspect."""
        return self.label_probability - self.suggested_probability


def find_suspects(probabilities: np.ndarray, labels: np.ndarray) -> list[Suspect]:
    """The suspects among images with out-of-sample ``probabilities`` [n, classes] and ``labels`` [n], worst first.

    Each class must have an image. Of several classes whose threshold is reached the likeliest is suggested; an
    image whose label is the likeliest class is none.
    """
    count = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    thresholds = np.array([own[labels == code].mean() for code in range(count)])
    confident = np.where(probabilities >= thresholds, probabilities, -np.inf)
    suggested = confident.argmax(axis=1)
    found = [
        Suspect(int(row), int(suggested[row]), float(own[row]), float(probabilities[row, suggested[row]]))
        for row in np.flatnonzero(np.isfinite(confident.max(axis=1)) & (suggested != labels))
        if probabilities[row, suggested[row]] > own[row]
    ]
    return sorted(found, key=lambda suspect: (suspect.margin, suspect.row))
