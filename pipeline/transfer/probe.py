"""The linear probe: one linear layer on frozen, standardised features, its strength by cross-validation.

The layer is a logistic regression, or, where that would take too long, a ridge regression whose scores are
scaled to be logits. The folds keep groups together and classes in proportion. The standardisation is folded
into the head afterwards, so that what ships is one linear layer on raw features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pipeline.errors import DataError
from pipeline.metrics import SMALLEST
from pipeline.transfer.calibration import fit_temperature, log_losses
from pipeline.transfer.examples import Examples, standardise
from pipeline.transfer.logistic import DEFAULT_STRENGTH, STRENGTHS, logistic_path
from pipeline.transfer.ridge import DEFAULT_PENALTY, PENALTIES, ridge_path
from pipeline.transfer.stratify import stratified_folds

__all__ = ["Head", "HeldOut", "Kind", "fit_probe", "head_kind", "held_out"]

Kind = Literal["logistic", "ridge"]

FOLDS = 5
MOST_IN_SEARCH = 5_000  # images; the search for the strength sees a sample of a larger set
MOST_FOR_LOGISTIC = 300_000_000  # views x images x width x classes: some 20 s on one core, see head_kind

SOLVERS = {
    "logistic": (logistic_path, STRENGTHS, DEFAULT_STRENGTH),
    "ridge": (ridge_path, PENALTIES, DEFAULT_PENALTY),
}


@dataclass(frozen=True)
class Head:
    """Logits = features @ weight.T + bias."""

    weight: np.ndarray  # [classes, width] float32
    bias: np.ndarray  # [classes] float32
    strength: float  # C of a logistic head, the penalty of a ridge head
    folds: int  # behind the choice of the strength; 0 where the classes are too small
    search: dict[str, float]  # strength → mean held-out log loss over the folds
    kind: Kind = "logistic"
    prior: bool = False  # whether the penalty pulled towards the examples' prior

    def logits(self, features: np.ndarray) -> np.ndarray:
        """[n, classes] float32."""
        return (features @ self.weight.T + self.bias).astype(np.float32)


@dataclass(frozen=True)
class HeldOut:
    """What heads say of images that they were not fitted to, for each of the kind's strengths."""

    strengths: Sequence[float]
    rows: np.ndarray  # [m] images that a fold held out
    logits: np.ndarray  # [strengths, m, classes], without the log prior, as a head ships
    losses: np.ndarray  # [strengths] mean log loss as the plan weighs it, in nats
    temperatures: np.ndarray  # [strengths] that scores were divided by; 1 where they were logits already
    folds: int

    @property
    def best(self) -> int:
        """The position of the strength with the lowest loss."""
        return int(np.argmin(self.losses))


def head_kind(examples: Examples, asked: Literal["auto", "logistic", "ridge"] = "auto") -> Kind:
    """``asked``, or for auto logistic where there is a prior, and where the product views x images x width x classes is within its bound.

    The whole probe of 5,000 photographs in 2 views with 1,280 features and 20 classes (a product of 2.6e8) took
    a logistic head 14 s of one core, a ridge head 4 s.
    """
    if asked != "auto":
        return asked
    if examples.prior is not None:
        return "logistic"
    return "logistic" if examples.features.size * examples.classes <= MOST_FOR_LOGISTIC else "ridge"


def fit_probe(
    examples: Examples,
    classes: Sequence[str],
    *,
    groups: Sequence[str],
    seed: int,
    head: Literal["auto", "logistic", "ridge"] = "auto",
) -> Head:
    """The best head for ``examples`` of ``classes``.

    Args:
        groups: [n]; images of one group are never on both sides of a fold.
        head: ``train.head`` of params.yaml.

    Raises:
        DataError: fewer than two classes, or no more images than classes.
    """
    count, images = len(classes), len(examples.labels)
    if count < 2:
        raise DataError(
            f"the training images are all of one class ({', '.join(classes)}): there is nothing to tell apart"
        )
    if images <= count:
        raise DataError(f"{images} training images for {count} classes: collect at least two a class")
    from threadpoolctl import threadpool_limits

    kind = head_kind(examples, head)
    if kind == "ridge":  # its targets have no place for a prior
        examples = replace(examples, prior=None)
    strength, temperature, search, folds = SOLVERS[kind][2], None, {}, 0
    # Thousands of small products: on a busy machine, threads that wait for each other cost ten times the work.
    with threadpool_limits(1):
        found = held_out(examples, groups, kind, seed)
        if found is not None and examples.prior is not None:
            alone = replace(examples, prior=None)
            other = held_out(alone, groups, kind, seed)
            if other is not None and other.losses.min() < found.losses.min():
                examples, found = alone, other
        if found is not None:
            search = {
                f"{c:g}": round(float(loss), 6) for c, loss in zip(found.strengths, found.losses, strict=True)
            }
            strength, folds = found.strengths[found.best], found.folds
            temperature = float(found.temperatures[found.best])
        weight, bias = _fit(examples, np.arange(images), kind, [strength], np.float64)[0]
    if kind == "ridge":
        if (
            temperature is None
        ):  # from the fitted images, for want of others: too sure, until the bundle calibrates
            scores = examples.features[0] @ weight.T + bias
            temperature = _temperature(scores, examples.labels, examples.weights)
        weight, bias = weight / temperature, bias / temperature - examples.log_prior
    return Head(
        weight.astype(np.float32),
        bias.astype(np.float32),
        strength,
        folds,
        search,
        kind,
        examples.prior is not None,
    )


def held_out(
    examples: Examples,
    groups: Sequence[str],
    kind: Kind,
    seed: int,
    *,
    strengths: Sequence[float] | None = None,
    most: int | None = MOST_IN_SEARCH,
) -> HeldOut | None:
    """Cross-validate heads on the plain view; None where a class has only one group.

    The further views would cost their number in time and hardly move the choice; products are float32.

    Args:
        groups: [n]; images of one group are never on both sides of a fold.
        strengths: all of the kind's, where None.
        most: images; of a larger set a sample of so many is seen.
    """
    pairs = stratified_folds(examples.labels, groups, FOLDS, most=most, seed=seed)
    if not pairs:
        return None
    plain, strengths = examples.plain, strengths or SOLVERS[kind][1]
    rows = np.concatenate([held for _, held in pairs])
    fold = np.repeat(np.arange(len(pairs)), [len(held) for _, held in pairs])
    scores = np.zeros((len(strengths), len(rows), examples.classes))
    for number, (fitted, held) in enumerate(pairs):
        heads = _fit(plain, fitted, kind, strengths, np.float32)
        for place, (weight, bias) in enumerate(heads):
            scores[place, fold == number] = plain.features[0, held] @ weight.T + bias
    # A logistic head answers without the prior that was added in its loss, a ridge head with it.
    with_prior = scores + (examples.log_prior if kind == "logistic" else 0.0)
    labels, weights = examples.labels[rows], examples.weights[rows]
    temperatures = np.ones(len(strengths))
    if kind == "ridge":
        temperatures = np.array([_temperature(one, labels, weights) for one in with_prior])
    scaled = with_prior / temperatures[:, None, None]
    # One image that looks like none of the others must not decide alone (see metrics.SMALLEST).
    losses = np.minimum([log_losses(one, labels) for one in scaled], -np.log(SMALLEST))
    by_fold = [
        np.average(losses[:, fold == n], axis=1, weights=weights[fold == n]) for n in range(len(pairs))
    ]
    return HeldOut(
        strengths, rows, scaled - examples.log_prior, np.mean(by_fold, axis=0), temperatures, len(pairs)
    )


def _fit(
    examples: Examples, rows: np.ndarray, kind: Kind, strengths: Sequence[float], dtype: type
) -> list[tuple[np.ndarray, np.ndarray]]:
    """One (weight, bias) on raw features for each strength, from one standardisation of the named rows."""
    raw, labels, weights = examples.rows(rows)
    standard = standardise(raw, dtype)
    if examples.prior is None:
        heads = SOLVERS[kind][0](standard.values, labels, weights, examples.log_prior, strengths)
        return [standard.fold(weight, bias) for weight, bias in heads]
    start = raw @ examples.prior.T + examples.log_prior  # what is fitted is the difference to the prior
    folded = [
        standard.fold(*head) for head in SOLVERS[kind][0](standard.values, labels, weights, start, strengths)
    ]
    return [(weight + examples.prior, bias) for weight, bias in folded]


def _temperature(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """What to divide one-hot regression's ``scores`` [n, classes] by to make them logits.

    The temperature is fitted in units of their typical error, so that its prior and bounds are of logits' size;
    scores far outside of 0..1, of an image that looks like none of the others, are cut off.
    """
    scores = np.clip(scores, -1, 2)
    error = scores - np.eye(scores.shape[1])[labels]
    unit = max(float(np.sqrt(np.average((error**2).mean(axis=1), weights=weights))), 1e-6)
    return unit * fit_temperature(scores / unit, labels, weights)
