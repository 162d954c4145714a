"""What is drawn of a window: a run once, and another one when its labels come back."""

import contextlib
import html
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from monitoring.contact_sheet import SHEET
from monitoring.dashboard.due import DRAWN, Due, due, read_drawn
from monitoring.dashboard.panels import Shown, project
from monitoring.dashboard.point import NUMBERS, Point
from monitoring.dashboard.runs import accuracy, columns
from monitoring.dashboard.sheet import with_sheet
from monitoring.drift import matched
from monitoring.journal import Step
from monitoring.stream import Stream
from monitoring.traffic import traffic
from monitoring.window import Window
from pipeline.artifacts import STATISTICS, write_json

__all__ = ["draw"]

SHEETS = 3
"""Contact sheets that the dashboard names, the last ones."""
HIGHEST = 10.0
"""Of the evidence that is drawn: 10^100 would flatten the alarm line."""


def draw(stream: Stream, steps: Sequence[Step]) -> int:
    """Add a run for each window of ``steps`` that has none yet, and for each whose labels came back.

    Returns:
        Windows drawn. Nothing is imported where there is nothing to draw.
    """
    folder = stream.workspace.evidently
    drawn = read_drawn(folder)
    found = due(stream, steps, drawn)
    if found.due:
        with _quiet():
            _add(folder, [_point(stream, one) for one in found.due], drawn, stream, steps)
    hits = drawn["hits"] if found.hits is None else found.hits
    if found.gone or hits != drawn["hits"]:
        gone: dict[str, Any] = {name: {"labels": 0, "run": None} for name in found.gone}
        write_json(folder / DRAWN, drawn | {"windows": drawn["windows"] | gone, "hits": hits})
    return len(found.due)


def _point(stream: Stream, one: Due) -> Point:
    step, window, reference = one.step, one.window, stream.measure.reference
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
        figures=_figures(step, window),
        correct=one.correct,
        sheet=_sheet(stream, step),
        says=step.reason,
    )


def _figures(step: Step, window: Window) -> dict[str, float]:
    seen = traffic(window)
    figures = {
        "log10_e": min(float(step.log10_e or 0.0), HIGHEST),
        "alarm_at": float(step.detail["log10_threshold"]),
        "mmd": float(step.statistic or 0.0),
        "abstained": seen["abstained"] / len(window),
        "p50_ms": 1000 * seen["seconds"]["p50"],
        "p99_ms": 1000 * seen["seconds"]["p99"],
    }
    estimate = step.detail.get("estimate") or {}
    for key, name in (("accuracy", ""), ("low", "_low"), ("high", "_high")):
        if isinstance(estimate.get(key), int | float):
            figures[f"estimated{name}"] = float(estimate[key])
    return figures


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Evidently and its web framework warn of each other's deprecations; none of it is for the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _add(
    folder: Path, points: Sequence[Point], drawn: dict[str, Any], stream: Stream, steps: Sequence[Step]
) -> None:
    from evidently.ui.workspace import Workspace

    folder.mkdir(parents=True, exist_ok=True)
    workspace = Workspace.create(str(folder))
    found = {
        *drawn.get("figures", ()),
        *NUMBERS,
        "drifted_share",
        *(name for point in points for name in point.figures),
    }
    found |= {"correct"} if any(point.correct for point in points) else set()
    drawn["figures"] = sorted(found)
    shown = Shown(_sheets(stream, steps), _classes(stream), found)
    made, drawn["panels"] = project(workspace, shown, drawn.get("panels"))
    for point in points:
        before = drawn["windows"].get(point.name)
        if before is None:
            seen = columns(point)
            if point.sheet is not None:
                with contextlib.suppress(OSError):  # a picture that is damaged costs itself, not the report
                    seen = with_sheet(seen, stream.workspace.root / point.sheet, point.says)
            workspace.add_run(made.id, seen, include_data=False, name=f"window {point.name}")
        elif before["run"]:
            workspace.delete_run(made.id, before["run"])
        run = None
        if point.correct:
            name = f"labels of {point.name}"
            run = str(workspace.add_run(made.id, accuracy(point), include_data=False, name=name).id)
        drawn["windows"][point.name] = {"labels": len(point.correct), "run": run}
        write_json(folder / DRAWN, drawn)


def _sheets(stream: Stream, steps: Sequence[Step]) -> list[str]:
    """Where the last contact sheets lie, newest first."""
    opened = [(step, sheet) for step in steps if step.window and (sheet := _sheet(stream, step))]
    return [
        f"{step.time:%Y-%m-%d %H:%M} report “window {step.window}”, {sheet}"
        for step, sheet in reversed(opened[-SHEETS:])
    ]


def _sheet(stream: Stream, step: Step) -> str | None:
    """The contact sheet of the episode that ``step`` opened, from the workspace's root."""
    if step.evidence is None or not (stream.workspace.root / step.evidence / SHEET).is_file():
        return None
    return f"{step.evidence}/{SHEET}"


def _classes(stream: Stream) -> list[str]:
    """The champion's classes, those first that the reference shows most."""
    reference = stream.measure.reference
    often = Counter(reference.predicted)
    return sorted(reference.classes, key=lambda name: -often[name])
