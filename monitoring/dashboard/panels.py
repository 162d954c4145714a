"""The Evidently project and its panels over time."""

import html
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from pipeline.artifacts import digest_json

__all__ = ["Shown", "project"]

PROJECT = "visionloop"
MOST = 12
"""Classes with a line of their own: of more, the most frequent ones of the reference."""


@dataclass(frozen=True)
class Shown:
    """What the panels depend on: the ways to the contact sheets, the classes, and which of our figures exist."""

    sheets: Sequence[str]
    classes: Sequence[str]
    figures: Set[str]


def project(workspace: Any, shown: Shown, drawn: str | None) -> tuple[Any, str]:
    """The project, its panels brought up to date where ``drawn`` is not what they say now; and what they say."""
    found = workspace.search_project(PROJECT)
    made = found[0] if found else workspace.create_project(PROJECT)
    panels = [_notes(shown.sheets), *_panels(shown)]
    said = digest_json([panel.dict(exclude={"id"}) for panel in panels])
    if said != drawn:
        made.description = "Production against the held-out reference, a run for each window"
        _clear(workspace, made)
        for panel in panels:
            made.dashboard.add_panel(panel)
        made.save()
    return made, said


def _clear(workspace: Any, made: Any) -> None:
    """Empty the first tab, which is ours. By the model: Evidently's own ``clear_tab`` leaves the panels behind."""
    model = made.dashboard.model()
    if model.tabs:
        ours = set(model.tabs[0].panels)
        model.panels = [panel for panel in model.panels if panel.id not in ours]
        model.tabs[0].panels = []
        workspace.save_dashboard(made.id, model)


def _notes(lines: Sequence[str]) -> Any:
    """A panel shows text as text: so the name of the report that holds the sheet, and the way to its file."""
    from evidently.sdk.panels import text_panel

    said = " · ".join([*lines, "var/monitoring/index.html links them all"]) if lines else "No drift so far."
    return text_panel(
        title="Contact sheets: production beside held-out images", description=said, size="full"
    )


def _panels(shown: Shown) -> list[Any]:
    """All of them, in the order of the page; none that would be empty."""
    return [panel for panel in _every(shown) if panel is not None]


def _every(shown: Shown) -> list[Any]:
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import bar_plot_panel, line_plot_panel

    def lines(title: str, about: str, size: str, **columns: str) -> Any:
        if not shown.figures & columns.keys():
            return None
        values = [
            PanelMetric(legend=legend, metric="MeanValue", metric_labels={"column": column})
            for column, legend in columns.items()
        ]
        return line_plot_panel(title=title, description=about, size=size, values=values)

    shares = [
        PanelMetric(
            legend=name,
            metric="UniqueValueCount",
            metric_labels={"column": "predicted", "value_type": "share", "label": html.escape(name)},
        )
        for name in shown.classes[:MOST]
    ]
    return [
        lines(
            "Evidence against 'no drift' (log10 of the e-value)",
            "Above the alarm line an episode opens, however often one looks; drawn up to 10.",
            "full", log10_e="evidence", alarm_at="alarm line",
        ),
        lines("Kernel MMD² of the embeddings", "Distance of a window to the reference; 0 without drift.", "half", mmd="MMD²"),
        lines(
            "Share of drifted columns", "Columns further off than samples of this size are in 99 of 100 cases.",
            "half", drifted_share="share",
        ),
        lines(
            "Estimated accuracy", "From the answers alone, with its 95 % interval.", "half",
            estimated="estimate", estimated_low="lower bound", estimated_high="upper bound",
        ),
        lines(
            "Accuracy where labels exist",
            "On a window's labelled images that were drawn at random, with its 95 % interval: a handful, so it jumps.",
            "half", correct="accuracy", correct_low="lower bound", correct_high="upper bound",
        ),
        line_plot_panel(title="Share of each class", description="Of a window's answers.", size="full", values=shares),
        lines("Abstentions", "Share of a window's answers below serve.abstain_below.", "half", abstained="abstained"),
        bar_plot_panel(
            title="Volume", description="Images in a window.", size="half",
            values=[PanelMetric(legend="images", metric="RowCount")],
        ),
        lines(
            "Brightness, contrast and saturation of the images", "Mean of a window, 0 to 1.", "half",
            brightness="brightness", contrast="contrast", saturation="saturation",
        ),
        lines("Sharpness of the images", "Mean of a window, log10 of 1 + variance of the Laplacian.", "half", sharpness="sharpness"),
        lines("Time of an answer", "Decoding and network, milliseconds.", "half", p50_ms="p50", p99_ms="p99"),
        lines("Confidence of the model", "Mean of a window.", "half", confidence="confidence"),
    ]  # fmt: skip
