"""The picture of benchmarks/labels.py: accuracy on the new domain by labels, a column a case."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import atomic_path

NAMES = {
    "random": "uniformly at random",
    "ours": "the queue: half at random, half chosen",
    "chosen": "the queue's choice alone",
    "entropy": "entropy alone",
    "kcenter": "k-center alone",
}
COLOURS = {
    "random": "#57606a",
    "ours": "#0969da",
    "chosen": "#54aeff",
    "entropy": "#cf222e",
    "kcenter": "#bf8700",
}


def draw(place: Path, means: list[dict[str, Any]]) -> None:
    """Above: every label trains; below: two ways, their labels divided into train, validation and test."""
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys(mean["case"] for mean in means))
    figure = Figure(figsize=(4.1 * len(cases), 7.6), dpi=130, layout="constrained")
    grid = figure.subplots(2, len(cases), squeeze=False, sharey="col", height_ratios=[3, 2])
    for column, case in enumerate(cases):
        for axes, divided in zip(grid[:, column], (False, True), strict=True):
            own = [mean for mean in means if mean["case"] == case and mean["divided"] is divided]
            for number, (way, label) in enumerate(NAMES.items()):
                _line(
                    axes, [mean for mean in own if mean["way"] == way], way, label, shift=1.1 * (number - 2)
                )
            axes.grid(visible=True, color="#d0d7de", linewidth=0.6)
            axes.set_xticks(sorted({mean["labels"] for mean in means}))
            axes.set_xlabel("labels" if not divided else "labels, 45 % of which train")
        grid[0, column].set_title(case, fontsize=11)
    for axes, what in zip(grid[:, 0], ("every label trains", "40 % test, 15 % validate"), strict=True):
        axes.set_ylabel(f"accuracy on the new domain\n({what})")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=10)
    figure.suptitle(
        f"Mean over {means[0]['seeds']} divisions of the images, 95 % interval over them", fontsize=10
    )
    with atomic_path(place) as temporary:
        figure.savefig(temporary, format="png")


def _line(axes: Any, means: list[dict[str, Any]], way: str, label: str, *, shift: float) -> None:
    """One way's accuracy; shifted a little, so that intervals do not hide each other."""
    if not means:
        return
    means = sorted(means, key=lambda mean: mean["labels"])
    middle = np.array([mean["new"]["mean"] for mean in means])
    low, high = np.array([mean["new"]["ci95"] for mean in means]).T
    x = np.array([mean["labels"] for mean in means]) + shift
    wide = way in ("random", "ours")
    axes.errorbar(
        x, middle, [middle - low, high - middle], label=label, color=COLOURS[way],
        marker="o", ms=4 if wide else 3, lw=2 if wide else 1.1, elinewidth=0.9, capsize=2,
    )  # fmt: skip
