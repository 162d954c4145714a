"""What the watch writes for the service's /metrics, which share nothing else: ``monitoring/metrics.json``.

Every key is there; what is not known is null. An interval is {"value", "low", "high"}, 95 %.
"""

GAUGES = (
    "time",  # of the wake-up, UTC, ISO 8601
    "champion",  # digest
    "decision",  # of the wake-up
    "log10_e",  # evidence after the last window, log10 of the e-value
    "log10_threshold",  # where the alarm is raised
    "mmd2",  # squared kernel MMD of the last window
    "images",  # in the last window
    "counts",  # label -> answers in the last window
    "abstained",  # answers of the last window
    "means",  # image statistic -> mean of the last window
    "seconds",  # {"p50", "p99"} of the last window
    "estimated",  # accuracy, an interval
    "labelled",  # accuracy on labelled images that were drawn at random, an interval
    "labels",  # behind it
    "episode",  # {"id", "state"} of the open one
)
