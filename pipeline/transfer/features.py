"""Features of frozen layers, computed once and kept by image.

A cached feature is exact only if the network below it is in eval mode and the view is stored: so the
store's key holds the weights' digest, the architecture and its arguments, the preprocessing's fingerprint
and the kind of view, and a row's name is the image's own digest.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from tqdm import tqdm

from pipeline.artifacts import Workspace, digest_json
from pipeline.backbone import Backbone, features
from pipeline.errors import WeightsError
from pipeline.rowstore import RowStore

__all__ = ["VIEWS", "cached_features"]

BATCH = 32
SHOW_FROM = 64  # images; fewer need no progress bar
VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "plain": lambda views: views,
    "mirrored": lambda views: views[:, :, ::-1],
}


def cached_features(
    workspace: Workspace,
    backbone: Backbone,
    views: np.ndarray,
    image_ids: Sequence[str],
    *,
    view: str = "plain",
    device: str = "cpu",
) -> np.ndarray:
    """float32 [n, width] pooled features of uint8 [n, H, W, 3] views; only images new to the store are run.

    The last batch is filled up with copies: a row's value then does not depend on how many others were
    computed with it, so a cache filled in pieces gives the same bits as one filled at once.

    Raises:
        WeightsError: the network answers an image with NaN or infinity.
    """
    key = [backbone.weights["digest"], backbone.name, backbone.kwargs, backbone.preprocessing.fingerprint()]
    folder = digest_json([*key, view, torch.__version__, device])[:32]
    store = RowStore(workspace.cache / "features" / folder, (backbone.width,), np.float32)
    if not store.known().keys() >= set(image_ids):
        with store.writing() as writer:
            seen = set(writer.known)
            rows = [row for row, image_id in enumerate(image_ids) if image_id not in seen]
            module = backbone.module.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
            bar = tqdm(total=len(rows), desc=f"features ({view})", unit="img", disable=len(rows) < SHOW_FROM)
            with bar, torch.inference_mode():
                for start in range(0, len(rows), BATCH):
                    part = rows[start : start + BATCH]
                    filled = part + [part[-1]] * (BATCH - len(part))
                    pixels = backbone.preprocessing.normalise(VIEWS[view](views[filled]))
                    batch = torch.from_numpy(pixels).to(device, memory_format=torch.channels_last)
                    values = features(module, batch).float().cpu().numpy()
                    for place, row in enumerate(part):
                        _check(values[place], image_ids[row], backbone.name)
                        writer.append(image_ids[row], values[place])
                    bar.update(len(part))
    return store.read(image_ids)


def _check(values: np.ndarray, image_id: str, name: str) -> None:
    if not np.isfinite(values).all():
        raise WeightsError(
            f"{name} answers the image {image_id[:12]}… with NaN or infinity: the weights are damaged, "
            "or the image size is not one that they were made for"
        )
