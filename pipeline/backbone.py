"""Which weights, from where, and what they want to see: a timm network without its classifier.

``model.weights`` in params.yaml:

- ``bundled``: the small network that comes with the project. For the embedded sample only.
- ``hub``: timm's published weights for ``model.backbone``, downloaded once into the Hub's own cache.
- a path: a timm local-dir (``config.json`` + ``model.safetensors``; its preprocessing and its model
  arguments, such as ``pad_type``, are honoured), or one safetensors file plus ``model.backbone``.
- ``none``: random weights, for comparison.

    backbone = load(params.model, root=Path("."), seed=0)
    pooled = features(backbone.module, pixels)             # [n, backbone.width]
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.data import resolve_model_data_config
from torch import nn

from pipeline.artifacts import digest_file
from pipeline.errors import IntegrityError, ParamsError, WeightsError
from pipeline.params import Model
from pipeline.transfer.weights import Found, check_name, find
from pipeline.transforms import Preprocessing

__all__ = ["Backbone", "build", "features", "load"]

NAMED = 5  # keys named in an error


@dataclass(frozen=True)
class Backbone:
    """A network that gives pooled features, and all that is needed to build and feed it again."""

    module: nn.Module  # num_classes = 0, in eval mode, float32, on the CPU
    name: str  # timm architecture
    kwargs: dict[str, Any]  # for timm.create_model
    preprocessing: Preprocessing
    width: int  # of the pooled features before the head
    pretrained: bool
    weights: dict[str, Any]  # name, digest (sha256 of the file, or of the random tensors), licence, source


def load(model: Model, *, root: Path, seed: int) -> Backbone:
    """The backbone that params.yaml's section ``model`` asks for; relative paths start at ``root``.

    Raises:
        WeightsError: the weights are missing, unreachable, damaged, or of another architecture.
        ParamsError: the architecture is unknown, or can't take ``image_size``.
    """
    found = find(model, root)
    kwargs = _with_size(found, model.image_size)
    torch.manual_seed(seed)
    module = (
        build(found.name, kwargs, found.config) if found.file is None else _filled(found, found.file, kwargs)
    )
    config = resolve_model_data_config(module)
    preprocessing = _preprocessing(config, model.image_size)
    width = _width(module, preprocessing.image_size, model.image_size)
    digest = digest_file(found.file) if found.file else _digest(module)
    weights = {"name": found.name, "digest": digest, "licence": found.licence, "source": found.source}
    return Backbone(module, found.name, kwargs, preprocessing, width, found.file is not None, weights)


def build(name: str, kwargs: dict[str, Any], config: dict[str, Any] | None = None) -> nn.Module:
    """The architecture without its classifier and without weights, in eval mode.

    Raises:
        ParamsError: timm knows no such architecture, or it does not take the arguments.
    """
    check_name(name)
    try:
        return timm.create_model(
            name, pretrained=False, num_classes=0, pretrained_cfg_overlay=config or {}, **kwargs
        ).eval()
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ParamsError(f"model.backbone {name} can't be built with {kwargs}: {error}") from error


def features(module: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Pooled features [n, width] of normalised images [n, 3, H, W]: all but the last linear layer."""
    return module.forward_head(module.forward_features(pixels), pre_logits=True)  # type: ignore[operator]


def _with_size(found: Found, image_size: int | None) -> dict[str, Any]:
    """The model arguments, with the image size where the architecture is built for one (ViT and kin)."""
    from timm.models import get_pretrained_cfg

    own = get_pretrained_cfg(found.name)
    fixed = found.config.get("fixed_input_size", bool(own and own.fixed_input_size))
    if not fixed and "img_size" not in found.kwargs:
        return dict(found.kwargs)
    size = found.config.get("input_size") or (own.input_size if own else (3, 224, 224))
    return {**found.kwargs, "img_size": image_size or found.kwargs.get("img_size") or int(size[-1])}


def _filled(found: Found, file: Path, kwargs: dict[str, Any]) -> nn.Module:
    """The network with its weights loaded strictly, then its classifier taken off."""
    shapes = _shapes(file)
    own = timm.models.get_pretrained_cfg(found.name)
    names = found.config.get("classifier", own.classifier if own else None)
    classifier = names[0] if isinstance(names, (list, tuple)) else names
    count = shapes.get(f"{classifier}.weight", (0,))[0]
    overlay = {
        **found.config,
        "file": str(file),
        "source": "",
        "custom_load": False,
        "num_classes": count,
        "label_offset": 0,
    }
    try:
        with _gently():
            module = timm.create_model(
                found.name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=count, **kwargs
            )
    except (RuntimeError, KeyError, ValueError, AssertionError, TypeError) as error:
        difference = _difference(found.name, kwargs, count, shapes)
        if difference is None:
            raise ParamsError(f"model.backbone {found.name} can't be built with {kwargs}: {error}") from error
        raise WeightsError(
            f"{file} holds no {found.name}: {difference}. Name the right architecture in model.backbone"
        ) from error
    module.reset_classifier(0)
    return module.eval()


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name → shape, from the file's header."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} is damaged or no safetensors file ({error}): fetch it again") from error


def _difference(
    name: str, kwargs: dict[str, Any], count: int, shapes: dict[str, tuple[int, ...]]
) -> str | None:
    """Which tensors differ, in words; None where the architecture can't even be built."""
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


def _preprocessing(config: dict[str, Any], image_size: int | None) -> Preprocessing:
    """Ours from timm's data config (``resolve_model_data_config``)."""
    channels, height, width = config["input_size"]
    if channels != 3 or (height != width and image_size is None):
        raise WeightsError(
            f"the weights take {channels} x {height} x {width} px; only square RGB is supported"
        )
    side = image_size or height
    try:
        return Preprocessing(
            image_size=side,
            resize=max(side, int(side / config["crop_pct"])),
            interpolation=config["interpolation"],
            mean=tuple(float(value) for value in config["mean"]),  # type: ignore[arg-type]
            std=tuple(float(value) for value in config["std"]),  # type: ignore[arg-type]
            crop_mode=config.get("crop_mode") or "center",
        )
    except IntegrityError as error:
        raise WeightsError(f"the weights ask for a preprocessing that is not supported: {error}") from error


def _width(module: nn.Module, side: int, asked: int | None) -> int:
    """The width of the pooled features, found by running the network once."""
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    if asked is not None and patch and side % patch[0]:
        low = side // patch[0] * patch[0]
        raise ParamsError(
            f"model.image_size {side} px is no multiple of the network's patches of {patch[0]} px: "
            f"take {low} or {low + patch[0]}, or null for the weights' own size"
        )
    try:
        with torch.inference_mode():
            return int(features(module, torch.zeros(1, 3, side, side)).shape[-1])
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ParamsError(
            f"model.image_size {side} px does not fit this network ({str(error).splitlines()[0]}): "
            "set model.image_size to null for the weights' own size"
        ) from error


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _gently() -> Iterator[None]:
    """timm logs before it raises; the error says it all."""
    import logging

    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
