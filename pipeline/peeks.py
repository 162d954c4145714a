"""How often a test set has been looked at: each verdict on it wears it out.

Whoever tries twenty challengers on one test set and ships the best has fitted it. The count is state, kept
with the registry's and not with what DVC derives: it goes on over branches, clones of one machine and queued
experiments. Judging one challenger again does not count. A test set of which at least half is new is a
fresh one: an earlier look counts where more than half of today's images were in it.

The remedy is fresh test images (Dwork et al. 2015 call the damage adaptive overfitting).
"""

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

from pipeline.artifacts import Workspace, digest_json, read_json, write_json
from pipeline.checks import Check
from pipeline.errors import DataError
from pipeline.lock import alone

__all__ = ["check", "count"]

FRESH = 0.5  # share of its images that an earlier test set lacked, from which on a test set is a fresh one
DIGITS = 12  # of an image's hash that are kept
LOCK_SECONDS = 30.0


def count(workspace: Workspace, challenger: str, image_ids: list[str]) -> int:
    """The how manyth different challenger this is that is judged on these test images, from 1; put on record.

    Raises:
        DataError: the record is damaged.
    """
    names = sorted({image_id[:DIGITS] for image_id in image_ids})
    test = digest_json(names)[:DIGITS]
    with alone(workspace.peeks.with_suffix(".lock"), seconds=LOCK_SECONDS):
        record = _record(workspace)
        alike = {other for other, ids in record["tests"].items() if _new(set(names), set(ids)) < FRESH}
        seen = [verdict["challenger"] for verdict in record["verdicts"] if verdict["test"] in alike | {test}]
        distinct = list(dict.fromkeys(seen))
        if challenger in distinct:
            return distinct.index(challenger) + 1
        record["tests"].setdefault(test, names)
        time = datetime.now(UTC).isoformat(timespec="seconds")
        record["verdicts"].append({"test": test, "challenger": challenger, "time": time})
        write_json(workspace.peeks, record)
        return len(distinct) + 1


def check(number: int, limit: int, support: int) -> Check:
    """The verdict's line: past ``gate.max_peeks`` it is for a person to say."""
    past = number > limit
    return Check(
        "peeks",
        "unknown" if past else "pass",
        float(number),
        None,
        float(limit),
        support,
        "fresh test images (at least half of them new): this test set has been chosen by" if past
        else f"{limit - number + 1} more challengers judged on these test images",
        kind="evidence",
        detail=f"challenger number {number} on these test images",
    )  # fmt: skip


def _new(ours: set[str], theirs: set[str]) -> float:
    """Share of today's images that an earlier test set lacked."""
    return len(ours - theirs) / max(1, len(ours))


def _record(workspace: Workspace) -> dict[str, Any]:
    if not workspace.peeks.exists():
        return {"tests": {}, "verdicts": []}
    with contextlib.suppress(DataError, json.JSONDecodeError, KeyError, TypeError):
        record = read_json(workspace.peeks)
        return {"tests": dict(record["tests"]), "verdicts": list(record["verdicts"])}
    raise DataError(
        f"{workspace.peeks} is damaged: it counts the verdicts on each test set; restore it, or move it away to count anew"
    )
