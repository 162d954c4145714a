"""Each window as a run in an Evidently workspace: ``evidently ui --workspace var/evidently`` (or ``make ui``).

The only module that imports Evidently, and only when it draws: the import takes ten seconds and more.
Evidently draws and compares columns; our own figures (evidence, MMD, accuracy) go along as columns whose
mean it stores. Its embedding detectors are not used: their defaults fire without drift. Its column distances
have fixed defaults too, so each column's threshold is what this many images differ by without drift.
"""

import contextlib
import html
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from monitoring.drift import matched
from monitoring.journal import Step
from monitoring.label_queue import items_of
from monitoring.labels import read_labels
from monitoring.stream import Stream
from monitoring.window import Window
from pipeline.artifacts import STATISTICS, write_json

PROJECT = "visionloop"
NUMBERS = (*STATISTICS, "confidence")
DRAWN = "drawn.json"
AT_ONCE = 50
"""Windows that one wake-up draws; the oldest wait for the next."""
NULL_DRAWS = 200
NULL_LEVEL = 0.99
HIGHEST = 10.0
"""Of the evidence that is drawn: 10^100 would flatten the alarm line."""


@dataclass(frozen=True)
class Point:
    """One window to draw. ``correct`` holds the champion's hits on its labelled random images."""

    name: str
    time: datetime
    current: dict[str, list[Any]]
    reference: dict[str, list[Any]]
    log10_e: float
    alarm_at: float
    mmd: float
    correct: list[bool] = field(default_factory=list)


def draw(stream: Stream, steps: Sequence[Step]) -> int:
    """Add a run for each window of ``steps`` that has none yet, and for each whose labels came back.

    Returns:
        Windows drawn. Nothing is imported where there is nothing to draw.
    """
    folder = stream.workspace.evidently
    drawn = _drawn(folder)
    hits = _hits(stream)
    told = drawn["hits"] == len(hits)  # no label came since: what is drawn stays as it is
    wanted = []
    for step in [step for step in steps if step.window and "first" in step.detail][-AT_ONCE:]:
        before = drawn["windows"].get(step.window)
        window = None if before is not None and told else _window(stream, step)
        if window is None:
            continue
        correct = [hits[row.image_id] == row.label for row in window.rows if row.image_id in hits]
        if before is None or before["labels"] != len(correct):
            wanted.append(_point(stream, step, window, correct))
    if wanted:
        with _quiet():
            _add(folder, wanted, drawn | {"hits": len(hits)})
    return len(wanted)


def _drawn(folder: Path) -> dict[str, Any]:
    """What was drawn, kept with the runs: window → {"labels": how many, "run": id of the accuracy's run}."""
    path = folder / DRAWN
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"hits": 0, "windows": {}}


def _hits(stream: Stream) -> dict[str, str]:
    """Image id → label, of images that were drawn at random: only they estimate the accuracy."""
    workspace = stream.workspace
    queues = [path.parent.name for path in workspace.queue.glob("*/manifest.json")]
    at_random = {item.image_id for queue in queues for item in items_of(workspace, queue) if item.random}
    return {
        label.image_id: label.label for label in read_labels(workspace.labels) if label.image_id in at_random
    }


def _window(stream: Stream, step: Step) -> Window | None:
    """The window's rows again, from the log; None where retention has removed them."""
    window = stream.since(datetime.fromisoformat(step.detail["first"]), step.images)
    return window if window is not None and window.name == step.window else None


def _point(stream: Stream, step: Step, window: Window, correct: list[bool]) -> Point:
    reference = stream.measure.reference
    like = matched(reference, window)
    now, before = window.statistics.tolist(), reference.statistics[like].tolist()
    current = {name: [row[i] for row in now] for i, name in enumerate(STATISTICS)}
    past = {name: [row[i] for row in before] for i, name in enumerate(STATISTICS)}
    # Class names come from folders; escaped, they are text in whatever page shows them.
    return Point(
        name=window.name,
        time=window.rows[-1].time,
        current=current
        | {
            "confidence": window.confidence.tolist(),
            "predicted": [html.escape(name) for name in window.labels],
        },
        reference=past
        | {
            "confidence": reference.confidence[like].tolist(),
            "predicted": [html.escape(reference.predicted[i]) for i in like],
        },
        log10_e=float(step.log10_e or 0.0),
        alarm_at=float(step.detail["log10_threshold"]),
        mmd=float(step.statistic or 0.0),
        correct=correct,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Evidently and its web framework warn of each other's deprecations; none of it is for the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _add(folder: Path, points: Sequence[Point], drawn: dict[str, Any]) -> None:
    from evidently.ui.workspace import Workspace

    folder.mkdir(parents=True, exist_ok=True)
    workspace = Workspace.create(str(folder))
    project = _project(workspace)
    for point in points:
        before = drawn["windows"].get(point.name)
        if before is None:
            workspace.add_run(project.id, _columns(point), include_data=False, name=f"window {point.name}")
        elif before["run"]:
            workspace.delete_run(project.id, before["run"])
        run = None
        if point.correct:
            name = f"labels of {point.name}"
            run = str(workspace.add_run(project.id, _accuracy(point), include_data=False, name=name).id)
        drawn["windows"][point.name] = {"labels": len(point.correct), "run": run}
        write_json(folder / DRAWN, drawn)


def _columns(point: Point) -> Any:
    """A run: column by column against the reference, and our own figures."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import MeanValue, RowCount
    from evidently.presets import DataDriftPreset

    limits = thresholds(point)
    ours = {
        "log10_e": min(point.log10_e, HIGHEST),
        "alarm_at": point.alarm_at,
        "mmd": point.mmd,
        # Evidently's own share would be another series for every window, since the thresholds are part of it.
        "drifted_share": float(np.mean([_moved(point, name) > limit for name, limit in limits.items()])),
    }
    definition = DataDefinition(numerical_columns=[*NUMBERS, *ours], categorical_columns=["predicted"])
    current, reference = (
        # Evidently wants the same columns on both sides, so the reference carries our figures too.
        Dataset.from_pandas(pd.DataFrame(columns).assign(**ours), data_definition=definition)
        for columns in (point.current, point.reference)
    )
    preset = DataDriftPreset(
        columns=[*NUMBERS, "predicted"],
        num_method="wasserstein",
        cat_method="jensenshannon",
        per_column_threshold=limits,
    )
    own = [MeanValue(column=name) for name in (*ours, *NUMBERS)]
    return Report([preset, RowCount(), *own]).run(current, reference, timestamp=point.time)


def _accuracy(point: Point) -> Any:
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import MeanValue

    frame = pd.DataFrame({"correct": [float(hit) for hit in point.correct]})
    data = Dataset.from_pandas(frame, data_definition=DataDefinition(numerical_columns=["correct"]))
    return Report([MeanValue(column="correct")]).run(data, None, timestamp=point.time)


def thresholds(point: Point) -> dict[str, float]:
    """Per column, the distance that samples of these sizes exceed in one of a hundred cases without drift.

    By permuting who is who. Evidently's own constant (0.1) is passed by most windows of a hundred images.
    """
    rng = np.random.default_rng(len(point.current["predicted"]))
    found = {}
    for name in (*NUMBERS, "predicted"):
        current, reference = np.array(point.current[name]), np.array(point.reference[name])
        pooled = np.concatenate([current, reference])
        draws = []
        for _ in range(NULL_DRAWS):
            mixed = rng.permutation(pooled)
            draws.append(_distance(mixed[: len(current)], mixed[len(current) :]))
        found[name] = float(np.quantile(draws, NULL_LEVEL))
    return found


def _moved(point: Point, name: str) -> float:
    return _distance(np.array(point.current[name]), np.array(point.reference[name]))


def _distance(current: np.ndarray, reference: np.ndarray) -> float:
    """Evidently's normed Wasserstein distance of numbers, Jensen and Shannon's of classes."""
    if current.dtype.kind == "f":
        from scipy.stats import wasserstein_distance  # a second to import, and only a drawing asks

        return float(wasserstein_distance(current, reference)) / max(float(np.std(reference)), 1e-3)
    names = np.unique(np.concatenate([current, reference]))
    p, q = (np.array([np.mean(side == name) for name in names]) for side in (current, reference))
    middle = (p + q) / 2
    divergence = 0.5 * sum(
        float(np.sum(side[side > 0] * np.log2(side[side > 0] / middle[side > 0]))) for side in (p, q)
    )
    return float(np.sqrt(max(divergence, 0.0)))


def _project(workspace: Any) -> Any:
    """The project with its panels, made where there is none yet."""
    found = workspace.search_project(PROJECT)
    if found:
        return found[0]
    project = workspace.create_project(PROJECT)
    project.description = "Production against the held-out reference, a run for each window"
    for panel in _panels():
        project.dashboard.add_panel(panel)
    project.save()
    return project


def _panels() -> list[Any]:
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import bar_plot_panel, line_plot_panel

    def mean(column: str, legend: str) -> Any:
        return PanelMetric(legend=legend, metric="MeanValue", metric_labels={"column": column})

    return [
        line_plot_panel(
            title="Evidence against 'no drift' (log10 of the e-value)",
            description="Above the alarm line an episode opens, however often one looks; drawn up to 10.",
            size="full",
            values=[mean("log10_e", "evidence"), mean("alarm_at", "alarm line")],
        ),
        line_plot_panel(
            title="Kernel MMD² of the embeddings",
            description="Distance of a window to the reference; 0 without drift.",
            size="half",
            values=[mean("mmd", "MMD²")],
        ),
        line_plot_panel(
            title="Share of drifted columns",
            description="Columns further off than samples of this size are in 99 of 100 cases.",
            size="half",
            values=[mean("drifted_share", "share")],
        ),
        line_plot_panel(
            title="Accuracy where labels exist",
            description="On a window's labelled images that were drawn at random: a handful, so it jumps.",
            size="half",
            values=[mean("correct", "accuracy")],
        ),
        bar_plot_panel(
            title="Volume",
            description="Images in a window.",
            size="half",
            values=[PanelMetric(legend="images", metric="RowCount")],
        ),
        line_plot_panel(
            title="What the images look like",
            description="Mean of a window, 0 to 1.",
            size="half",
            values=[mean(name, name) for name in ("brightness", "contrast", "saturation")],
        ),
        line_plot_panel(
            title="Confidence of the model",
            description="Mean of a window.",
            size="half",
            values=[mean("confidence", "confidence")],
        ),
    ]
