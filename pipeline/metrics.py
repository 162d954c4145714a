"""What a table of predictions is worth: accuracy, F1, calibration, each with its 95 % interval.

Pure functions over the PREDICTIONS schema. ``evaluate`` writes their result, ``gate`` computes it again from
the same table: an edited metrics.json does not pass.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.intervals import (
    calibration_interval,
    codes,
    intraclass,
    jackknife,
    proportion,
    resample,
    studentised,
    totals,
)

BIN_SUPPORT = 25  # images a calibration bin holds at least: with fewer, ECE measures its own noise
MOST_BINS = 15
SMALLEST = 1e-12  # a probability of 0 would make one image's NLL infinite
DIGITS = 6

Metrics = dict[str, Any]


def measure(predictions: pa.Table, classes: Sequence[str], *, resamples: int, seed: int) -> Metrics:
    """All metrics of one split's ``predictions`` [n]; means run over the classes that have images in it.

    Proportions, balanced accuracy and macro-F1 carry Wilson's interval on an effective sample size, NLL and ECE a
    bootstrap by group. ECE is over bins of equally many images, by top confidence (Nixon et al. 2019). An interval is null where the images
    are all of one group, an entry of ``per_class`` where the class has no image.
    """
    labels = label_codes(predictions["label"], classes)
    predicted = label_codes(predictions["predicted"], classes)
    probabilities = probability_matrix(predictions)
    groups = codes(predictions["group"].to_pylist())
    correct = labels == predicted
    onehot = np.eye(len(classes))
    losses = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], SMALLEST))
    parts = {
        "hits": onehot[labels] * correct[:, None],
        "support": onehot[labels],
        "claimed": onehot[predicted],
    }
    statistics, where = _stack(parts)
    by_group = totals(statistics, groups)
    whole = by_group.sum(axis=0)
    observed = {name: whole[None, part] for name, part in where.items()}
    without = {name: (whole - by_group)[:, part] for name, part in where.items()}
    several = len(by_group) > 1
    correlation = intraclass(correct.astype(float), groups)
    accuracy_ci95 = _rounded(proportion(correct, groups, correlation))
    result: Metrics = {"n": len(labels), "groups": len(by_group)}
    result |= {"accuracy": _round(correct.mean()), "accuracy_ci95": accuracy_ci95}
    for name, function in (("balanced_accuracy", _balanced), ("macro_f1", _macro_f1)):
        value = function(observed)[0]
        interval = jackknife(value, function(without)) if several else None
        result[name] = _round(value)
        # No error at all says nothing of the doubt; the accuracy's interval does.
        result[f"{name}_ci95"] = None if not several else _rounded(interval) if interval else accuracy_ci95
    result["nll"] = _round(losses.mean())
    result["nll_ci95"] = _rounded(studentised(losses, groups, resamples, seed)) if several else None
    gaps = _gaps(probabilities.max(axis=1), correct)
    result["ece"] = _round(np.abs(gaps.mean(axis=0)).sum())
    result["ece_ci95"] = _rounded(_ece_interval(gaps, groups, resamples, seed)) if several else None
    result["per_class"] = {
        name: _class_metrics(observed, index, correct, labels, groups, correlation)
        for index, name in enumerate(classes)
    }
    return result


def measure_domains(predictions: pa.Table) -> Metrics:
    """{domain: {n, accuracy, accuracy_ci95}} in alphabetical order."""
    domains = np.array(predictions["domain"].to_pylist(), dtype=object)
    correct = predictions["correct"].to_numpy(zero_copy_only=False)
    groups = codes(predictions["group"].to_pylist())
    result: Metrics = {}
    for domain in sorted(set(domains)):
        rows = domains == domain
        interval = proportion(correct[rows], groups[rows])
        result[domain] = {
            "n": int(rows.sum()),
            "accuracy": _round(correct[rows].mean()),
            "accuracy_ci95": _rounded(interval),
        }
    return result


def reliability(predictions: pa.Table) -> list[dict[str, float]]:
    """Per equal-mass bin: mean ``confidence``, ``accuracy`` with its interval ``low``..``high``, ``images``."""
    confidence = predictions["confidence"].to_numpy(zero_copy_only=False)
    correct = predictions["correct"].to_numpy(zero_copy_only=False)
    groups = codes(predictions["group"].to_pylist())
    bins = _bins(confidence)
    points = []
    for number in range(int(bins.max()) + 1):
        rows = bins == number
        low, high = proportion(correct[rows], groups[rows])
        points.append(
            {
                "confidence": _round(confidence[rows].mean()),
                "accuracy": _round(correct[rows].mean()),
                "low": _round(low),
                "high": _round(high),
                "images": int(rows.sum()),
            }
        )
    return points


def label_codes(labels: pa.ChunkedArray, classes: Sequence[str]) -> np.ndarray:
    """[n] positions of ``labels`` in ``classes``.

    Raises:
        KeyError: a label is none of the classes.
    """
    positions = pc.index_in(labels, value_set=pa.array(list(classes), pa.string()))
    if positions.null_count:
        raise KeyError(sorted(set(labels.to_pylist()) - set(classes)))
    return positions.to_numpy(zero_copy_only=False).astype(np.int64)


def probability_matrix(predictions: pa.Table) -> np.ndarray:
    """[n, classes] float64."""
    column = predictions["probabilities"].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(column), -1)


def _bins(confidence: np.ndarray) -> np.ndarray:
    """[n] bin of each image, by quantiles of the confidence; equal confidences share a bin.

    Were ties parted by their rows, saturated answers would be binned by class, as the rows are sorted.
    """
    count = min(MOST_BINS, max(1, len(confidence) // BIN_SUPPORT))
    edges = np.quantile(confidence, np.arange(1, count) / count)
    return np.unique(np.searchsorted(edges, confidence), return_inverse=True)[1]


def _gaps(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """[n, bins] confidence minus correctness of each image, in its bin's column."""
    bins = _bins(confidence)
    return np.eye(int(bins.max()) + 1)[bins] * (confidence - correct)[:, None]


def _ece_interval(gaps: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    sums = resample(totals(np.column_stack([gaps, np.ones(len(gaps))]), groups), resamples, seed)
    return calibration_interval(sums[:, :-1] / sums[:, -1:], gaps.mean(axis=0))


def _stack(parts: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, slice]]:
    """The parts side by side, and which columns each has."""
    where, start = {}, 0
    for name, part in parts.items():
        where[name] = slice(start, start + part.shape[1])
        start += part.shape[1]
    return np.concatenate(list(parts.values()), axis=1), where


def _mean_over_present(values: np.ndarray, support: np.ndarray) -> np.ndarray:
    present = support > 0
    return np.where(present, values, 0).sum(axis=1) / present.sum(axis=1)


def _balanced(sums: dict[str, np.ndarray]) -> np.ndarray:
    recall = sums["hits"] / np.maximum(sums["support"], 1)
    return _mean_over_present(recall, sums["support"])


def _macro_f1(sums: dict[str, np.ndarray]) -> np.ndarray:
    f1 = 2 * sums["hits"] / np.maximum(sums["support"] + sums["claimed"], 1)
    return _mean_over_present(f1, sums["support"])


def _class_metrics(
    observed: dict[str, np.ndarray],
    index: int,
    correct: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    correlation: float,
) -> Metrics:
    hits, support, claimed = (float(observed[name][0, index]) for name in ("hits", "support", "claimed"))
    if not support:
        return {"support": 0, "precision": None, "recall": None, "f1": None, "recall_ci95": None}
    rows = labels == index
    return {
        "support": int(support),
        "precision": _round(hits / claimed if claimed else 0.0),
        "recall": _round(hits / support),
        "f1": _round(2 * hits / (support + claimed)),
        # The few images of one class can't tell how alike their groups are: the whole split does.
        "recall_ci95": _rounded(proportion(correct[rows], groups[rows], correlation)),
    }


def _round(value: float) -> float:
    return round(float(value), DIGITS)


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [_round(interval[0]), _round(interval[1])]
