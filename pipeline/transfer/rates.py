"""The learning rate of every weight: less in lower layers, and less where one weight's layer sums up many inputs.

AdamW's step is about as large for every weight, however small its gradient. A layer that sums up ``n`` inputs
moves by up to ``n`` such steps at once: under frozen BatchNorm statistics, which nothing scales back, that is what
tears pretrained features apart. So beyond ``wide`` inputs the rate falls as 1/n (muP, Yang et al. 2022).
"""

from typing import Any

from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from pipeline.transfer.classifier import Classifier
from pipeline.transfer.recipe import Recipe

__all__ = ["WIDE", "parameter_groups"]

WIDE = 100  # inputs; without it a rate of 7e-4 tore some sets' probes apart for half the schedule

Group = dict[str, Any]


def parameter_groups(classifier: Classifier, recipe: Recipe) -> list[Group]:
    """Groups for an optimizer, each with its ``lr_scale``, by which timm's schedulers multiply the rate.

    The head learns at the full rate, the backbone's layers at timm's layer decay or, where an architecture names no
    layers, all at one rate; ``recipe.wide`` is applied on top.
    """
    head = list(classifier.head.parameters())
    groups: list[Group] = [{"params": head, "weight_decay": 0.0, "lr_scale": 1.0}]
    groups += _backbone(classifier.backbone, recipe)
    return [part for group in groups for part in _by_width(group, recipe.wide)] if recipe.wide else groups


def _backbone(backbone: nn.Module, recipe: Recipe) -> list[Group]:
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        return []
    if recipe.layer_decay == 1 or not hasattr(backbone, "group_matcher"):
        plain = param_groups_weight_decay(backbone, weight_decay=recipe.weight_decay)
        return [group | {"lr_scale": 1.0} for group in plain if group["params"]]
    groups: list[Group] = param_groups_layer_decay(
        backbone, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay
    )
    return groups


def _by_width(group: Group, wide: int) -> list[Group]:
    """The group in parts, of which each holds weights that sum up as many inputs."""
    parts: dict[int, list[nn.Parameter]] = {}
    for parameter in group["params"]:
        inputs = parameter[0].numel() if parameter.dim() > 1 else 1
        parts.setdefault(max(inputs, wide), []).append(parameter)
    return [
        group | {"params": params, "lr_scale": group["lr_scale"] * wide / inputs}
        for inputs, params in parts.items()
    ]
