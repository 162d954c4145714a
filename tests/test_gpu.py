"""On a GPU: the captured step learns what the ordinary one does, and refuses what it must. Skipped where there is none."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.backbone import Backbone, load
from pipeline.params import Model
from pipeline.transfer import captured
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.device import deterministic
from pipeline.transfer.feeds import ActivationFeed, PixelFeed
from pipeline.transfer.freeze import freeze
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.loop import fit
from pipeline.transfer.merging import merged
from pipeline.transfer.recipe import Flags, Recipe
from pipeline.transfer.steps import Labelled, Steps
from tests import tiny_training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]
CLASSES = tiny_training.CLASSES
TRAINED, BATCH = 40, 12  # the last batch of an epoch is a short one


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    deterministic(0)
    folder = tiny_training.save_weights(tmp_path_factory.mktemp("weights") / "local")
    return load(Model(weights=str(folder)), root=Path("/"), seed=0)


@pytest.fixture
def classifier(backbone: Backbone) -> Classifier:
    torch.manual_seed(0)
    made = Classifier(copy.deepcopy(backbone.module), backbone.width, len(CLASSES))
    nn.init.normal_(made.head.weight, std=0.01)
    freeze(made, 0.5, keep_statistics=True)
    return made


def data(backbone: Backbone, feed: type[PixelFeed] = PixelFeed) -> Labelled:
    labels = np.arange(TRAINED + 12) % 3
    side = backbone.preprocessing.image_size
    views = np.random.default_rng(0).integers(256, size=(len(labels), side, side, 3), dtype=np.uint8)
    views[labels == 0, :, :, 0] //= 4
    views[labels == 1, :, :, 1] //= 4
    made = feed(views, backbone.preprocessing, seed=0, device="cuda")
    ones = np.ones(TRAINED)
    plan = Plan("none", ones, np.linspace(0.5, 1.5, TRAINED), np.zeros(3), None)
    paths = [f"picture-{number}.png" for number in range(len(labels))]
    return Labelled(made, labels, paths, np.arange(TRAINED), np.arange(TRAINED, len(labels)), plan)


def recipe(**changes: object) -> Recipe:
    settings = {
        "epochs": 3,
        "seed": 0,
        "batch_size": BATCH,
        "learning_rate": 1e-3,
        "average": 0.9,
        "device": "cuda",
    }
    return Recipe(**(settings | changes))  # type: ignore[arg-type]


def learnt(steps: Steps) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Loss of each step of three epochs, and the tensors after them."""
    steps.classifier.train()
    losses = []
    for number in range(3 * steps.count):
        rows = np.arange(TRAINED)[number % steps.count * BATCH :][:BATCH]
        losses.append(float(steps.step(rows, number // steps.count, number)))
    steps.watch.settle()
    return losses, steps.kept()


@pytest.mark.parametrize("changes", [{}, {"flags": Flags(bfloat16=True)}, {"mix": 0.2}, {"smoothing": 0.1}])
def test_the_captured_step_learns_what_the_ordinary_one_does(
    changes: dict, classifier: Classifier, backbone: Backbone
) -> None:
    ordinary = copy.deepcopy(classifier)
    freeze(ordinary, 0.5, keep_statistics=True)
    found = []
    for network, capture in ((ordinary, False), (classifier, True)):
        steps = Steps(network, merged(network, network), data(backbone), recipe(**changes))
        if not capture:
            steps.captured = None
        found.append(learnt(steps))
        assert (steps.captured is not None and steps.captured.graph is not None) == capture
    (losses, tensors), (again, same) = found
    assert again == pytest.approx(losses, rel=1e-4)
    for name, tensor in tensors.items():
        torch.testing.assert_close(same[name], tensor, rtol=1e-3, atol=1e-5)
    assert losses[-1] < losses[0], "it learns at all"


def test_two_trainings_give_the_same_bits(classifier: Classifier, backbone: Backbone) -> None:
    twin = copy.deepcopy(classifier)
    freeze(twin, 0.5, keep_statistics=True)
    found = [fit(one, merged(one, one), data(backbone), recipe()) for one in (classifier, twin)]
    np.testing.assert_array_equal(found[0].logits, found[1].logits)
    assert found[0].history == found[1].history


class Broken(PixelFeed):
    """From the third epoch on, one image of a batch is no picture any more."""

    def batch(self, rows: np.ndarray, epoch: int) -> torch.Tensor:
        pixels = super().batch(rows, epoch)
        if epoch == 2:
            pixels[0] = float("nan")
        return pixels


def test_a_loss_that_is_no_number_changes_no_weight_and_names_the_images(
    classifier: Classifier, backbone: Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = fit(classifier, merged(classifier, classifier), data(backbone, Broken), recipe(epochs=6))
    assert "nan in epoch 3, batch 1 of 4: picture-" in tuned.ended
    assert len(tuned.history) == 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in classifier.state_dict().values())
    assert f"epoch {tuned.epoch} is kept" in capsys.readouterr().err


def test_a_refused_update_leaves_every_weight(classifier: Classifier, backbone: Backbone) -> None:
    broken = data(backbone, Broken)
    steps = Steps(classifier, merged(classifier, classifier), broken, recipe(average=0.0))
    classifier.train()
    for number in range(4):
        steps.step(np.arange(BATCH), 0, number)
    assert steps.captured is not None
    assert steps.captured.graph is not None
    before = steps.kept()
    steps.step(np.arange(BATCH), 2, 4)
    after = steps.kept()
    assert all(torch.equal(after[name], before[name]) for name in before)


class Asking(Classifier):
    """Asks the GPU for a number amid the forward pass, which no graph can hold."""

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert float(pixels.abs().max()) > 0
        return super().forward(pixels)


def test_what_cannot_be_captured_is_trained_in_the_ordinary_way(
    classifier: Classifier, backbone: Backbone
) -> None:
    asking = Asking(copy.deepcopy(backbone.module), backbone.width, len(CLASSES))
    asking.load_state_dict(classifier.state_dict())
    freeze(asking, 0.5, keep_statistics=True)
    plain = Steps(classifier, classifier, data(backbone), recipe())
    plain.captured = None
    steps = Steps(asking, asking, data(backbone), recipe())
    losses = learnt(steps)[0]
    assert steps.captured is not None
    assert not steps.captured.possible
    assert losses == pytest.approx(learnt(plain)[0], rel=1e-4)


def test_a_batch_that_does_not_fit_is_split(
    classifier: Classifier, backbone: Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    class Small(Classifier):
        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if self.training and len(pixels) > 4:
                torch.empty(2**40, device="cuda")  # the card's own refusal
            return super().forward(pixels)

    small = Small(copy.deepcopy(backbone.module), backbone.width, len(CLASSES))
    small.load_state_dict(classifier.state_dict())
    freeze(small, 0.5, keep_statistics=True)
    results = [fit(one, one, data(backbone), recipe(epochs=1)) for one in (classifier, small)]
    assert "parts of 3 images" in capsys.readouterr().out
    # Convolutions run in TF32, whose rounding differs with the number of images.
    assert results[1].history[0]["train"] == pytest.approx(results[0].history[0]["train"], rel=2e-2)


def test_resident_activations_are_those_of_the_stores() -> None:
    generator = np.random.default_rng(0)
    stores = [generator.random((count, 3, 2), dtype=np.float32) for count in (10, 6, 6)]
    rows = np.array([5, 0, 3])
    there, here = (ActivationFeed(stores, seed=1, device=device) for device in ("cuda", "cpu"))
    assert there.resident is not None
    for epoch in range(4):
        assert torch.equal(there.batch(rows, epoch).cpu(), here.batch(rows, epoch))
    assert torch.equal(there.plain(np.array([9, 2])).cpu(), here.plain(np.array([9, 2])))


def test_a_measured_step_is_a_replayed_one_where_it_can_be() -> None:
    done = torch.zeros((), device="cuda")

    def count() -> None:
        done.add_(1)

    def ask() -> None:
        assert float(done.add_(1)) > 0

    again = captured.replayed(count)
    assert int(done) == captured.AFTER
    again()
    assert int(done) == captured.AFTER + 1
    assert captured.replayed(ask) is ask
    assert int(done) == 2 * captured.AFTER + 1


def test_a_feed_too_large_for_the_card_is_sent_batch_by_batch(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = data(backbone)
    monkeypatch.setattr("pipeline.transfer.feeds.RESIDENT_SHARE", 0.0)
    sent = data(backbone)
    assert isinstance(sent.feed, PixelFeed)
    assert sent.feed.resident is None
    rows = np.array([7, 1, 4])
    assert torch.equal(sent.feed.batch(rows, 0), whole.feed.batch(rows, 0))
    assert torch.equal(sent.feed.plain(rows), whole.feed.plain(rows))
