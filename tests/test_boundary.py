"""What is computed once: folded networks answer like their own, and no image passes the lower layers twice."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import train
from pipeline.backbone import features, load
from pipeline.params import Model, Params
from pipeline.transfer import features as caches
from pipeline.transfer.boundary import planned_halves
from pipeline.transfer.cut import whole
from pipeline.transfer.folding import folded
from pipeline.transfer.linear import stored_features
from pipeline.transfer.task import Task
from pipeline.transforms import Preprocessing
from tests import tiny_training

pytestmark = pytest.mark.slow


def norms(module: nn.Module) -> int:
    return sum(isinstance(one, _BatchNorm) for one in module.modules())


def vary(module: nn.Module) -> None:
    """Statistics and scales as after training: those of a fresh BatchNorm change nothing and prove nothing."""
    generator = torch.Generator().manual_seed(0)
    for norm in (one for one in module.modules() if isinstance(one, _BatchNorm)):
        for tensor, low, high in (
            (norm.running_mean, -0.2, 0.2), (norm.running_var, 0.5, 1.5),
            (norm.weight.data, 0.7, 1.3), (norm.bias.data, -0.2, 0.2),
        ):  # fmt: skip
            tensor.uniform_(low, high, generator=generator)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("mobilenetv2_035", 0),
        ("resnet10t", 0),
        ("densenet121", 62),
        ("test_convnext", 0),
        ("inception_v3", 0),
    ],
)
def test_a_folded_network_answers_like_its_own(name: str, left: int) -> None:
    backbone = load(Model(backbone=name, weights="none", image_size=96), root=Path("/"), seed=0).module.eval()
    vary(backbone)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    read = folded(whole(backbone))
    pixels = torch.rand(3, 3, 96, 96)
    with torch.inference_mode():
        own, quick = features(backbone, pixels), read(pixels)
    torch.testing.assert_close(quick, own, rtol=1e-3, atol=1e-4 * float(own.abs().max()))
    assert norms(read) == left, "a BatchNorm before its convolution can't be folded; every other is"
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


class Twice(nn.Module):
    """One convolution that serves two BatchNorms, and one BatchNorm behind a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.branch = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.first, self.second, self.third = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        out = self.branch(pixels)
        return self.first(self.shared(pixels)) + self.second(self.shared(-pixels)) + self.third(out) * out


def test_a_convolution_whose_output_is_used_elsewhere_is_left_alone() -> None:
    network = Twice().eval()
    vary(network)
    read = folded(torch.fx.symbolic_trace(network))
    pixels = torch.rand(2, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(read(pixels), network(pixels))
    assert norms(read) == 3


@pytest.fixture
def task(tmp_path: Path) -> Task:
    tiny_training.save_weights(tmp_path / "weights")
    settings = {"strategy": "partial", "epochs": 1, "compile": "off", "precision": "float32"}
    workspace = tiny_training.make(tmp_path / "w", tmp_path / "weights", train=settings)
    return replace(train.task_of(workspace, Params.load(workspace.params), "cpu"), curves=None)


def test_no_image_passes_the_lower_layers_twice(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    made = caches._pixels

    def counted(
        views: np.ndarray, image_ids: list[str], view: str, preprocessing: Preprocessing, device: str
    ) -> Callable[[list[int]], torch.Tensor]:
        inner = made(views, image_ids, view, preprocessing, device)

        def inputs(rows: list[int]) -> torch.Tensor:
            shown.extend({f"{view} {image_ids[row]}" for row in rows})
            return inner(rows)

        return inputs

    monkeypatch.setattr(caches, "_pixels", counted)
    train.train(task)
    # As they are, and training images in three more views.
    once = len(task.data.labels) + 3 * task.data.trained
    assert len(shown) == len(set(shown)) == once
    train.train(task)
    assert len(shown) == once


def test_features_read_off_activations_are_the_networks_own(task: Task) -> None:
    halves = planned_halves(task)
    assert halves is not None
    through = stored_features(task)
    direct = stored_features(replace(task, train=replace(task.train, strategy="probe")))
    assert planned_halves(replace(task, train=replace(task.train, strategy="probe"))) is None
    for ours, own in zip([through[0], *through[1]], [direct[0], *direct[1]], strict=True):
        np.testing.assert_allclose(ours, own, rtol=1e-4, atol=1e-5 * float(np.abs(own).max()))
