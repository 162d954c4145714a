"""Sections of params.yaml about the images: where they lie, what they must be, how they are divided."""

import re
from dataclasses import dataclass, field
from typing import Literal

from pipeline.params.reading import pattern, require, share


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One folder or table of labelled images; each source is a domain."""

    path: str
    domain: str = "default"

    def __post_init__(self) -> None:
        require(bool(self.path.strip()), "data.sources: a path is empty: name a folder or a table")
        require(
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
        require(
            self.licence is None or bool(self.licence.strip()),
            "data.licence is empty: name the licence of the images, or null where it is not known",
        )
        require(bool(self.sources), "data.sources is empty: name at least one {path, domain}")
        domains = [source.domain for source in self.sources]
        require(len(set(domains)) == len(domains), f"data.sources: two sources share a domain: {domains}")
        pattern("data.group_pattern", self.group_pattern)
        require(
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
        share(
            "validate",
            max_undecodable=self.max_undecodable,
            min_brightness=self.min_brightness,
            max_brightness=self.max_brightness,
            min_contrast=self.min_contrast,
        )
        require(0 < self.min_side <= self.max_side, "validate.min_side must be positive and at most max_side")
        require(0 <= self.near_duplicate_bits <= 64, "validate.near_duplicate_bits must lie between 0 and 64")
        require(self.min_per_class >= 0, "validate.min_per_class must not be negative")
        for name, value in self.severity.items():
            require(value in ("fail", "warn"), f"validate.severity.{name} is {value!r}; it is fail or warn")


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    validation: float = 0.15
    test: float = 0.2
    pattern: str | None = None
    near_duplicates: Literal["join", "ignore"] = "join"

    def __post_init__(self) -> None:
        share("split", validation=self.validation, test=self.test)
        require(
            self.validation > 0 and self.test > 0 and self.validation + self.test < 1,
            f"split.validation {self.validation} and split.test {self.test} must be positive and leave room for train",
        )
        pattern("split.pattern", self.pattern)


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    plan: Literal["auto", "none", "class_weights", "sampler", "logit_adjustment"] = "auto"
    min_per_class: int = 10
    imbalance_ratio: float = 3.0

    def __post_init__(self) -> None:
        require(self.min_per_class >= 1, "balance.min_per_class must be at least 1")
        require(self.imbalance_ratio >= 1, "balance.imbalance_ratio must be at least 1")
