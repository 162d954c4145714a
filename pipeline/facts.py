"""What can be told of the images of a manifest beside each other: duplicates, conflicts, odd labels.

columns = facts(manifest, params.validate, labelled="data/labelled/")
columns["same bytes, other label"]      # [None, "data/x/b.jpg (label crack)", ...], a text a row
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts import MANIFEST, Workspace, safe_cell
from pipeline.duplicates import near_array
from pipeline.intervals import codes
from pipeline.mixtures import groups_across_splits, pixel_kinds, turned
from pipeline.params import Validate
from pipeline.shortcuts import shortcuts
from pipeline.sources import read_rows

__all__ = ["facts", "label_problem", "suspect_labels"]

_BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # make a text look like another
_PAIRS = 1_000_000  # looked at together
_COPIES = 8  # of identical files looked at beside a near-copy of theirs


def facts(manifest: pa.Table, params: Validate, labelled: str) -> dict[str, list[Any]]:
    """The manifest's columns that the checks look at and the helper columns, null where all is well.

    Args:
        manifest: rows of the MANIFEST schema.
        params: thresholds.
        labelled: how the paths of images labelled in production begin.
    """
    rows = manifest.select(["image_id", "path", "label", "domain", "group", "split", "error"]).to_pylist()
    columns: dict[str, list[Any]] = {
        name: [None] * len(rows) if pa.types.is_binary(field.type) else manifest[name].to_pylist()
        for name, field in zip(MANIFEST.names, MANIFEST, strict=True)  # binary: nothing for a report
    }
    problems = {label: label_problem(label) for label in set(columns["label"])}
    columns["label problem"] = [problems[label] for label in columns["label"]]
    columns["label spelled alike"] = _spelled_alike(columns["label"])
    columns["class too small"] = _too_small(rows, params.min_per_class)
    columns |= _exact(rows)
    columns |= _near(rows, manifest, params.near_duplicate_bits, labelled)
    columns["group, other split"] = groups_across_splits(manifest, labelled)
    columns["turned"] = turned(manifest)
    columns["pixels"] = pixel_kinds(manifest)
    columns["shortcut"] = _shortcuts(manifest)
    return columns


def _shortcuts(manifest: pa.Table) -> list[str | None]:
    """On an image of a class that something beside the object gives away, what, and more images to look at."""
    texts: list[str | None] = [None] * manifest.num_rows
    paths = manifest["path"]
    for found in shortcuts(manifest):
        free = [row for row in found.rows if texts[row] is None] or [
            row for row in range(len(texts)) if not texts[row]
        ]
        own, others = ([paths[row].as_py() for row in rows] for rows in (found.rows, found.others))
        texts[free[0]] = f"{found.text}. Compare {', '.join(own)} with {', '.join(others)}"
    return texts


def suspect_labels(manifest: pa.Table, workspace: Workspace) -> tuple[list[str | None], str]:
    """On each image that reports/suspects.csv suspects under its present label, what it rather is; and a remark.

    Nothing here waits for a model: where the report was not made, that is said.
    """
    texts: list[str | None] = [None] * manifest.num_rows
    if not workspace.suspects.exists():
        return texts, "not looked for yet: `dvc repro suspects`"
    found = {}
    for _, row in read_rows(workspace.suspects, ("image_id", "label", "suggested", "suggested_probability")):
        found[row["image_id"], row["label"]] = f"rather {row['suggested']!r} ({row['suggested_probability']})"
    images = zip(manifest["image_id"].to_pylist(), manifest["label"].to_pylist(), strict=True)
    texts = [found.get((image_id, safe_cell(label or ""))) for image_id, label in images]
    return texts, f"of {len(found):,} in {workspace.relative(workspace.suspects)}"


def label_problem(label: str | None) -> str | None:
    """What is wrong with a label, in words, or None.

    Labels name columns, files of a queue and cells of a spreadsheet, and stand in web pages. Everything here
    carries them as inert text; a label that some other program would execute or follow is refused anyway.
    """
    if not label or not label.strip():
        return "is empty"
    if label != label.strip():
        return "begins or ends with a blank"
    if any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") or sign in _BIDI for sign in label):
        return "holds a control character"
    if label in (".", "..") or "/" in label or "\\" in label:
        return "looks like a path"
    if re.match(r"[=@]|[+-](?!\d)", label):
        return "begins like a spreadsheet formula"
    if re.search(r"<[A-Za-z/!?]", label):
        return "holds an HTML tag"
    if len(label) > 100:
        return f"has {len(label)} characters, over the limit of 100"
    return None


def _spelled_alike(labels: list[str]) -> list[str | None]:
    """On the first image of a rarer spelling, the commoner one."""
    commoner: dict[str, str] = {}
    found = {}
    for label, _ in sorted(Counter(labels).items(), key=lambda item: (-item[1], item[0])):
        plain = unicodedata.normalize("NFKC", re.sub(r"[\s_-]+", " ", label)).strip().casefold()
        if commoner.setdefault(plain, label) != label:
            found[label] = f"{label!r} beside {commoner[plain]!r}"
    return _once_per_label(labels, found)


def _too_small(rows: list[dict[str, Any]], least: int) -> list[str | None]:
    """On the first image of a class with too few that decode, how many there are."""
    counts = Counter(row["label"] for row in rows if row["error"] is None)
    found = {
        label: f"{label!r} has {counts[label]} of at least {least}"
        for label in {row["label"] for row in rows}
        if counts[label] < least
    }
    return _once_per_label([row["label"] for row in rows], found)


def _once_per_label(labels: list[str], texts: dict[str, str]) -> list[str | None]:
    pending = dict(texts)
    return [pending.pop(label, None) for label in labels]


def _exact(rows: list[dict[str, Any]]) -> dict[str, list[str | None]]:
    """Who has the same bytes: under the same label (all but the first), another label, another split."""
    same: list[str | None] = [None] * len(rows)
    label: list[str | None] = [None] * len(rows)
    split: list[str | None] = [None] * len(rows)
    for indices in _by_image(rows).values():
        if len(indices) < 2:
            continue
        by_label = _firsts(indices, (rows[i]["label"] for i in indices))
        by_split = _firsts(indices, (rows[i]["split"] for i in indices))
        by_split.pop(None, None)
        for i in indices:
            first = by_label[rows[i]["label"]]
            same[i] = rows[first]["path"] if first != i else None
            label[i] = _other(rows, by_label, "label", rows[i]["label"])
            split[i] = _other(rows, by_split, "split", rows[i]["split"]) if rows[i]["split"] else None
    return {
        "same bytes, same label": same,
        "same bytes, other label": label,
        "same bytes, other split": split,
    }


def _by_image(rows: list[dict[str, Any]]) -> dict[str, list[int]]:
    images: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if row["error"] is None:
            images[row["image_id"]].append(index)
    return images


def _firsts(indices: Iterable[int], keys: Iterable[Any]) -> dict[Any, int]:
    firsts: dict[Any, int] = {}
    for index, key in zip(indices, keys, strict=True):
        firsts.setdefault(key, index)
    return firsts


def _other(rows: list[dict[str, Any]], firsts: dict[Any, int], column: str, own: str) -> str | None:
    """The first image whose ``column`` is not ``own``, with what it is."""
    for key, index in firsts.items():
        if key != own:
            return f"{rows[index]['path']} ({column} {key})"
    return None


def _near(
    rows: list[dict[str, Any]], manifest: pa.Table, bits: int, labelled: str
) -> dict[str, list[str | None]]:
    """Who has a near-copy that is not the same file. Shots of one group under one label are meant to be alike."""
    names = (
        "near-copy, same label",
        "near-copy, other label",
        "near-copy, other split",
        "near-copy, labelled",
    )
    columns: dict[str, list[str | None]] = {name: [None] * len(rows) for name in names}
    images = list(_by_image(rows).values())
    firsts = [indices[0] for indices in images]
    hashes = manifest["dhash"].take(firsts).to_pylist()
    thumbnails = manifest["thumbnail"].take(firsts).to_pylist()
    pairs = near_array(hashes, bits, thumbnails)
    # A film of one scene has millions of pairs: those of single files are noted together, without a loop.
    single = np.array([len(indices) == 1 for indices in images], dtype=bool)
    plain = single[pairs[:, 0]] & single[pairs[:, 1]]
    for own, other in _worth_noting(rows, np.array(firsts, dtype=np.int32), pairs[plain]):
        _note(columns, rows, own, other, labelled)
    for a, b in pairs[~plain].tolist():
        for i in images[a]:
            for j in images[b][:_COPIES]:
                _note(columns, rows, i, j, labelled)
        for j in images[b]:
            for i in images[a][:_COPIES]:
                _note(columns, rows, j, i, labelled)
    return columns


def _worth_noting(
    rows: list[dict[str, Any]], firsts: np.ndarray, pairs: np.ndarray
) -> Iterator[tuple[int, int]]:
    """Of pairs [m, 2] of places in ``firsts`` (rows), one for each row and thing that there is to say of it."""
    code = {name: codes([str(row[name]) for row in rows]) for name in ("label", "group", "split")}
    given = np.array([row["split"] is not None for row in rows], dtype=bool)
    last = np.full((3, len(rows)), -1, dtype=np.int32)
    for start in range(0, len(pairs), _PAIRS):
        part = firsts[pairs[start : start + _PAIRS]]
        for own, other in ((part[:, 0], part[:, 1]), (part[:, 1], part[:, 0])):
            differ = {name: found[own] != found[other] for name, found in code.items()}
            said = (
                differ["label"],
                ~differ["label"] & differ["group"],
                differ["split"] & given[own] & given[other],
            )
            for place, worth in enumerate(said):
                last[place, own[worth]] = other[worth]
    for found in last:
        for row in np.flatnonzero(found >= 0).tolist():
            yield row, int(found[row])


def _note(
    columns: dict[str, list[str | None]], rows: list[dict[str, Any]], own: int, other: int, labelled: str
) -> None:
    """Enter ``other`` as a near-copy of ``own`` where that means something."""
    one, two = rows[own], rows[other]
    if one["label"] != two["label"]:
        columns["near-copy, other label"][own] = f"{two['path']} (label {two['label']})"
    elif one["group"] != two["group"]:
        columns["near-copy, same label"][own] = two["path"]
    if one["split"] and two["split"] and one["split"] != two["split"]:
        frozen = one["path"].startswith(labelled) or two["path"].startswith(labelled)
        name = "near-copy, labelled" if frozen else "near-copy, other split"
        columns[name][own] = f"{two['path']} (split {two['split']})"
