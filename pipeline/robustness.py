"""What a verdict makes of the stress table: no more fragile than the champion, and does it abstain on nonsense?

Corruptions (Hendrycks and Dietterich 2019): per image the share of the corrupted versions that are named
right; challenger less champion on the same images, by group. Over all of them and for each corruption a loss
beyond ``gate.robustness_margin`` that is proven rejects, one that is likely holds back. Without a champion there
is nothing to hold the figures against, so they are shown. Intervals are the score intervals of
proportions and of paired differences, over all versions of a group's images for what they are worth together, with
Student's quantile for few groups. A bootstrap holds the truth too seldom where most images don't differ at all.

Abstention: on noise and on drawn pictures the service should abstain. Where ``serve.abstain_below`` is 0 it never
does; the check then says which threshold would.
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.checks import Check, Outcome
from pipeline.corruptions import CORRUPTIONS, SEVERITIES
from pipeline.intervals import Interval, effective_size, holm, intraclass, standard_error, wilson
from pipeline.paired import tango
from pipeline.params import Gate

__all__ = ["abstention_checks", "difference_interval", "robustness_checks", "share_interval"]

OVERALL_LEVEL = 0.01  # chance of rejecting a challenger that is as robust as the champion, over the mean
PARTS_LEVEL = 0.01  # and over the corruptions, with Holm's correction
LIKELY = 0.1  # adjusted p-value under which a loss holds the challenger back

Scores = dict[
    str, np.ndarray
]  # clean, or a corruption → [n, versions] 1 where it is named right, of the same images


def robustness_checks(
    table: pa.Table, challenger: str, champion: str | None, groups: dict[str, str], gate: Gate
) -> list[Check]:
    """Mean, worst and each corruption.

    Args:
        table: of the STRESS schema.
        groups: image_id → group, of the images that the comparison is over (those of classes both know).
    """
    ids = sorted(
        set(table.filter(pc.equal(table["kind"], "corruption"))["image_id"].to_pylist()) & groups.keys()
    )
    if len(ids) < gate.min_support:
        return [
            Check(
                "robustness", "unknown", support=len(ids), kind="robustness", decides=False,
                would_flip=f"needs {gate.min_support - len(ids)} more test images under corruption "
                "(evaluate.stress_images), for a decision",
            )
        ]  # fmt: skip
    members = [groups[image_id] for image_id in ids]
    ours = _scores(table, challenger, ids)
    if champion is None:
        return _alone(ours, np.asarray(members))
    theirs = _scores(table, champion, ids)
    return _beside(ours, theirs, np.asarray(members), gate)


def _scores(table: pa.Table, digest: str, ids: Sequence[str]) -> Scores:
    """Which versions of the images are named right, by corruption; a version that was not asked about is not."""
    mine = table.filter(pc.and_(pc.equal(table["bundle"], digest), pc.equal(table["kind"], "corruption")))
    place = {image_id: row for row, image_id in enumerate(ids)}
    names, severities = (np.array(mine[name].to_pylist(), dtype=object) for name in ("name", "severity"))
    rows = np.array([place.get(image_id, -1) for image_id in mine["image_id"].to_pylist()], dtype=np.int64)
    correct = mine["correct"].to_numpy(zero_copy_only=False).astype(float)
    found: Scores = {}
    for name in ("clean", *CORRUPTIONS):
        versions = (0,) if name == "clean" else SEVERITIES
        found[name] = np.zeros((len(ids), len(versions)))
        for column, severity in enumerate(versions):
            chosen = (names == name) & (severities == severity) & (rows >= 0)
            found[name][rows[chosen], column] = correct[chosen]
    return found


def _all(scores: Scores) -> np.ndarray:
    return np.concatenate([scores[name] for name in CORRUPTIONS], axis=1)


def _alone(scores: Scores, groups: np.ndarray) -> list[Check]:
    clean = float(scores["clean"].mean())
    worst = min(CORRUPTIONS, key=lambda name: float(scores[name].mean()))
    told = {
        "robustness": (_all(scores), f"{clean:.3f} on the same images as they are"),
        "robustness_worst": (scores[worst], f"under {worst}"),
    }
    return [
        Check(
            name, "pass", round(float(values.mean()), 6), _rounded(share_interval(values, groups)),
            support=len(values), would_flip="a champion to compare with", kind="robustness",
            detail=f"{detail}; nobody to compare with yet, so it is shown and not judged",
        )
        for name, (values, detail) in told.items()
    ]  # fmt: skip


def _beside(ours: Scores, theirs: Scores, groups: np.ndarray, gate: Gate) -> list[Check]:
    differences = {name: ours[name] - theirs[name] for name in CORRUPTIONS}
    margin = gate.robustness_margin
    mean = _all(ours) - _all(theirs)
    detail = f"{_all(ours).mean():.3f}, the champion {_all(theirs).mean():.3f}"
    checks = [_check("robustness", mean, groups, _chance(mean, groups, margin), OVERALL_LEVEL, gate, detail)]
    chances = holm([_chance(values, groups, margin) for values in differences.values()])
    worst = min(CORRUPTIONS, key=lambda name: float(ours[name].mean()))
    for (name, values), chance in zip(differences.items(), chances, strict=True):
        detail = f"{ours[name].mean():.3f}, the champion {theirs[name].mean():.3f}" + (
            ", the worst" if name == worst else ""
        )
        checks.append(_check(f"robustness/{name}", values, groups, chance, PARTS_LEVEL, gate, detail))
    return checks


def _chance(values: np.ndarray, groups: np.ndarray, margin: float) -> float:
    """One-sided p-value of "the mean of ``values`` [n, versions] is at least -margin": normal, with the error by group."""
    error = standard_error(values.mean(axis=1), groups)
    excess = float(values.mean()) + margin
    if error == 0:
        return 0.0 if excess < -1e-12 else 1.0
    return float(NormalDist().cdf(excess / error))


def _check(
    name: str, values: np.ndarray, groups: np.ndarray, chance: float, level: float, gate: Gate, detail: str
) -> Check:
    value, margin = float(values.mean()), gate.robustness_margin
    beyond = value < -margin
    outcome: Outcome = "pass"
    if beyond:
        outcome = "fail" if chance < level else "unknown"
    room = abs(value + margin)
    flip = f"corrupted images named right {room:.3f} " + ("more often" if beyond else "less often")
    return Check(
        name, outcome, round(value, 6), _rounded(difference_interval(values, groups)), -margin, len(values), flip,
        kind="robustness", decides=beyond and chance < LIKELY, detail=detail,
    )  # fmt: skip


def share_interval(values: np.ndarray, groups: np.ndarray) -> Interval | None:
    """95 % interval of the mean of ``values`` [n, versions, of 0 and 1]; None where all are of one group [n]."""
    worth = _worth(values, groups)
    return None if worth is None else wilson(float(values.mean()) * worth[0], *worth)


def difference_interval(values: np.ndarray, groups: np.ndarray) -> Interval | None:
    """The same of ``values`` of -1, 0 and 1: challenger less champion."""
    worth = _worth(values, groups)
    if worth is None:
        return None
    wins, losses = (worth[0] * float((sign * values > 0).mean()) for sign in (1, -1))
    return tango(wins, losses, *worth)


def _worth(values: np.ndarray, groups: np.ndarray) -> tuple[float, float] | None:
    """Independent versions that ``values`` are worth, and the quantile for so many groups."""
    from scipy.special import stdtrit  # half a second to import, and only the gate asks

    members = np.repeat(np.unique(groups, return_inverse=True)[1], values.shape[1])
    count = int(members.max()) + 1
    if count < 2:
        return None
    flat = values.ravel()
    return effective_size(members, intraclass(flat, members)), float(stdtrit(count - 1, 0.975))


def _rounded(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [round(end, 6) for end in interval]


def abstention_checks(
    table: pa.Table, challenger: str, confidence: np.ndarray, below: float, gate: Gate
) -> list[Check]:
    """Share of the noise and of the foreign pictures that the service would abstain on.

    Args:
        confidence: [n] of the test images as they are: what the threshold costs there.
        below: ``serve.abstain_below``.
    """
    mine = table.filter(pc.and_(pc.equal(table["bundle"], challenger), pc.equal(table["kind"], "foreign")))
    names = np.array(mine["name"].to_pylist(), dtype=object)
    foreign = mine["confidence"].to_numpy(zero_copy_only=False)
    checks = []
    for name in sorted(set(names)):
        values = foreign[names == name]
        checks.append(_abstains(name, values, confidence, below, gate))
    return checks


def _abstains(name: str, values: np.ndarray, confidence: np.ndarray, below: float, gate: Gate) -> Check:
    n, hits = len(values), int((values < below).sum())
    share, bound = hits / n, gate.min_abstention
    low, high = wilson(hits, n)
    middle = float(np.quantile(values, bound))
    cost = float((confidence < middle).mean())
    suggestion = f"serve.abstain_below {middle:.3f} abstains on {bound:.0%} of them, and on {cost:.1%} of the test images"
    outcome: Outcome = "pass" if share >= bound else "fail" if high < bound else "unknown"
    decides = True
    if below == 0:
        outcome, decides = "unknown", False
    detail = "serve.abstain_below is 0: it answers whatever it is shown" if below == 0 else (
        f"with serve.abstain_below {below:g}, which abstains on {float((confidence < below).mean()):.1%} of the test images"
    )  # fmt: skip
    flip = suggestion if share < bound else f"{hits - int(np.ceil(bound * n)) + 1} of {n} more answered"
    return Check(
        f"abstention/{name}", outcome, round(share, 6), [round(low, 6), round(high, 6)], bound, n, flip,
        kind="robustness", decides=decides, detail=detail,
    )  # fmt: skip
