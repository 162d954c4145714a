"""Challenger against champion on identical images: not worse in all, and no loss hidden in a part.

Over all images the challenger has to show that it is no more than the margin worse (one-sided 95 % bound of
the paired score interval, groups of shots counted for what they are worth). For that a part, a domain or a class, is mostly too small; there the burden is
reversed, and evidence of a loss counts against it:

- it fails, and the challenger is rejected, where the loss is beyond the margin and proven;
- it is unknown and holds the challenger back where a loss beyond the margin is likely;
- it is unknown and shown where the images can't tell.

Proven means an exact sign-flip test by group (McNemar's, where groups are single images), at a level of 2 % over
all images and 3 % over the parts, shared between domains and classes, with Holm's correction within each: a
challenger that is truly equal is rejected in at most 5 %. Likely is an adjusted p-value below 20 %.
"""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.checks import FEWEST_GROUPS, Check, Outcome, images
from pipeline.intervals import Interval, holm
from pipeline.paired import paired_intervals, sign_flip
from pipeline.params import Gate

OVERALL_LEVEL = 0.02
PARTS_LEVEL = 0.03
LIKELY = 0.2  # adjusted p-value under which a loss in a part holds the challenger back


def compare(
    difference: np.ndarray,
    groups: np.ndarray,
    parts: dict[str, dict[str, np.ndarray]],
    gate: Gate,
) -> list[Check]:
    """Checks of ``difference`` [n, challenger right less champion right] over all images and by part.

    ``groups`` [n] are integers; ``parts`` maps a kind of part, such as domain, to its parts' rows [n, bool].
    """
    checks = [_overall(difference, groups, gate)]
    level = PARTS_LEVEL / max(1, len(parts))
    for kind, rows_by_name in parts.items():
        chances = holm([sign_flip(difference[rows], groups[rows]) for rows in rows_by_name.values()])
        for (name, rows), chance in zip(rows_by_name.items(), chances, strict=True):
            paired = _Paired.of(difference[rows], groups[rows])
            checks.append(_part(f"{kind}/{name}", paired, chance, level, gate))
    return checks


@dataclass(frozen=True)
class _Paired:
    """What the difference over some images amounts to."""

    n: int
    value: float
    ci95: Interval
    low: float  # one-sided 95 % bound: the lower end of the 90 % interval
    right: int
    wrong: int

    @classmethod
    def of(cls, difference: np.ndarray, groups: np.ndarray) -> "_Paired":
        ci95, ci90 = paired_intervals(difference, groups, levels=(0.95, 0.9))
        right, wrong = int((difference > 0).sum()), int((difference < 0).sum())
        return cls(len(difference), float(difference.mean()), ci95, ci90[0], right, wrong)

    def check(
        self, name: str, outcome: Outcome, flip: str | None, gate: Gate, *, decides: bool = True
    ) -> Check:
        return Check(
            name,
            outcome,
            round(self.value, 6),
            [round(end, 6) for end in self.ci95],
            -gate.noninferiority_margin,
            self.n,
            flip,
            kind="comparison",
            decides=decides,
            detail=f"{self.right} newly right, {self.wrong} newly wrong",
        )


def _overall(difference: np.ndarray, groups: np.ndarray, gate: Gate) -> Check:
    paired, margin, name = _Paired.of(difference, groups), gate.noninferiority_margin, "noninferiority"
    n, value, low = paired.n, paired.value, paired.low
    if n < gate.min_support or len(np.unique(groups)) < FEWEST_GROUPS:
        few = f"needs {images(max(gate.min_support - n, 1))}, of {FEWEST_GROUPS} groups at the least"
        return paired.check(name, "unknown", few, gate)
    if low >= -margin:
        spare = math.floor((low + margin) * n) + 1
        return paired.check(name, "pass", f"about {spare} more newly wrong of {n}", gate)
    lacking = f"about {max(1, math.ceil((-margin - low) * n))} more newly right of {n}"
    if value < -margin and sign_flip(difference, groups) < OVERALL_LEVEL:
        return paired.check(name, "fail", lacking, gate)
    if value > -margin:  # the bound comes nearer with the square root of the images
        more = math.ceil(n * (((value - low) / (value + margin)) ** 2 - 1))
        lacking += f", or about {images(more)} if both go on like this"
    return paired.check(name, "unknown", lacking, gate)


def _part(name: str, paired: _Paired, chance: float, level: float, gate: Gate) -> Check:
    n, margin = paired.n, gate.noninferiority_margin
    beyond = paired.value < -margin
    outcome: Outcome = "pass" if paired.low >= -margin else "unknown"
    if beyond and chance < level and n >= gate.min_support:
        outcome = "fail"
    flip = f"about {math.floor((paired.low + margin) * n) + 1} more newly wrong of {n}"
    if beyond:
        flip = f"{max(1, math.ceil((-margin - paired.value) * n - 1e-9))} more newly right of {n}"
    elif outcome == "unknown":
        flip = f"about {math.ceil((-margin - paired.low) * n)} more newly right of {n}"
    if outcome == "unknown" and n < gate.min_support:
        flip = f"{name} needs {images(gate.min_support - n)} for a decision"
    return paired.check(f"noninferiority/{name}", outcome, flip, gate, decides=beyond and chance < LIKELY)
