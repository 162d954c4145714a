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
    percentile,
    proportion,
    resample,
)

BIN_SUPPORT = 25  # images a calibration bin holds at least: with fewer, ECE measures its own noise
MOST_BINS = 15
SMALLEST = 1e-12  # a probability of 0 would make one image's NLL infinite
DIGITS = 6

Metrics = dict[str, Any]


def measure(predictions: pa.Table, classes: Sequence[str], *, resamples: int, seed: int) -> Metrics:
    """All metrics of one split's ``predictions`` [n]; means run over the classes that have images in it.

    Proportions carry Wilson's interval on the effective sample size, the others a bootstrap by group. ECE is
    over bins of equally many images, by top confidence (Nixon et al. 2019). An interval is null where the images
    are all of one group, an entry of ``per_class`` where the class has no image.
    """
    labels = label_codes(predictions["label"], classes)
    predicted = label_codes(predictions["predicted"], classes)
    probabilities = probability_matrix(predictions)
    groups = codes(predictions["group"].to_pylist())
    correct = labels == predicted
    onehot = np.eye(len(classes))
    parts = {
        "hits": onehot[labels] * correct[:, None],
        "support": onehot[labels],
        "claimed": onehot[predicted],
        "gaps": _gaps(probabilities.max(axis=1), correct),
        "nll": -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], SMALLEST))[:, None],
        "n": np.ones((len(labels), 1)),
    }
    statistics, where = _stack(parts)
    observed = {name: statistics[:, part].sum(axis=0, keepdims=True) for name, part in where.items()}
    drawn = None
    if groups.max() > 0:
        sums = resample(statistics, groups, resamples, seed)
        drawn = {name: sums[:, part] for name, part in where.items()}
    correlation = intraclass(correct.astype(float), groups)
    accuracy_ci95 = _rounded(proportion(correct, groups, correlation))
    result: Metrics = {"n": len(labels), "groups": int(groups.max()) + 1}
    result |= {"accuracy": _round(correct.mean()), "accuracy_ci95": accuracy_ci95}
    for name, function in (("balanced_accuracy", _balanced), ("macro_f1", _macro_f1), ("nll", _nll)):
        result[name] = _round(function(observed)[0])
        values = None if drawn is None else function(drawn)
        # A bootstrap of no error at all knows no doubt; the accuracy's interval does.
        blind = values is not None and name != "nll" and np.ptp(values) == 0
        result[f"{name}_ci95"] = (
            accuracy_ci95 if blind else None if values is None else _rounded(percentile(values))
        )
    gaps = (observed["gaps"] / observed["n"])[0]
    result["ece"] = _round(np.abs(gaps).sum())
    result["ece_ci95"] = (
        None if drawn is None else _rounded(calibration_interval(drawn["gaps"] / drawn["n"], gaps))
    )
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


def _nll(sums: dict[str, np.ndarray]) -> np.ndarray:
    return (sums["nll"] / sums["n"])[:, 0]


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
