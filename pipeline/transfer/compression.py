"""Smaller versions of a trained network: pruned, INT8, and with a shorter embedding. Each is written as ONNX.

- Magnitude pruning (Han et al. 2015) sets the smallest weights of each layer to zero, but for depthwise convolutions,
  which have few. Batch statistics are measured again (Li et al. 2020) and the head is fitted anew, but no other weight
  is trained after it. A dense ONNX file stays as large and as slow as it was: it shrinks once it is compressed.
- INT8 is the static quantisation of int8.py, whatever it does to the accuracy.
- PCA keeps the directions in which the training images' embeddings vary most, and fits the head anew on them: a
  projection and a head in place of the one head. What shrinks is what is logged and kept of each image.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import prune

from pipeline.backbone import build
from pipeline.bundle import NETWORKS, Bundle, open_session
from pipeline.params import Bundle as Limits
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.examples import Examples
from pipeline.transfer.exporter import write_onnx
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.int8 import try_int8
from pipeline.transfer.probe import fit_probe
from pipeline.transforms import Preprocessing

__all__ = ["DIMENSIONS", "PRUNED", "Images", "shipped", "variants"]

PRUNED = (0.3, 0.5, 0.7)  # shares of the weights that are set to zero
DIMENSIONS = (8, 16, 32, 64, 128, 256, 512)  # of a shorter embedding
BATCH = 64
ANYTHING = Limits(min_int8_agreement=0.0, max_int8_drop=1.0)


@dataclass(frozen=True)
class Images:
    """One part of the split, of the classes that the bundle knows."""

    pixels: np.ndarray  # uint8 [n, H, W, 3]
    labels: np.ndarray  # [n] codes
    groups: list[str]


class Projected(nn.Module):
    """A network whose embedding is projected before a head of its own; images to (logits, the shorter embedding)."""

    def __init__(self, network: Classifier, projection: nn.Linear, head: nn.Linear) -> None:
        super().__init__()
        self.network, self.projection, self.head = network, projection, head

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = self.projection(self.network(pixels)[1])
        return self.head(embedding), embedding


def shipped(bundle: Bundle) -> Classifier:
    """The float32 network of a bundle, in torch."""
    info = bundle.info
    classifier = Classifier(
        build(info["backbone"], info["backbone_kwargs"]),
        int(info["embedding_size"]),
        len(bundle.classes),
        info.get("stages"),
    )
    classifier.load_state_dict(load_file(bundle.path / "model.safetensors"))
    return classifier.eval()


def variants(
    bundle: Bundle, train: Images, validation: Images, plan: Plan, folder: Path, *, seed: int, limits: Limits
) -> Iterator[tuple[str, Bundle | str]]:
    """(name, a draft on one thread that answers like it) of float32 and of each smaller version, made in ``folder``.

    Left out are embeddings that would not be shorter or that the training images are too few for. Of INT8
    comes a sentence first: whether a bundle under ``limits`` would keep it. Where it would not, the draft is the boldest
    that runs; where ONNX Runtime runs none, there is no draft.
    """

    def fitted(embedding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        examples = Examples(embedding[None], train.labels, plan.probe_weights, plan.log_prior)
        head = fit_probe(examples, bundle.classes, groups=train.groups, seed=seed)
        return head.weight, head.bias

    classifier = shipped(bundle)
    whole = _draft(bundle, classifier, folder / "float32")
    yield "float32", whole
    for share in PRUNED:
        thinned = _pruned(classifier, share, bundle.preprocessing, train.pixels)
        draft = _draft(bundle, thinned, folder / f"pruned-{share:g}")
        _set(thinned.head, fitted(draft.predict(train.pixels).embedding))
        yield f"pruned {share:.0%}", _draft(bundle, thinned, folder / f"pruned-{share:g}")
    shown = (train.pixels, validation.pixels, validation.labels, validation.groups)
    judged = try_int8(whole, *shown, limits)
    yield "INT8", judged.report
    if judged.bundle is not None or try_int8(whole, *shown, ANYTHING).bundle is not None:
        session = open_session(whole.path, whole.info, 1, "int8")
        yield "INT8", Bundle(whole.path, "", whole.info, session, "int8")
    embedding = bundle.predict(train.pixels).embedding
    for size, (weight, bias) in _projections(embedding).items():
        network = Projected(
            classifier, nn.Linear(weight.shape[1], size), nn.Linear(size, len(bundle.classes))
        )
        _set(network.projection, (weight, bias))
        _set(network.head, fitted(embedding @ weight.T + bias))
        yield f"PCA {size}", _draft(bundle, network.eval(), folder / f"pca-{size}", embedding_size=size)


def _draft(bundle: Bundle, network: nn.Module, folder: Path, **changes: int) -> Bundle:
    folder.mkdir(exist_ok=True)
    info = bundle.info | changes
    write_onnx(network, bundle.preprocessing.image_size, folder / NETWORKS["onnx"])
    return Bundle(folder, "", info, open_session(folder, info, 1))


def _pruned(
    classifier: Classifier, share: float, preprocessing: Preprocessing, pixels: np.ndarray
) -> Classifier:
    """A copy with the smallest ``share`` of each layer's weights at zero, its batch statistics those of ``pixels``."""
    found = copy.deepcopy(classifier)
    for layer in found.backbone.modules():
        depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
        if isinstance(layer, nn.Conv2d | nn.Linear) and not depthwise:
            prune.l1_unstructured(layer, "weight", share)
            prune.remove(layer, "weight")
    measured = [layer for layer in found.modules() if isinstance(layer, _BatchNorm)]
    for layer in measured:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean over all batches
        layer.train()
    if measured:
        order = np.random.default_rng(0).permutation(len(pixels))  # images lie sorted by class
        with torch.no_grad():
            for rows in np.array_split(order, max(1, len(order) // BATCH)):
                found(torch.from_numpy(preprocessing.normalise(pixels[np.sort(rows)])))
    return found.eval()


def _projections(embedding: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Size → weight [size, width] and bias [size] of the projection onto the first principal components."""
    from sklearn.decomposition import PCA

    most = min(embedding.shape[0] - 1, embedding.shape[1] - 1)
    sizes = [size for size in DIMENSIONS if size <= most]
    if not sizes:
        return {}
    found = PCA(sizes[-1], svd_solver="full").fit(embedding.astype(np.float64))
    weight = found.components_.astype(np.float32)
    shift = -(found.components_ @ found.mean_).astype(np.float32)
    return {size: (weight[:size], shift[:size]) for size in sizes}


def _set(layer: nn.Linear, head: tuple[np.ndarray, np.ndarray]) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(head[0])))
        layer.bias.copy_(torch.from_numpy(np.ascontiguousarray(head[1])))
