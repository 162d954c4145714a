"""A probe on the features of every stage: the same answers from the store, from torch and from ONNX; a choice by evidence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline import bundle as bundle_verb
from pipeline import train
from pipeline.artifacts import REFERENCES, Workspace
from pipeline.backbone import load
from pipeline.bundle import Bundle, open_session
from pipeline.errors import ParamsError
from pipeline.params import Model, Params
from pipeline.transfer.checkpoint import load_checkpoint
from pipeline.transfer.classifier import Classifier, logits_of
from pipeline.transfer.compression import shipped
from pipeline.transfer.exporter import write_onnx
from pipeline.transfer.feeds import PixelFeed
from pipeline.transfer.linear import probe_logits
from pipeline.transfer.stages import EveryStage, Standardised, every_stage
from pipeline.transfer.task import Candidate
from tests import tiny_training


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_training.save_weights(tmp_path_factory.mktemp("weights") / "local")


def workspace_of(root: Path, weights: Path, **settings: Any) -> Workspace:
    return tiny_training.make(root, weights, train={"strategy": "probe", **settings})


def run(workspace: Workspace) -> dict[str, Any]:
    assert train.run(workspace, Params.load(workspace.params)) == 0
    return dict(json.loads((workspace.checkpoint / "checkpoint.json").read_text()))


def test_store_torch_and_onnx_give_one_answer(weights: Path, tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path / "w", weights, features="stages")
    info = run(workspace)
    classifier, _ = load_checkpoint(workspace.checkpoint)
    assert "features of every stage of mobilenetv3_small_050" in info["report"]
    assert classifier.head.in_features == info["width"] > 1024  # beside the last stage's
    task = train.task_of(workspace, Params.load(workspace.params), "cpu")
    rows = np.arange(len(task.data.labels))
    own = logits_of(classifier, PixelFeed(task.pixels, task.backbone.preprocessing, seed=0), rows)
    stored = probe_logits(task, Candidate("probe", classifier, own, ""), rows)
    np.testing.assert_allclose(stored, own, atol=2e-3)
    right = own.argmax(axis=1)[task.data.validation] == task.data.labels[task.data.validation]
    assert right.mean() == pytest.approx(info["validation"]["accuracy"], abs=1e-6)
    with torch.inference_mode():
        pixels = PixelFeed(task.pixels, task.backbone.preprocessing, seed=0).plain(task.data.train)
        embedding = classifier(pixels)[1].numpy()
    alive = embedding.std(axis=0) > 0
    assert alive.mean() > 0.5
    np.testing.assert_allclose(embedding.mean(axis=0), 0, atol=1e-2)  # standardised over the training images
    np.testing.assert_allclose(embedding[:, alive].std(axis=0), 1, atol=2e-2)


@pytest.mark.slow
def test_its_bundle_answers_like_it_and_holds_what_its_head_sees(weights: Path, tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path / "w", weights, features="stages")
    run(workspace)
    assert bundle_verb.run(workspace, Params.load(workspace.params)) == 0
    bundle = Bundle.load(workspace.bundle)
    network = shipped(bundle)
    table = pq.read_table(bundle.path / REFERENCES["onnx"])
    embedding = np.array(table["embedding"].to_pylist(), dtype=np.float64)
    weight, bias = (value.detach().numpy() for value in (network.head.weight, network.head.bias))
    logits = (embedding @ weight.T + bias) / bundle.info["temperature"]
    again = np.exp(logits - logits.max(axis=1, keepdims=True))
    stored = np.array(table["probabilities"].to_pylist())
    np.testing.assert_allclose(again / again.sum(axis=1, keepdims=True), stored, atol=2e-2)


def test_auto_takes_what_held_out_folds_prefer_and_says_both(weights: Path, tmp_path: Path) -> None:
    found = {
        asked: run(workspace_of(tmp_path / asked, weights, features=asked))
        for asked in ("last", "stages", "auto")
    }
    report = found["auto"]["report"]
    assert "Held-out log loss" in report
    kept = "stages" if "those of every stage are taken" in report else "last"
    for name in ("stages", "width"):
        assert found["auto"][name] == found[kept][name]
    assert found["auto"]["validation"]["accuracy"] == found[kept]["validation"]["accuracy"]
    assert found["auto"]["sha256"] == found[kept]["sha256"] or kept == "last"


@pytest.mark.slow
def test_fine_tuning_starts_from_the_last_stages_head_and_is_compared_with_the_better_probe(
    weights: Path, tmp_path: Path
) -> None:
    info = run(
        workspace_of(tmp_path / "w", weights, features="stages", strategy="partial", epochs=1, batch_size=16)
    )
    assert info["strategy"] == "partial"
    assert info["stages"] is None
    assert info["width"] == 1024
    assert "every stage" in info["report"]  # the probe's own sentence


def test_a_stage_whose_average_the_last_features_are_counts_once() -> None:
    resnet = load(Model(backbone="resnet10t", weights="none"), root=Path("/"), seed=0).module
    taps = every_stage(resnet, 64)
    assert taps.indices == (0, 1, 2, 3)
    assert taps.width == 64 + 64 + 128 + 256 + 512
    transformer = load(
        Model(backbone="vit_tiny_patch16_224", weights="none", image_size=32), root=Path("/"), seed=0
    )
    assert every_stage(transformer.module, 32).indices == (2, 5, 8, 11)


def test_a_network_without_stages_is_refused_or_left_at_its_last(weights: Path, tmp_path: Path) -> None:
    backbone = load(Model(backbone="squeezenet1_1", weights="none"), root=Path("/"), seed=0)
    with pytest.raises(ParamsError, match=r"has no forward_intermediates.*set train\.features to last"):
        every_stage(backbone.module, 64)
    workspace = workspace_of(tmp_path / "w", weights, features="auto")
    params = json.loads(workspace.params.read_text())
    params["model"] = {"weights": "none", "backbone": "squeezenet1_1", "image_size": 48}
    workspace.params.write_text(json.dumps(params))
    assert run(workspace)["stages"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mobilenetv2_035", 32), ("densenet121", 32), ("convnext_atto", 32), ("inception_v3", 75),
        ("vit_tiny_patch16_224", 16), ("resnet50_clip", 32),
    ],
)  # fmt: skip
def test_every_family_exports_its_stages(name: str, size: int, tmp_path: Path) -> None:
    backbone = load(Model(backbone=name, weights="none", image_size=size), root=Path("/"), seed=0)
    taps = every_stage(backbone.module, size)
    generator = np.random.default_rng(0)
    views = generator.integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    pixels = torch.from_numpy(backbone.preprocessing.normalise(views))
    with torch.inference_mode():
        raw = EveryStage(backbone.module, taps.indices)(pixels).numpy()
    assert raw.shape == (5, taps.width)
    classifier = Classifier(backbone.module, taps.width, 3, taps.indices).eval()
    classifier.standard = Standardised(taps.width).fit(raw)
    info = {
        "classes": ["a", "b", "c"], "preprocessing": backbone.preprocessing.to_dict(), "temperature": 1.0,
        "embedding_size": taps.width,
    }  # fmt: skip
    write_onnx(classifier, size, tmp_path / "model.onnx")
    bundle = Bundle(tmp_path, "", info, open_session(tmp_path, info, None))
    for count in (1, 5):
        with torch.inference_mode():
            logits, embedding = (values.numpy() for values in classifier(pixels[:count]))
        answer = bundle.predict(views[:count])
        np.testing.assert_allclose(answer.logits, logits, atol=5e-3)
        np.testing.assert_allclose(answer.embedding, embedding, atol=2e-2)
