"""Sections of params.yaml about production: the service, its log, the watch, the labels."""

from dataclasses import dataclass
from typing import Literal

from pipeline.params.reading import require, share


@dataclass(frozen=True, kw_only=True, slots=True)
class Serve:
    host: str = "127.0.0.1"
    port: int = 3000
    workers: int = 1
    max_body_bytes: int = 10_485_760
    max_pixels: int = 50_000_000
    max_in_flight: int = 64
    abstain_below: float = 0.0
    top_k: int = 5
    format: Literal["onnx", "int8"] = "onnx"

    def __post_init__(self) -> None:
        share("serve", abstain_below=self.abstain_below)
        require(self.workers >= 1 and self.top_k >= 1, "serve.workers and serve.top_k must be at least 1")
        for name in ("max_in_flight", "max_body_bytes", "max_pixels"):
            require(getattr(self, name) >= 1, f"serve.{name} must be at least 1")
        require(bool(self.host.strip()), "serve.host is empty: 127.0.0.1 is this machine alone")
        require(1 <= self.port <= 65_535, f"serve.port is {self.port}; it must lie between 1 and 65535")


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    keep_images: float = 1.0
    keep_days: float = 30.0
    max_bytes: int = 2_000_000_000
    mode: Literal["durable", "lossy"] = "durable"
    archive: str | None = None
    archive_days: float | None = None

    def __post_init__(self) -> None:
        share("log", keep_images=self.keep_images)
        require(self.keep_days >= 0, "log.keep_days must not be negative")
        require(self.max_bytes >= 1, "log.max_bytes must be at least 1")
        require(
            self.archive is None or bool(self.archive.strip()),
            "log.archive is empty: null is var/log/archive",
        )
        require(
            self.archive_days is None or self.archive_days > 0, "log.archive_days must be above 0, or null"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    window: int = 100
    min_window: int = 30
    alpha: float = 0.01
    permutations: int = 500
    cooldown_hours: float = 24.0
    retrains_a_month: int = 8
    label_timeout_days: float = 14.0
    observe_images: int = 200
    retrain_every_days: float | None = None
    retrain_after_labels: int | None = None
    min_labelled_accuracy: float | None = None
    max_age_days: float | None = None

    def __post_init__(self) -> None:
        require(self.observe_images >= 0, "watch.observe_images must not be negative; 0 observes nothing")
        for name in ("retrain_every_days", "retrain_after_labels", "max_age_days"):
            value = getattr(self, name)
            require(
                value is None or value > 0, f"watch.{name} is {value}; it must be above 0, or null for off"
            )
        if self.min_labelled_accuracy is not None:
            share("watch", min_labelled_accuracy=self.min_labelled_accuracy)
        require(self.retrains_a_month >= 0, "watch.retrains_a_month must not be negative")
        require(self.label_timeout_days > 0, "watch.label_timeout_days must be above 0")
        require(self.cooldown_hours >= 0, "watch.cooldown_hours must not be negative")
        require(0 < self.alpha < 1, "watch.alpha must lie between 0 and 1")
        require(
            1 <= self.min_window <= self.window,
            "watch.min_window must be at least 1 and at most watch.window",
        )
        require(self.permutations >= 99, "watch.permutations must be at least 99")


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    budget: int = 120
    random_share: float = 0.5
    test_share: float = 0.4
    min_labels: int = 40

    def __post_init__(self) -> None:
        share("label", random_share=self.random_share, test_share=self.test_share)
        require(self.budget >= 1, "label.budget must be at least 1")
        require(self.min_labels >= 0, "label.min_labels must not be negative")
