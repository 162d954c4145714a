"""Which windows a wake-up draws: those that never were, and those whose labels came back, however late."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from monitoring.journal import Step
from monitoring.label_queue import items_of
from monitoring.labels import read_labels
from monitoring.stream import Stream
from monitoring.window import Window
from pipeline.artifacts import read_json

__all__ = ["AT_ONCE", "DRAWN", "Due", "due", "read_drawn"]

DRAWN = "drawn.json"
AT_ONCE = 50
"""Windows that one wake-up draws; the oldest wait for the next."""


@dataclass(frozen=True)
class Due:
    """A window to draw: its row of the journal, its rows of the log, and the champion's hits where labels are back."""

    step: Step
    window: Window
    correct: list[bool]


@dataclass(frozen=True)
class _Queue:
    """What came back of one queue's images that were drawn at random: only they estimate the accuracy.

    ``first`` and ``last``: when the images were answered that the queue was drawn from, where it says so.
    """

    name: str
    labels: dict[str, str]
    first: datetime | None
    last: datetime | None

    def touches(self, step: Step) -> bool:
        """Whether the window may hold an image of this queue."""
        if self.first is None or self.last is None:
            return True
        seen = step.detail.get("traffic", {}).get("last")
        end = datetime.fromisoformat(seen) if seen else step.time
        return datetime.fromisoformat(step.detail["first"]) <= self.last and end >= self.first


@dataclass
class Found:
    """What is due now.

    Attributes:
        gone: names of windows that the log does not hold any more: nobody looks for them again.
        hits: queue -> its labelled random images, to be remembered once all is drawn; None where some waits.
    """

    due: list[Due] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    hits: dict[str, int] | None = None


def read_drawn(folder: Path) -> dict[str, Any]:
    """What was drawn, kept with the runs.

    Returns:
        ``windows``: name -> {"labels": how many, "run": id of the accuracy's run}; ``hits``: queue -> its labelled
        random images that the runs know of.
    """
    path = folder / DRAWN
    drawn: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    hits = drawn.get("hits")
    # An older file has one number for all queues: each is looked at once more.
    return drawn | {"windows": drawn.get("windows", {}), "hits": hits if isinstance(hits, dict) else {}}


def due(stream: Stream, steps: Sequence[Step], drawn: Mapping[str, Any]) -> Found:
    """Windows of ``steps`` to draw, newest first, ``AT_ONCE`` at most; ``drawn`` is of ``read_drawn``.

    The log is read for these alone: windows without a run, and those from whose time a queue has new labels.
    """
    queues = _queues(stream)
    news = [queue for queue in queues if len(queue.labels) != drawn["hits"].get(queue.name, 0)]
    right = {image: label for queue in queues for image, label in queue.labels.items()}
    found = Found()
    for step in reversed(steps):
        if not step.window or "first" not in step.detail:
            continue
        before = drawn["windows"].get(step.window)
        if before is not None and not any(queue.touches(step) for queue in news):
            continue
        if len(found.due) == AT_ONCE:
            return found
        window = _window(stream, step)
        if window is None:
            found.gone += [step.window] if before is None else []
            continue
        correct = [right[row.kept_id] == row.label for row in window.rows if row.kept_id in right]
        if before is None or before["labels"] != len(correct):
            found.due.append(Due(step, window, correct))
    found.hits = {queue.name: len(queue.labels) for queue in queues if queue.labels}
    return found


def _queues(stream: Stream) -> list[_Queue]:
    workspace = stream.workspace
    labels = {label.image_id: label.label for label in read_labels(workspace.labels)}
    found = []
    for path in sorted(workspace.queue.glob("*/manifest.json")):
        name, span = path.parent.name, read_json(path).get("images", {})
        at_random = [item.image_id for item in items_of(workspace, name) if item.random]
        first, last = (
            datetime.fromisoformat(span[end]) if end in span else None for end in ("first", "last")
        )
        found.append(_Queue(name, {one: labels[one] for one in at_random if one in labels}, first, last))
    return found


def _window(stream: Stream, step: Step) -> Window | None:
    """The window's rows again, from the log; None where retention has removed them."""
    window = stream.since(datetime.fromisoformat(step.detail["first"]), step.images)
    return window if window is not None and window.name == step.window else None
