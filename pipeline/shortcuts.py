"""Does something beside the object give a class away: a frame, a watermark, a file format, the exposure?

    for found in shortcuts(manifest): print(found.text)

Small linear models, cross-validated by group, see one thing each and never the object: the outermost pixels, the
corners, what the file says of itself, exposure and sharpness. What counts is how many images of a class such a
model tells from 99 % of the others. Backgrounds differ honestly between classes, so only a share whose interval
lies above TOO_MUCH is a warning: on photographs, paintings, groceries, circuit boards and magnetic tiles none was;
a frame, a coloured stamp or another format on every image of a class gives .7 to 1. White letters in a corner of
few, bright photographs stay below.
Geirhos et al., "Shortcut learning in deep neural networks", 2020, say why it matters.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.edges import ALONG, CORNER, CORNERS, SIDES
from pipeline.intervals import codes, proportion

__all__ = ["Shortcut", "shortcuts"]

FOLDS = 5
MOST = 5000  # images looked at: a share is then known to a few hundredths
LEAST_GROUPS = 20  # of a class
OTHERS = 0.99  # of the images of other classes must score lower
# Above what honest classes reach: a shelf's colour or a street behind a class, defects that darken a part.
TOO_MUCH = {"the border": 0.6, "the corners": 0.5, "the file": 0.5, "the exposure": 0.65}
RIDGE = 0.1
BINS = 16
NAMED = 3
_FILE = (
    "bytes",
    "bytes a pixel",
    "width",
    "height",
    "width / height",
    "format",
    "mode",
    "bits",
    "orientation",
)
_EXPOSURE = ("brightness", "contrast", "sharpness", "saturation")

Parts = dict[str, np.ndarray]  # name → features [n, width]


@dataclass(frozen=True, slots=True)
class Shortcut:
    """What gives a class away, and how surely."""

    label: str
    what: str  # the border, the corners, the file, the exposure
    part: str  # the side, corner or column that says most
    share: (
        float  # of the class's images that score above 99 % of the others, by models that have not seen them
    )
    interval: tuple[float, float]  # 95 %, of groups
    accuracy: float  # of all classes
    accuracy_interval: tuple[float, float]
    majority: float  # share of the largest class
    rows: list[int]  # of the manifest: of the class, given away most clearly
    others: list[int]  # of other classes, in the middle of their scores

    @property
    def text(self) -> str:
        low, high = self.interval
        return (
            f"{self.label!r}: {self.what} alone, above all {self.part}, tells {self.share:.0%} of its images "
            f"({low:.0%} to {high:.0%}) from {OTHERS:.0%} of the others; over all classes it names "
            f"{self.accuracy:.0%} ({self.accuracy_interval[0]:.0%} to {self.accuracy_interval[1]:.0%}) rightly, the "
            f"largest class has {self.majority:.0%}"
        )


def shortcuts(manifest: pa.Table) -> list[Shortcut]:
    """What gives a class of the manifest away, the clearest first; empty where too few groups are there to say."""
    rows = _rows(manifest)
    table = manifest.take(pa.array(rows))
    names, labels = np.unique(
        np.array(table["label"].to_pylist(), dtype=object).astype(str), return_inverse=True
    )
    groups = table["group"].to_pylist()
    if len(names) < 2:
        return []
    folds = np.array([_number(group) % FOLDS for group in groups])
    found = []
    for what, parts in _looks(table).items():
        scores = _scores(np.concatenate(list(parts.values()), axis=1), labels, folds, len(names))
        for code, label in enumerate(names):
            shown = _shown(scores[:, code], labels == code, groups)
            if shown is None or shown[1][0] <= TOO_MUCH[what]:
                continue
            single = {name: _scores(part, labels, folds, len(names))[:, code] for name, part in parts.items()}
            part = max(single, key=lambda name: _shown(single[name], labels == code, groups)[0])  # type: ignore[index]
            right = scores.argmax(axis=1) == labels
            order = np.argsort(-scores[:, code], kind="stable")
            own, other = order[labels[order] == code], order[labels[order] != code]
            found.append(
                Shortcut(
                    str(label), what, part, *shown, float(right.mean()), _interval(right, groups),
                    float(np.bincount(labels).max() / len(labels)), [rows[i] for i in own[:NAMED]],
                    [rows[i] for i in other[len(other) // 2 :][:NAMED]],
                )
            )  # fmt: skip
    return sorted(found, key=lambda one: (-one.share, one.label, one.what))


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8], 16)


def _rows(manifest: pa.Table) -> list[int]:
    """The images that decode, at most MOST, whole groups drawn by their hash."""
    groups = manifest["group"].to_pylist()
    usable = np.flatnonzero(
        np.asarray(manifest["error"].is_null()) & np.asarray(manifest["border"].is_valid())
    )
    if len(usable) > MOST:
        order = {group: _number(f"drawn {group}") for group in {groups[i] for i in usable}}
        usable = usable[np.argsort([order[groups[i]] for i in usable], kind="stable")[:MOST]]
    return sorted(int(i) for i in usable)


def _shown(
    scores: np.ndarray, own: np.ndarray, groups: list[str]
) -> tuple[float, tuple[float, float]] | None:
    """Share of ``own`` above OTHERS of the rest and its interval; None where groups are too few."""
    if len({group for group, mine in zip(groups, own, strict=True) if mine}) < LEAST_GROUPS:
        return None
    bound = np.quantile(scores[~own], OTHERS)
    above = scores[own] > bound
    return float(above.mean()), _interval(above, [g for g, mine in zip(groups, own, strict=True) if mine])


def _interval(hits: np.ndarray, groups: list[str]) -> tuple[float, float]:
    """Of the share of hits; shots of one part count as far as they differ."""
    return proportion(hits.astype(np.float64), codes(groups))


def _scores(features: np.ndarray, labels: np.ndarray, folds: np.ndarray, classes: int) -> np.ndarray:
    """[n, classes] of ridge regression on the classes' indicators, each row by a model of the other folds."""
    targets = np.eye(classes, dtype=np.float32)[labels]
    scores = np.zeros((len(labels), classes), dtype=np.float32)
    for fold in np.unique(folds):
        seen = folds != fold
        if not seen.any():
            continue
        mean, deviation = features[seen].mean(axis=0), features[seen].std(axis=0) + 1e-3
        known = (features[seen] - mean) / deviation
        prior = targets[seen].mean(axis=0)
        gram = known.T @ known + RIDGE * len(known) * np.eye(known.shape[1], dtype=np.float32)
        weights = np.linalg.solve(gram, known.T @ (targets[seen] - prior))
        scores[~seen] = (features[~seen] - mean) / deviation @ weights + prior
    return scores


def _looks(table: pa.Table) -> dict[str, Parts]:
    return {
        "the border": _colours(table, "border", [f"the {side} side" for side in SIDES], ALONG),
        "the corners": _colours(table, "corners", [f"the {corner} corner" for corner in CORNERS], CORNER**2),
        "the file": _columns(table, _FILE),
        "the exposure": _columns(table, _EXPOSURE),
    }


def _colours(table: pa.Table, column: str, names: list[str], cells: int) -> Parts:
    """Of each part its cells' colours, and how uniform and how colourful it is: a frame is both or neither."""
    data = b"".join(table[column].to_pylist())
    values = np.frombuffer(data, np.uint8).reshape(-1, len(names), cells, 3).astype(np.float32) / 255
    found = {}
    for place, name in enumerate(names):
        part = values[:, place]
        spread = part.std(axis=1)
        steps = np.abs(np.diff(part, axis=1)).mean(axis=1)
        colourful = part.max(axis=2) - part.min(axis=2)
        squares = part.mean(axis=1) ** 2
        found[name] = np.concatenate(
            [part.reshape(len(part), -1), spread, np.log(spread + 0.005), steps, squares, colourful], axis=1
        )
    return found


def _columns(table: pa.Table, names: tuple[str, ...]) -> Parts:
    """Each column in bins, since a class may stand out in the middle; texts as indicators."""
    columns = {
        name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names if name in names
    }
    if "bytes" in names:
        columns["bytes a pixel"] = columns["bytes"] / (
            columns["width"] * columns["height"].astype(np.float64)
        )
        columns["width / height"] = columns["width"] / columns["height"]
    return {name: _binned(columns[name]) for name in names}


def _binned(values: np.ndarray) -> np.ndarray:
    """[n, bins] indicators of a column: by value where it has few, else by quantiles."""
    distinct, places = np.unique(
        values.astype(str) if values.dtype == object else values, return_inverse=True
    )
    if len(distinct) > 2 * BINS:
        edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
        # Both sides: a value that many share is a bin of its own.
        places = np.searchsorted(edges, values, side="left") + np.searchsorted(edges, values, side="right")
    return np.eye(int(places.max()) + 1, dtype=np.float32)[places]
