"""SqueezeNet (Iandola et al. 2016), the family that timm lacks: torchvision's layers behind timm's interface.

Registered with timm under torchvision's names, so that ``timm.create_model``, ``list_models`` and everything
built on them treat ``squeezenet1_0`` and ``squeezenet1_1`` like any other architecture. The tensors keep
torchvision's names: its state dicts load as they are (``classifier.1`` is the classifier, dropped for transfer).

    module = timm.create_model("squeezenet1_1", num_classes=0)
    pooled = module.forward_head(module.forward_features(pixels), pre_logits=True)     # [n, 512]
"""

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn
from torchvision.models.squeezenet import SqueezeNet

__all__ = ["TorchvisionSqueezeNet", "squeezenet1_0", "squeezenet1_1"]

CHANNELS = 512  # of the last Fire module, in both versions
# torchvision's own inference preset (transforms.ImageClassification, crop_size=224): shorter side to 256 px,
# bilinear, centre crop, ImageNet's mean and standard deviation.
PRESET: dict[str, Any] = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (13, 13),
    "crop_pct": 0.875,
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "first_conv": "features.0",
    "classifier": "classifier.1",
}
default_cfgs = generate_default_cfgs(
    {"squeezenet1_0": PRESET, "squeezenet1_1": PRESET}
)  # timm reads this name


class TorchvisionSqueezeNet(nn.Module):
    """torchvision's SqueezeNet with what timm's tools expect of a network.

    Args:
        version: 1_0, or 1_1 (2.4 times cheaper, as accurate).
        num_classes: 0 leaves the classifier out.
        in_chans: channels of an image, which timm always passes; torchvision's stem takes 3.
        drop_rate: before the classifier.

    Raises:
        ValueError: ``in_chans`` is not 3.
    """

    def __init__(
        self, version: str, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.5
    ) -> None:
        super().__init__()
        if in_chans != 3:
            raise ValueError(f"SqueezeNet takes images of 3 channels, not {in_chans}")
        made = SqueezeNet(version, num_classes=max(1, num_classes), dropout=drop_rate)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = CHANNELS
        self.features = made.features
        self.classifier = made.classifier if num_classes else nn.Identity()

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, 512, h, w] of normalised images [n, 3, H, W]; the sides shrink about sixteenfold."""
        return self.features(pixels)

    def forward_head(self, maps: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """[n, 512] mean over the places; or, as torchvision orders it, classify each place, then average."""
        if pre_logits or self.num_classes == 0:
            return maps.mean(dim=(2, 3))
        return self.classifier(maps).flatten(1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(pixels))

    def reset_classifier(self, num_classes: int) -> None:
        """Take the classifier off; the head that is trained belongs to ``transfer/classifier.py``.

        Raises:
            ValueError: ``num_classes`` is not 0.
        """
        if num_classes:
            raise ValueError(f"reset_classifier takes 0, it was given {num_classes}")
        self.num_classes, self.classifier = 0, nn.Identity()

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Layers from the image up: the first convolution, then each Fire module; the classifier is the last."""
        return {"stem": r"^features\.0", "blocks": r"^features" if coarse else r"^features\.(\d+)"}


@register_model
def squeezenet1_0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SqueezeNet 1.0: 0.74 million parameters without the classifier, at least 21 px."""
    return build_model_with_cfg(TorchvisionSqueezeNet, "squeezenet1_0", pretrained, version="1_0", **kwargs)


@register_model
def squeezenet1_1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SqueezeNet 1.1: 0.72 million parameters without the classifier, at least 17 px."""
    return build_model_with_cfg(TorchvisionSqueezeNet, "squeezenet1_1", pretrained, version="1_1", **kwargs)
