"""What a verdict is made of, and the checks that look at the challenger alone.

A check passes, fails, or is unknown. A failed one rejects. An unknown one that ``decides`` holds the challenger
back until a person or more images decide; one that does not is shown and no more: too few images, and
what they say is not against it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pipeline.intervals import binomial_below, codes, effective_size, holm, intraclass, proportion
from pipeline.metrics import label_codes
from pipeline.params import Gate

Outcome = Literal["pass", "fail", "unknown"]
Kind = Literal["integrity", "evidence", "absolute", "slice", "comparison", "robustness", "performance"]
# Checks, by the first part of their name, whose bound is an upper one.
AT_MOST = {
    "ece", "nll", "gap", "size", "memory", "cold_start", "latency", "slowdown", "peeks", "relabelled", "classes", "lineage",
    "architecture", "integrity_data", "integrity_parity", "integrity_drop_int8", "integrity_calibration", "integrity_lineage",
    "integrity_leak", "integrity_test_images",
}  # fmt: skip
FEWEST_GROUPS = 5  # independent groups under which a test set says nothing, however many images it has
ABSOLUTE_LEVEL = (
    0.02  # chance of rejecting for accuracy, macro-F1, ECE or NLL, where each truly meets its bound
)
CLASS_LEVEL = 0.05  # chance of rejecting for any class, where every class truly meets the bound
SLICE_LEVEL = 0.02  # and for any slice
# What support counts where that is no images, by the check's name or kind.
UNITS = {
    "performance": "measurements",
    "classes": "classes",
    "architecture": "arguments",
    "integrity_data": "expectations",
}


@dataclass(frozen=True)
class Check:
    """One line of the verdict; ``value`` is held against ``bound``, over ``support`` images (or what UNITS names)."""

    name: str
    outcome: Outcome
    value: float | None = None
    ci95: list[float] | None = None
    bound: float | None = None
    support: int | None = None
    would_flip: str | None = None
    kind: Kind = "absolute"
    decides: bool = True
    detail: str = ""


def images(more: int) -> str:
    """``more`` test images, in words."""
    return f"{more:,} more test image{'' if more == 1 else 's'}"


def integrity(
    name: str,
    fault: str | None,
    fine: str,
    mend: str,
    value: float | None = None,
    bound: float | None = None,
    support: int | None = None,
    ci95: list[float] | None = None,
) -> Check:
    """A check that nobody may override: ``fault`` says what does not match, ``mend`` what to run."""
    if value is not None and not math.isfinite(value):
        value = None  # which ``fault`` tells
    room = (
        f"{abs(bound - value):.2g} {'more' if f'integrity_{name}' in AT_MOST else 'less'}"
        if value and bound
        else ""
    )
    return Check(
        f"integrity_{name}",
        "fail" if fault else "pass",
        value,
        ci95,
        bound if value is not None else None,
        support,
        mend if fault else room or "any difference",
        kind="integrity",
        detail=fault or fine,
    )


def absolute(test: pa.Table, metrics: dict[str, Any], classes: Sequence[str], gate: Gate) -> list[Check]:
    """Accuracy, macro-F1, ECE, NLL and the recall of every class against their bounds.

    A bound is the least that is wanted, and whoever set it reads it so: beyond it nothing is promoted. It is
    rejected where that is proven, at a level that the four share (Bonferroni), and otherwise left to a person: one
    as good as the champion, not far from a bound, would be beyond it by chance too often. Recall is judged in
    :func:`recalls`.
    """
    n, groups = metrics["n"], metrics["groups"]
    short = _too_few(n, groups, gate.min_support)
    hits = round(metrics["accuracy"] * n)
    wanted = math.ceil(gate.min_accuracy * n - 1e-9)
    flips = {
        "accuracy": f"{wanted - hits} more correct of {n}"
        if hits < wanted
        else f"{hits - wanted + 1} more wrong of {n}",
        "macro_f1": _flip_f1(test, classes, gate.min_macro_f1, metrics["macro_f1"]),
        "ece": f"an ECE {abs(metrics['ece'] - gate.max_ece):.3f} "
        + ("lower" if metrics["ece"] > gate.max_ece else "higher"),
        "nll": f"an NLL {abs(metrics['nll'] - gate.max_nll):.3f} "
        + ("lower" if metrics["nll"] > gate.max_nll else "higher"),
    }
    bounds = {"accuracy": gate.min_accuracy, "macro_f1": gate.min_macro_f1}
    bounds |= {"ece": gate.max_ece, "nll": gate.max_nll}
    checks = []
    for name, bound in bounds.items():
        value = metrics[name]
        met = value <= bound if name in AT_MOST else value >= bound
        ends = metrics[f"{name}_ci95"]
        proven = not met and ends is not None and _proven(value, ends[0 if name in AT_MOST else 1], bound)
        outcome: Outcome = "unknown" if short else "pass" if met else "fail" if proven else "unknown"
        checks.append(Check(name, outcome, value, ends, bound, n, short or flips[name]))
    return checks + recalls(test, classes, gate)


def _proven(value: float, end: float, bound: float) -> bool:
    """Whether ``bound`` lies outside of the interval whose 95 % ``end`` is this, at the level of each of the four."""
    normal = NormalDist()
    wider = normal.inv_cdf(1 - ABSOLUTE_LEVEL / 4) / normal.inv_cdf(0.975)
    return abs(bound - value) > wider * abs(end - value)


def recalls(test: pa.Table, classes: Sequence[str], gate: Gate) -> list[Check]:
    """The recall of each class, the worst first.

    Below the bound nothing is promoted. It is rejected where the class has ``min_support`` images and its
    recall is significantly below (exact binomial on the effective sample size, Holm over the classes): with
    twenty classes some lie below their true recall by chance. A class of fewer images is unknown; it
    holds the challenger back only where what is there is below the bound.
    """
    labels = label_codes(test["label"], classes)
    correct = test["correct"].to_numpy(zero_copy_only=False)
    groups = codes(test["group"].to_pylist())
    parts = {f"recall/{name}": labels == index for index, name in enumerate(classes)}
    checks = shares(parts, correct, groups, gate.min_class_recall, CLASS_LEVEL, gate.min_support)
    return sorted(checks, key=lambda check: (check.value is not None, check.value or 0))


def shares(
    parts: dict[str, np.ndarray],
    correct: np.ndarray,
    groups: np.ndarray,
    bound: float,
    level: float,
    least: int,
) -> list[Check]:
    """The share of ``correct`` [n] in each part (check's name → rows [n, bool]) against one bound.

    Args:
        groups: [n] integers.
        level: chance of rejecting for any part, where every part truly meets the bound.
        least: images under which a part is not decided.
    """
    correlation = intraclass(correct.astype(float), groups)
    chances = []
    for rows in parts.values():
        worth = effective_size(groups[rows], correlation)
        chances.append(binomial_below((correct[rows].mean() if rows.any() else 0.0) * worth, worth, bound))
    checks = []
    for (name, rows), chance in zip(parts.items(), holm(chances), strict=True):
        n = int(rows.sum())
        share = round(float(correct[rows].mean()), 6) if n else None
        below, few = share is None or share < bound, n < least
        outcome: Outcome = "unknown" if few or below else "pass"
        if below and not few and chance < level:
            outcome = "fail"
        ends = [round(end, 6) for end in proportion(correct[rows], groups[rows], correlation)]
        flip = _flip_share(name, n, share, bound, least)
        kind: Kind = "slice" if name.startswith("slice/") else "absolute"
        checks.append(
            Check(name, outcome, share, ends if n else None, bound, n, flip, kind=kind, decides=below)
        )
    return checks


def _too_few(n: int, groups: int, least: int) -> str | None:
    if n < least:
        return f"needs {images(least - n)} for a decision"
    if groups < FEWEST_GROUPS:
        return f"needs test images of {FEWEST_GROUPS - groups} more groups for a decision, there are {groups}"
    return None


def _flip_share(name: str, n: int, share: float | None, bound: float, least: int) -> str:
    if n < least:
        kind, _, part = name.partition("/")
        return f"{kind} of `{part}` needs {images(least - n)} for a decision"
    hits, wanted = round((share or 0) * n), math.ceil(bound * n - 1e-9)
    return (
        f"{wanted - hits} more correct of {n}" if hits < wanted else f"{hits - wanted + 1} more wrong of {n}"
    )


def _flip_f1(test: pa.Table, classes: Sequence[str], bound: float, value: float) -> str:
    """How many wrong images would have to be right, those of the worst class first."""
    if value >= bound:
        return f"a macro-F1 {value - bound + 10**-3:.3f} lower"
    labels, predicted = (label_codes(test[name], classes) for name in ("label", "predicted"))
    confusion = np.zeros((len(classes), len(classes)))
    np.add.at(confusion, (labels, predicted), 1)
    present = confusion.sum(axis=1) > 0
    for count in range(1, len(labels) + 1):
        totals = np.maximum(confusion.sum(axis=0) + confusion.sum(axis=1), 1)
        f1 = 2 * np.diag(confusion) / totals
        wrong = confusion.sum(axis=1) - np.diag(confusion)
        worst = int(np.argmin(np.where(wrong > 0, f1, np.inf)))
        taken = int(np.argmax(np.where(np.arange(len(classes)) == worst, -1, confusion[worst])))
        confusion[worst, taken] -= 1
        confusion[worst, worst] += 1
        totals = np.maximum(confusion.sum(axis=0) + confusion.sum(axis=1), 1)
        if (2 * np.diag(confusion) / totals)[present].mean() >= bound:
            return f"about {count} more correct of {len(labels)}, in the worst classes"
    return f"a macro-F1 {bound - value:.3f} higher"
