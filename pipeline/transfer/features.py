"""What frozen layers answer, computed once and kept by image: pooled features, or activations at a cut.

A cached answer holds only if the network below it is in eval mode and the view is stored: so the store's
key holds the weights' digest, the architecture and its arguments, the preprocessing's fingerprint, the
place in the network and the kind of view, and a row's name is the image's own digest. BatchNorms are
folded (see folding.py): the values are the network's own to the rounding of float32.
"""

import copy
import shutil
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import fx, nn
from tqdm import tqdm

from pipeline.artifacts import Workspace, digest_json
from pipeline.backbone import Backbone
from pipeline.errors import ParamsError, WeightsError
from pipeline.rowstore import RowStore
from pipeline.transfer import distributed
from pipeline.transfer.augment import augmented, draws, standardised
from pipeline.transfer.cut import Pooled, whole
from pipeline.transfer.device import sent
from pipeline.transfer.folding import folded
from pipeline.transfer.frozen import forward, runtime
from pipeline.transfer.stages import EveryStage, Taps
from pipeline.transforms import Preprocessing

__all__ = [
    "activation_shape",
    "affordable",
    "cached_activations",
    "cached_features",
    "features_above",
    "kinds",
]

BATCH = {"cpu": 16, "cuda": 128}  # of 32 a CPU's pass takes a seventh longer: less of it stays in the cache
DRAWN = "random, SplitMix64"  # how random views are drawn: what was kept of others is no longer met
SHOW_FROM = 64  # images; fewer need no progress bar
DISK_SHARE = 0.2  # of the free disk that one set of activations may take


def kinds(count: int) -> list[str]:
    """The first ``count`` kinds of stored view: as it is, mirrored, then random crops (see augment.py)."""
    return ["plain", "mirrored", *(f"random-{number}" for number in range(count - 2))][:count]


def cached_features(
    workspace: Workspace,
    backbone: Backbone,
    views: np.ndarray,
    image_ids: Sequence[str],
    *,
    view: str = "plain",
    device: str = "cpu",
    taps: Taps | None = None,
) -> np.ndarray:
    """float32 [n, width] pooled features of uint8 [n, H, W, 3] views; only images new to the store are run.

    Args:
        taps: the features of these stages, too, before the last.

    Raises:
        WeightsError: the network answers an image with NaN or infinity.
    """
    place = "features" if taps is None else f"features of stages {taps.indices}"
    return _cached(
        workspace, backbone, image_ids,
        network=lambda: _whole(backbone.module, taps),
        inputs=_pixels(views, image_ids, view, backbone.preprocessing, device),
        place=place, shape=(taps.width if taps else backbone.width,), view=view, device=device,
    )  # fmt: skip


def features_above(
    workspace: Workspace,
    backbone: Backbone,
    upper: fx.GraphModule,
    place: str,
    activations: np.ndarray,
    image_ids: Sequence[str],
    *,
    view: str = "plain",
    device: str = "cpu",
) -> np.ndarray:
    """float32 [n, width] pooled features that ``upper``, cut at ``place``, makes of n images' cached activations."""
    return _cached(
        workspace, backbone, image_ids,
        network=lambda: folded(upper),
        inputs=lambda rows: torch.from_numpy(activations[rows]),
        place=f"features above {place}", shape=(backbone.width,), view=view, device=device,
    )  # fmt: skip


def cached_activations(
    workspace: Workspace,
    backbone: Backbone,
    lower: fx.GraphModule,
    place: str,
    views: np.ndarray,
    image_ids: Sequence[str],
    *,
    view: str = "plain",
    device: str = "cpu",
) -> np.ndarray:
    """float32 [n, ...] what ``lower`` (see cut.py), cut at ``place``, makes of uint8 [n, H, W, 3] views."""
    return _cached(
        workspace, backbone, image_ids,
        network=lambda: folded(lower),
        inputs=_pixels(views, image_ids, view, backbone.preprocessing, device),
        place=f"activations at {place}",
        shape=activation_shape(lower, backbone.preprocessing.image_size), view=view, device=device,
    )  # fmt: skip


@torch.inference_mode()
def activation_shape(lower: nn.Module, side: int) -> tuple[int, ...]:
    """Shape of one image's activations."""
    return tuple(lower.cpu()(torch.zeros(1, 3, side, side)).shape[1:])


def affordable(workspace: Workspace, shape: tuple[int, ...], images: int, wanted: int) -> int:
    """How many of the ``wanted`` views of so many images fit into a fifth of the free disk; 0: not even one."""
    workspace.cache.mkdir(parents=True, exist_ok=True)
    one = int(np.prod(shape)) * 4 * images
    return min(wanted, int(DISK_SHARE * shutil.disk_usage(workspace.cache).free / one))


def _cached(
    workspace: Workspace,
    backbone: Backbone,
    image_ids: Sequence[str],
    *,
    network: Callable[[], nn.Module],
    inputs: Callable[[list[int]], torch.Tensor],
    place: str,
    shape: tuple[int, ...],
    view: str,
    device: str,
) -> np.ndarray:
    """The last batch is filled up with copies: a row's value then does not depend on how many others were
    computed with it, so a cache filled in pieces gives the same bits as one filled at once."""
    made_by = [
        backbone.weights["digest"],
        backbone.name,
        backbone.kwargs,
        runtime(device),
        device.split(":")[0],
    ]
    key = [*made_by, backbone.preprocessing.fingerprint(), place]
    batch_size = BATCH[device.split(":")[0]]
    folder = digest_json([*key, view.replace("random", DRAWN)])[:32]
    store = RowStore(workspace.cache / "features" / folder, shape, np.float32)
    if not store.holds(image_ids):
        with store.writing(image_ids) as writer:
            seen = set(writer.known)
            rows = [row for row, image_id in enumerate(image_ids) if image_id not in seen]
            ready = digest_json([*key, str(workspace.cache)])
            silent = len(rows) < SHOW_FROM or not distributed.first()
            bar = tqdm(total=len(rows), desc=f"{place.split()[0]} ({view})", unit="img", disable=silent)
            with bar:
                for start in range(0, len(rows), batch_size):
                    part = rows[start : start + batch_size]
                    filled = part + [part[-1]] * (batch_size - len(part))
                    batch = inputs(filled)
                    answers = forward(ready, network, batch, device)(batch).numpy()
                    for number, row in enumerate(part):
                        _check(answers[number], image_ids[row], backbone.name)
                        writer.append(image_ids[row], answers[number])
                    bar.update(len(part))
    return store.read(image_ids)


def _whole(backbone: nn.Module, taps: Taps | None) -> nn.Module:
    """Pixels to pooled features: a copy, since it moves to the device in a layout of its own."""
    root = Pooled(backbone) if taps is None else EveryStage(backbone, taps.indices)
    try:
        return folded(whole(root))
    except ParamsError:  # can't be traced, as some transformers: nothing to fold in those
        return copy.deepcopy(root)


def _pixels(
    views: np.ndarray, image_ids: Sequence[str], view: str, preprocessing: Preprocessing, device: str
) -> Callable[[list[int]], torch.Tensor]:
    """Rows to float32 [n, 3, H, W], standardised, on the device: one kind of view; a random one is the image's own for good."""

    def made(rows: list[int]) -> torch.Tensor:
        chosen = views[rows]
        mirrored = chosen[:, :, ::-1].copy() if view == "mirrored" else chosen
        pixels = sent(mirrored, device).permute(0, 3, 1, 2)
        if view.startswith("random-"):
            keys = [int(image_ids[row][:12], 16) for row in rows]
            drawn = draws(keys, 0, int(view.removeprefix("random-")), *views.shape[1:3])
            pixels = augmented(pixels, drawn)
        return standardised(pixels, preprocessing)

    return made


def _check(values: np.ndarray, image_id: str, name: str) -> None:
    if not np.isfinite(values).all():
        raise WeightsError(
            f"{name} answers the image {image_id[:12]}… with NaN or infinity: the weights are damaged, "
            "or the image size is not one that they were made for"
        )
