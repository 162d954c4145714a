"""Parts of the test set that a mean may hide: by domain, source, image size, brightness, or any manifest column.

Numbers of many values are cut into terciles of the test images; what has few values is taken as it is.
"""

import difflib
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pyarrow as pa

from pipeline.artifacts import MANIFEST
from pipeline.checks import SLICE_LEVEL, Check, Outcome, shares
from pipeline.errors import DataError, ParamsError
from pipeline.intervals import codes, effective_size, intraclass, wilson
from pipeline.params import Gate

__all__ = ["Masks", "slice_checks", "slices"]

Masks = dict[str, dict[str, np.ndarray]]  # kind of slice → its name → [n, bool] rows of the test images

MOST = 30  # slices of one kind
FEW = 6  # values up to which a number is taken as it is
MADE = ("source", "image_size")  # kinds that are no column of the manifest


def slices(test: pa.Table, manifest: pa.Table, kinds: Sequence[str], sources: Sequence[str]) -> Masks:
    """The rows of ``test`` [n] (PREDICTIONS schema) by slice; a kind with a single slice is left out.

    Args:
        manifest: what is known of the images, joined by path.
        kinds: ``gate.slices``: columns of the manifest, source, or image_size.
        sources: paths of ``data.sources``; what lies in none of them came back from labelling.

    Raises:
        ParamsError: a kind is neither a column nor one of those above.
        DataError: the test images are not in the manifest, or a column names more than 30 slices.
    """
    place = {path: row for row, path in enumerate(manifest["path"].to_pylist())}
    paths = test["path"].to_pylist()
    missing = [path for path in paths if path not in place]
    if missing:
        raise DataError(
            f"{len(missing)} test images are not in manifest.parquet ({missing[0]}): run `dvc repro`"
        )
    rows = manifest.take(pa.array([place[path] for path in paths], pa.int64()))
    found = {kind: _masks(kind, _values(kind, rows, paths, sources)) for kind in kinds}
    return {kind: masks for kind, masks in found.items() if len(masks) > 1}


def _values(kind: str, rows: pa.Table, paths: list[str], sources: Sequence[str]) -> np.ndarray:
    if kind == "source":
        ordered = sorted(sources, key=len, reverse=True)
        named = [
            next((s for s in ordered if path.startswith(f"{s.rstrip('/')}/")), "labelled") for path in paths
        ]
        return np.array(named, dtype=object)
    if kind == "image_size":
        area = rows["width"].to_numpy().astype(float) * rows["height"].to_numpy()
        return np.rint(np.sqrt(area))
    known = [
        name for name in MANIFEST.names if name not in ("thumbnail", "error", "image_id", "path", "dhash")
    ]
    if kind not in known:
        near = difflib.get_close_matches(kind, [*known, *MADE], n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"it is one of {', '.join([*known, *MADE])}"
        raise ParamsError(f"gate.slices names {kind!r}; {hint}")
    values = rows[kind].to_pylist()
    if pa.types.is_string(MANIFEST.field(kind).type):
        return np.array(["none" if value is None else value for value in values], dtype=object)
    return np.array(values, dtype=float)


def _masks(kind: str, values: np.ndarray) -> dict[str, np.ndarray]:
    distinct = sorted(set(values.tolist()))
    if values.dtype != object and len(distinct) > FEW:
        low, high = np.quantile(values, [1 / 3, 2 / 3])
        parts = {
            f"low (to {low:.3g})": values <= low,
            f"middle (to {high:.3g})": (values > low) & (values <= high),
            f"high (over {high:.3g})": values > high,
        }
        return {name: rows for name, rows in parts.items() if rows.any()}
    if len(distinct) > MOST:
        raise DataError(
            f"gate.slices: {kind} has {len(distinct)} values among the test images, at most {MOST} can be judged: "
            "take another column, or a coarser one"
        )
    return {f"{value:g}" if isinstance(value, float) else str(value): values == value for value in distinct}


def slice_checks(correct: np.ndarray, groups: Sequence[str], masks: Masks, gate: Gate) -> list[Check]:
    """The accuracy of each slice against ``gate.min_slice_accuracy``, and the gap between the best and the worst.

    ``correct`` [n, bool], ``groups`` [n]. Slices are judged like classes: rejected where the accuracy is proven
    to be below the bound, with Holm's correction within a kind.
    """
    grouped = codes(list(groups))
    checks: list[Check] = []
    for kind, parts in masks.items():
        named = {f"slice/{kind}/{name}": rows for name, rows in parts.items()}
        bound = gate.min_slice_accuracy
        checks += shares(named, correct, grouped, bound, SLICE_LEVEL / len(masks), gate.min_support)
        checks += _gap(kind, parts, correct, grouped, gate)
    return checks


def _gap(
    kind: str, parts: dict[str, np.ndarray], correct: np.ndarray, groups: np.ndarray, gate: Gate
) -> list[Check]:
    """Best less worst among the slices with support, its interval Newcombe's hybrid score, over all pairs at once.

    Newcombe 1998, on Wilson intervals of the effective sample sizes, with Bonferroni's correction over the
    pairs: the best and the worst were picked by looking.
    """
    large = {name: rows for name, rows in parts.items() if rows.sum() >= gate.min_support}
    if len(large) < 2:
        return []
    z = NormalDist().inv_cdf(1 - 0.025 / math.comb(len(large), 2))
    correlation = intraclass(correct.astype(float), groups)
    share = {name: float(correct[rows].mean()) for name, rows in large.items()}
    worst, best = min(share, key=share.__getitem__), max(share, key=share.__getitem__)
    ends = {}
    for name in (worst, best):
        worth = effective_size(groups[large[name]], correlation)
        ends[name] = wilson(share[name] * worth, worth, z)
    gap = share[best] - share[worst]
    low = gap - math.hypot(share[best] - ends[best][0], ends[worst][1] - share[worst])
    high = gap + math.hypot(ends[best][1] - share[best], share[worst] - ends[worst][0])
    n, bound = int(large[worst].sum()), gate.max_slice_gap
    beyond = gap > bound
    outcome: Outcome = "fail" if low > bound else "unknown" if beyond else "pass"
    if beyond:
        flip = f"{math.ceil((gap - bound) * n - 1e-9)} more correct of {n} in {worst}"
    else:
        flip = f"{math.floor((bound - gap) * n + 1e-9) + 1} more wrong of {n} in {worst}"
    return [
        Check(
            f"gap/{kind}", outcome, round(gap, 6), [round(max(low, 0.0), 6), round(min(high, 1.0), 6)], bound,
            sum(int(rows.sum()) for rows in large.values()), flip, kind="slice",
            detail=f"{best} {share[best]:.3f}, {worst} {share[worst]:.3f}",
        )
    ]  # fmt: skip
