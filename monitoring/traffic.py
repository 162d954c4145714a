"""What came and what was answered in one window, as a few figures: the page of the watch never reads the log again."""

from collections import Counter
from typing import Any

import numpy as np

from monitoring.window import Window
from pipeline.artifacts import STATISTICS

__all__ = ["traffic"]


def traffic(window: Window) -> dict[str, Any]:
    """The window's row for ``Step.detail["traffic"]``.

    Returns:
        first, last: time of the first and last image, UTC, ISO 8601.
        abstained: answers that abstained.
        counts: label -> answers with it, most frequent first; labels without any are left out.
        means: of each image statistic (its own unit, ``pipeline.artifacts.STATISTICS``) and of the confidence.
        seconds: {"p50", "p99"} of what the service worked on an image.
    """
    columns = dict(zip(STATISTICS, window.statistics.mean(axis=0).tolist(), strict=True))
    p50, p99 = np.quantile([row.seconds for row in window.rows], [0.5, 0.99]).tolist()
    return {
        "first": window.rows[0].time.isoformat(),
        "last": window.rows[-1].time.isoformat(),
        "abstained": sum(row.abstained for row in window.rows),
        "counts": dict(Counter(window.labels).most_common()),
        "means": {name: round(value, 6) for name, value in columns.items()}
        | {"confidence": round(float(window.confidence.mean()), 6)},
        "seconds": {"p50": round(p50, 6), "p99": round(p99, 6)},
    }
