"""What a training does at its edges: too few epochs, images or memory, a later phase that diverges, odd networks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipeline import train
from pipeline.artifacts import Workspace
from pipeline.backbone import load
from pipeline.errors import DataError, ParamsError
from pipeline.params import Model, Params
from pipeline.transfer import progressive, tuning
from pipeline.transfer.checkpoint import read_checkpoint
from pipeline.transfer.course import Tuned
from pipeline.transfer.device import laid_out
from pipeline.transfer.exporter import require_exportable
from pipeline.transfer.recipe import DivergedError
from pipeline.transfer.task import Candidate
from pipeline.transfer.tuning import Settings
from tests import tiny_training

FAST = {"precision": "float32", "memory_format": "channels_last", "compile": "off"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_training.save_weights(tmp_path_factory.mktemp("weights") / "local")


def made(root: Path, weights: Path | str, model: dict[str, Any] | None = None, **settings: Any) -> Workspace:
    workspace = tiny_training.make(root, weights, train=FAST | settings)
    params = json.loads(workspace.params.read_text())
    params["model"] |= model or {}
    workspace.params.write_text(json.dumps(params))
    return workspace


def info_of(workspace: Workspace) -> dict[str, Any]:
    train.run(workspace, Params.load(workspace.params))
    return read_checkpoint(workspace.checkpoint)


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What each phase of progressive unfreezing is trained by."""
    seen: list[Settings] = []

    def watched(task: Any, start: Candidate, classifier: Any, settings: Settings) -> Candidate:
        seen.append(settings)
        return tuning.tune(task, start, classifier, settings)

    monkeypatch.setattr(progressive, "tune", watched)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "lengths"), [(1, [1]), (2, [1, 1]), (5, [2, 2, 1])])
def test_progressive_unfreezing_has_the_epochs_that_were_asked_for(
    weights: Path, tmp_path: Path, phases: list[Settings], epochs: int, lengths: list[int]
) -> None:
    info = info_of(made(tmp_path / "w", weights, strategy="progressive", epochs=epochs))
    assert [phase.epochs for phase in phases] == lengths
    assert info["report"].count("Phase ") == len(lengths)


@pytest.mark.slow
def test_deeper_phases_are_slower_at_a_rate_of_ones_own(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []

    def watched(*arguments: Any, **named: Any) -> Tuned:
        rates.append(arguments[3].learning_rate)
        return fit(*arguments, **named)

    fit = tuning.fit
    monkeypatch.setattr(tuning, "fit", watched)
    info_of(made(tmp_path / "w", weights, strategy="progressive", epochs=3, learning_rate=1e-4))
    assert rates == pytest.approx([1e-4, 4e-5, 1.2e-5])


@pytest.mark.slow
def test_a_later_phase_that_diverges_leaves_what_the_phases_before_gave(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(task: Any, start: Candidate, classifier: Any, settings: Settings) -> Candidate:
        if settings.phase == first_broken:
            raise DivergedError("the loss became NaN in epoch 1, batch 2 of 3: Photo/A.JPG")
        return tuning.tune(task, start, classifier, settings)

    monkeypatch.setattr(progressive, "tune", breaks)
    first_broken = 1
    info = info_of(made(tmp_path / "later", weights, strategy="progressive", epochs=3))
    assert info["strategy"] == "progressive"
    assert "Phase 2 was stopped, since the loss became NaN" in info["report"]
    assert "Photo/A.JPG" in capsys.readouterr().err
    first_broken = 0
    with pytest.raises(DivergedError, match=r"in phase 1, the top 20% of the layers: the loss became NaN"):
        info_of(made(tmp_path / "first", weights, strategy="progressive", epochs=3))


@pytest.mark.slow
def test_the_report_names_images_as_they_are_called(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: Any, **named: Any) -> Tuned:
        tuned = fit(*arguments, **named)
        tuned.ended = "it was stopped, since the loss became NaN: UP/Photo/IMG_1.JPG"
        return tuned

    fit = tuning.fit
    monkeypatch.setattr(tuning, "fit", stopped)
    info = info_of(made(tmp_path / "w", weights, strategy="finetune", epochs=1))
    assert "It was stopped, since the loss became NaN: UP/Photo/IMG_1.JPG." in info["report"]


@pytest.mark.slow
def test_a_last_batch_of_one_image_is_left_out_where_norms_take_statistics_from_it(tmp_path: Path) -> None:
    small = {"backbone": tiny_training.ARCHITECTURE, "image_size": 32}  # its last maps have one place
    settings = {"strategy": "finetune", "epochs": 2}
    workspace = made(tmp_path / "one", "none", small, **settings, batch_size=47)
    info = info_of(workspace)
    assert info["train"]["steps"] in (1, 2), "48 images: a batch of 47 an epoch, and one image left out"
    with pytest.raises(ParamsError, match=r"train\.batch_size is 1 .* batches of 2"):
        info_of(made(tmp_path / "all", "none", small, **settings, batch_size=1))


@pytest.mark.slow
def test_adapters_larger_than_every_layer_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"train\.lora_rank is 1000000"):
        info_of(made(tmp_path / "w", weights, strategy="lora", epochs=1, lora_rank=1_000_000))


@pytest.mark.slow
def test_unlabelled_images_are_under_the_limits_of_the_labelled_ones(weights: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (100, 100, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(target / f"{number}.png")
    workspace = made(tmp_path / "w", weights, strategy="adapt", target=str(target))
    params = json.loads(workspace.params.read_text()) | {"data": {"max_pixels": 5_000}}
    workspace.params.write_text(json.dumps(params))
    with pytest.raises(DataError, match=r"5,000 pixels \(data\.max_pixels\)"):
        info_of(workspace)


class Unexportable(nn.Module):
    """What torch's exporter has no ONNX operators for."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sums = torch.special.bessel_j0(images).sum(dim=(2, 3))
        return sums, sums


def test_a_network_that_can_not_be_exported_is_refused_in_a_sentence(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ParamsError, match=r"can't be written as ONNX, .* `python -m pipeline select`"):
        require_exportable(Unexportable(), 32)
    assert capfd.readouterr().out == "", "no dump of its graph"


class FiveDimensions(nn.Module):
    """A weight of five dimensions beside a convolution's, as in lambda networks."""

    def __init__(self) -> None:
        super().__init__()
        self.relative = nn.Parameter(torch.zeros(2, 3, 2, 2, 2))
        self.convolution = nn.Conv2d(3, 4, 3)


def test_channels_last_is_of_four_dimensions_alone() -> None:
    module = laid_out(FiveDimensions(), "cpu", torch.channels_last)
    assert module.convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert module.relative.is_contiguous()


def test_patches_that_overlap_ask_for_no_multiple_of_their_side() -> None:
    model = Model(backbone="pvt_v2_b0", weights="none", image_size=64)
    assert load(model, root=Path("/"), seed=0).width == 256
