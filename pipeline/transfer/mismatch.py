"""Weights of another architecture: which tensors differ, from the file's header alone."""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open

from pipeline.errors import WeightsError

__all__ = ["key_difference", "tensor_shapes"]

NAMED = 5  # keys named in an error
Shapes = dict[str, tuple[int, ...]]


def tensor_shapes(file: Path) -> Shapes:
    """Tensor name → shape, from the header of a safetensors file.

    Raises:
        WeightsError: the file is damaged, or something else.
    """
    try:
        with safe_open(file, framework="numpy") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} is damaged or no safetensors file ({error}): fetch it again") from error


def key_difference(name: str, kwargs: dict[str, Any], count: int, shapes: Shapes) -> str | None:
    """Which tensors of a file are not those of the architecture ``name`` with ``count`` classes, in words.

    None where they all are, or where the architecture can't even be built.
    """
    try:
        with torch.device("meta"):
            expected = {
                key: tuple(value.shape)
                for key, value in timm.create_model(name, num_classes=count, **kwargs).state_dict().items()
            }
    except Exception:  # whatever a constructor raises: then it is not the weights' fault
        return None
    parts = {
        "missing": sorted(expected.keys() - shapes.keys()),
        "unexpected": sorted(shapes.keys() - expected.keys()),
        "of another shape": [
            f"{key} {shapes[key]} for {expected[key]}"
            for key in sorted(expected.keys() & shapes.keys())
            if expected[key] != shapes[key]
        ],
    }
    words = [
        f"{len(keys)} tensors {what} ({', '.join(keys[:NAMED])}{', …' if len(keys) > NAMED else ''})"
        for what, keys in parts.items()
        if keys
    ]
    return "; ".join(words) or None
