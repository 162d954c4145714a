"""The freeze boundary: the lower layers keep what pretraining taught them, exactly.

Frozen means that parameters and buffers are bit-identical after training. A BatchNorm in train mode
moves its statistics without any gradient, so frozen ones are kept in eval mode by the classifier itself.
"""

import torch
from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.transfer.classifier import Classifier

__all__ = ["freeze", "layer_of", "lowest_trained"]


def layer_of(backbone: nn.Module) -> dict[str, int]:
    """Parameter name → layer, 0 at the image, as timm groups the architecture."""
    if not hasattr(backbone, "group_matcher"):
        return dict.fromkeys((name for name, _ in backbone.named_parameters()), 0)
    layers: dict[str, int] = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    return layers


def lowest_trained(backbone: nn.Module, frozen_share: float) -> int:
    """The first layer that is trained when ``frozen_share`` of the layers, from the image up, is frozen."""
    layers = layer_of(backbone)
    return round(frozen_share * (max(layers.values(), default=0) + 1))


def freeze(classifier: Classifier, frozen_share: float, *, keep_statistics: bool) -> list[str]:
    """Freeze the lower ``frozen_share`` of the backbone's layers; the names of what stays as it is.

    Args:
        keep_statistics: BatchNorm statistics stay everywhere, also in trained layers. They come from far
            more images than a small data set has; only a network without pretraining has none to keep.
    """
    boundary = lowest_trained(classifier.backbone, frozen_share)
    layers = layer_of(classifier.backbone)
    for name, parameter in classifier.backbone.named_parameters():
        parameter.requires_grad_(layers.get(name, boundary) >= boundary)
    still = [
        module
        for module in classifier.backbone.modules()
        if isinstance(module, _BatchNorm)
        and (keep_statistics or not any(p.requires_grad for p in module.parameters()))
    ]
    classifier.keep_still(still)
    return sorted(_frozen_names(classifier.backbone, still))


def _frozen_names(backbone: nn.Module, still: list[nn.Module]) -> set[str]:
    kept = {id(tensor) for module in still for tensor in module.buffers()}
    names = {name for name, tensor in backbone.named_parameters() if not tensor.requires_grad}
    return names | {name for name, tensor in backbone.named_buffers() if id(tensor) in kept}


def trained(classifier: Classifier) -> dict[str, torch.Tensor]:
    """Everything that training may change: parameters with a gradient, and buffers that are not frozen."""
    frozen = {f"backbone.{name}" for name in _frozen_names(classifier.backbone, classifier.still)}
    return {name: tensor for name, tensor in classifier.state_dict().items() if name not in frozen}
