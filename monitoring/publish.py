"""What each wake-up leaves for others to look at: the page ``index.html``, and gauges for the service's /metrics.

Both come from the journal. A decision stands whether they can be written or not.
"""

from collections.abc import Sequence
from datetime import datetime

from monitoring.journal import Journal, Step
from monitoring.page.points import points
from monitoring.page.write import write
from pipeline.artifacts import GAUGES, Workspace, write_json

__all__ = ["gauges", "publish"]


def publish(workspace: Workspace, journal: Journal, *, now: datetime) -> str | None:
    """Write the gauges and the page; why one of them could not be written, which the journal then says too."""
    steps = journal.steps()
    failed = []
    try:
        write_json(workspace.gauges, gauges(journal, steps, now=now))
    except Exception as error:  # whatever it is, the decision was taken
        failed.append(f"{workspace.gauges.name}: {type(error).__name__}: {error}")
    try:
        write(workspace, journal, steps, now=now)
    except Exception as error:
        failed.append(f"index.html: {type(error).__name__}: {error}")
    if not failed:
        return None
    reason = "; ".join(failed)
    journal.record(Step(time=now, decision="report_failed", reason=reason))
    return reason


def gauges(journal: Journal, steps: Sequence[Step], *, now: datetime) -> dict[str, object]:
    """What ``pipeline.artifacts.GAUGES`` describes, of the champion that the last step is about."""
    champion = next((step.champion for step in reversed(steps) if step.champion), None)
    own = points(step for step in steps[-1000:] if step.champion == champion)
    window = next((point for point in reversed(own) if point.images), None)
    estimated = next((point.estimate for point in reversed(own) if point.estimate), None)
    labelled = next((point.labelled for point in reversed(own) if point.labelled), None)
    episode = journal.open_episode()
    decided = next((step for step in reversed(steps) if step.decision != "report_failed"), None)
    intervals = [
        accuracy and {"value": accuracy.value, "low": accuracy.low, "high": accuracy.high}
        for accuracy in (estimated, labelled)
    ]
    values: list[object] = [
        now.isoformat(), champion, decided and decided.decision,
        *((window.log10_e, window.threshold, window.mmd, window.images) if window else (None,) * 4),
        *((dict(window.counts), _count(window.abstained, window.images), dict(window.means)) if window else ({}, None, {})),
        {"p50": window.p50, "p99": window.p99} if window and window.p50 is not None else {},
        *intervals, labelled.n if labelled else None,
        {"id": episode.id, "state": episode.state} if episode else None,
    ]  # fmt: skip
    return dict(zip(GAUGES, values, strict=True))


def _count(share: float | None, images: int) -> int | None:
    return None if share is None else round(share * images)
