"""Every strategy: selectable, exact about what it freezes, and through the bundle into an answer."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from pipeline import bundle, train
from pipeline.artifacts import SPLIT, Workspace, read_table
from pipeline.backbone import Backbone, load
from pipeline.bundle import Bundle
from pipeline.errors import DataError, ParamsError
from pipeline.params import Model, Params
from pipeline.transfer import cost, finetune
from pipeline.transfer.checkpoint import load_checkpoint, read_checkpoint
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.cut import cut
from pipeline.transfer.freeze import freeze, layer_of, lowest_trained
from pipeline.transfer.lora import adapt_layers, merge
from pipeline.transfer.task import Candidate, Task
from pipeline.transfer.tuning import Settings, SkippedError
from pipeline.views import views
from tests import tiny_training

pytestmark = pytest.mark.slow
TUNED = ("partial", "finetune", "progressive", "lora")
FAST = {"epochs": 3, "precision": "float32", "memory_format": "channels_last", "compile": "off"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # bits are promised for one number of threads
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Local-dirs with seeded random weights: a network with BatchNorm, and a small vision transformer without."""
    folder = tmp_path_factory.mktemp("weights")
    tiny_training.save_weights(folder / "mobilenet")
    torch.manual_seed(0)
    small = {"img_size": 48, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=3, **small)
    (folder / "vit").mkdir()
    save_file(vit.state_dict(), folder / "vit/model.safetensors")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 3,
        "model_args": small,
        "pretrained_cfg": {"input_size": [3, 48, 48], "num_classes": 3},
    }
    (folder / "vit/config.json").write_text(json.dumps(config), encoding="utf-8")
    return {"mobilenet": folder / "mobilenet", "vit": folder / "vit"}


def trained(root: Path, weights: Path, **settings: Any) -> tuple[Workspace, dict[str, Any]]:
    workspace = tiny_training.make(root, weights, train=FAST | settings)
    assert train.run(workspace, Params.load(workspace.params)) == 0
    return workspace, read_checkpoint(workspace.checkpoint)


@pytest.mark.parametrize("network", ["mobilenet", "vit"])
@pytest.mark.parametrize("strategy", ["probe", *TUNED])
def test_a_strategy_keeps_what_is_frozen_and_ships(
    strategy: str, network: str, weights: dict[str, Path], tmp_path: Path
) -> None:
    workspace, info = trained(tmp_path / "w", weights[network], strategy=strategy)
    assert info["strategy"] == strategy
    assert info["validation"][strategy].keys() >= {"accuracy", "log_loss"}
    params = Params.load(workspace.params)
    before = load(params.model, root=workspace.root, seed=params.seed).module.state_dict()
    classifier, _ = load_checkpoint(workspace.checkpoint)
    after = classifier.backbone.state_dict()
    assert after.keys() == before.keys()  # merged: no adapter is left
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    statistics = {name for name in before if "running_" in name or "num_batches" in name}
    assert bool(statistics) == (network == "mobilenet")
    assert not moved & statistics
    layers = layer_of(classifier.backbone)
    if strategy == "probe":
        assert not moved
    else:
        assert moved
    share = {"partial": 0.5, "finetune": 0.5}.get(strategy)
    if share is not None:
        boundary = lowest_trained(classifier.backbone, share)
        assert min(layers[name] for name in moved) >= boundary > 0
    if strategy == "lora":
        assert all(name.endswith(".weight") for name in moved)
    assert bundle.run(workspace, params) == 0  # torch and ONNX Runtime agree, or it is refused
    rows = [row for row in read_table(workspace.split, SPLIT).to_pylist() if row["split"] == "test"]
    shipped = Bundle.load(workspace.bundle)
    pixels = views(
        workspace, [r["path"] for r in rows], [r["image_id"] for r in rows], shipped.preprocessing,
        max_pixels=10**6, max_bytes=10**6,
    )  # fmt: skip
    answer = shipped.predict(pixels)
    assert answer.probabilities.shape == (len(rows), 3)
    np.testing.assert_allclose(answer.probabilities.sum(axis=1), 1, atol=1e-5)


def test_many_images_train_the_whole_network_where_the_budget_allows_it(
    weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = tiny_training.make(tmp_path / "w", weights["mobilenet"], per_class=12)
    task = train.task_of(workspace, Params.load(workspace.params), "cpu")
    nothing = (np.zeros((3, task.backbone.width), np.float32), np.zeros(3, np.float32))
    probe = Candidate("probe", task.network(nothing), np.zeros((6, 3)), "")
    costs = []
    for share in (1.0, 0.5):
        freeze(probe.classifier, 1 - share, keep_statistics=True)
        one = cost.measure(probe.classifier, (3, 48, 48), "cpu", merged=True)
        costs.append(one.train * 24 + one.forward * 6)
    between = (costs[0] + costs[1]) / 2

    def share(**settings: Any) -> tuple[float, int, str]:
        """Of the layers that are trained, the number of epochs, and what the report says of it."""
        asked = replace(task, train=replace(task.train, **settings))
        candidate = finetune.finetune(asked, probe)
        layers = layer_of(candidate.classifier.backbone)
        free = {
            layers[name] for name, p in candidate.classifier.backbone.named_parameters() if p.requires_grad
        }
        return len(free) / len(set(layers.values())), candidate.steps, candidate.report

    def untrained(task: Task, start: Candidate, classifier: Classifier, settings: Settings) -> Candidate:
        return Candidate("finetune", classifier, start.logits, "", steps=settings.epochs)

    monkeypatch.setattr(finetune, "tune", untrained)
    assert share(strategy="auto", budget_seconds=60)[0] == pytest.approx(0.5, abs=0.1)
    monkeypatch.setattr(finetune, "MIDDLING", 23)
    for strategy in ("auto", "finetune"):
        assert share(strategy=strategy, budget_seconds=60)[:2] == (1.0, cost.MOST_EPOCHS)
        half, count, report = share(strategy=strategy, budget_seconds=between)
        assert half == pytest.approx(0.5, abs=0.1)
        assert count == 1
        assert "one epoch of the whole network does not fit into the budget" in report
    assert share(strategy="auto", budget_seconds=60, unfreeze=0.25)[0] == pytest.approx(0.25, abs=0.1)
    with pytest.raises(SkippedError):
        share(strategy="auto", budget_seconds=0)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_efficientnet", "test_convnext", "vit_tiny_patch16_224"]
)
def test_the_two_halves_of_a_cut_are_the_whole(name: str) -> None:
    backbone = load(Model(backbone=name, weights="none"), root=Path("/"), seed=0)
    classifier = Classifier(backbone.module, backbone.width, 4).eval()
    freeze(classifier, 0.75, keep_statistics=True)
    lower, upper, place = cut(classifier, lowest_trained(classifier.backbone, 0.75))
    pixels = torch.rand(5, 3, backbone.preprocessing.image_size, backbone.preprocessing.image_size)
    with torch.inference_mode():
        assert torch.equal(upper(lower(pixels))[0], classifier(pixels)[0])
    assert place
    used = {id(parameter) for parameter in upper.graph.parameters()}
    free = {id(p) for p in classifier.backbone.parameters() if p.requires_grad}
    assert free <= used


def test_a_network_that_can_not_be_traced_is_refused_in_words() -> None:
    backbone = load(
        Model(backbone="test_vit", weights="none"), root=Path("/"), seed=0
    )  # branches on the size
    with pytest.raises(ParamsError, match=r"can't be traced.*train\.strategy to finetune"):
        cut(Classifier(backbone.module, backbone.width, 4).eval(), 3)


def test_nothing_can_be_cut_off_below_the_first_layer(weights: dict[str, Path]) -> None:
    backbone = load(Model(weights=str(weights["mobilenet"])), root=Path("/"), seed=0)
    with pytest.raises(ParamsError, match=r"train\.strategy to finetune"):
        cut(Classifier(backbone.module, backbone.width, 3), 0)


@pytest.mark.parametrize("network", ["mobilenet", "vit"])
def test_adapters_start_at_the_network_and_merge_into_it(network: str, weights: dict[str, Path]) -> None:
    backbone: Backbone = load(Model(weights=str(weights[network])), root=Path("/"), seed=0)
    classifier = Classifier(backbone.module, backbone.width, 3).eval()
    side = backbone.preprocessing.image_size
    pixels = torch.rand(2, 3, side, side)
    with torch.inference_mode():
        before = classifier(pixels)[0]
    names = adapt_layers(classifier, 2, 1.0, 0)
    assert names
    if network == "vit":
        assert all(".attn." in name for name in names)
    free = [name for name, p in classifier.named_parameters() if p.requires_grad]
    assert all(".up" in name or ".down" in name or name.startswith("head.") for name in free)
    with torch.inference_mode():
        assert torch.equal(classifier(pixels)[0], before)
    with torch.no_grad():
        for name, parameter in classifier.named_parameters():
            if name.endswith(".up"):
                parameter.normal_(std=0.1)
        adapted = classifier(pixels)[0]
        merge(classifier)
        merged = classifier(pixels)[0]
    assert not torch.allclose(adapted, before)
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)
    assert not any("parametrizations" in name for name in classifier.state_dict())


def test_adapters_train_few_parameters_and_say_so(weights: dict[str, Path], tmp_path: Path) -> None:
    _, info = trained(tmp_path / "w", weights["vit"], strategy="lora", lora_rank=2)
    figures = info["validation"]["lora"]
    assert figures["trained_parameters"] < figures["full_trained_parameters"] / 5
    assert 0 < figures["counted_megabytes"] < figures["full_counted_megabytes"]
    assert "adapters of rank 2" in info["report"]


class KilledError(Exception):
    """Stands for a kill right after an epoch's state was written."""


@pytest.mark.parametrize("saves", [2, 3, 5])
def test_progressive_resumes_through_an_unfreeze_bit_for_bit(
    saves: int, weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six epochs, two a phase: killed inside of a phase, and right at the end of one."""
    from pipeline.transfer.resume import State

    settings = {"strategy": "progressive", "epochs": 6}
    _, whole = trained(tmp_path / "whole", weights["mobilenet"], **settings)
    workspace = tiny_training.make(tmp_path / "killed", weights["mobilenet"], train=FAST | settings)
    left, save = [saves], State.save

    def stopping(self: State, *arguments: Any) -> None:
        save(self, *arguments)
        left[0] -= 1
        if left[0] == 0:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(State, "save", stopping)
        with pytest.raises(KilledError):
            train.run(workspace, Params.load(workspace.params))
    torch.manual_seed(999)
    assert train.run(workspace, Params.load(workspace.params)) == 0
    resumed = read_checkpoint(workspace.checkpoint)
    assert resumed["sha256"] == whole["sha256"]
    assert resumed["report"] == whole["report"]


# Python runs it at the start of every process that torchrun starts: to the second one bfloat16 seems fast.
OF_TWO_MINDS = """
import os
from pathlib import Path

rank = os.environ.get("RANK")
if rank is not None:
    from pipeline.transfer import speed, tuning

    fit = tuning.fit

    def watched(classifier, network, data, recipe, *others, **named):
        Path(f"flags-{rank}").write_text(str(recipe.flags))
        return fit(classifier, network, data, recipe, *others, **named)

    speed.WORTH = 0.0
    speed._timed = lambda step, flags, times: 0.1 if flags.bfloat16 and rank == "1" else 1.0
    tuning.fit = watched
"""


def test_two_processes_train_like_one(weights: dict[str, Path], tmp_path: Path) -> None:
    """The same global batch, the first one's arithmetic: the loss curve is the same up to the rounding of sums."""
    curves = []
    for count in (1, 2):
        # 48 images in batches of 47: the last one has no image for the second process.
        settings = FAST | {"strategy": "finetune", "processes": count, "device": "cpu", "batch_size": 47}
        settings |= {"precision": "auto"}
        workspace = tiny_training.make(tmp_path / str(count), weights["mobilenet"], train=settings)
        (workspace.root / "sitecustomize.py").write_text(OF_TWO_MINDS)
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "train"], cwd=workspace.root, check=False, text=True,
            env=environment(workspace), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:]
        lines = (workspace.plots / "learning_curve.csv").read_text().splitlines()[1:]
        curves.append([line.split(",") for line in lines])
        assert read_checkpoint(workspace.checkpoint)["strategy"] == "finetune"
    flags = [(tmp_path / f"2/flags-{rank}").read_text() for rank in range(2)]
    assert flags[0] == flags[1]
    assert "bfloat16=False" in flags[0]
    assert [(step, split) for step, _, split in curves[0]] == [(step, split) for step, _, split in curves[1]]
    losses = [np.array([float(loss) for _, loss, _ in curve]) for curve in curves]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-3)
    assert len(losses[0]) == 8


def environment(workspace: Workspace) -> dict[str, str]:
    import os

    return os.environ | {
        "PYTHONPATH": f"{workspace.root}{os.pathsep}{Path.cwd()}",
        "VISIONLOOP_HOME": str(workspace.home),
        "OMP_NUM_THREADS": "1",
    }


def killed_after_an_epoch(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the first epoch that is saved be the last; the epochs that are saved from now on."""
    from pipeline.transfer.resume import State

    saved: list[int] = []
    save = State.save

    def stopping(self: State, epoch: int, *arguments: Any) -> None:
        save(self, epoch, *arguments)
        saved.append(epoch)
        if len(saved) == 1:
            raise KilledError

    monkeypatch.setattr(State, "save", stopping)
    return saved


@pytest.mark.parametrize("method", ["coral", "adabn", "dann"])
def test_unlabelled_images_of_another_domain_are_used(
    method: str, weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"strategy": "adapt", "adapt": method, "target": "elsewhere"}
    workspace = tiny_training.make(tmp_path / "w", weights["mobilenet"], train=FAST | settings)
    generator = np.random.default_rng(5)
    folder = workspace.root / "elsewhere"
    folder.mkdir()
    for number in range(24):
        label = tiny_training.CLASSES[number % 3]
        (folder / f"{number}.png").write_bytes(tiny_training.picture(label, generator))
    if method == "dann":  # killed, and one of its images was another one then
        saved = killed_after_an_epoch(monkeypatch)
        (folder / "0.png").rename(tmp_path / "0.png")
        (folder / "0.png").write_bytes(tiny_training.picture("dots", generator))
        with pytest.raises(KilledError):
            train.run(workspace, Params.load(workspace.params))
        (tmp_path / "0.png").rename(folder / "0.png")
    assert train.run(workspace, Params.load(workspace.params)) == 0
    if method == "dann":
        assert saved == [1, 1, 2, 3], "it went on from what other images had taught"
    info = read_checkpoint(workspace.checkpoint)
    assert info["strategy"] == "adapt"
    assert "24 unlabelled images" in info["report"]
    params = Params.load(workspace.params)
    before = load(params.model, root=workspace.root, seed=params.seed).module.state_dict()
    after = load_checkpoint(workspace.checkpoint)[0].backbone.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    if method == "coral":
        assert not moved
    elif method == "adabn":
        assert moved
        assert all("running_" in name or "num_batches" in name for name in moved)
    else:
        assert moved
        assert not any("running_" in name for name in moved)


def test_adapting_without_images_is_refused(weights: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"train\.target"):
        trained(tmp_path / "none", weights["mobilenet"], strategy="adapt")
    (tmp_path / "few").mkdir()
    with pytest.raises(DataError, match="0 images; adapting needs at least 20"):
        trained(tmp_path / "w", weights["mobilenet"], strategy="adapt", target=str(tmp_path / "few"))
    for number in range(20):
        picture = tiny_training.picture("dots", np.random.default_rng(number))
        (tmp_path / "few" / f"{number}.png").write_bytes(picture)
    with pytest.raises(ParamsError, match="no BatchNorm"):
        trained(tmp_path / "v", weights["vit"], strategy="adapt", adapt="adabn", target=str(tmp_path / "few"))


def test_partial_softens_the_labels_and_full_fine_tuning_does_not_unless_told(
    weights: dict[str, Path], tmp_path: Path
) -> None:
    def digest(name: str, **settings: Any) -> str:
        return str(trained(tmp_path / name, weights["mobilenet"], epochs=1, **settings)[1]["sha256"])

    for strategy, own, other in (("partial", 0.1, 0.0), ("finetune", 0.0, 0.1)):
        default = digest(f"{strategy}-default", strategy=strategy)
        assert default == digest(f"{strategy}-own", strategy=strategy, label_smoothing=own)
        assert default != digest(f"{strategy}-other", strategy=strategy, label_smoothing=other)


@pytest.mark.parametrize(
    "settings",
    [
        {"augment": "trivial"}, {"augment": "rand"}, {"augment": "none"},
        {"mix": 0.2}, {"label_smoothing": 0.1}, {"average": 0.0},
    ],
    ids=str,
)  # fmt: skip
def test_a_training_with_any_dial_repeats_bit_for_bit(
    settings: dict[str, Any], weights: dict[str, Path], tmp_path: Path
) -> None:
    plain = {"strategy": "finetune", "epochs": 1}
    base = trained(tmp_path / "base", weights["mobilenet"], **plain)[1]["sha256"]
    digests = {
        trained(tmp_path / name, weights["mobilenet"], **plain, **settings)[1]["sha256"]
        for name in ("one", "two")
    }
    assert len(digests) == 1
    assert base not in digests  # the dial does something
