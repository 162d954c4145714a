"""What the watch saw, at the service's /metrics: from a real file, by a real service with two workers."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from pipeline.artifacts import GAUGES, Workspace, write_json
from pipeline.registry import Registry
from services.watched import exposition
from tests import tiny_bundle
from tests.live_service import LiveService

ODD = 'a "b" \\c\nd {e="f"}'
SCRIPT = "<script>alert(1)</script>"
SEEN: dict[str, Any] = {
    "time": "2026-03-01T12:00:00+00:00",
    "champion": "c" * 64,
    "decision": "drift_open",
    "log10_e": 5.25,
    "log10_threshold": 2.3,
    "mmd2": 0.031,
    "images": 50,
    "counts": {ODD: 30, SCRIPT: 20},
    "abstained": 4,
    "means": {"brightness": 0.41, "sharpness": 2.9},
    "seconds": {"p50": 0.012, "p99": 0.09},
    "estimated": {"value": 0.81, "low": 0.77, "high": 0.85},
    "labelled": {"value": 0.8, "low": 0.6, "high": 0.92},
    "labels": 20,
    "episode": {"id": "0123456789abcdef", "state": "awaiting_labels"},
}


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Name and labels → value, by Prometheus's own parser."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def one(text: str, name: str, **labels: str) -> float | None:
    return samples(text).get((f"visionloop_{name}", frozenset(labels.items())))


def test_every_figure_is_a_gauge_and_odd_names_are_valid_labels(tmp_path: Path) -> None:
    assert set(SEEN) == set(GAUGES)
    write_json(tmp_path / "metrics.json", SEEN)
    text = exposition(tmp_path / "metrics.json")
    assert one(text, "watch_readable") == 1
    assert (one(text, "log10_e_value"), one(text, "log10_alarm_threshold")) == (5.25, 2.3)
    assert (one(text, "mmd2"), one(text, "window_images"), one(text, "window_abstained")) == (0.031, 50, 4)
    assert one(text, "window_predictions", label=ODD) == 30
    assert one(text, "window_predictions", label=SCRIPT) == 20
    assert one(text, "window_statistic", statistic="brightness") == 0.41
    assert one(text, "window_seconds", quantile="0.99") == 0.09
    assert [one(text, f"estimated_accuracy{end}") for end in ("", "_low", "_high")] == [0.81, 0.77, 0.85]
    assert [one(text, f"labelled_accuracy{end}") for end in ("", "_low", "_high")] == [0.8, 0.6, 0.92]
    assert one(text, "episode_open") == 1
    assert one(text, "episode_state", episode="0123456789abcdef", state="awaiting_labels") == 1


@pytest.mark.parametrize(
    "damaged", [None, b"{", b"[1]", b"{}", json.dumps(SEEN | {"time": "never"}).encode()]
)
def test_without_a_whole_file_it_says_so_and_nothing_else(tmp_path: Path, damaged: bytes | None) -> None:
    path = tmp_path / "metrics.json"
    if damaged is not None:
        path.write_bytes(damaged)
    assert samples(exposition(path)) == {("visionloop_watch_readable", frozenset()): 0.0}


def test_what_is_not_known_has_no_sample(tmp_path: Path) -> None:
    nothing = {**dict.fromkeys(GAUGES), "time": SEEN["time"], "counts": {"\ud800": 3}}
    (tmp_path / "metrics.json").write_text(json.dumps(nothing), encoding="utf-8")
    text = exposition(tmp_path / "metrics.json")
    assert one(text, "log10_e_value") is None
    assert one(text, "estimated_accuracy") is None
    assert one(text, "episode_open") == 0
    assert one(text, "window_predictions", label="?") == 3


@pytest.mark.slow
def test_a_service_of_two_workers_shows_the_watch_once_and_counts_its_own_images(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"serve": {"workers": 2, "abstain_below": 0.999}}))
    workspace = Workspace(tmp_path, tmp_path / "var")
    digest = tiny_bundle.make(tmp_path / "bundle", classes=(ODD, SCRIPT, "blue"))
    registry = Registry(workspace.registry)
    registry.add(tmp_path / "bundle")
    registry.promote(digest, by="test", why="first")

    def scraped(service: LiveService) -> str:
        status, body = service.request("GET", "/metrics")
        assert status == 200
        return body.decode("utf-8")

    def answered(service: LiveService, colour: tuple[int, int, int]) -> Mapping[str, Any]:
        stream = io.BytesIO()
        Image.new("RGB", (64, 48), colour).save(stream, "PNG")
        status, body = service.predict(stream.getvalue())
        assert status == 200
        return body

    with LiveService(tmp_path) as service:
        assert one(scraped(service), "watch_readable") == 0
        bodies = [answered(service, (200, 30, 40)) for _ in range(3)] + [answered(service, (30, 200, 40))]
        assert [body["label"] for body in bodies] == [ODD] * 3 + [SCRIPT]
        write_json(workspace.gauges, SEEN)
        text = scraped(service)
        assert one(text, "log10_e_value") == 5.25
        assert one(text, "predictions_total", label=ODD) == 3
        assert one(text, "predictions_total", label=SCRIPT) == 1
        assert one(text, "abstentions_total") == sum(body["abstain"] for body in bodies)
        assert one(text, "request_seconds_count") == 4
        assert (one(text, "image_brightness_count"), one(text, "image_sharpness_count")) == (4, 4)
        brightness = one(text, "image_brightness_sum")
        assert brightness is not None
        assert 0.2 < brightness / 4 < 0.7
        assert one(text, "image_brightness_bucket", le="1.0") == 4
        # The next look replaces what the last one left: no state of yesterday stays.
        write_json(workspace.gauges, SEEN | {"episode": None, "decision": "quiet"})
        text = scraped(service)
        assert one(text, "episode_open") == 0
        assert not [name for name, _ in samples(text) if name == "visionloop_episode_state"]
