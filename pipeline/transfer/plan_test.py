"""Which way to treat rare classes helps here: the plans tested against each other on held-out folds.

The balance stage chooses by counts alone. Where it was free to choose (``balance.plan: auto``, at or above
``balance.imbalance_ratio``), the probe is cross-validated under each plan on the cached features, and judged
as if all classes were equally frequent: by the mean over classes of the log loss, and by balanced accuracy.
The balance stage's plan stays unless another one is better by more than the noise of the difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.balance import effective_number_weights
from pipeline.intervals import codes, standard_error
from pipeline.metrics import SMALLEST
from pipeline.transfer.calibration import log_losses
from pipeline.transfer.examples import Examples
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.linear import stored_features, training_examples
from pipeline.transfer.probe import HeldOut, Kind, head_kind, held_out
from pipeline.transfer.task import Task

__all__ = ["Outcome", "compare_plans", "other_plan", "settle_plan"]

PLANS = ("none", "class_weights", "logit_adjustment")
SAMPLER = "the same as class_weights: a head that is fitted in one go draws nothing"


@dataclass(frozen=True)
class Outcome:
    """The plan to train by, what each plan gave, and a sentence about it."""

    plan: Plan
    figures: dict[str, Any]  # for checkpoint.json
    report: str


@dataclass(frozen=True)
class _Judged:
    """What held-out images say of one plan."""

    losses: np.ndarray  # [m] nats
    hits: np.ndarray  # [m] 1 where right
    strength: float


def settle_plan(task: Task, balance: dict[str, Any]) -> Outcome | None:
    """Test the plan in ``balance`` (artifacts/balance.json) against the others; None where it is not contested."""
    if not balance.get("contested", False):
        return None
    data = task.data
    labels, domains = data.labels[: data.trained], data.domains[: data.trained]
    others = [
        other_plan(name, labels, data.classes).by_domain(domains, task.train.domain_balance)
        for name in PLANS
        if name != task.plan.name
    ]
    examples = training_examples(task, *stored_features(task))
    kind = head_kind(examples, task.train.head)
    return compare_plans(examples, [task.plan, *others], data.groups[: data.trained], kind, task.seed)


def other_plan(name: str, labels: np.ndarray, classes: Sequence[str]) -> Plan:
    """A plan that the balance stage did not choose, for training ``labels`` [n], codes of ``classes``."""
    counts = {label: int((labels == code).sum()) for code, label in enumerate(classes)}
    weights = {label: {"weight": weight} for label, weight in effective_number_weights(counts).items()}
    return Plan.of({"plan": name, "classes": weights}, labels, classes)


def compare_plans(
    examples: Examples, plans: Sequence[Plan], groups: Sequence[str], kind: Kind, seed: int
) -> Outcome:
    """The first of ``plans``, or the best of those that are better than it by more than one standard error.

    Better means a lower mean over classes of the log loss, by more than the standard error of the paired
    difference over ``groups`` [n], and no lower balanced accuracy. Each plan's head has the strength that
    the plan's own loss chooses, as it would have in training.
    """
    from threadpoolctl import threadpool_limits

    first = plans[0]
    with threadpool_limits(1):
        found = {
            plan.name: held_out(
                replace(examples, weights=plan.probe_weights, log_prior=plan.log_prior), groups, kind, seed
            )
            for plan in plans
        }
    reference = found[first.name]
    if reference is None:
        reason = "a class has one group only, so nothing can be held out"
        return Outcome(
            first,
            {"kept": first.name, "plans": {}, "reason": reason},
            f"The plans were not tested: {reason}.",
        )
    rows = reference.rows
    labels = examples.labels[rows]
    judged = {name: _judge(one, labels) for name, one in found.items() if one is not None}
    own = judged[first.name]
    shares = 1 / (examples.classes * np.bincount(labels, minlength=examples.classes)[labels])
    grouped = codes([groups[row] for row in rows])
    table: dict[str, dict[str, float]] = {}
    for name, one in judged.items():
        difference = own.losses - one.losses
        table[name] = {
            "log_loss": round(float(shares @ one.losses), 6),
            "balanced_accuracy": round(float(shares @ one.hits), 6),
            "gain": round(float(shares @ difference), 6),
            "standard_error": round(standard_error(difference, grouped, labels), 6),
            "strength": one.strength,
        }
    kept = _best(table, first.name)
    figures = {
        "balance_stage": first.name,
        "kept": kept,
        "images": len(rows),
        "folds": reference.folds,
        "head": kind,
        "plans": table,
        "sampler": SAMPLER,
    }
    return Outcome(next(plan for plan in plans if plan.name == kept), figures, _sentence(figures))


def _judge(found: HeldOut, labels: np.ndarray) -> _Judged:
    logits = found.logits[found.best]
    losses = np.minimum(log_losses(logits, labels), -np.log(SMALLEST))
    return _Judged(losses, (logits.argmax(axis=1) == labels).astype(float), found.strengths[found.best])


def _best(table: dict[str, dict[str, float]], first: str) -> str:
    least = table[first]["balanced_accuracy"]
    better = [
        name
        for name, row in table.items()
        if row["gain"] > row["standard_error"] and row["balanced_accuracy"] >= least and name != first
    ]
    return max(better, key=lambda name: table[name]["gain"], default=first)


def _sentence(figures: dict[str, Any]) -> str:
    table, first, kept = figures["plans"], figures["balance_stage"], figures["kept"]
    each = ", ".join(
        f"{name} {row['log_loss']:.3f} (balanced accuracy {row['balanced_accuracy']:.3f})"
        for name, row in table.items()
    )
    tested = (
        f"Sampling plans, by {figures['folds']}-fold cross-validation of the probe on {figures['images']} training "
        f"images, log loss averaged over classes: {each}; sampler: {SAMPLER}."
    )
    if kept != first:
        row = table[kept]
        return (
            f"{tested} {kept} is kept instead of the balance stage's {first}: better by {row['gain']:.3f} with a "
            f"standard error of {row['standard_error']:.3f}."
        )
    return (
        f"{tested} The balance stage's {first} is kept: no other is better by more than one standard error."
    )
