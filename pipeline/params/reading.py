"""From a mapping to a dataclass: every key known, every value of its type. An unknown key is an error that names the
nearest known one.
"""

import dataclasses
import difflib
import re
import types
import typing
from typing import Any, Literal

from pipeline.errors import ParamsError

__all__ = ["build", "pattern", "require", "share"]


def require(condition: bool, message: str) -> None:
    """
    Raises:
        ParamsError: with this message, where the condition does not hold.
    """
    if not condition:
        raise ParamsError(message)


def share(section: str, **values: float) -> None:
    """
    Raises:
        ParamsError: one of these values lies outside 0 to 1.
    """
    for name, value in values.items():
        require(0 <= value <= 1, f"{section}.{name} is {value}; it must lie between 0 and 1")


def pattern(name: str, value: str | None) -> None:
    """
    Raises:
        ParamsError: the value is no regular expression with a group.
    """
    if value is None:
        return
    try:
        groups = re.compile(value).groups
    except re.error as error:
        raise ParamsError(f"{name} is not a regular expression: {error}") from error
    require(groups >= 1, f"{name} {value!r} needs a group in parentheses")


def build(kind: type, raw: Any, where: str) -> Any:
    """An instance of the dataclass ``kind`` from a mapping, every key and type checked.

    Args:
        where: the section's name; empty: the whole file.

    Raises:
        ParamsError: a key is unknown or missing, a value of the wrong type or out of its bounds.
    """
    name = where or "params.yaml"
    if raw is None and where:
        raw = {}
    require(isinstance(raw, dict), f"{name} must be a mapping, it is {type(raw).__name__}")
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
        require(key in raw, f"{name}: the key {key!r} is missing")
    return kind(
        **{key: _value(hints[key], value, f"{where}.{key}".lstrip(".")) for key, value in raw.items()}
    )


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        for argument in arguments:
            if argument is type(None):
                continue
            try:
                return _value(argument, value, where)
            except ParamsError:
                if argument is float and isinstance(value, float):
                    raise  # a number, but none that can be meant
    elif origin is Literal:
        if value in arguments:
            return value
        near = difflib.get_close_matches(str(value), [str(a) for a in arguments], n=1)
        hint_text = f"; did you mean {near[0]!r}?" if near else ""
        raise ParamsError(f"{where} is {value!r}; it is one of {', '.join(map(str, arguments))}{hint_text}")
    elif origin is tuple:
        require(isinstance(value, list), f"{where} must be a list, it is {type(value).__name__}")
        return tuple(_value(arguments[0], entry, f"{where}[{index}]") for index, entry in enumerate(value))
    elif origin is dict:
        require(isinstance(value, dict), f"{where} must be a mapping, it is {type(value).__name__}")
        return {str(key): _value(arguments[1], entry, f"{where}.{key}") for key, entry in value.items()}
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        require(
            value == value and abs(value) != float("inf"), f"{where} is {value}; it must be a finite number"
        )
        return float(value)
    elif isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise ParamsError(f"{where} is {value!r} ({type(value).__name__}); it must be {_words(hint)}")


def _words(hint: Any) -> str:
    """What a value of this type is, for somebody who writes YAML."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(str, arguments))
    if arguments:
        return " or ".join(_words(argument) for argument in arguments)
    known = {
        bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null",
    }  # fmt: skip
    return known.get(hint, getattr(hint, "__name__", str(hint)))
