"""The picture of benchmarks/drift.py: power at equal false alarms by severity, ours beside the others."""

from pathlib import Path
from typing import Any

from pipeline.artifacts import atomic_path

N, SHARE = 50, 0.3
LINES = {
    "visionloop": ("#0969da", 2.2),
    "alibi mmd": ("#cf222e", 1.3),
    "alibi ks": ("#bf8700", 1.3),
    "evidently model": ("#1a7f37", 1.3),
    "evidently mmd": ("#8250df", 1.3),
}
TITLES = {
    "gaussian_noise": "noise", "defocus": "blur", "brightness": "brighter", "contrast": "poorer in contrast",
    "jpeg": "JPEG", "pixelate": "pixelated",
}  # fmt: skip


def draw(result: dict[str, Any], place: Path) -> None:
    """A panel a corruption; nothing where the batch comparison was not measured."""
    from matplotlib.figure import Figure

    cells = result["details"].get("batch", {}).get("power", [])
    if not cells:
        return
    figure = Figure(figsize=(13, 6.4), dpi=120, layout="constrained")
    for axes, (kind, title) in zip(figure.subplots(2, 3, sharey=True).ravel(), TITLES.items(), strict=True):
        own = sorted(
            (c for c in cells if (c["shift"], c["n"], c["share"]) == (kind, N, SHARE)),
            key=lambda c: c["level"],
        )
        for name, (colour, width) in LINES.items():
            rates = [
                (c["level"], c["equal_false_alarms"][name]) for c in own if name in c["equal_false_alarms"]
            ]
            levels = [level for level, _ in rates]
            axes.plot(
                levels, [100 * r["rate"] for _, r in rates], "o-", color=colour, lw=width, ms=4, label=name
            )
            if name == "visionloop":
                axes.fill_between(
                    levels, [100 * r["low"] for _, r in rates], [100 * r["high"] for _, r in rates],
                    color=colour, alpha=0.15, lw=0,
                )  # fmt: skip
        axes.set_title(f"{title}, in {SHARE:.0%} of {N} images", fontsize=10)
        axes.set_ylim(-2, 102)
        axes.grid(visible=True, color="#d0d7de", linewidth=0.6)
        axes.set_xlabel("severity")
        axes.set_ylabel("windows called drift, %")
    figure.axes[0].legend(fontsize=8)
    figure.suptitle(
        "One look at a window, each contender at the threshold that calls 5 % of its windows without drift; "
        "all sets together, Wilson's 95 % interval of ours",
        fontsize=10,
    )
    with atomic_path(place) as temporary:
        figure.savefig(temporary, format="png")
