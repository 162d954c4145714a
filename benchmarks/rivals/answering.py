"""What a rival's network says of the test images, after its clock has stopped; runs in the rivals' environment.

Every contender is judged on the same uint8 views, made once by visionloop's preprocessing (the weights' own
size, crop and resampling), in float32.
"""

import json
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn

BATCH = 64


def answer(model: nn.Module, views: np.ndarray, weights: Path) -> np.ndarray:
    """float32 logits [n, classes] of uint8 views [n, H, W, 3], standardised as the weights ask for."""
    config = json.loads((weights / "config.json").read_text(encoding="utf-8"))["pretrained_cfg"]
    mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    model = model.cpu().eval().float()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(views), BATCH):
            pixels = torch.from_numpy(views[start : start + BATCH]).permute(0, 3, 1, 2).float() / 255
            parts.append(model((pixels - mean) / std).float().numpy())
    return np.concatenate(parts)


def loaded_share(model: nn.Module, weights: Path) -> float:
    """Share of the weights' tensors (but for the classifier) that ``model`` holds bit for bit: must be 1."""
    source = timm.models.load_state_dict(str(weights / "model.safetensors"))
    own = model.state_dict()
    names = [name for name in source if not name.startswith("classifier.")]
    return sum(name in own and torch.equal(own[name], source[name]) for name in names) / len(names)
