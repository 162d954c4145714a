"""Sections of params.yaml about who answers: the gate, and the release."""

from dataclasses import dataclass
from typing import Literal

from pipeline.params.reading import require, share


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    min_accuracy: float = 0.8
    min_macro_f1: float = 0.75
    min_class_recall: float = 0.5
    max_ece: float = 0.1
    max_nll: float = 1.0
    noninferiority_margin: float = 0.02
    slices: tuple[str, ...] = ("domain", "image_size", "brightness")
    min_slice_accuracy: float = 0.5
    max_slice_gap: float = 0.3
    robustness_margin: float = 0.1
    min_abstention: float = 0.5
    max_latency_ms: float = 250.0
    max_slowdown: float = 3.0
    max_cold_start_seconds: float = 30.0
    max_memory_mb: float = 2000.0
    max_size_mb: float = 250.0
    max_peeks: int = 20
    min_support: int = 20

    def __post_init__(self) -> None:
        share(
            "gate",
            min_accuracy=self.min_accuracy,
            min_macro_f1=self.min_macro_f1,
            min_class_recall=self.min_class_recall,
            max_ece=self.max_ece,
            noninferiority_margin=self.noninferiority_margin,
            min_slice_accuracy=self.min_slice_accuracy,
            max_slice_gap=self.max_slice_gap,
            robustness_margin=self.robustness_margin,
            min_abstention=self.min_abstention,
        )
        for name in (
            "max_latency_ms",
            "max_slowdown",
            "max_cold_start_seconds",
            "max_memory_mb",
            "max_size_mb",
            "max_nll",
        ):
            require(getattr(self, name) > 0, f"gate.{name} must be above 0")
        require(self.max_peeks >= 1, "gate.max_peeks must be at least 1")
        require(self.min_support >= 1, "gate.min_support must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    git_commit: bool = False
    golden_images: int = 8
    max_golden_error: float = 1e-4
    sandbox_timeout_seconds: float = 120.0
    approval: Literal["none", "required"] = "none"
    approval_timeout_hours: float = 72.0
    shadow_images: int | Literal["auto"] = "auto"
    min_shadow_agreement: float = 0.0

    def __post_init__(self) -> None:
        require(self.approval_timeout_hours > 0, "release.approval_timeout_hours must be above 0")
        for name in ("golden_images", "max_golden_error"):
            require(getattr(self, name) >= 0, f"release.{name} must not be negative")
        require(self.sandbox_timeout_seconds > 0, "release.sandbox_timeout_seconds must be above 0")
        known = self.shadow_images == "auto" or self.shadow_images >= 0
        require(known, "release.shadow_images must be auto, or not negative; 0 is no shadow")
        share("release", min_shadow_agreement=self.min_shadow_agreement)
