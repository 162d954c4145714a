"""Typed sections of params.yaml. An unknown key is an error that names the nearest known one."""

import dataclasses
import difflib
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

try:  # libyaml's takes 1 ms where Python's takes 20
    from yaml import CSafeLoader as SafeLoader
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

from pipeline.errors import ParamsError


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ParamsError(message)


def _share(section: str, **values: float) -> None:
    for name, value in values.items():
        _require(0 <= value <= 1, f"{section}.{name} is {value}; it must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One folder or table of labelled images; each source is a domain."""

    path: str
    domain: str = "default"

    def __post_init__(self) -> None:
        _require(
            re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.domain) is not None,
            f"data.sources: the domain {self.domain!r} may hold letters, digits, '.', '_' and '-' only",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    sources: tuple[Source, ...] = (Source(path="data/sample/line-a", domain="line-a"),)
    group_pattern: str | None = None
    max_pixels: int = 50_000_000
    max_bytes: int = 52_428_800
    licence: str | None = None

    def __post_init__(self) -> None:
        _require(
            self.licence is None or bool(self.licence.strip()),
            "data.licence is empty: name the licence of the images, or null where it is not known",
        )
        _require(bool(self.sources), "data.sources is empty: name at least one {path, domain}")
        domains = [source.domain for source in self.sources]
        _require(len(set(domains)) == len(domains), f"data.sources: two sources share a domain: {domains}")
        _pattern("data.group_pattern", self.group_pattern)
        _require(
            self.max_pixels > 0 and self.max_bytes > 0, "data.max_pixels and data.max_bytes must be positive"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Validate:
    min_side: int = 16
    max_side: int = 16_384
    max_undecodable: float = 0.0
    min_per_class: int = 2
    near_duplicate_bits: int = 16
    min_brightness: float = 0.004
    max_brightness: float = 0.996
    min_contrast: float = 0.01
    severity: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _share(
            "validate",
            max_undecodable=self.max_undecodable,
            min_brightness=self.min_brightness,
            max_brightness=self.max_brightness,
            min_contrast=self.min_contrast,
        )
        _require(
            0 < self.min_side <= self.max_side, "validate.min_side must be positive and at most max_side"
        )
        _require(
            0 <= self.near_duplicate_bits <= 64, "validate.near_duplicate_bits must lie between 0 and 64"
        )
        for name, value in self.severity.items():
            _require(value in ("fail", "warn"), f"validate.severity.{name} is {value!r}; it is fail or warn")


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    validation: float = 0.15
    test: float = 0.2
    pattern: str | None = None
    near_duplicates: Literal["join", "ignore"] = "join"

    def __post_init__(self) -> None:
        _share("split", validation=self.validation, test=self.test)
        _require(
            self.validation > 0 and self.test > 0 and self.validation + self.test < 1,
            f"split.validation {self.validation} and split.test {self.test} must be positive and leave room for train",
        )
        _pattern("split.pattern", self.pattern)


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    plan: Literal["auto", "none", "class_weights", "sampler", "logit_adjustment"] = "auto"
    min_per_class: int = 10
    imbalance_ratio: float = 3.0

    def __post_init__(self) -> None:
        _require(self.min_per_class >= 1, "balance.min_per_class must be at least 1")
        _require(self.imbalance_ratio >= 1, "balance.imbalance_ratio must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    backbone: str = "auto"
    weights: str = "bundled"
    image_size: int | None = None
    prior: str | None = None
    candidates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(self.image_size is None or self.image_size >= 16, "model.image_size must be at least 16 px")


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
            _require(value in (None, "auto") or value >= 1, f"train.{name} is {value}; it must be at least 1")
        _share(
            "train",
            label_smoothing=self.label_smoothing or 0.0,
            average=self.average,
            domain_balance=self.domain_balance,
        )
        _require(self.budget_seconds >= 0, "train.budget_seconds must not be negative")
        _require(self.mix >= 0, "train.mix must not be negative")
        _require(self.folds == 0 or self.folds >= 2, "train.folds must be at least 2, or 0 for none")
        _require(
            self.learning_rate is None or self.learning_rate > 0,
            "train.learning_rate must be positive, or null",
        )
        _require(
            self.unfreeze is None or 0 < self.unfreeze <= 1,
            f"train.unfreeze is {self.unfreeze}; it is a share of the layers above 0, at most 1, or null",
        )
        _require(
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
        _require(
            "onnx" in self.formats,
            f"bundle.formats is {list(self.formats)}; it must hold onnx, which the others are judged against",
        )
        _share("bundle", min_int8_agreement=self.min_int8_agreement, max_int8_drop=self.max_int8_drop)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluate:
    bootstrap: int = 2000
    stress_images: int = 96

    def __post_init__(self) -> None:
        _require(self.stress_images >= 0, "evaluate.stress_images must not be negative")
        _require(self.bootstrap >= 100, "evaluate.bootstrap must be at least 100")


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
        _share(
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
            _require(getattr(self, name) > 0, f"gate.{name} must be above 0")
        _require(self.max_peeks >= 1, "gate.max_peeks must be at least 1")
        _require(self.min_support >= 1, "gate.min_support must be at least 1")


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
        _require(self.approval_timeout_hours > 0, "release.approval_timeout_hours must be above 0")
        known = self.shadow_images == "auto" or self.shadow_images >= 0
        _require(known, "release.shadow_images must be auto, or not negative; 0 is no shadow")
        _share("release", min_shadow_agreement=self.min_shadow_agreement)


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
        _share("serve", abstain_below=self.abstain_below)
        _require(self.workers >= 1 and self.top_k >= 1, "serve.workers and serve.top_k must be at least 1")
        _require(self.max_in_flight >= 1, "serve.max_in_flight must be at least 1")
        _require(1 <= self.port <= 65_535, f"serve.port is {self.port}; it must lie between 1 and 65535")


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    keep_images: float = 1.0
    keep_days: float = 30.0
    max_bytes: int = 2_000_000_000
    mode: Literal["durable", "lossy"] = "durable"
    archive: str | None = None
    archive_days: float | None = None

    def __post_init__(self) -> None:
        _share("log", keep_images=self.keep_images)
        _require(
            self.archive is None or bool(self.archive.strip()),
            "log.archive is empty: null is var/log/archive",
        )
        _require(
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
        _require(self.observe_images >= 0, "watch.observe_images must not be negative; 0 observes nothing")
        for name in ("retrain_every_days", "retrain_after_labels", "max_age_days"):
            value = getattr(self, name)
            _require(
                value is None or value > 0, f"watch.{name} is {value}; it must be above 0, or null for off"
            )
        if self.min_labelled_accuracy is not None:
            _share("watch", min_labelled_accuracy=self.min_labelled_accuracy)
        _require(self.retrains_a_month >= 0, "watch.retrains_a_month must not be negative")
        _require(self.label_timeout_days > 0, "watch.label_timeout_days must be above 0")
        _require(0 < self.alpha < 1, "watch.alpha must lie between 0 and 1")
        _require(
            1 <= self.min_window <= self.window,
            "watch.min_window must be at least 1 and at most watch.window",
        )
        _require(self.permutations >= 99, "watch.permutations must be at least 99")


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    budget: int = 120
    random_share: float = 0.5
    test_share: float = 0.4
    min_labels: int = 40

    def __post_init__(self) -> None:
        _share("label", random_share=self.random_share, test_share=self.test_share)
        _require(self.budget >= 1, "label.budget must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Params:
    """All of params.yaml; a section or key that is left out takes its default."""

    seed: int = 0
    data: Data = field(default_factory=Data)
    validate: Validate = field(default_factory=Validate)
    split: Split = field(default_factory=Split)
    balance: Balance = field(default_factory=Balance)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    bundle: Bundle = field(default_factory=Bundle)
    evaluate: Evaluate = field(default_factory=Evaluate)
    gate: Gate = field(default_factory=Gate)
    release: Release = field(default_factory=Release)
    serve: Serve = field(default_factory=Serve)
    log: Log = field(default_factory=Log)
    watch: Watch = field(default_factory=Watch)
    label: Label = field(default_factory=Label)

    @classmethod
    def load(cls, path: Path) -> "Params":
        """Read and check params.yaml.

        Raises:
            ParamsError: the file is missing or not YAML, a key is unknown, a value is of the wrong
                type or out of its bounds.
        """
        try:
            raw = yaml.load(path.read_text(encoding="utf-8"), SafeLoader)
        except FileNotFoundError as error:
            raise ParamsError(f"{path} is missing: run from the workspace's root") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ParamsError(f"{path} is not YAML: {error}") from error
        return typing.cast(Params, _build(cls, {} if raw is None else raw, ""))


def _pattern(name: str, pattern: str | None) -> None:
    if pattern is None:
        return
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ParamsError(f"{name} is not a regular expression: {error}") from error
    _require(groups >= 1, f"{name} {pattern!r} needs a group in parentheses")


def _build(kind: type, raw: Any, where: str) -> Any:
    """An instance of the dataclass ``kind`` from a mapping, every key and type checked."""
    name = where or "params.yaml"
    if raw is None and where:
        raw = {}
    _require(isinstance(raw, dict), f"{name} must be a mapping, it is {type(raw).__name__}")
    hints = typing.get_type_hints(kind)
    for key in raw:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(hints)}"
            raise ParamsError(f"{name}: unknown key {str(key)!r}{hint}")
    required = [
        entry.name
        for entry in dataclasses.fields(kind)
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    ]
    for key in required:
        _require(key in raw, f"{name}: the key {key!r} is missing")
    return kind(
        **{key: _value(hints[key], value, f"{where}.{key}".lstrip(".")) for key, value in raw.items()}
    )


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        for argument in arguments:
            if argument is type(None):
                continue
            try:
                return _value(argument, value, where)
            except ParamsError:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
        near = difflib.get_close_matches(str(value), [str(a) for a in arguments], n=1)
        hint_text = f"; did you mean {near[0]!r}?" if near else ""
        raise ParamsError(f"{where} is {value!r}; it is one of {', '.join(map(str, arguments))}{hint_text}")
    elif origin is tuple:
        _require(isinstance(value, list), f"{where} must be a list, it is {type(value).__name__}")
        return tuple(_value(arguments[0], entry, f"{where}[{index}]") for index, entry in enumerate(value))
    elif origin is dict:
        _require(isinstance(value, dict), f"{where} must be a mapping, it is {type(value).__name__}")
        return {str(key): _value(arguments[1], entry, f"{where}.{key}") for key, entry in value.items()}
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        _require(
            value == value and abs(value) != float("inf"), f"{where} is {value}; it must be a finite number"
        )
        return float(value)
    elif isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    kind = getattr(hint, "__name__", str(hint))
    raise ParamsError(f"{where} is {value!r} ({type(value).__name__}); it must be {kind}")
