"""Sections of params.yaml about the network: backbone, training, bundle, evaluation."""

import re
from dataclasses import dataclass
from typing import Literal

from pipeline.params.reading import require, share


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    backbone: str = "auto"
    weights: str = "bundled"
    image_size: int | None = None
    prior: str | None = None
    candidates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self.image_size is None or self.image_size >= 16, "model.image_size must be at least 16 px")
        require(bool(self.weights.strip()), "model.weights is empty: bundled, none, hub, or a path")


@dataclass(frozen=True, kw_only=True, slots=True)
class Train:
    strategy: Literal["auto", "probe", "partial", "finetune", "progressive", "lora", "adapt"] = "auto"
    epochs: int | None = None
    batch_size: int | Literal["auto"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    device: str = "auto"
    processes: int | Literal["auto"] = "auto"
    budget_seconds: float = 70.0
    learning_rate: float | None = None
    unfreeze: float | None = None
    views: int | None = None
    head: Literal["auto", "logistic", "ridge"] = "auto"
    features: Literal["last", "stages", "auto"] = "last"
    augment: Literal["none", "crop", "trivial", "rand"] = "crop"
    mix: float = 0.0
    label_smoothing: float | None = None
    average: float = 0.95
    lora_rank: int = 8
    adapt: Literal["coral", "adabn", "dann"] = "coral"
    target: str | None = None
    domain_balance: float = 0.0
    folds: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "views", "batch_size", "processes", "lora_rank"):
            value = getattr(self, name)
            require(value in (None, "auto") or value >= 1, f"train.{name} is {value}; it must be at least 1")
        share(
            "train",
            label_smoothing=self.label_smoothing or 0.0,
            average=self.average,
            domain_balance=self.domain_balance,
        )
        require(self.budget_seconds >= 0, "train.budget_seconds must not be negative")
        require(
            self.mix == 0 or 0.01 <= self.mix <= 100,
            f"train.mix is {self.mix:g}; it must lie between 0.01 and 100, or be 0 for none",
        )
        require(
            self.target is None or bool(self.target.strip()),
            "train.target is empty: name a folder, or null for none",
        )
        require(self.folds == 0 or self.folds >= 2, "train.folds must be at least 2, or 0 for none")
        require(
            self.learning_rate is None or self.learning_rate > 0,
            "train.learning_rate must be positive, or null",
        )
        require(
            self.unfreeze is None or 0 < self.unfreeze <= 1,
            f"train.unfreeze is {self.unfreeze}; it is a share of the layers above 0, at most 1, or null",
        )
        require(
            re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is not None,
            f"train.device is {self.device!r}; it is auto, cpu or cuda",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    max_parity_error: float = 0.001
    calibration: Literal["auto", "temperature", "vector"] = "auto"
    formats: tuple[Literal["onnx", "int8"], ...] = ("onnx",)
    min_int8_agreement: float = 0.95
    max_int8_drop: float = 0.01

    def __post_init__(self) -> None:
        require(
            self.max_parity_error >= 0,
            f"bundle.max_parity_error is {self.max_parity_error:g}; it must not be negative",
        )
        require(
            "onnx" in self.formats,
            f"bundle.formats is {list(self.formats)}; it must hold onnx, which the others are judged against",
        )
        share("bundle", min_int8_agreement=self.min_int8_agreement, max_int8_drop=self.max_int8_drop)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluate:
    bootstrap: int = 2000
    stress_images: int = 96

    def __post_init__(self) -> None:
        require(self.stress_images >= 0, "evaluate.stress_images must not be negative")
        require(self.bootstrap >= 100, "evaluate.bootstrap must be at least 100")
