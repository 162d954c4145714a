"""What changed, in words and units that a person gets, and what to do about it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from monitoring.bad_source import bad_source
from monitoring.drift import matched
from monitoring.estimate import estimate
from monitoring.evidence import Yardstick
from monitoring.faults import ADVICE as FAULTS
from monitoring.faults import Fault, columns, fault, marks_of
from monitoring.two_sample import class_shares, holm, kolmogorov_smirnov
from monitoring.window import Window
from pipeline.artifacts import STATISTICS

LEVEL = 0.01
"""Of the tests behind a statement, after Holm."""
NOTICEABLE = 0.4
"""Standardised difference under which a change is not worth a word."""
LARGE = 0.8
VISIBLE = {
    "brightness": 0.02, "contrast": 0.01, "sharpness": 0.08, "saturation": 0.03, "confidence": 0.03, "edges": 0.08,
    "noise": 0.06, "blocks": 0.01, "evenness": 0.03, "warmth": 0.03, "tint": 0.02, "grain": 0.05, "top": 0.02,
}  # fmt: skip
"""Differences that a person would see: below them a statistic is not mentioned, however sure the move."""
MANY = 0.1
"""Share of strange images (one in a hundred is usual) from which novelty is worth a word."""
Kind = Literal["source", "sensor", "content", "classes", "unclear"]
ADVICE: dict[Kind, str] = {
    "source": "One source differs while the others look as before: check that device first, labels can wait.",
    "sensor": "If it is a fault, mend it and dismiss the episode; if it is to stay, label the queue.",
    "content": "The images look as before but show something the held-out images don't: label the queue, and "
    "look whether a class is missing.",
    "classes": "The classes come in other shares, the images themselves look as before: check that it is so on the "
    "line; labels of the queue tell whether the accuracy holds.",
    "unclear": "No single statistic explains it: look at the contact sheet and label the queue.",
}


@dataclass(frozen=True)
class Change:
    """One statistic's move: its mean in the reference and in the window, and the difference in units of spread."""

    name: str
    before: float
    after: float
    effect: float
    p: float

    @property
    def words(self) -> str:
        return _words(self)


@dataclass(frozen=True)
class Explanation:
    """``text`` is what people read; the rest is the evidence behind it.

    Attributes:
        fault: of the sensor, where the numbers bear the mark of one, whatever ``kind`` is.
        since: the first image that was looked at, where the drift began: request_id, image_id and time.
        examples: rows of the window that say it most.
    """

    kind: Kind
    text: str
    changes: tuple[Change, ...]
    fault: Fault | None
    novel_share: float
    shares: dict[str, tuple[float, float]]
    source: str | None
    since: dict[str, str]
    examples: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"examples": list(self.examples[:16])}


def explain(measure: Yardstick, window: Window, seen: np.ndarray | None = None) -> Explanation:
    """Compare the images since the drift began with the held-out ones that they resemble most.

    Args:
        seen: (k, looks) of kept images of the window, ``faults.looks_of``. Without them noise, compression, colour
            casts and turned cameras have no number of their own, and are told by what they do to the others.
    """
    changes = _changes(measure, window, seen)
    novelty = measure.novelty(window.embeddings)
    usual = measure.usual_novelty
    novel_share = float(np.mean(novelty > usual))
    shares = _shares(measure, window)
    source = bad_source(measure, window)
    found = fault({change.name: change.effect for change in changes})
    kind = _kind(changes, found, novel_share, shares, source)
    sentences = [_sentence(changes, found)] if changes else []
    if novel_share >= MANY:
        sentences.append(f"{novel_share:.0%} of the images are stranger than 99% of the held-out ones.")
    if shares:
        moved = ", ".join(f"{name} {was:.0%} → {now:.0%}" for name, (was, now) in shares.items())
        sentences.append(f"Predicted classes moved: {moved}.")
    if source is not None:
        sentences.append(f"It comes from the source {source!r} alone.")
    if not sentences:
        sentences.append("The evidence is spread over small differences.")
    estimated = estimate(measure.reference, window)
    if estimated is not None:
        sentences.append(f"{estimated.words}.")
    advice = [FAULTS[found], ADVICE[kind]] if kind == "sensor" and found else [ADVICE[kind]]
    return Explanation(
        kind=kind,
        fault=found,
        text=" ".join([*sentences, *advice]),
        changes=tuple(changes),
        novel_share=novel_share,
        shares=shares,
        source=source,
        since=_first(window),
        examples=_examples(measure, window, changes, novelty),
    )


def _first(window: Window) -> dict[str, str]:
    row = window.rows[0]
    return {"request_id": row.request_id, "image_id": row.image_id, "time": row.time.isoformat()}


def _changes(measure: Yardstick, window: Window, seen: np.ndarray | None) -> list[Change]:
    """The numbers that moved, the largest move first; the sizes and the confidence among them."""
    reference = measure.reference
    like = matched(reference, window)
    numbers = columns(reference, like, window, seen)
    numbers["confidence"] = (window.confidence, reference.confidence[like])
    adjusted = holm({name: kolmogorov_smirnov(*pair) for name, pair in numbers.items()})
    found = []
    for name, (after, before) in numbers.items():
        spread = float(np.sqrt((before.var() + after.var()) / 2))
        gap = float(after.mean() - before.mean())
        effect = gap / spread if spread > 1e-9 else float(np.sign(gap)) * (10.0 if abs(gap) > 1e-6 else 0.0)
        visible = VISIBLE.get(name, 0.05 * float(before.mean()))
        if adjusted[name] <= LEVEL and abs(effect) >= NOTICEABLE and abs(gap) >= visible:
            found.append(Change(name, float(before.mean()), float(after.mean()), effect, adjusted[name]))
    return sorted(found, key=lambda change: (change.name == "confidence", -abs(change.effect)))


LOOKING: dict[str, tuple[str, str]] = {
    "edges": ("crisper for their contrast", "softer for their contrast"),
    "noise": ("noisier", "less noisy"),
    "blocks": ("blockier, as strong JPEG compression leaves them", "less blocky"),
    "evenness": ("without copied pixels", "enlarged by copying pixels"),
    "warmth": ("redder", "bluer"),
    "tint": ("greener", "more magenta"),
    "grain": ("turned: edges run another way", "turned: edges run another way"),
    "top": ("lighter above than below", "darker above than below"),
}
"""What a number of the look says when it is higher, and when it is lower."""


def _words(change: Change) -> str:
    """The change as what the images are, or what the model does."""
    more = change.after > change.before
    percent = f"{abs(change.after / max(change.before, 1e-6) - 1):.0%}"
    if change.name == "brightness":
        return f"{percent} {'brighter' if more else 'darker'}"
    if change.name == "contrast":
        return f"{percent} {'richer' if more else 'poorer'} in contrast"
    if change.name == "sharpness":
        factor = 10 ** abs(change.after - change.before)
        return (
            f"{'sharper or noisier' if more else 'less sharp'} (edges {factor:.1f} times {_strength(more)})"
        )
    if change.name == "saturation":
        return f"{'more' if more else 'less'} colourful (saturation {change.before:.2f} → {change.after:.2f})"
    if change.name in LOOKING:
        move = abs(change.effect)
        return f"{LOOKING[change.name][0 if more else 1]} ({move:.1f} times the usual spread)"
    if change.name == "pixels":
        sides = f"{np.sqrt(change.before):.0f} → {np.sqrt(change.after):.0f} px"
        return f"{'larger' if more else 'smaller'} (mean side {sides})"
    return (
        f"the model's confidence {'rose' if more else 'fell'} from {change.before:.2f} to {change.after:.2f}"
    )


def _strength(more: bool) -> str:
    return "stronger" if more else "weaker"


def _sentence(changes: Sequence[Change], found: Fault | None) -> str:
    told = marks_of(found)
    if any(change.name == "sharpness" for change in changes):
        told -= {"edges"}  # says nothing more to a reader
    looks = [
        change.words
        for change in changes
        if change.name != "confidence" and (change.name not in LOOKING or change.name in told)
    ]
    parts = []
    if looks:
        listed = looks[0] if len(looks) == 1 else ", ".join(looks[:-1]) + " and " + looks[-1]
        parts.append(f"the images are {listed}")
    parts += [change.words for change in changes if change.name == "confidence"]
    if not parts:  # only what goes with other changes has moved
        parts = [f"the images are {changes[0].words}"]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _shares(measure: Yardstick, window: Window) -> dict[str, tuple[float, float]]:
    """Classes whose predicted share moved by five points or more, where the shares differ at all."""
    reference = measure.reference
    like = matched(reference, window)
    before = [reference.predicted[index] for index in like]
    rng = np.random.default_rng(len(window))
    p = class_shares(window.labels, before, reference.classes, permutations=999, rng=rng)
    if p > LEVEL:
        return {}
    moved = {}
    for name in reference.classes:
        was, now = before.count(name) / len(before), window.labels.count(name) / len(window)
        if abs(now - was) >= 0.05:
            moved[name] = (was, now)
    return dict(sorted(moved.items(), key=lambda item: -abs(item[1][1] - item[1][0]))[:4])


def _kind(
    changes: Sequence[Change],
    fault: Fault | None,
    novel_share: float,
    shares: dict[str, tuple[float, float]],
    source: str | None,
) -> Kind:
    if source is not None:
        return "source"
    if fault or any(abs(change.effect) >= LARGE and change.name != "confidence" for change in changes):
        return "sensor"
    if novel_share >= MANY:
        return "content"
    return "classes" if shares else "unclear"


def _examples(
    measure: Yardstick, window: Window, changes: Sequence[Change], novelty: np.ndarray
) -> tuple[int, ...]:
    """Indices of the images that say it most: furthest in the directions that moved, and strangest."""
    score = _ranks(novelty)
    for change in changes:
        if change.name in STATISTICS:
            values = window.statistics[:, STATISTICS.index(change.name)]
            score = score + _ranks(values * np.sign(change.effect))
    return tuple(int(index) for index in np.argsort(-score, kind="stable"))


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable") / max(1, len(values) - 1)
