"""A version of the data beside the profile of the first: what is unlike it, by how much, and how unlikely that is.

    suite = read_suite(workspace.expectations)              # None where no profile was made
    columns |= unlike(manifest, suite)                      # for the suite's own expectations
    columns |= drift(manifest, suite)                       # the images that are new since, beside it

Two questions. Is the whole version still what was profiled? The suite's bounds say, for people to read and change.
Are the images that came since like those that were there? A thousand dark ones among a hundred thousand move no
quantile of the whole. Tests count groups, not images; their p-values are multiplied by their number (Bonferroni).
"""

import base64
import math
from collections import Counter
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pipeline.artifacts import read_json
from pipeline.errors import DataError
from pipeline.intervals import codes, effective_size, intraclass
from pipeline.profile import ALPHA, KINDS, LEAST_GROUPS, MEMBER, NUMBERS, QUANTILES, member, mid_share

__all__ = ["DRIFT", "TYPES", "drift", "new_images", "read_suite", "unlike"]

DRIFT = "new images, unlike the profile"
TYPES: dict[str, Literal["rows", "quantiles", "null"]] = {
    "expect_table_row_count_to_be_between": "rows",
    "expect_column_quantile_values_to_be_between": "quantiles",
    "expect_column_values_to_be_null": "null",
}
LEAST_SHIFT = 0.1  # of the images: so many more or fewer below one of the profile's quantiles
LEAST_ANGLE = 0.2  # Cohen's h, "small", between two shares (Cohen 1988, chapter 6)


def read_suite(place: Path) -> dict[str, Any] | None:
    """The suite at ``place``; None where there is none, or an empty one.

    Raises:
        DataError: it is not a suite as `python -m pipeline profile` writes it.
    """
    if not place.exists():
        return None
    suite = read_json(place)
    try:
        for expectation in suite["expectations"]:
            kind = expectation["type"]
            if kind not in TYPES:
                raise DataError(
                    f"{place}: the expectation {kind!r} is not one that validate evaluates from a profile; it knows "
                    f"{', '.join(TYPES)}. Take it out, or run `python -m pipeline profile` to write the file anew"
                )
            _ = expectation["kwargs"], expectation["meta"]["check"], expectation["meta"]["says"]
        if suite["expectations"]:
            _ = [suite["meta"][name] for name in ("images", "groups", "numbers", "kinds", "members")]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{place} is not a profile ({type(error).__name__}: {error}): run `python -m pipeline profile` to write it anew"
        ) from error
    return suite if suite["expectations"] else None


def unlike(manifest: pa.Table, suite: dict[str, Any]) -> dict[str, list[str | None]]:
    """Columns for the suite's expectations of shares: a text on the first image of each value that is out of bounds."""
    found: dict[str, list[str | None]] = {}
    sound = np.asarray(manifest["error"].is_null())
    for expectation in suite["expectations"]:
        bounds = expectation["meta"].get("bounds")
        if bounds is None:
            continue
        texts = _texts(manifest, expectation["meta"]["column"])
        counts = Counter(text for text, good in zip(texts, sound, strict=True) if good)
        total = max(1, sum(counts.values()))
        notes = {}
        for value in sorted(counts.keys() | bounds.keys()):
            low, high = bounds.get(value, (0.0, expectation["meta"]["other"]))
            share = counts[value] / total
            if not low <= share <= high:
                new = "" if value in bounds else ", not in the profile"
                notes[value] = f"{value!r} {share:.1%}, expected {low:.1%} to {high:.1%}{new}"
        column = [notes.pop(text, None) for text in texts]
        for value, note in notes.items():  # it has no image left to stand on
            place = next(place for place, text in enumerate(column) if text is None)
            column[place] = f"{note}: {value!r} is gone"
        found[expectation["kwargs"]["column"]] = column
    return found


def new_images(manifest: pa.Table, suite: dict[str, Any]) -> np.ndarray:
    """Rows of the images that decode and were not in the profile."""
    stored = base64.b64decode(suite["meta"]["members"])
    members = {stored[start : start + MEMBER] for start in range(0, len(stored), MEMBER)}
    sound = np.asarray(manifest["error"].is_null())
    ids = manifest["image_id"].to_pylist()
    return np.flatnonzero(
        [good and member(name) not in members for name, good in zip(ids, sound, strict=True)]
    )


def drift(manifest: pa.Table, suite: dict[str, Any]) -> tuple[list[str | None], str]:
    """A text on an image for each way in which the new images are unlike the profile, and what was looked at."""
    rows = new_images(manifest, suite)
    texts: list[str | None] = [None] * manifest.num_rows
    groups = (
        codes([manifest["group"][int(row)].as_py() for row in rows]) if len(rows) else np.empty(0, np.int64)
    )
    count = len(np.unique(groups))
    what = f"{len(rows):,} images in {count:,} groups are new since the profile"
    if count < LEAST_GROUPS:
        return texts, what + (f", fewer than {LEAST_GROUPS}: too few to say" if count else "")
    table = manifest.take(pa.array(rows))
    kinds = {name: suite["meta"]["kinds"][name] for name in KINDS}
    tests = len(NUMBERS) * len(QUANTILES) + sum(len(found) + 1 for found in kinds.values())
    free = dict.fromkeys(int(row) for row in rows)
    for example, text in [
        *_numbers(table, groups, suite["meta"]["numbers"], tests),
        *_shares(table, groups, kinds, tests),
    ]:
        row = int(rows[example])
        row = row if row in free else next(iter(free), row)
        free.pop(row, None)
        texts[row] = text
    return texts, what


def _numbers(
    table: pa.Table, groups: np.ndarray, profile: dict[str, Any], tests: int
) -> list[tuple[int, str]]:
    """(an image that shows it, text) for each column whose quantiles have moved."""
    found = []
    for name in NUMBERS:
        values, then = table[name].to_numpy().astype(np.float64), profile[name]
        moved = []
        for place, (quantile, share, worth) in enumerate(
            zip(then["quantiles"], then["shares"], then["worth"], strict=True)
        ):
            hits = mid_share(values, quantile)
            now = effective_size(groups, intraclass(hits, groups))
            shift = float(hits.mean()) - share
            p = _p(shift, _variance(hits.var(), now) + _variance(share * (1 - share), worth)) * tests
            if p < ALPHA and abs(shift) >= LEAST_SHIFT:
                moved.append((p, -abs(shift), place, shift))
        if moved:
            p, _, place, shift = min(moved)
            median, was = float(np.median(values)), then["quantiles"][1]
            effect = f", {(median - was) / then['deviation']:+.1f} deviations" if then["deviation"] else ""
            side = "below" if shift > 0 else "above"
            text = (
                f"{name}: median {median:.4g}, was {was:.4g}{effect}; {abs(shift):.0%} more of the images lie {side} "
                f"the profile's {QUANTILES[place]:.0%} quantile ({_unlikely(p)})"
            )
            found.append((int(np.argmin(values) if shift > 0 else np.argmax(values)), text))
    return found


def _shares(
    table: pa.Table, groups: np.ndarray, profile: dict[str, Any], tests: int
) -> list[tuple[int, str]]:
    """(an image that shows it, text) for each value of a column whose share has changed."""
    found = []
    for name, then in profile.items():
        texts = np.array(_texts(table, name), dtype=object)
        least = min(one["worth"] for one in then.values())
        for value in sorted(set(texts) | then.keys()):
            hits = (texts == value).astype(np.float64)
            was = then.get(value, {"share": 0.0, "worth": least})
            worth = effective_size(groups, intraclass(hits, groups))
            share = float(hits.mean())
            angle = 2 * (math.asin(math.sqrt(share)) - math.asin(math.sqrt(was["share"])))
            p = _p(angle, 1 / worth + 1 / was["worth"]) * tests
            if p < ALPHA and abs(angle) >= LEAST_ANGLE:
                new = "" if value in then else ", not in the profile"
                text = f"{name} {value!r}: {share:.1%}, was {was['share']:.1%}{new} (h = {angle:+.2f}, {_unlikely(p)})"
                found.append((int(hits.argmax()), text))
    return found


def _texts(table: pa.Table, column: str) -> list[str]:
    return [str(value) for value in table[column].to_pylist()]


def _variance(value: float, worth: float) -> float:
    """Of a mean; never less than half an image more or less would make."""
    return max(float(value) / worth, 0.25 / worth**2)


def _p(difference: float, variance: float) -> float:
    """Two-sided, of a normal deviate."""
    return 2 * NormalDist().cdf(-abs(difference) / math.sqrt(variance))


def _unlikely(p: float) -> str:
    return "p < 0.000001" if p < 1e-6 else f"p = {p:.2g}"
