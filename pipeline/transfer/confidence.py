"""How sure the network may say it is: temperature or vector scaling, fitted to validation images only.

What calibration brought is measured on images that it was not fitted to, by folds within validation that keep
groups together: with two parameters a class, fitted images would flatter it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pipeline.intervals import codes, standard_error
from pipeline.metrics import measure, reliability
from pipeline.transfer.calibration import fit_temperature, log_losses
from pipeline.transfer.vector_scaling import VectorScaling, fit_vector

__all__ = ["RESAMPLES", "Calibration", "calibrate", "prediction_table"]

Method = Literal["auto", "temperature", "vector"]
FOLDS = 5
RESAMPLES = 2000  # behind each interval

Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]


@dataclass(frozen=True)
class Calibration:
    """What to do with the logits, and what it does to the validation images."""

    temperature: float  # to divide logits by; 1 where ``vector`` does it all
    vector: VectorScaling | None
    validation: dict[str, Any]  # for bundle.json
    reliability: list[dict[str, Any]]  # a point per bin, ``when`` it was: before | after

    @property
    def report(self) -> str:
        """A sentence."""
        before, after = self.validation["before"], self.validation["after"]
        judged = (
            "in folds that it was not fitted to" if self.validation["cross_fitted"] else "on the same images"
        )
        way = "vector scaling" if self.vector else f"temperature {self.temperature:.3f}"
        why = self.validation["why"]
        return (
            f"Calibration on {self.validation['n']} validation images: {way} ({why}) takes ECE from "
            f"{_with_interval(before, 'ece')} to {_with_interval(after, 'ece')} and NLL from "
            f"{_with_interval(before, 'nll')} to {_with_interval(after, 'nll')}, {judged}."
        )


def calibrate(
    logits: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    classes: Sequence[str],
    method: Method,
    seed: int,
) -> Calibration:
    """Fit ``bundle.calibration`` to validation ``logits`` [n, classes] of ``labels`` [n] (codes).

    auto takes vector scaling where its log loss, in folds that it was not fitted to, is lower than the
    temperature's by more than one standard error of the paired difference over ``groups`` [n], and neither its accuracy
    nor its mean recall there is lower. Where all images are of one group nothing can be held out: "after" is then of the fitted
    images, its ``cross_fitted`` false.
    """
    grouped = codes(list(groups))
    folds = _folds(grouped, seed)
    crossed = {name: _cross_fitted(fit, logits, labels, folds) for name, fit in FITS.items()}
    chosen, why, comparison = _choose(crossed, labels, grouped, method, folded=bool(folds))
    temperature = fit_temperature(logits, labels)
    vector = fit_vector(logits, labels) if chosen == "vector" else None
    tables = {
        "before": prediction_table(logits, labels, groups, classes),
        "after": prediction_table(crossed[chosen], labels, groups, classes),
    }
    validation = {
        "n": len(labels),
        "accuracy": round(float((logits.argmax(axis=1) == labels).mean()), 6),
        "method": chosen,
        "why": why,
        **comparison,
        "cross_fitted": bool(folds),
        **{when: _quality(table, classes, seed) for when, table in tables.items()},
    }
    points = [{**point, "when": when} for when, table in tables.items() for point in reliability(table)]
    return Calibration(1.0 if vector else temperature, vector, validation, points)


def _temperature(logits: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    temperature = fit_temperature(logits, labels)
    return lambda other: other / temperature


def _vector(logits: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return fit_vector(logits, labels).apply


FITS: dict[str, Fit] = {"temperature": _temperature, "vector": _vector}


def _folds(groups: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(fitted, held out) rows; [] for a single group. Not stratified: a class may have one image here."""
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    if len(names) < 2:
        return []
    held = [np.isin(groups, part) for part in np.array_split(names, min(FOLDS, len(names)))]
    return [(np.flatnonzero(~fold), np.flatnonzero(fold)) for fold in held]


def _cross_fitted(
    fit: Fit, logits: np.ndarray, labels: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """[n, classes] calibrated logits, each row's by a calibration that has not seen its fold."""
    if not folds:
        return fit(logits, labels)(logits)
    found = np.zeros(logits.shape)
    for fitted, held in folds:
        found[held] = fit(logits[fitted], labels[fitted])(logits[held])
    return found


def _choose(
    crossed: dict[str, np.ndarray], labels: np.ndarray, groups: np.ndarray, method: Method, *, folded: bool
) -> tuple[str, str, dict[str, Any]]:
    """The method, why, and how much better vector scaling is than one temperature (nats), with its error."""
    if not folded:
        chosen = "vector" if method == "vector" else "temperature"
        return chosen, "all validation images are of one group", {}
    one, each = (log_losses(crossed[name], labels) for name in ("temperature", "vector"))
    gain, error = float((one - each).mean()), standard_error(one - each, groups)
    hits = {name: _hits(logits, labels) for name, logits in crossed.items()}
    comparison = {"vector_gain": round(gain, 6), "standard_error": round(error, 6)}
    told = f"vector scaling's gain over one temperature is {gain:.3f} with a standard error of {error:.3f}"
    if method != "auto":
        return method, f"asked for; {told}", comparison
    if unseen := crossed["vector"].shape[1] - len(np.unique(labels)):
        lacking = f"no validation image of {unseen} class{'es' if unseen > 1 else ''} to scale by"
        return "temperature", f"{lacking}; {told}", comparison
    better = gain > error and all(hits["vector"] >= hits["temperature"])
    return "vector" if better else "temperature", told, comparison


def _hits(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[2] accuracy and mean recall over classes.

    Vector scaling's biases can bring back the classes' shares, which logit adjustment has taken out of the logits:
    the log loss is lower then, and rare classes lose what the plan gave them.
    """
    right = logits.argmax(axis=1) == labels
    images = np.bincount(labels)
    recalls = np.bincount(labels, right)[images > 0] / images[images > 0]
    return np.array([right.mean(), recalls.mean()])


def prediction_table(
    logits: np.ndarray, labels: np.ndarray, groups: Sequence[str], classes: Sequence[str]
) -> pa.Table:
    """The columns of PREDICTIONS that :func:`pipeline.metrics.measure` needs, of ``logits`` [n, classes]."""
    from scipy.special import softmax

    probabilities = softmax(logits.astype(np.float64), axis=1)
    winner = logits.argmax(axis=1)
    names = np.asarray(classes, dtype=object)
    return pa.table(
        {
            "label": pa.array(names[labels], pa.string()),
            "predicted": pa.array(names[winner], pa.string()),
            "group": pa.array(list(groups), pa.string()),
            "confidence": probabilities.max(axis=1),
            "correct": winner == labels,
            "probabilities": pa.array(list(probabilities), pa.list_(pa.float64())),
        }
    )


def _quality(table: pa.Table, classes: Sequence[str], seed: int) -> dict[str, Any]:
    found = measure(table, classes, resamples=RESAMPLES, seed=seed)
    return {name: found[name] for name in ("nll", "nll_ci95", "ece", "ece_ci95")}


def _with_interval(figures: dict[str, Any], name: str) -> str:
    interval = figures[f"{name}_ci95"]
    return f"{figures[name]:.3f}" + (f" (95 %: {interval[0]:.3f} to {interval[1]:.3f})" if interval else "")
