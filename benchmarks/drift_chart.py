"""The picture of benchmarks/drift.py: power at equal false alarms by severity, ours beside the others."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "visionloop": "#0969da",
    "alibi mmd": "#cf222e",
    "alibi ks": "#bf8700",
    "evidently distance": "#1a7f37",
    "evidently model": "#8250df",
}
KINDS = {
    "gaussian_noise": "noise", "defocus": "blur", "brightness": "brighter",
    "contrast": "poorer in contrast", "jpeg": "JPEG", "pixelate": "pixelated",
}  # fmt: skip
OTHERS = {
    "knockout_class": "a class\nfewer", "knockout_half": "half the\nclasses fewer",
    "new_class": "a new\nclass", "other_domain": "another\ndomain",
}  # fmt: skip


def draw(result: dict[str, Any], place: Path) -> None:
    """A panel a corruption, one for the other shifts, one for all rivals; nothing where none was measured."""
    from matplotlib.figure import Figure

    batch = result["details"].get("batch")
    if not batch or len(batch["contenders"]) < 2:
        return
    figure = Figure(figsize=(15, 7.2), dpi=120, layout="constrained")
    grid = figure.add_gridspec(2, 4, width_ratios=(1, 1, 1, 1.35))
    for index, (kind, title) in enumerate(KINDS.items()):
        axes = figure.add_subplot(grid[divmod(index, 3)])
        _severities(axes, batch["power_by_shift"], kind, title)
        if index == 0:
            axes.legend(fontsize=8, loc="best")
    _others(figure.add_subplot(grid[0, 3]), batch["power_by_shift"])
    _gaps(figure.add_subplot(grid[1, 3]), batch)
    figure.suptitle(
        "One look at a window, each contender at the threshold that calls 5 % of its own windows without drift.\n"
        "Four sets, 20 to 200 images, 10 to 100 % of them changed, all together; 95 % intervals",
        fontsize=10,
    )
    with atomic_path(place) as temporary:
        figure.savefig(temporary, format="png")


def _severities(axes: "Axes", by_shift: dict[str, Any], kind: str, title: str) -> None:
    own = {
        int(key.rpartition("-")[2]): rates for key, rates in by_shift.items() if key.startswith(f"{kind}-")
    }
    levels = sorted(own)
    for name, colour in COLOURS.items():
        rates = [own[level].get(name) for level in levels]
        if not rates or None in rates:
            continue
        ours = name == "visionloop"
        axes.plot(
            levels, [100 * rate["rate"] for rate in rates], "o-", color=colour, lw=2.2 if ours else 1.3, ms=4, label=name
        )  # fmt: skip
        if ours:
            axes.fill_between(
                levels, [100 * rate["low"] for rate in rates], [100 * rate["high"] for rate in rates],
                color=colour, alpha=0.15, lw=0,
            )  # fmt: skip
    axes.set_title(title, fontsize=10)
    axes.set_xticks(levels)
    axes.set_xlabel("severity")
    _percent(axes)


def _others(axes: "Axes", by_shift: dict[str, Any]) -> None:
    kinds = [kind for kind in OTHERS if f"{kind}-0" in by_shift]
    for place, (name, colour) in enumerate(COLOURS.items()):
        for at, kind in enumerate(kinds):
            rate = by_shift[f"{kind}-0"].get(name)
            if rate:
                middle, low, high = (100 * rate[key] for key in ("rate", "low", "high"))
                axes.errorbar(
                    at + 0.14 * (place - 2), middle, yerr=[[middle - low], [high - middle]], fmt="o",
                    color=colour, ms=4, capsize=2,
                )  # fmt: skip
    axes.set_title("what is in the images", fontsize=10)
    axes.set_xticks(range(len(kinds)), [OTHERS[kind] for kind in kinds], fontsize=8)
    _percent(axes)


def _percent(axes: "Axes") -> None:
    axes.set_ylim(-2, 102)
    axes.grid(visible=True, color="#d0d7de", linewidth=0.6)
    axes.set_ylabel("windows called drift, %")


def _gaps(axes: "Axes", batch: dict[str, Any]) -> None:
    everything = batch["pools"][0]["against"]
    for at, gap in enumerate(everything.values()):
        middle, low, high = (100 * gap[key] for key in ("difference", "low", "high"))
        axes.errorbar(
            middle, at, xerr=[[max(0.0, middle - low)], [max(0.0, high - middle)]], fmt="o", color="#0969da", ms=5, capsize=3
        )  # fmt: skip
    axes.axvline(0, color="#57606a", lw=1)
    labels = [f"{name} ({gap['draws']:,})" for name, gap in everything.items()]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(visible=True, axis="x", color="#d0d7de", linewidth=0.6)
    axes.set_title("ours less each rival (on so many draws)", fontsize=10)
    axes.set_xlabel("more windows called drift by ours, points")
