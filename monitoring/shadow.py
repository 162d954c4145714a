"""How the challenger does beside the champion: the rows that running services write under ``var/shadow/<digest>/``.

``var/shadow.json`` asks for it; a service that sees it lets the challenger answer the same requests, after the
client has its answer (``services/shadow.py``).
"""

import json
from datetime import datetime
from statistics import median
from typing import Any, Literal

from monitoring.accuracy import Hits
from monitoring.policy import Shadowed
from pipeline.artifacts import Workspace, read_json, write_json
from pipeline.errors import DataError

AUTO = 50
"""Images of ``release.shadow_images: auto``, where a service answers."""


def wanted(images: int | Literal["auto"]) -> int:
    """How many images ``release.shadow_images`` asks for."""
    return AUTO if images == "auto" else images


def begin(workspace: Workspace, digest: str, images: int, now: datetime) -> None:
    """Ask the services for the bundle ``digest`` of the registry beside the champion, for so many images."""
    write_json(workspace.shadow_request, {"digest": digest, "since": now.isoformat(), "images": images})


def end(workspace: Workspace) -> None:
    """The services let go of the challenger; what they wrote stays."""
    workspace.shadow_request.unlink(missing_ok=True)


def requested(workspace: Workspace) -> str | None:
    """The digest that var/shadow.json asks for; None where nothing is asked or it is damaged."""
    try:
        return str(read_json(workspace.shadow_request)["digest"])
    except (DataError, KeyError, TypeError):
        return None


def shadowed(workspace: Workspace, digest: str, wanted: int, min_agreement: float) -> Shadowed:
    """Agreement with its interval, latency as a ratio, errors and what was left out, so far.

    The latency is that of decoded image to probabilities, the challenger's median over the champion's on the
    same images; it answers at a lower priority, so that a ratio above 1 may be the machine's.
    """
    rows, dropped = _rows(workspace, digest)
    answered = [row for row in rows if row.get("label") is not None]
    errors = [row for row in rows if row.get("error")]
    if not rows:
        return Shadowed(0, wanted, "")
    agreeing = Hits(sum(row["label"] == row["champion_label"] for row in answered), len(answered))
    words = f"in shadow the challenger agreed with the champion on {agreeing}"
    if answered:
        own, other = (median(row[name] for row in answered) for name in ("seconds", "champion_seconds"))
        words += (
            f", took {own * 1e3:.1f} ms against {other * 1e3:.1f} ms ({own / max(other, 1e-9):.2f} times)"
        )
    words += f", {len(errors)} errors, {dropped} left out under load"
    against = None
    if errors:
        against = f"it failed on {len(errors)} images, first with {errors[0]['error']}"
    elif agreeing.interval()[1] < min_agreement:
        against = f"its agreement is below release.min_shadow_agreement {min_agreement:g}"
    return Shadowed(len(rows), wanted, words, against)


def _rows(workspace: Workspace, digest: str) -> tuple[list[dict[str, Any]], int]:
    """Every whole row, and how many requests were left out."""
    rows: list[dict[str, Any]] = []
    dropped = 0
    for path in sorted((workspace.shadow / digest).glob("*.jsonl")):
        lines = path.read_bytes().splitlines(keepends=True)
        own = [json.loads(line) for line in lines if line.endswith(b"\n")]  # the last one may be on its way
        dropped += own[-1]["dropped"] if own else 0
        rows += own
    return rows, dropped
