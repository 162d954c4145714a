"""Was a request lost? The log read again from its first byte, and the watch's windows held against it.

A window's name in the journal is a digest of the requests that it holds, so what the watch has read can be told
from the log alone, whoever was killed in between.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from monitoring.journal import Step
from pipeline.artifacts import decode_log_line

__all__ = ["Logged", "audit", "read_log"]


@dataclass(frozen=True, order=True)
class Logged:
    """A row as far as the audit needs it, in the order of time."""

    time: datetime
    id: str
    model: str


def read_log(folder: Path) -> tuple[list[Logged], int]:
    """Every whole row below ``folder`` in time order, and how many lines are torn or damaged."""
    rows, broken = [], 0
    for path in sorted(folder.glob("[0-9]*/*.log")):
        with path.open("rb") as stream:
            for line in stream:
                raw = decode_log_line(line)
                if raw is None:
                    broken += 1
                    continue
                rows.append(Logged(datetime.fromisoformat(raw["time"]), raw["request_id"], raw["model"]))
    return sorted(rows), broken


def audit(acknowledged: Iterable[str], rows: list[Logged], steps: list[Step]) -> dict[str, Any]:
    """How many acknowledged requests are not in the log, or more than once, or in more than one window.

    Returns:
        ``lost``, ``doubled``: not once in the log. ``read``: in one window; ``read_twice``; ``unknown_windows``: windows
        whose name no run of rows explains; ``not_read``: in no window, by the reason.
    """
    promised, logged = set(acknowledged), Counter(row.id for row in rows)
    of_model: dict[str, list[Logged]] = defaultdict(list)
    for row in rows:
        of_model[row.model].append(row)
    read: Counter[str] = Counter()
    unknown, last = 0, {}
    for step in steps:
        if step.window is None or step.champion is None:
            continue
        own = of_model[step.champion]
        first = datetime.fromisoformat(step.detail["first"])
        at = next((index for index, row in enumerate(own) if row.time == first), len(own))
        taken = own[at : at + step.images]
        if not taken or _name(taken) != step.window:
            unknown += 1
            continue
        read.update(row.id for row in taken)
        last[step.champion] = at + step.images
    return {
        "acknowledged": len(promised),
        "lost": sum(request not in logged for request in promised),
        "doubled": sum(logged[request] > 1 for request in promised),
        "read": sum(read[request] == 1 for request in promised),
        "read_twice": sum(read[request] > 1 for request in promised),
        "unknown_windows": unknown,
        "not_read": _not_read(of_model, promised - read.keys(), last),
    }


def _name(rows: list[Logged]) -> str:
    """As ``monitoring.window`` names a window."""
    digest = hashlib.sha256("\n".join(row.id for row in rows).encode()).hexdigest()
    return f"{rows[0].time:%Y%m%dT%H%M%S}-{digest[:8]}"


def _not_read(of_model: dict[str, list[Logged]], left: set[str], last: dict[str, int]) -> dict[str, int]:
    """Why a row is in no window: it came before the evidence was dropped, or after the last window of its champion."""
    found: Counter[str] = Counter()
    for model, rows in of_model.items():
        for index, row in enumerate(rows):
            if row.id in left:
                dropped = index < last.get(model, 0)
                found["dropped_with_an_episode" if dropped else "after_the_last_window"] += 1
    return dict(found)
