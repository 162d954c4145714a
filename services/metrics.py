"""Counters at /metrics, summed over the workers by prometheus_client's multiprocess files.

What the watch last saw stands beside them: ``services/watched.py``.
"""

import os
from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

# BentoML's own folder is shared, and emptied, by every server of one BENTOML_HOME: a release's sandbox
# would wipe the counters of the service beside it. prometheus_client reads it when a metric is made.
if folder := os.environ.get("VISIONLOOP_METRICS"):
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder

REQUESTS = Counter("visionloop_requests", "Answers of /v1/predict by HTTP status", ["status"])
SECONDS = Histogram(
    "visionloop_request_seconds",
    "From the first byte of a request to its answer, the log's flush included",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
ABSTENTIONS = Counter("visionloop_abstentions", "Answers below serve.abstain_below")
PREDICTIONS = Counter("visionloop_predictions", "Answers by label", ["label"])
BRIGHTNESS = Histogram(
    "visionloop_image_brightness",
    "Mean luma of the answered images, 0 to 1",
    buckets=tuple(round(0.1 * step, 1) for step in range(1, 11)),
)
SHARPNESS = Histogram(
    "visionloop_image_sharpness",
    "log10 of 1 + variance of the Laplacian of the answered images",
    buckets=tuple(0.5 * step for step in range(1, 11)),
)
LOG_ROWS = Counter(
    "visionloop_log_rows",
    "Rows of the prediction log: written, failed (disk), lost (no room to wait)",
    ["outcome"],
)
SHADOWED = Counter(
    "visionloop_shadow",
    "Requests that a challenger was asked beside the champion: answered, failed, left out (under load)",
    ["outcome"],
)
MODEL = Gauge("visionloop_model_info", "1 for the bundle that answers", ["digest"], multiprocess_mode="max")
LOSSY = Gauge(
    "visionloop_log_lossy",
    "1 where log.mode is lossy: answers may be missing from the log",
    multiprocess_mode="max",
)


def count_rows(outcome: str, rows: int) -> None:
    LOG_ROWS.labels(outcome).inc(rows)


def count_answer(label: str, *, abstained: bool, statistics: Mapping[str, float]) -> None:
    """An answer whose row is written; ``statistics`` of its image, as the log has them."""
    PREDICTIONS.labels(label).inc()
    ABSTENTIONS.inc(abstained)
    BRIGHTNESS.observe(statistics["brightness"])
    SHARPNESS.observe(statistics["sharpness"])
