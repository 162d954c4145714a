"""What the first version of the data looks like, as a suite of expectations that is kept and reviewed.

    python -m pipeline profile          # artifacts/manifest.parquet → data/expectations.json; commit it

The file is a Great Expectations suite. Its bounds are no minima and maxima of what was seen, but what another draw
of the same data would stay within: by group, since near-alike shots say the same, for a version with half as many
images or more, and all bounds together with 99 % certainty. `validate` holds each later version against it and
says which images that were not in this one differ, by how much, and how unlikely that is (drifted.py).
Run it again, and review the difference, when the data have changed for good.
"""

import base64
import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts import MANIFEST, Workspace, read_json, read_table, write_json
from pipeline.errors import DataError
from pipeline.intervals import codes, effective_size, intraclass
from pipeline.params import Params

__all__ = [
    "CHECKS",
    "KINDS",
    "LEAST_GROUPS",
    "NUMBERS",
    "QUANTILES",
    "member",
    "profile",
    "run",
    "share_bounds",
]

NUMBERS = ("brightness", "contrast", "sharpness", "saturation", "width", "height")
KINDS = {
    "label": "classes",
    "format": "formats",
    "mode": "modes",
    "bits": "bits",
}  # column → the check's name
QUANTILES = (0.1, 0.5, 0.9)
LEAST_GROUPS = 20
ALPHA = 0.01  # chance that any bound is broken by a mere re-draw
SMALLER = 0.5  # the smallest later version, by this one's size, that the bounds are made for
EFFECT = 0.1  # standard deviations that a quantile may move for nothing, however many images say so
MEMBER = 5  # bytes of an image's id; among 100,000 some 1 in 10 million newcomers is taken for a member
CHECKS = (
    "profile_images",
    *(f"profile_{name}" for name in (*NUMBERS, *KINDS.values())),
    "drift_of_new_images",
)


def run(workspace: Workspace, params: Params) -> int:
    """``artifacts/manifest.parquet``, validated → ``data/expectations.json``; 0.

    Raises:
        DataError: the manifest has not passed validation, or has too few groups.
    """
    if not read_json(workspace.validation)["success"]:
        raise DataError(
            f"{workspace.relative(workspace.validation)} says that checks fail: mend the data and run `dvc repro "
            "validate` first; what is profiled is what later versions must look like"
        )
    suite = profile(read_table(workspace.manifest, MANIFEST))
    before = (
        read_json(workspace.expectations)["meta"].get("images") if workspace.expectations.exists() else None
    )
    write_json(workspace.expectations, suite)
    print(
        f"profile: {suite['meta']['images']:,} images in {suite['meta']['groups']:,} groups, "
        f"{len(suite['expectations'])} expectations"
        + (f", in place of those from {before:,} images" if before else "")
        + f". Look through {workspace.relative(workspace.expectations)}, commit it, then `dvc repro`"
    )
    return 0


def profile(manifest: pa.Table) -> dict[str, Any]:
    """The suite of a manifest: Great Expectations' JSON, with what the bounds follow from under ``meta``.

    Raises:
        DataError: fewer than LEAST_GROUPS groups decode.
    """
    table = manifest.filter(manifest["error"].is_null())
    groups = codes(table["group"].to_pylist())
    count = len(np.unique(groups))
    if count < LEAST_GROUPS:
        raise DataError(
            f"the manifest has {count} groups of images that decode, at least {LEAST_GROUPS} are needed to tell what "
            "varies: add images, or look at data.group_pattern"
        )
    values = {name: table[name].to_pylist() for name in KINDS}
    tests = 2 * len(NUMBERS) * len(QUANTILES) + sum(len(set(column)) for column in values.values())
    z = NormalDist().inv_cdf(1 - ALPHA / (2 * tests))
    numbers = {name: _number(table[name].to_numpy().astype(np.float64), groups) for name in NUMBERS}
    kinds = {name: _kinds(column, groups) for name, column in values.items()}
    least = math.ceil(table.num_rows * SMALLER)
    expectations = [
        _expectation("profile_images", f"The version has at least {least:,} images, half of the profile's",
                     "expect_table_row_count_to_be_between", min_value=least),
        *(_quantiles(name, found, table[name].to_numpy().astype(np.float64), z) for name, found in numbers.items()),
        *(_shares(name, found, table.num_rows, z) for name, found in kinds.items()),
    ]  # fmt: skip
    meta = {
        "images": table.num_rows,
        "groups": count,
        "numbers": numbers,
        "kinds": kinds,
        "members": _members(table["image_id"].to_pylist()),
    }
    return {"name": "profile", "expectations": expectations, "meta": meta}


def member(image_id: str) -> bytes:
    """What the profile keeps of an image's id."""
    return bytes.fromhex(image_id[: 2 * MEMBER])


def _members(image_ids: list[str]) -> str:
    return base64.b64encode(b"".join(sorted({member(image_id) for image_id in image_ids}))).decode("ascii")


def _number(values: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Quantiles of a column, and of each the mid-share of images below it and how many images that share is worth."""
    quantiles = np.quantile(values, QUANTILES, method="inverted_cdf")
    below = [mid_share(values, quantile) for quantile in quantiles]
    worth = [effective_size(groups, intraclass(hits, groups)) for hits in below]
    return {
        "quantiles": [float(f"{quantile:.7g}") for quantile in quantiles],
        "shares": [round(float(hits.mean()), 6) for hits in below],
        "worth": [round(images, 1) for images in worth],
        "deviation": float(f"{values.std():.7g}"),
    }


def mid_share(values: np.ndarray, bound: float) -> np.ndarray:
    """[n] 1 below the bound, 0.5 on it: its mean moves also where a column has one value alone."""
    near = np.isclose(values, bound, rtol=1e-6, atol=0)
    return np.where(near, 0.5, (values < bound).astype(np.float64))


def _kinds(column: list[Any], groups: np.ndarray) -> dict[str, dict[str, float]]:
    """Of each value its share, and how many images that share is worth."""
    found = {}
    texts = np.array([str(value) for value in column], dtype=object)
    for value in sorted(set(texts)):
        hits = (texts == value).astype(np.float64)
        worth = effective_size(groups, intraclass(hits, groups))
        found[value] = {"share": round(float(hits.mean()), 6), "worth": round(worth, 1)}
    return found


def _quantiles(name: str, found: dict[str, Any], values: np.ndarray, z: float) -> dict[str, Any]:
    """Bounds of the quantiles by Woodruff's interval (1952): no distribution is assumed, and none of the density."""
    free = EFFECT * found["deviation"]
    ranges: list[list[float | None]] = []
    for quantile, worth in zip(QUANTILES, found["worth"], strict=True):
        half = z * math.sqrt(quantile * (1 - quantile) * (1 + 1 / SMALLER) / worth)
        # Beyond the outermost images nothing is known: no bound.
        low = None if quantile <= half else float(np.quantile(values, quantile - half)) - free
        high = None if quantile + half >= 1 else float(np.quantile(values, quantile + half)) + free
        ranges.append([low if low is None else _down(low), high if high is None else _up(high)])
    kept = [
        (quantile, bounds)
        for quantile, bounds in zip(QUANTILES, ranges, strict=True)
        if bounds != [None, None]
    ]
    kept = kept or [(0.5, [_down(float(values.min())), _up(float(values.max()))])]
    says = f"The quantiles of {name} are those of the profile, up to chance"
    return _expectation(
        f"profile_{name}", says, "expect_column_quantile_values_to_be_between", column=name,
        quantile_ranges={"quantiles": [q for q, _ in kept], "value_ranges": [bounds for _, bounds in kept]},
    )  # fmt: skip


def _down(value: float) -> float:
    return math.floor(value * 1e5) / 1e5


def _up(value: float) -> float:
    return math.ceil(value * 1e5) / 1e5


def _shares(name: str, found: dict[str, dict[str, float]], images: int, z: float) -> dict[str, Any]:
    """The share of each value, and of any other, within its bounds; drifted.py writes the column of those that are not."""
    least = min(one["worth"] for one in found.values())
    bounds = {value: share_bounds(one["share"], one["worth"], z) for value, one in found.items()}
    says = f"The shares of the {KINDS[name]} are those of the profile, up to chance"
    expectation = _expectation(
        f"profile_{KINDS[name]}",
        says,
        "expect_column_values_to_be_null",
        column=f"{name}, unlike the profile",
    )
    expectation["meta"] |= {"column": name, "bounds": bounds, "other": share_bounds(0.0, least, z)[1]}
    return expectation


def share_bounds(share: float, worth: float, z: float) -> tuple[float, float]:
    """What a re-draw's share stays within, on the arcsine scale, where the spread does not depend on the share."""
    angle, half = math.asin(math.sqrt(share)), z * 0.5 * math.sqrt((1 + 1 / SMALLER) / worth)
    low = math.sin(max(0.0, angle - half)) ** 2
    high = math.sin(min(math.pi / 2, angle + half)) ** 2
    return math.floor(low * 1e4) / 1e4, math.ceil(high * 1e4) / 1e4


def _expectation(check: str, says: str, kind: str, **arguments: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": arguments, "severity": "warning", "meta": {"check": check, "says": says}}
