"""What the triage calls shifts whose kind is known, and how far off the accuracy without labels is.

Windows of 40 images of each set: every corruption at two strengths, a warmer lamp, a turned camera, a third of
the resolution, classes in other shares, a new class, another domain, and one bad source among two.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drift_draws import Stack
from benchmarks.drift_images import (
    CHANGED,
    KINDS,
    LEVELS,
    OTHERS,
    SETS,
    Watched,
    changed,
    decoded,
    held_out,
    strange,
    workspace,
)
from benchmarks.drift_ours import reference_of, window_of
from monitoring.drift import yardstick
from monitoring.estimate import estimate
from monitoring.evidence import Yardstick
from monitoring.reference import Reference
from monitoring.triage import Explanation, explain
from monitoring.window import Window
from pipeline.images import LOOKS, look

N = 40
WINDOWS = 3
KNOWN = N * WINDOWS
"""Images whose look is measured under each change."""
SHIFTS = (*((kind, level) for kind in KINDS for level in (2, 4)), *((kind, 3) for kind in OTHERS))
TRUTH = {
    "gaussian_noise": "noise", "defocus": "blur", "brightness": "exposure", "contrast": "exposure",
    "jpeg": "compression", "pixelate": "resolution", "small": "resolution", "colour_cast": "colour cast",
    "turned": "orientation", "knockout_half": "classes", "new_class": "content", "other_domain": "content",
    "one_source": "source", "none": "unclear",
}  # fmt: skip


def confusion(stacks: Sequence[Stack], work: Path) -> dict[str, Any]:
    """By injected kind how often the triage called it what, and by set."""
    told: dict[str, Counter[str]] = {}
    by_set: dict[str, list[int]] = {}
    for stack in stacks:
        for shift, found in _explained(stack, _looks(stack.watched, work)):
            truth = TRUTH[shift]
            said = found.fault if found.kind == "sensor" and found.fault else found.kind
            told.setdefault(f"{truth} ({shift})", Counter())[said] += 1
            hits = by_set.setdefault(stack.watched.name, [0, 0])
            hits[0] += said == truth
            hits[1] += 1
    return {
        "windows_of": N,
        "right_by_set": {name: f"{hits} of {count}" for name, (hits, count) in by_set.items()},
        "told": {name: dict(counts.most_common()) for name, counts in sorted(told.items())},
    }


def _explained(stack: Stack, looks: dict[str, np.ndarray]) -> Iterator[tuple[str, Explanation]]:
    measure = _measure(stack, looks["clean"])
    rng = np.random.default_rng(0)
    parts, classes = stack.watched.parts, stack.watched.classes
    for start in range(0, KNOWN, N):
        own = np.arange(start, start + N)
        clean = window_of(parts["clean"].take(own), classes)
        yield "none", explain(measure, clean, looks["clean"][own])
        for kind, level in SHIFTS:
            key = f"{kind}-{level}"
            window = window_of(parts[key].take(own), classes)
            yield kind, explain(measure, window, looks[key][own])
            if kind in ("brightness", "gaussian_noise"):
                yield "one_source", explain(measure, *_two_sources(clean, window, looks, key, own))
        for key in ("new_class", "other_domain"):
            of = np.arange(start, start + N) % min(KNOWN, len(parts[key]))
            yield key, explain(measure, window_of(parts[key].take(of), classes), looks[key][of])
        labels = parts["clean"].labels[:KNOWN]
        left = np.flatnonzero(np.isin(labels, np.unique(labels)[::2]))
        few = rng.choice(left, N, replace=len(left) < N)
        yield (
            "knockout_half",
            explain(measure, window_of(parts["clean"].take(few), classes), looks["clean"][few]),
        )


def _two_sources(
    clean: Window, bad: Window, looks: dict[str, np.ndarray], key: str, own: np.ndarray
) -> tuple[Window, np.ndarray]:
    """Every other image comes from a second camera, and that one alone is bad."""
    half = len(own) // 2
    rows = (
        *(replace(row, source="camera-1") for row in clean.rows[:half]),
        *(replace(row, source="camera-2") for row in bad.rows[half:]),
    )
    return Window(rows, clean.classes), np.concatenate([looks["clean"][own[:half]], looks[key][own[half:]]])


def _reference(stack: Stack, looks: np.ndarray | None = None) -> Reference:
    """The images that were not corrupted, as a champion's reference with labels."""
    rows = np.arange(CHANGED, len(stack.watched.parts["clean"]))
    clean, classes = stack.watched.parts["clean"].take(rows), stack.watched.classes
    held = reference_of(clean, classes, tuple(stack.watched.domains[row] for row in rows))
    labels = tuple(classes[index] for index in clean.labels)
    return replace(held, labels=labels, looks=None if looks is None else looks[rows])


def _measure(stack: Stack, looks: np.ndarray) -> Yardstick:
    return yardstick(_reference(stack, looks), 0.01)


def _looks(watched: Watched, work: Path) -> dict[str, np.ndarray]:
    """The look of every clean image and of ``KNOWN`` of each shift; measured once."""
    target = work / f"{watched.name}-looks.npz"
    if not target.exists():
        source = next(one for one in SETS if one.name == watched.name)
        rng = np.random.default_rng(0)  # as drift_images draws them: the same images in the same order
        held, _ = held_out(source, workspace(source, work), rng)
        pictures = [decoded(path) for path, _ in held]
        found = {"clean": [look(picture) for picture in pictures]}
        for kind, level in SHIFTS:
            found[f"{kind}-{level}"] = [
                look(changed(picture, kind, level, seed)) for seed, picture in enumerate(pictures[:KNOWN])
            ]
        for key in ("new_class", "other_domain"):
            paths = strange(source, work, key)
            found[key] = [look(decoded(paths[at])) for at in rng.permutation(len(paths))[:KNOWN]]
        arrays = {
            key: np.array([[one[name] for name in LOOKS] for one in seen]) for key, seen in found.items()
        }
        np.savez(target, **arrays)  # type: ignore[arg-type]
    with np.load(target) as stored:
        return {key: stored[key] for key in stored.files}


def estimates(stacks: Sequence[Stack], n: int = 100, windows: int = 5) -> dict[str, Any]:
    """The estimated accuracy beside the true one, by set and change: mean error, and how often the interval holds."""
    rows: list[dict[str, Any]] = []
    for stack in stacks:
        held = _reference(stack)
        rng = np.random.default_rng(0)
        for key in ("clean", *(f"{kind}-{level}" for kind in KINDS for level in LEVELS)):
            part = stack.watched.parts[key].take(np.arange(CHANGED))
            right = part.probabilities.argmax(axis=1) == part.labels
            truth = float(right.mean())
            found = [
                estimate(held, window_of(part.take(rng.permutation(CHANGED)[:n]), stack.watched.classes))
                for _ in range(windows)
            ]
            known = [one for one in found if one is not None]
            rows.append(
                {
                    "set": stack.watched.name,
                    "change": key,
                    "truth": round(truth, 3),
                    "estimated": round(float(np.mean([one.accuracy for one in known])), 3),
                    "before": round(known[0].before, 3),
                    "holds": sum(one.low <= truth <= one.high for one in known) / len(known),
                }
            )
    errors = np.array([abs(row["estimated"] - row["truth"]) for row in rows])
    naive = np.array([abs(row["before"] - row["truth"]) for row in rows])
    return {
        "windows_of": n,
        "mean_absolute_error": round(float(errors.mean()), 4),
        "mean_absolute_error_of_the_held_out_accuracy": round(float(naive.mean()), 4),
        "largest_error": round(float(errors.max()), 4),
        "interval_holds": round(float(np.mean([row["holds"] for row in rows])), 4),
        "cells": rows,
    }
