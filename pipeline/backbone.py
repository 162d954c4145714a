"""Which weights, from where, and what they want to see: a network without its classifier.

Architectures are timm's, and torchvision's SqueezeNet (transfer/torchvision_backbone.py).

``model.weights`` in params.yaml:

- ``bundled``: the small network that comes with the project. For the embedded sample only.
- ``hub``: timm's published weights for ``model.backbone``, downloaded once into the Hub's own cache.
- a path: a timm local-dir (``config.json`` + ``model.safetensors``; its preprocessing and its model
  arguments, such as ``pad_type``, are honoured), a torchvision state dict beside a ``config.json`` that says
  ``"library": "torchvision"``, or one safetensors file plus ``model.backbone``.
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
from timm.data import resolve_model_data_config
from torch import nn

from pipeline.artifacts import digest_file
from pipeline.errors import IntegrityError, ParamsError, WeightsError
from pipeline.params import Model
from pipeline.transfer.mismatch import key_difference, tensor_shapes
from pipeline.transfer.weights import Found, check_name, find
from pipeline.transforms import Preprocessing

__all__ = ["Backbone", "build", "features", "load"]

MOST_SIDE = 1024  # px; where the search for an image size that a network can take ends


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
    shapes = tensor_shapes(file)
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
        difference = key_difference(found.name, kwargs, count, shapes)
        if difference is None and found.kwargs:
            raise WeightsError(
                f"{file.parent}/config.json: {found.name} can't be built with its model_args {found.kwargs}: {error}"
            ) from error
        if difference is None:
            raise ParamsError(f"model.backbone {found.name} can't be built with {kwargs}: {error}") from error
        raise WeightsError(
            f"{file} holds no {found.name}: {difference}. Name the right architecture in model.backbone"
        ) from error
    if found.declared:  # efficientnet_b0 takes each tensor of tf_efficientnet_b0, and pads otherwise
        raise WeightsError(
            f"{file.parent}/config.json says that these weights are a {found.declared}. model.backbone {found.name} takes the "
            "same tensors, but is another network: set model.backbone to auto, or to the name in config.json"
        )
    module.reset_classifier(0)
    return module.eval()


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
    step = _patch(module)
    if asked is not None and step and side % step:
        low = side // step * step
        near = f"{low} or {low + step}" if low else f"{step}"
        raise ParamsError(
            f"model.image_size {side} px is no multiple of the network's patches of {step} px: "
            f"take {near}, or null for the weights' own size"
        )
    try:
        return _tried(module, side)
    except (RuntimeError, AssertionError, ValueError) as error:
        smallest = _smallest(module, side)
        ways = f"take at least {smallest}, or null" if smallest else "set model.image_size to null"
        raise ParamsError(
            f"model.image_size {side} px does not fit this network ({str(error).splitlines()[0]}): "
            f"{ways} for the weights' own size"
        ) from error


def _patch(module: nn.Module) -> int | None:
    """The side of the patches that a network cuts an image into, in px; None where they overlap, or there are none."""
    embedding = getattr(module, "patch_embed", None)
    patch = getattr(embedding, "patch_size", None)
    side = patch[0] if isinstance(patch, (tuple, list)) else patch
    stride = getattr(getattr(embedding, "proj", None), "stride", (side,))
    return side if stride[0] == side else None


@torch.inference_mode()
def _tried(module: nn.Module, side: int) -> int:
    """The width of one black image's features; raises whatever the layers do where ``side`` is too small."""
    pixels = torch.zeros(1, 3, side, side, device=next(module.parameters()).device)
    # VGG's first dense layer sees 7 x 7 places; timm stretches a smaller map, which ONNX can't express.
    kernel = getattr(getattr(module, "pre_logits", None), "input_kernel_size", 0)
    if kernel:
        places = int(module.forward_features(pixels).shape[-1])  # type: ignore[operator]
        if places < kernel:
            raise ValueError(
                f"its dense layers see {kernel} x {kernel} places, here only {places} x {places} are left"
            )
    return int(features(module, pixels).shape[-1])


def _smallest(module: nn.Module, side: int) -> int | None:
    """The least image size above ``side`` that the layers can take, in px; None where none is found.

    Tried by halving, on shapes alone (torch's meta device). ``module`` is of no use afterwards.
    """
    module.to("meta")
    low, high = side, MOST_SIDE
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _tried(module, middle)
            high = middle
        except (RuntimeError, AssertionError, ValueError, NotImplementedError):
            low = middle
    return high if high < MOST_SIDE else None


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
