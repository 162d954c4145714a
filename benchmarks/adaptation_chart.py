"""The picture of benchmarks/adaptation.py: accuracy against labels, on the new domain and on the old one."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import atomic_path

NAMES = {
    "probe": "probe on photographs and the labels",
    "balanced": "the same, domain_balance 1",
    "coral": "CORAL to the whole pool, and the labels",
    "adabn": "that probe, AdaBN to the whole pool",
    "dann": "DANN against the whole pool, and the labels",
}


def draw(place: Path, cases: list[dict[str, Any]], old: str) -> None:
    """Above: accuracy on the new domain, a column a domain; below: on the ``old`` one."""
    from matplotlib.figure import Figure

    targets = sorted({case["target"] for case in cases})
    figure = Figure(figsize=(5.2 * len(targets), 7.4), dpi=140, layout="constrained")
    grid = figure.subplots(2, len(targets), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 2])
    for column, target in enumerate(targets):
        of_target = [case for case in cases if case["target"] == target]
        shares = sorted({case["percent"]: case["labelled"] for case in of_target}.items())
        for axes, name, domain in zip(grid[:, column], ("new", "old"), (target, old), strict=True):
            for number, (contender, label) in enumerate(NAMES.items()):
                own = [case for case in of_target if case["contender"] == contender]
                _line(axes, own, name, label, shift=0.07 * (number - 1.5))
            axes.grid(visible=True, color="#d0d7de", linewidth=0.6)
            axes.set_ylabel(f"accuracy on held-out images: {domain}")
        grid[0, column].set_title(f"{old} → {target}")
        # Evenly spaced, since the shares are not.
        grid[1, column].set_xticks(range(len(shares)), [f"{percent} %\n{count}" for percent, count in shares])
        grid[1, column].set_xlabel(f"of the pool of {target}, how much is labelled (share, images)")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    figure.suptitle(
        f"Mean over {cases[0]['seeds']} divisions of the images, 95 % interval over them", fontsize=10
    )
    with atomic_path(place) as temporary:
        figure.savefig(temporary, format="png")


def _line(axes: Any, cases: list[dict[str, Any]], name: str, label: str, *, shift: float) -> None:
    """One contender's accuracy on one domain; shifted a little, so that intervals do not hide each other."""
    if not cases:
        return
    cases = sorted(cases, key=lambda case: case["percent"])
    middle = np.array([case[name]["accuracy"] for case in cases])
    low, high = np.array([case[name]["ci95"] for case in cases]).T
    x = np.arange(len(cases)) + shift
    axes.errorbar(x, middle, [middle - low, high - middle], label=label, marker="o", ms=4, lw=1.4, capsize=3)
