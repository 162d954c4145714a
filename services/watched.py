"""What the watch last saw, as gauges: read at each scrape from the file that it writes (``artifacts.GAUGES``).

Not by prometheus_client's own gauges: in its multiprocess mode each worker would keep a copy of its own,
and the labels of yesterday's episode for ever.
"""

import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pipeline.artifacts import GAUGES

__all__ = ["Watched", "exposition"]

NUMBERS = {
    "log10_e": ("log10_e_value", "Evidence against 'no drift' after the last window, log10 of the e-value"),
    "log10_threshold": ("log10_alarm_threshold", "The evidence that raises the alarm, log10"),
    "mmd2": ("mmd2", "Squared kernel MMD of the last window's embeddings to the reference"),
    "images": ("window_images", "Images in the last window"),
    "abstained": ("window_abstained", "Answers of the last window below serve.abstain_below"),
    "labels": ("labelled_images", "Labels behind visionloop_labelled_accuracy"),
}
MAPPINGS = {
    "counts": ("window_predictions", "Answers of the last window by label", "label"),
    "means": ("window_statistic", "Mean of an image statistic over the last window", "statistic"),
    "seconds": ("window_seconds", "Work on one image in the last window", "quantile"),
}
ACCURACIES = {
    "estimated": ("estimated_accuracy", "Accuracy in production, estimated without labels"),
    "labelled": ("labelled_accuracy", "Accuracy on labelled production images that were drawn at random"),
}
QUANTILES = {"p50": "0.5", "p99": "0.99"}


def exposition(path: Path) -> str:
    """The gauges of ``path`` in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(Watched(path))
    return generate_latest(registry).decode("utf-8")


class Watched(Collector):
    """Collects from the file; without one, or from a damaged one, ``visionloop_watch_readable`` is 0 and stands alone."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def collect(self) -> Iterator[GaugeMetricFamily]:
        seen = _read(self.path)
        yield _gauge("watch_readable", "1 where the watch has written what it saw", 0 if seen is None else 1)
        if seen is not None:
            yield from _gauges(seen)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        seen = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return (
        seen
        if isinstance(seen, dict) and seen.keys() >= set(GAUGES) and _seconds(seen["time"]) is not None
        else None
    )


def _gauges(seen: Mapping[str, Any]) -> Iterator[GaugeMetricFamily]:
    yield _gauge("watch_timestamp_seconds", "When the watch last looked, Unix time", _seconds(seen["time"]))
    yield _labelled("watch_info", "1 for the last decision and whom it was about", ["champion", "decision"], [
        ([str(seen["champion"] or ""), str(seen["decision"] or "")], 1),
    ])  # fmt: skip
    for key, (name, about) in NUMBERS.items():
        yield _gauge(name, about, seen[key])
    for key, (name, about, label) in MAPPINGS.items():
        rows = seen[key].items() if isinstance(seen[key], dict) else ()
        yield _labelled(name, about, [label], [([QUANTILES.get(one, one)], value) for one, value in rows])
    for key, (name, about) in ACCURACIES.items():
        accuracy = seen[key] if isinstance(seen[key], dict) else {}
        for end, suffix, what in (
            ("value", "", ""),
            ("low", "_low", ", lower 95 % bound"),
            ("high", "_high", ", upper 95 % bound"),
        ):
            yield _gauge(name + suffix, about + what, accuracy.get(end))
    episode = seen["episode"] if isinstance(seen["episode"], dict) else None
    yield _gauge("episode_open", "1 while a drift episode is open", 1 if episode else 0)
    states = [([str(episode.get("id")), str(episode.get("state"))], 1)] if episode else []
    yield _labelled(
        "episode_state", "1 for the state that the open episode is in", ["episode", "state"], states
    )


def _gauge(name: str, about: str, value: object) -> GaugeMetricFamily:
    """A gauge without labels; one that is not known has no sample."""
    return _labelled(name, about, [], [([], value)])


def _labelled(
    name: str, about: str, labels: list[str], rows: list[tuple[list[str], Any]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"visionloop_{name}", about, labels=labels)
    for values, value in rows:
        if isinstance(value, int | float) and math.isfinite(value):
            # A file can hold half a surrogate pair; the exposition can't.
            family.add_metric(
                [one.encode("utf-8", "replace").decode("utf-8") for one in values], float(value)
            )
    return family


def _seconds(time: object) -> float | None:
    try:
        found = datetime.fromisoformat(str(time))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
