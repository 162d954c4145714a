"""Typed sections of params.yaml. An unknown key is an error that names the nearest known one."""

import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from pipeline.errors import ParamsError
from pipeline.params.data import Balance, Data, Source, Split, Validate
from pipeline.params.learning import Bundle, Evaluate, Model, Train
from pipeline.params.operation import Label, Log, Serve, Watch
from pipeline.params.promotion import Gate, Release
from pipeline.params.reading import build, require
from pipeline.params.yaml_1_2 import parse

__all__ = [
    "Balance",
    "Bundle",
    "Data",
    "Evaluate",
    "Gate",
    "Label",
    "Log",
    "Model",
    "Params",
    "Release",
    "Serve",
    "Source",
    "Split",
    "Train",
    "Validate",
    "Watch",
]


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

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, f"seed is {self.seed}; it must lie between 0 and {2**32 - 1}")

    @classmethod
    def load(cls, path: Path) -> "Params":
        """Read and check params.yaml.

        Raises:
            ParamsError: the file is missing or not YAML, a key is unknown, a value is of the wrong
                type or out of its bounds.
        """
        try:
            raw = parse(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ParamsError(f"{path} is missing: run from the workspace's root") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ParamsError(f"{path} is not YAML: {error}") from error
        return typing.cast(Params, build(cls, {} if raw is None else raw, ""))
