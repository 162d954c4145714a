"""The proof that ONNX Runtime answers like torch."""

import numpy as np
import torch

from pipeline.bundle import BATCH, Bundle
from pipeline.transfer.classifier import Classifier

__all__ = ["parity_error"]


@torch.inference_mode()
def parity_error(classifier: Classifier, bundle: Bundle, pixels: np.ndarray) -> float:
    """Largest |torch - ONNX Runtime| over the logits of uint8 views [n, H, W, 3], at once and one by one."""
    pixels = np.ascontiguousarray(pixels)
    parts = [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]
    expected = np.concatenate([_logits(classifier, bundle.preprocessing.normalise(part)) for part in parts])
    together = bundle.predict(pixels).logits
    alone = bundle.predict(pixels[:1]).logits
    return float(max(np.abs(together - expected).max(), np.abs(alone - expected[:1]).max()))


def _logits(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """Of float32 [n, 3, H, W], channels last: half of the time at 224 px."""
    logits = classifier(torch.from_numpy(images).contiguous(memory_format=torch.channels_last))[0]
    return np.asarray(logits)
