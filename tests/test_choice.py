"""Which strategies are tried, what is kept, and how the arithmetic is chosen."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.artifacts import Workspace
from pipeline.params import Train
from pipeline.transfer import speed
from pipeline.transfer.average import Average
from pipeline.transfer.choice import challengers, compare, is_transformer, unbeatable
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.soup import blend, interpolated


@pytest.mark.parametrize(
    ("images", "classes", "transformer", "expected"),
    [
        (90, 10, False, []),
        (99, 10, False, []),
        (100, 10, False, ["partial"]),
        (100, 10, True, ["lora"]),
        (2000, 10, False, ["partial"]),
        (2001, 10, False, ["finetune"]),
        (2001, 10, True, ["finetune"]),
        (2001, 300, True, []),
    ],
)
def test_the_challenger_follows_from_images_a_class_and_family(
    images: int, classes: int, transformer: bool, expected: list[str]
) -> None:
    names, why = challengers(images, classes, transformer=transformer, pretrained=True)
    assert names == expected
    assert why.endswith(".")


def test_random_weights_are_trained_whole() -> None:
    assert challengers(50, 10, transformer=False, pretrained=False)[0] == ["finetune"]


@pytest.mark.parametrize(
    ("name", "expected"), [("test_vit", True), ("test_resnet", False), ("test_convnext", False)]
)
def test_a_transformer_is_told_by_its_attention(name: str, expected: bool) -> None:
    import timm

    assert is_transformer(timm.create_model(name, num_classes=0)) is expected


def test_no_challenger_is_trained_where_validation_could_not_tell_a_perfect_one() -> None:
    labels = np.arange(60) % 3
    groups = [str(number) for number in range(60)]
    sure = np.eye(3)[labels] * 8.0
    assert "right on these 60 validation images" in unbeatable(sure, labels, groups)
    one_wrong = sure.copy()
    one_wrong[0] = np.roll(sure[0], 1)
    assert "Even a network without a mistake would gain 0.09" in unbeatable(one_wrong, labels, groups)
    many_wrong = np.where(np.arange(60)[:, None] % 5 == 0, np.roll(sure, 1, axis=1), sure)
    assert unbeatable(many_wrong, labels, groups) == ""
    of_one_part = ["one"] * 12 + groups[12:]  # whose images are one observation
    wrong_there = np.where(np.arange(60)[:, None] < 12, np.roll(sure, 1, axis=1), sure)
    assert unbeatable(wrong_there, labels, groups) == ""
    assert unbeatable(wrong_there, labels, of_one_part) != ""


def test_a_gain_within_its_noise_is_no_reason_to_switch() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 200)
    groups = [str(number) for number in range(200)]
    weak = np.eye(3)[labels] * 2 + generator.normal(size=(200, 3))
    strong = np.eye(3)[labels] * 5 + generator.normal(size=(200, 3))
    assert compare(weak, strong, labels, groups).second_wins
    assert not compare(strong, weak, labels, groups).second_wins
    assert not compare(weak, weak, labels, groups).second_wins
    # A gain on the images of a few parts is no evidence, however many shots of them there are.
    lucky = weak + np.where(np.arange(200) < 40, 2.0, -0.05)[:, None] * np.eye(3)[labels]
    parts = ["one" if number < 40 else str(number) for number in range(200)]
    assert compare(weak, lucky, labels, groups).second_wins
    assert not compare(weak, lucky, labels, parts).second_wins


def test_ends_of_the_interpolation_are_the_networks() -> None:
    first = {"w": torch.zeros(3), "n": torch.tensor(1)}
    second = {"w": torch.ones(3), "n": torch.tensor(5)}
    assert torch.equal(interpolated(first, second, 0.0)["w"], first["w"])
    assert torch.equal(interpolated(first, second, 1.0)["w"], second["w"])
    assert torch.equal(interpolated(first, second, 0.25)["w"], torch.full((3,), 0.25))
    assert interpolated(first, second, 0.25)["n"] == 5


@pytest.mark.parametrize(
    ("best", "words"), [(1.0, "Neither"), (0.4, "WiSE-FT at 0.4"), (1.2, "soup of 2 epochs")]
)
def test_the_weights_that_serve_all_domains_best_are_kept(best: float, words: str) -> None:
    """One weight; 0 before, 1 after fine-tuning, and later epochs that went beyond."""
    before, after = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    snapshots = [after, {"w": torch.full((1,), 1.4)}]
    chosen = blend(
        before, after, snapshots,
        answer=lambda tensors: tensors["w"].numpy().copy(),
        losses=lambda logits: abs(logits - best),
        error=lambda differences: 0.1,
    )  # fmt: skip
    assert words in chosen.report
    assert chosen.tensors["w"].item() == pytest.approx(best)
    assert chosen.loss == pytest.approx(0, abs=1e-6)
    lucky = blend(
        before, after, snapshots,
        answer=lambda tensors: tensors["w"].numpy().copy(),
        losses=lambda logits: abs(logits - best),
        error=lambda differences: 0.7,
    )  # fmt: skip
    assert "Neither" in lucky.report
    assert lucky.tensors is after


def test_the_average_follows_and_lends_its_place() -> None:
    network = nn.Linear(2, 2)
    average = Average(dict(network.state_dict()), 0.9)
    with torch.no_grad():
        network.weight.fill_(1.0)
    average.update(0)
    assert (average.tensors["weight"] - 1).abs().max() < 0.2  # early on it follows closely
    with torch.no_grad():
        network.weight.fill_(3.0)
    for step in range(100, 103):
        average.update(step)
    inside = average.tensors["weight"].clone()
    assert 1.0 < inside.mean() < 2.0
    with average.in_place():
        assert torch.equal(network.weight, inside)
    assert torch.equal(network.weight, torch.full((2, 2), 3.0))


def test_a_few_images_of_a_new_domain_can_weigh_as_much_as_the_old_ones() -> None:
    domains = ["old"] * 90 + ["new"] * 10
    ones = np.ones(100)
    plan = Plan("none", ones, ones, np.zeros(3), None)
    assert plan.by_domain(domains, 0.0) is plan
    balanced = plan.by_domain(domains, 1.0)
    assert balanced.probe_weights[90:].sum() == pytest.approx(balanced.probe_weights[:90].sum())
    assert balanced.loss_weights.mean() == pytest.approx(1.0)
    drawn = dataclasses.replace(plan, draw=ones / 100).by_domain(domains, 1.0)
    assert drawn.draw is not None
    assert drawn.draw[90:].sum() == pytest.approx(0.5)
    assert (drawn.loss_weights == 1).all()  # what is drawn more often is not weighted as well


class Slow(nn.Module):
    """Answers at once; its time is made up by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = pixels.flatten(1)
        return self.head(flat), flat


def decided(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bf16: float,
    contiguous: float,
    *,
    steps: int = 300,
    **settings: str,
) -> speed.Speed:
    """What is chosen where a step takes 1 s in float32 and channels last, and as given in the alternatives."""

    def seconds(step: object, flags: speed.Flags, times: int) -> float:
        assert not flags.compiled
        return bf16 if flags.bfloat16 else 1.0 if flags.channels_last else contiguous

    monkeypatch.setattr(speed, "_timed", seconds)
    train = Train(**settings)  # type: ignore[arg-type]
    inputs = torch.zeros(4, 3, 2, 2)
    return speed.decide(
        Workspace(tmp_path, tmp_path / "var"),
        train,
        Slow(),
        inputs,
        3,
        steps=steps,
        seconds=100.0,
        device="cpu",
        name="slow",
    )


@pytest.mark.parametrize(
    ("bf16", "contiguous", "expected"),
    [
        (0.5, 2.0, {"bfloat16": True, "channels_last": True}),
        (0.9, 2.0, {"bfloat16": False, "channels_last": True}),  # not clearly faster
        (2.0, 0.5, {"bfloat16": False, "channels_last": False}),
    ],
)
def test_what_is_clearly_faster_is_taken_and_remembered(
    bf16: float, contiguous: float, expected: dict[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = decided(tmp_path, monkeypatch, bf16, contiguous)
    assert {name: getattr(chosen.flags, name) for name in expected} == expected
    assert "measured" in chosen.reason
    assert "torch.compile could save" in chosen.reason
    again = decided(tmp_path, monkeypatch, 1 / bf16, 1 / contiguous)  # another moment, the same machine
    assert again == chosen


def test_of_few_steps_the_layout_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = decided(tmp_path, monkeypatch, 2.0, 0.5, steps=speed.FEW - 1)
    assert few.flags == speed.Flags()
    assert "contiguous" not in few.reason
    assert decided(tmp_path, monkeypatch, 0.5, 9.0, steps=speed.FEW // 2 - 1).flags.bfloat16
    assert not decided(tmp_path, monkeypatch, 2.0, 0.5, steps=speed.FEW).flags.channels_last


def test_what_params_ask_for_is_not_measured_against(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = decided(tmp_path, monkeypatch, 0.1, 0.1, precision="float32", memory_format="channels_last")
    assert chosen.flags == speed.Flags(bfloat16=False, channels_last=True, compiled=False)
    chosen = decided(tmp_path, monkeypatch, 9.0, 9.0, precision="bfloat16", memory_format="contiguous")
    assert chosen.flags == speed.Flags(bfloat16=True, channels_last=False, compiled=False)


def test_a_short_training_is_not_worth_a_measurement_and_a_longer_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By nominal seconds, whatever the clock says."""
    with monkeypatch.context() as patch:
        patch.setattr(speed, "_timed", lambda step, flags, times: 0.1 if flags.bfloat16 else 1.0)
        chosen = [
            speed.decide(
                Workspace(tmp_path, tmp_path / "var"), Train(), Slow(), torch.zeros(4, 3, 2, 2), 3,
                steps=300, seconds=seconds, device="cpu", name="slow",
            )
            for seconds in (19.0, 21.0)
        ]  # fmt: skip
    assert chosen[0].flags == speed.Flags()
    assert "not worth a measurement" in chosen[0].reason
    assert chosen[1].flags == speed.Flags(bfloat16=True)
    assert decided(tmp_path, monkeypatch, 1.0, 1.0).flags == speed.Flags(bfloat16=True)  # as remembered


@pytest.mark.parametrize("short", ["each", "bfloat16"])
def test_arithmetic_that_does_not_fit_into_memory_is_not_taken(
    short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Slow.forward

    def limited(self: Slow, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if short == "each" or torch.is_autocast_enabled("cpu"):
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, pixels)

    monkeypatch.setattr(Slow, "forward", limited)
    monkeypatch.setattr(speed, "WORTH", 0.0)
    chosen = speed.decide(
        Workspace(tmp_path, tmp_path / "var"), Train(memory_format="channels_last"), Slow(),
        torch.zeros(4, 3, 2, 2), 3, steps=10, seconds=1.0, device="cpu", name="slow",
    )  # fmt: skip
    assert chosen.flags == speed.Flags()
    assert ("does not fit into memory" in chosen.reason) == (short == "each")
    assert len(list((tmp_path / "var").rglob("speed/*.json"))) == (short != "each")


@pytest.mark.slow
def test_the_measurement_of_a_real_network_leaves_its_weights_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "WORTH", 0.0)
    network = Slow()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    chosen = speed.decide(
        Workspace(tmp_path, tmp_path / "var"), Train(), network, torch.rand(4, 3, 2, 2), 3,
        steps=100, seconds=1.0, device="cpu", name="slow",
    )  # fmt: skip
    assert "bfloat16 channels last eager" in chosen.reason
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
