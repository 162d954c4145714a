"""Frozen forward passes: ONNX Runtime's answers are the network's, and torch answers where it can't."""

import math

import numpy as np
import pytest
import timm
import torch
from torch import nn

from pipeline.transfer import frozen
from pipeline.transfer.cut import Pooled, whole
from pipeline.transfer.folding import folded


@pytest.fixture(autouse=True)
def nothing_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "_ready", {})


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return Pooled(timm.create_model(name, num_classes=0)).eval()


def by_torch(module: nn.Module, values: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return module(values).numpy()


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet10t", "vit_tiny_patch16_224"])
def test_its_answers_are_the_networks_to_the_rounding_of_float32(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, values = network(name), torch.rand(16, 3, 224, 224)
    monkeypatch.setattr(frozen, "_by_torch", lambda *_: pytest.fail("not by ONNX Runtime"))
    made = folded(whole(module)) if name != "vit_tiny_patch16_224" else module
    answers = frozen.forward(name, lambda: made, values, "cpu")(values).numpy()
    expected = by_torch(module, values)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, expected, atol=2e-5 * np.abs(expected).max())
    assert not np.array_equal(answers[0], answers[1])


class Unexportable(nn.Module):
    """A function that ONNX has no operator for."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(values).mean(dim=(2, 3))


def test_what_can_not_be_exported_is_answered_by_torch() -> None:
    values = torch.rand(4, 3, 8, 8)
    assert frozen._by_onnx_runtime(Unexportable(), values) is None
    answers = frozen.forward("odd", Unexportable, values, "cpu")(values)
    torch.testing.assert_close(answers, Unexportable()(values))


def test_two_networks_stay_ready_and_a_third_takes_the_place_of_the_oldest() -> None:
    made: list[str] = []
    values = torch.rand(2, 3, 8, 8)

    def ask(key: str) -> float:
        def build() -> nn.Module:
            made.append(key)
            layer = nn.Conv2d(3, 1, 8)
            nn.init.constant_(layer.weight, float(len(key)))
            nn.init.zeros_(layer.bias)
            return layer

        return float(frozen.forward(key, build, values, "cpu")(values)[0])

    total = float(values[0].sum())
    for key in ("a", "bb", "a", "bb", "ccc", "bb", "a"):
        assert math.isclose(ask(key), len(key) * total, rel_tol=1e-4)
    assert made == ["a", "bb", "ccc", "a"]
