"""The picture of benchmarks/gate.py: error rates against their goals, and coverage by interval."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import atomic_path

INTERVALS = {
    "accuracy": "accuracy",
    "recall": "recall of a class",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "nll": "NLL",
    "ece": "ECE",
    "robustness alone": "robustness",
    "robustness/one": "one corruption,\nchallenger − champion",
    "robustness": "robustness,\nchallenger − champion",
    "gap": "gap of slices",
    "difference": "challenger − champion",
}
GOOD, BAD, PALE = "#1a7f37", "#cf222e", "#8c959f"


def draw(place: Path, details: dict[str, Any]) -> None:
    """Left: how often the gate errs, with its goals; right: how often each interval holds the truth."""
    from matplotlib.figure import Figure

    rows = details["verdicts"]
    figure = Figure(figsize=(15, 0.42 * len(rows) + 2.2), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    _errors(left, rows)
    _coverage(right, details["coverage"])
    figure.suptitle(
        f"The gate's own errors, {details['draws']:,} simulated test sets a cell, with 95 % Wilson intervals; "
        f"planted changes in the predictions of: {details['real_predictions']['of']}",
        fontsize=10,
    )
    with atomic_path(place) as temporary:
        figure.savefig(temporary, format="png")


def _errors(axes: Any, rows: list[dict[str, Any]]) -> None:
    y = np.arange(len(rows))[::-1]
    for position, row in zip(y, rows, strict=True):
        low, high = (100 * end for end in row["ci95"])
        share, goal = 100 * row["share"], 100 * row["at_most"]
        colour = GOOD if row["met"] else BAD
        axes.plot([low, high], [position] * 2, color=colour, lw=2)
        axes.plot(share, position, "o", color=colour, ms=5)
        axes.plot([goal] * 2, [position - 0.35, position + 0.35], color="black", lw=1.4)
    names = {"PROMOTE": "promoted", "REJECT": "rejected"}
    labels = [
        f"{names.get(row['event'], row['event'])}: {row['case']}\n{_short(row['population'])}, n = {row['n']:,}"
        for row in rows
    ]
    axes.set_yticks(y, labels, fontsize=7)
    axes.set_xlim(left=0)
    axes.set_xlabel("verdicts that err, % (black bar: at most so many)")
    axes.grid(visible=True, axis="x", color="#d0d7de", linewidth=0.6)


def _short(population: str) -> str:
    return population.removeprefix("simulated, ")


def _coverage(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.axvspan(93, 97, color="#dafbe1", zorder=0)
    # The paired difference has the most cells, hence the most room.
    rooms = {name: 3.0 if name == "difference" else 1.0 for name in reversed(INTERVALS)}
    middles, top = [], 0.0
    for name, room in rooms.items():
        own = sorted((row for row in rows if row["interval"] == name), key=lambda row: row["n"])
        middles.append(top + room / 2)
        for offset, row in zip(np.linspace(-0.4, 0.4, len(own)) * room, own, strict=True):
            place = middles[-1] + offset
            colour = PALE if not row["field"] else GOOD if row["met"] else BAD
            low, high = (100 * end for end in row["ci95"])
            axes.plot([low, high], [place] * 2, color=colour, lw=0.9)
            axes.plot(
                100 * row["share"], place, "o", ms=3, color=colour,
                mfc="white" if not row["field"] else colour,
            )  # fmt: skip
        top += room
    axes.set_yticks(middles, [INTERVALS[name] for name in rooms])
    axes.set_xlim(88, 100.3)
    axes.set_xlabel(
        "test sets whose 95 % interval holds the truth, %\n"
        "(a point is a cell; hollow: too few errors or disagreements to reach the level)",
        fontsize=8,
    )
    axes.grid(visible=True, axis="x", color="#d0d7de", linewidth=0.6)
