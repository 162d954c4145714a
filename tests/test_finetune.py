"""Fine-tuning: frozen means frozen, rates are what they are said to be, a resume ends where an undisturbed run does."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.backbone import Backbone, load
from pipeline.errors import StateError
from pipeline.params import Model
from pipeline.transfer import cost
from pipeline.transfer.augment import _resized, _sampled, augmented, draws, standardised, uniforms
from pipeline.transfer.classifier import Classifier, logits_of
from pipeline.transfer.course import Rival, Tuned
from pipeline.transfer.feeds import PixelFeed
from pipeline.transfer.freeze import freeze, layer_of, trained
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.loop import fit
from pipeline.transfer.lora import adapt_layers
from pipeline.transfer.objective import Examples, Objective
from pipeline.transfer.recipe import DivergedError, Recipe
from pipeline.transfer.resume import State, unpack_optimizer
from pipeline.transfer.steps import Labelled, Steps
from tests import tiny_training

pytestmark = pytest.mark.slow
CLASSES = tiny_training.CLASSES


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tiny_training.save_weights(tmp_path_factory.mktemp("weights") / "local")
    return load(Model(weights=str(folder)), root=Path("/"), seed=0)


@pytest.fixture(scope="module")
def images(backbone: Backbone) -> Labelled:
    """36 training and 12 validation pictures."""
    import io

    from PIL import Image

    generator = np.random.default_rng(0)
    labels = np.arange(48) % 3
    opened = [Image.open(io.BytesIO(tiny_training.picture(CLASSES[label], generator))) for label in labels]
    views = np.stack([backbone.preprocessing.view(image) for image in opened])
    paths = [f"picture-{number}.png" for number in range(48)]
    feed = PixelFeed(views, backbone.preprocessing, seed=0)
    return Labelled(feed, labels, paths, np.arange(36), np.arange(36, 48), plan())


@pytest.fixture
def classifier(backbone: Backbone) -> Classifier:
    torch.manual_seed(0)
    made = Classifier(copy.deepcopy(backbone.module), backbone.width, len(CLASSES))
    nn.init.normal_(made.head.weight, std=0.01)
    return made.eval()


def plan(name: str = "none") -> Plan:
    weights = {label: {"weight": weight} for label, weight in zip(CLASSES, (0.5, 0.5, 2.0), strict=True)}
    return Plan.of({"plan": name, "classes": weights}, np.arange(36) % 3, CLASSES)


def recipe(**changes: object) -> Recipe:
    settings = {"epochs": 2, "seed": 0, "batch_size": 12, "learning_rate": 1.5e-4}
    return Recipe(**(settings | changes))  # type: ignore[arg-type]


def finetune(
    classifier: Classifier, images: Labelled, plan: Plan, recipe: Recipe, state: State | None = None
) -> Tuned:
    return fit(classifier, classifier, replace(images, plan=plan), recipe, state)


def snapshot(classifier: Classifier) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in classifier.state_dict().items()}


def test_what_is_frozen_stays_bit_identical_and_the_rest_moves(
    classifier: Classifier, images: Labelled, backbone: Backbone
) -> None:
    frozen = freeze(classifier, 0.5, keep_statistics=True)
    before = snapshot(classifier)
    finetune(classifier, images, plan(), recipe())
    moved = {
        name for name, tensor in classifier.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert not moved & {f"backbone.{name}" for name in frozen}
    statistics = [name for name in before if "running_" in name or "num_batches" in name]
    assert statistics
    assert not moved & set(statistics)
    assert {"head.weight", "head.bias"} <= moved
    assert any(name.startswith("backbone.") for name in moved)
    assert moved <= set(trained(classifier))


def test_the_boundary_lies_where_it_should(classifier: Classifier) -> None:
    freeze(classifier, 0.5, keep_statistics=True)
    layers = layer_of(classifier.backbone)
    free = {
        layers[name] for name, parameter in classifier.backbone.named_parameters() if parameter.requires_grad
    }
    still = {
        layers[name]
        for name, parameter in classifier.backbone.named_parameters()
        if not parameter.requires_grad
    }
    assert max(still) < min(free)
    assert "conv_stem.weight" not in trained(classifier)
    freeze(classifier, 0.0, keep_statistics=True)
    assert all(parameter.requires_grad for parameter in classifier.parameters())


def test_still_norms_are_in_eval_mode_after_every_train(classifier: Classifier) -> None:
    freeze(classifier, 0.5, keep_statistics=False)
    for _ in range(2):
        classifier.eval()
        classifier.train()
        norms = [module for module in classifier.modules() if isinstance(module, _BatchNorm)]
        for module in norms:
            assert module.training == module.weight.requires_grad
        assert {module.training for module in norms} == {True, False}
    freeze(classifier, 0.0, keep_statistics=True)
    classifier.train()
    assert not any(module.training for module in classifier.modules() if isinstance(module, _BatchNorm))


def test_without_pretraining_the_statistics_are_learnt(
    classifier: Classifier, images: Labelled, backbone: Backbone
) -> None:
    freeze(classifier, 0.0, keep_statistics=False)
    before = snapshot(classifier)
    finetune(classifier, images, plan(), recipe(epochs=1))
    assert not torch.equal(
        classifier.state_dict()["backbone.bn1.running_mean"], before["backbone.bn1.running_mean"]
    )


def test_lower_layers_really_learn_more_slowly(
    classifier: Classifier, images: Labelled, backbone: Backbone
) -> None:
    freeze(classifier, 0.0, keep_statistics=True)
    run = Steps(classifier, classifier, images, recipe(epochs=10))
    top = run.recipe.learning_rate
    run.schedule.step_update(9)  # the warm-up's last step
    rates = {}
    for group in run.optimizer.param_groups:
        for parameter in group["params"]:
            rates[run.names[id(parameter)]] = group["lr"]
    assert 0.75 * top < rates["head.weight"] <= top, "the cosine has begun to fall during the warm-up"
    top = rates["head.weight"]
    layers = layer_of(classifier.backbone)
    for name, layer in layers.items():
        above = max(layers.values()) - layer
        assert rates[f"backbone.{name}"] == pytest.approx(top * run.recipe.layer_decay**above)
    assert rates["backbone.conv_stem.weight"] < top / 10
    run.schedule.step_update(10 * run.count)
    assert all(group["lr"] < top * 1e-6 for group in run.optimizer.param_groups)
    run.schedule.step_update(0)
    assert all(group["lr"] == 0 for group in run.optimizer.param_groups)


def test_a_layer_of_many_inputs_learns_more_slowly(
    classifier: Classifier, images: Labelled, backbone: Backbone
) -> None:
    freeze(classifier, 0.5, keep_statistics=True)

    def rates(wide: int) -> dict[str, float]:
        run = Steps(classifier, classifier, images, recipe(epochs=10, wide=wide))
        run.schedule.step_update(9)
        return {
            run.names[id(parameter)]: group["lr"]
            for group in run.optimizer.param_groups
            for parameter in group["params"]
        }

    plain, scaled = rates(0), rates(100)
    assert plain.keys() == scaled.keys() == {n for n, p in classifier.named_parameters() if p.requires_grad}
    for name, parameter in classifier.named_parameters():
        if parameter.requires_grad:
            inputs = parameter[0].numel() if parameter.dim() > 1 else 1
            assert scaled[name] == pytest.approx(plain[name] * min(1, 100 / inputs)), name
    assert scaled["head.weight"] < plain["head.weight"] / 2
    assert scaled["head.bias"] == plain["head.bias"]


def test_it_learns(classifier: Classifier, images: Labelled, backbone: Backbone) -> None:
    freeze(classifier, 0.5, keep_statistics=True)
    tuned = finetune(classifier, images, plan(), recipe(epochs=8, learning_rate=2e-3))
    losses = [entry["validation"] for entry in tuned.history]
    assert min(losses) < 1.0 < math.log(3)
    assert tuned.epoch == len(losses) or tuned.history[-1]["behind"] > 1, "the last, but for good reason"
    logits = logits_of(classifier, images.feed, images.validation, 12)
    np.testing.assert_array_equal(logits, tuned.logits)  # the kept epoch's network is the one that is kept


@pytest.mark.parametrize(("first", "asked", "epochs"), [(1, 1, 4), (2, 2, 4), (3, 2, 3)])
def test_a_rival_beaten_in_one_of_the_first_two_epochs_lengthens_the_training(
    first: int, asked: int, epochs: int, classifier: Classifier, images: Labelled, backbone: Backbone
) -> None:
    freeze(classifier, 0.5, keep_statistics=True)
    seen: list[np.ndarray] = []

    def beaten(logits: np.ndarray) -> bool:
        seen.append(logits)
        return len(seen) >= first

    rival = Rival(np.zeros((len(images.validation), len(CLASSES)), np.float32), beaten, longer=4)
    tuned = fit(classifier, classifier, replace(images, plan=plan()), recipe(epochs=3), None, rival=rival)
    assert (len(seen), tuned.planned) == (asked, epochs)
    assert [entry["step"] for entry in tuned.history] == [3 * (epoch + 1) for epoch in range(epochs)]


def test_it_stops_when_validation_gets_no_better(
    classifier: Classifier, images: Labelled, backbone: Backbone
) -> None:
    freeze(classifier, 0.5, keep_statistics=True)
    labels = images.labels.copy()
    labels[images.validation] = (labels[images.validation] + 1) % 3  # the better it gets, the worse it looks
    tuned = finetune(
        classifier, replace(images, labels=labels), plan(), recipe(epochs=30, learning_rate=3e-3)
    )
    assert len(tuned.history) < 30
    assert all(entry["behind"] > 1 for entry in tuned.history[-3:])
    best = min(range(len(tuned.history)), key=lambda number: tuned.history[number]["validation"])
    assert tuned.epoch == best + 1, "the best one, since what followed is worse beyond its noise"


@pytest.mark.parametrize("name", ["none", "class_weights", "sampler", "logit_adjustment"])
def test_a_resumed_run_ends_bit_for_bit_where_an_undisturbed_one_does(
    name: str, classifier: Classifier, images: Labelled, backbone: Backbone, tmp_path: Path
) -> None:
    freeze(classifier, 0.3, keep_statistics=False)
    twin = copy.deepcopy(classifier)
    freeze(twin, 0.3, keep_statistics=False)  # a copy's list of still modules is its own
    whole = finetune(classifier, images, plan(name), recipe(epochs=3))
    state = State(tmp_path, "key")

    class StopError(Exception):
        """Stands for the kill, right after the second epoch's state was written."""

    class Stopping(State):
        def save(self, epoch: int, *arguments: object) -> None:
            super().save(epoch, *arguments)  # type: ignore[arg-type]
            if epoch == 2:
                raise StopError

    fresh = snapshot(twin)
    with pytest.raises(StopError):
        finetune(twin, images, plan(name), recipe(epochs=3), Stopping(tmp_path, "key"))
    twin.load_state_dict(fresh)  # as a new process would start
    torch.manual_seed(12345)
    resumed = finetune(twin, images, plan(name), recipe(epochs=3), state)
    assert resumed.history == whole.history
    assert [images for images, _ in resumed.timed] == [images for images, _ in whole.timed]
    assert resumed.epoch == whole.epoch
    np.testing.assert_array_equal(resumed.logits, whole.logits)
    assert all(
        torch.equal(a, b) for a, b in zip(snapshot(twin).values(), snapshot(classifier).values(), strict=True)
    )


@pytest.mark.parametrize("name", ["none", "logit_adjustment"])
def test_softened_labels_favour_no_class_whatever_its_share(name: str) -> None:
    """Of the classes that an image is not of none is liked better: a rare one would be named for a common one."""
    shares = np.array([0.9, 0.09, 0.01])
    ones = np.ones(3)
    prior = np.log(shares) if name == "logit_adjustment" else np.zeros(3)
    objective = Objective(Plan(name, ones, ones, prior, None), np.arange(3), 3, recipe(smoothing=0.1), None)
    logits = torch.zeros(3, 3, requires_grad=True)
    solver = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    examples = Examples(logits, torch.arange(3), torch.ones(3), torch.tensor(1.0))

    def closure() -> float:
        solver.zero_grad()
        loss = objective(lambda _: (logits, logits), examples, 0, 0.0)
        loss.backward()
        return float(loss.detach())

    solver.step(closure)
    found = logits.detach()
    assert found.argmax(dim=1).tolist() == [0, 1, 2]
    for right in range(3):
        others = [found[right, other] for other in range(3) if other != right]
        assert float(others[0]) == pytest.approx(float(others[1]), abs=1e-3)
    expected = functional.cross_entropy(found, torch.arange(3), label_smoothing=0.1, reduction="sum")
    if name == "none":  # as torch softens labels
        assert closure() == pytest.approx(float(expected), rel=1e-5)


def test_a_damaged_state_starts_afresh(tmp_path: Path) -> None:
    state = State(tmp_path, "key")
    assert state.load() is None
    state.save(1, {"a": torch.ones(3)}, {"best": 1})
    state.save(2, {"a": torch.zeros(3)}, {"best": 2})
    loaded = state.load()
    assert loaded is not None
    assert (loaded[0], loaded[2]) == (2, {"best": 2})
    file = next(state.folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert state.load() is None
    (state.folder / "state.json").write_text("{")
    assert state.load() is None


def test_a_loss_that_is_no_number_names_the_images(
    classifier: Classifier, images: Labelled, backbone: Backbone
) -> None:
    with torch.no_grad():
        classifier.head.bias[0] = float("nan")
    with pytest.raises(DivergedError, match=r"nan in epoch 1.*picture-\d+\.png.*learning_rate"):
        finetune(classifier, images, plan(), recipe())


def test_a_gradient_that_is_no_number_names_its_own_batch(
    classifier: Classifier, images: Labelled, tmp_path: Path
) -> None:
    """In the last batch of the first epoch: the loss is a number, and no further batch would tell."""
    freeze(classifier, 1.0, keep_statistics=True)
    batches = []

    def grown(gradient: torch.Tensor) -> torch.Tensor:
        batches.append(len(batches))
        return gradient * float("inf") if len(batches) == 3 else gradient

    classifier.head.weight.register_hook(grown)
    with pytest.raises(DivergedError, match=r"gradient became (inf|nan).*epoch 1, batch 3 of 3: picture-"):
        finetune(classifier, images, plan(), recipe(), State(tmp_path, "key"))
    assert not list(tmp_path.rglob("state.json"))
    assert all(torch.isfinite(parameter).all() for parameter in classifier.parameters())


def fed(images: Labelled, kind: type[PixelFeed]) -> Labelled:
    """The same images by a feed of another kind."""
    assert isinstance(images.feed, PixelFeed)
    return replace(images, feed=kind(images.feed.views, images.feed.preprocessing, seed=0))


class Blind(PixelFeed):
    """Real images to learn from, and to be judged by until the second epoch."""

    shown = 0

    def plain(self, rows: np.ndarray) -> torch.Tensor:
        self.shown += 1
        return super().plain(rows) * (float("nan") if self.shown > 1 else 1.0)


def test_answers_that_are_no_numbers_end_the_training_and_name_the_images(
    classifier: Classifier, images: Labelled
) -> None:
    freeze(classifier, 1.0, keep_statistics=True)
    broken = fed(images, Blind)
    tuned = fit(classifier, classifier, broken, recipe(epochs=3))
    assert (len(tuned.history), tuned.epoch) == (1, 1)
    assert "after epoch 2 the network answers 12 of 12 validation images" in tuned.ended
    assert "picture-36.png" in tuned.ended


class Elsewhere:
    """Stands for a tensor on a GPU: of no use to a network on the CPU before it is moved there."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def to(self, device: torch.device) -> torch.Tensor:
        return self.values.to(device)


def test_answers_are_given_where_the_network_is(classifier: Classifier, images: Labelled) -> None:
    feed = copy.copy(images.feed)
    feed.plain = lambda rows: Elsewhere(images.feed.plain(rows))  # type: ignore[assignment,method-assign]
    few = images.validation[:2]
    np.testing.assert_array_equal(logits_of(classifier, feed, few), logits_of(classifier, images.feed, few))


def test_a_restored_optimizer_is_where_its_parameters_are() -> None:
    """The counts of steps as well, which a fused optimizer on a GPU asks for."""
    parameter = nn.Parameter(torch.zeros(2, device="meta"))
    optimizer = torch.optim.AdamW([parameter])
    tensors = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}
    unpack_optimizer(
        optimizer, {id(parameter): "w"}, {f"optimizer.w.{key}": value for key, value in tensors.items()}
    )
    state = optimizer.state[parameter]
    assert state.keys() == tensors.keys()
    assert {value.device for value in state.values()} == {parameter.device}


class Broken(PixelFeed):
    """Real images until the third epoch, and then a batch that went bad."""

    def batch(self, rows: np.ndarray, epoch: int) -> torch.Tensor:
        pixels = super().batch(rows, epoch)
        return pixels * float("nan") if epoch == 2 else pixels


def test_a_training_that_breaks_later_keeps_its_best_epoch(
    classifier: Classifier, images: Labelled, capsys: pytest.CaptureFixture[str]
) -> None:
    freeze(classifier, 0.5, keep_statistics=True)
    broken = fed(images, Broken)
    tuned = fit(classifier, classifier, broken, recipe(epochs=6))
    assert len(tuned.history) == 2
    assert tuned.epoch in (1, 2)
    assert "nan in epoch 3, batch 1 of 3" in tuned.ended
    assert "picture-" in tuned.ended
    assert f"epoch {tuned.epoch} is kept" in capsys.readouterr().err
    np.testing.assert_array_equal(logits_of(classifier, images.feed, images.validation, 12), tuned.logits)
    assert np.isfinite(tuned.logits).all()


def test_a_step_that_diverges_changes_no_weight_and_no_moment(
    classifier: Classifier, images: Labelled
) -> None:
    freeze(classifier, 0.5, keep_statistics=True)
    broken = fed(images, Broken)
    steps = Steps(classifier, classifier, broken, recipe(average=0.9))
    classifier.train()
    steps.step(np.arange(12), 0, 0)
    before = {name: value.clone() for name, value in steps.pack().items()}
    with pytest.raises(DivergedError, match="nan in epoch 3"):
        steps.step(np.arange(12), 2, 1)
    assert all(torch.equal(value, before[name]) for name, value in steps.pack().items())


class SmallMemory(Classifier):
    """A real network on a machine whose memory holds so many images at once."""

    holds = 4

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.training and len(pixels) > self.holds:
            raise torch.OutOfMemoryError(f"out of memory: {len(pixels)} images")
        return super().forward(pixels)


def test_a_batch_that_does_not_fit_is_split_and_gives_the_same_gradients(
    classifier: Classifier, images: Labelled, backbone: Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    small = SmallMemory(copy.deepcopy(classifier.backbone), backbone.width, len(CLASSES))
    small.head.load_state_dict(classifier.head.state_dict())
    results = []
    for network in (classifier, small):
        freeze(network, 0.5, keep_statistics=True)
        results.append(finetune(network, images, plan("class_weights"), recipe(epochs=1)))
    assert "parts of 3 images" in capsys.readouterr().out
    assert results[1].history[0]["train"] == pytest.approx(results[0].history[0]["train"], rel=1e-3)
    np.testing.assert_allclose(results[1].logits, results[0].logits, atol=2e-2)
    small.holds = 0
    with pytest.raises(StateError, match="single image"):
        finetune(small, images, plan(), recipe(epochs=1))


def test_random_views_depend_on_seed_draw_and_row_alone(images: Labelled) -> None:
    feed = images.feed
    assert isinstance(feed, PixelFeed)
    first = feed.batch(np.array([1, 2, 3]), 0)
    assert torch.equal(first[[2, 0]], feed.batch(np.array([3, 1]), 0))
    assert not torch.equal(first, feed.batch(np.array([1, 2, 3]), 1))
    other = PixelFeed(feed.views, feed.preprocessing, seed=1)
    assert not torch.equal(first, other.batch(np.array([1, 2, 3]), 0))
    flat = torch.tensor([200, 100, 50], dtype=torch.uint8)[None, :, None, None].expand(4, 3, 20, 30)
    varied = augmented(flat, draws([0, 1, 2, 3], 0, 0, 20, 30))
    assert (varied.amax((2, 3)) - varied.amin((2, 3))).max() < 1e-3  # still flat: only its colour changes
    assert (varied[:, :, 0, 0] - flat[:, :, 0, 0]).abs().max() < 90


def test_numbers_of_neighbouring_rows_and_draws_are_even_and_unrelated() -> None:
    numbers = np.stack([uniforms(range(2000), 0, draw, 4) for draw in range(4)])  # [draw, row, number]
    shares = np.histogram(numbers, bins=20, range=(0, 1))[0] / numbers.size
    assert np.abs(shares - 1 / 20).max() < 5 * np.sqrt(1 / 20 / numbers.size)
    flat = numbers.transpose(0, 2, 1).reshape(16, 2000)
    related = np.corrcoef(np.concatenate([flat, np.roll(flat, 1, axis=1)]))
    assert np.abs(related - np.eye(32)).max() < 5 / np.sqrt(2000)
    assert 0 <= numbers.min() <= numbers.max() < 1
    far = uniforms([2**48 - 1], 3, 7, 4)
    assert np.array_equal(far[0], uniforms([0, 2**48 - 1], 3, 7, 4)[1])
    assert not np.array_equal(far, uniforms([2**48 - 1], 4, 7, 4))


def test_the_batch_kernel_of_a_gpu_draws_the_same_views(images: Labelled) -> None:
    feed = images.feed
    assert isinstance(feed, PixelFeed)
    smooth = torch.from_numpy(feed.views[:8]).permute(0, 3, 1, 2)
    smooth = nn.functional.avg_pool2d(smooth.float(), 9, 1, 4).to(torch.uint8)
    drawn = draws(list(range(8)), 0, 0, *smooth.shape[2:])
    one, whole = _resized(smooth, drawn), _sampled(smooth, drawn)
    assert (one - whole)[:, :, 2:-2, 2:-2].abs().mean() < 1.0  # grey levels of 255: both are bilinear
    assert drawn.flips.any()
    assert not drawn.flips.all()


def test_training_standardises_as_the_service_does(images: Labelled, backbone: Backbone) -> None:
    feed = images.feed
    assert isinstance(feed, PixelFeed)
    served = backbone.preprocessing.normalise(feed.views[:5])
    np.testing.assert_array_equal(feed.plain(np.arange(5)).numpy(), served)
    assert standardised(torch.zeros(1, 3, 2, 2), backbone.preprocessing).shape == (1, 3, 2, 2)


def test_the_cost_counts_what_is_trained_and_no_clock(classifier: Classifier) -> None:
    freeze(classifier, 0.0, keep_statistics=True)
    whole = cost.measure(classifier, (3, 48, 48), "cpu")
    freeze(classifier, 0.5, keep_statistics=True)
    half = cost.measure(classifier, (3, 48, 48), "cpu")
    assert half == cost.measure(classifier, (3, 48, 48), "cpu")
    assert half.forward == whole.forward < half.train < whole.train
    merged = cost.measure(classifier, (3, 48, 48), "cpu", merged=True)
    assert merged.forward < half.forward  # by the BatchNorms' passes
    assert merged.train < half.train
    assert cost.measure(classifier, (3, 96, 96), "cpu").forward > 2 * half.forward
    adapt_layers(classifier, 16, 1.0, seed=0)
    adapted = cost.measure(classifier, (3, 48, 48), "cpu")
    # Its layers are counted, and the adapters, which work once a step, are not counted by image.
    assert adapted.forward == pytest.approx(whole.forward)
    assert whole.forward * 1.5 < adapted.train < whole.train
    transformer = timm.create_model("test_vit", num_classes=0)
    classifier = Classifier(transformer, transformer.num_features, 3)
    whole = cost.measure(classifier, (3, 160, 160), "cpu")
    adapt_layers(classifier, 4, 1.0, seed=0)
    adapted = cost.measure(classifier, (3, 160, 160), "cpu")
    # Most of its layers have none: only the gradient of their inputs is computed, not that of their weights.
    assert whole.forward * 1.5 < adapted.train < 0.9 * whole.train
    assert cost.epochs_within(60, 25) == 2
    assert cost.epochs_within(60, 61) == 0
    assert cost.epochs_within(60, 0.1) == cost.MOST_EPOCHS
