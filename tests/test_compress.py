"""The compression table: a row a version, each made and judged for real."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import bundle as bundle_verb
from pipeline import compress, train
from pipeline.artifacts import Workspace, digest_file
from pipeline.bundle import Bundle
from pipeline.errors import IntegrityError
from pipeline.params import Bundle as Limits
from pipeline.params import Params
from pipeline.transfer import int8
from pipeline.transfer.compression import Images, shipped, variants
from pipeline.transfer.exporter import export
from pipeline.transfer.imbalance import Plan
from tests import tiny_training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a vector-scaled probe's bundle, after `compress`."""
    root = tmp_path_factory.mktemp("compress")
    workspace = tiny_training.make(root / "w", tiny_training.save_weights(root / "weights"), per_class=36)
    params = json.loads(workspace.params.read_text())
    params |= {"train": {"strategy": "probe"}, "bundle": {"calibration": "vector"}}
    workspace.params.write_text(json.dumps(params))
    train.run(workspace, Params.load(workspace.params))
    bundle_verb.run(workspace, Params.load(workspace.params))
    before = digest_file(workspace.bundle / "bundle.json")
    assert compress.run(workspace, Params.load(workspace.params)) == 0
    assert digest_file(workspace.bundle / "bundle.json") == before
    return workspace


def table(workspace: Workspace) -> dict[str, dict[str, float]]:
    with workspace.compression.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {
        row["version"]: {name: float(value) for name, value in row.items() if name != "version"}
        for row in rows
    }


def test_there_is_a_row_a_version_with_accuracy_size_and_time(compressed: Workspace) -> None:
    rows = table(compressed)
    # 72 training images: embeddings of 128 numbers and more can't be fitted to them.
    assert list(rows) == [
        "float32", "pruned 30%", "pruned 50%", "pruned 70%", "INT8", "PCA 8", "PCA 16", "PCA 32", "PCA 64",
    ]  # fmt: skip
    for row in rows.values():
        assert row["images"] == 18
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert row["milliseconds"] > 0
    assert compressed.compression.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_each_version_costs_what_it_is_for(compressed: Workspace) -> None:
    rows = table(compressed)
    whole = rows["float32"]
    assert rows["INT8"]["megabytes"] < 0.5 * whole["megabytes"]
    zipped = [
        rows[name]["compressed_megabytes"] for name in ("float32", "pruned 30%", "pruned 50%", "pruned 70%")
    ]
    assert zipped == sorted(zipped, reverse=True)
    assert rows["pruned 70%"]["megabytes"] == pytest.approx(whole["megabytes"], rel=0.01)
    assert rows["PCA 16"]["embedding"] == 16
    assert rows["PCA 64"]["accuracy"] >= whole["accuracy"] - 0.2


def test_float32_is_the_network_that_ships(compressed: Workspace, tmp_path: Path) -> None:
    """In torch again, from the bundle's own weights, vector scaling included."""
    import torch

    bundle = Bundle.load(compressed.bundle, threads=1)
    pixels = (
        np.random.default_rng(0)
        .integers(0, 255, (4, tiny_training.SIDE, tiny_training.SIDE, 3))
        .astype(np.uint8)
    )
    with torch.inference_mode():
        logits = shipped(bundle)(torch.from_numpy(bundle.preprocessing.normalise(pixels)))[0].numpy()
    np.testing.assert_allclose(bundle.predict(pixels).logits, logits, rtol=1e-4, atol=1e-2)


def test_a_shorter_embedding_is_what_the_drafts_give(compressed: Workspace, tmp_path: Path) -> None:
    bundle = Bundle.load(compressed.bundle, threads=1)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (24, tiny_training.SIDE, tiny_training.SIDE, 3)).astype(np.uint8)
    labels = np.arange(24) % 3
    images = Images(pixels, labels, [str(n) for n in range(24)])
    weights = {label: {"weight": 1.0} for label in bundle.classes}
    plan = Plan.of({"plan": "none", "classes": weights}, labels, bundle.classes)
    drafts = dict(variants(bundle, images, images, plan, tmp_path, seed=0, limits=Limits()))
    shorter = drafts["PCA 16"]
    assert isinstance(shorter, Bundle)
    embedding = shorter.predict(pixels).embedding
    assert embedding.shape == (24, 16)
    np.testing.assert_allclose(embedding.mean(axis=0), 0, atol=1e-3)
    covariance = np.cov(embedding.T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-3 * covariance.max()


def test_it_is_said_that_a_bundle_would_leave_int8_out_and_where_it_can_not_be_run(
    compressed: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(compressed.root, tmp_path / "copy")
    copy = Workspace(tmp_path / "copy", tmp_path / "copy/var")
    params = Params.load(copy.params)

    def blind(source: Path, target: Path, inputs: list[np.ndarray], **named: Any) -> None:
        real(source, target, [image * 1e-3 for image in inputs], **named)  # ranges that real images leave

    real = int8.quantise
    monkeypatch.setattr(int8, "quantise", blind)
    rows, [note] = compress.table(copy, params)
    assert rows[0].agreement == 1
    assert next(row.agreement for row in rows if row.version == "INT8") < 0.95
    assert "left out of the bundle, since the limit is 0.95 (bundle.min_int8_agreement)" in note

    def broken(*arguments: object, **named: object) -> None:
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(int8, "quantise", broken)
    compress.run(copy, params)
    said = capsys.readouterr().out
    assert "ONNX Runtime can't run it (no kernel for this)" in said
    assert "INT8" not in table(copy)


def test_a_network_whose_shapes_can_not_be_inferred_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.quantization import shape_inference

    tried = []

    def incomplete(source: str, prepared: str, *, skip_symbolic_shape: bool = False) -> None:
        tried.append(skip_symbolic_shape)
        if not skip_symbolic_shape:  # as ONNX Runtime's does: what it could make is written down, and refused
            Path("sym_shape_infer_temp.onnx").write_bytes(b"x")
            raise Exception("Incomplete symbolic shape inference")
        real(source, prepared, skip_symbolic_shape=True)

    real = shape_inference.quant_pre_process
    monkeypatch.setattr(shape_inference, "quant_pre_process", incomplete)
    monkeypatch.chdir(tmp_path)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    export(network, torch.zeros(1, 3, 8, 8), "source.onnx", inputs=["images"], outputs=["values"])
    images = [np.random.default_rng(n).normal(size=(1, 3, 8, 8)).astype(np.float32) for n in range(4)]
    int8.quantise(Path("source.onnx"), Path("target.onnx"), images)
    assert tried == [False, True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.onnx", "target.onnx"]


def test_a_damaged_bundle_is_refused(compressed: Workspace, tmp_path: Path) -> None:
    shutil.copytree(compressed.root, tmp_path / "copy")
    copy = Workspace(tmp_path / "copy", tmp_path / "copy/var")
    (copy.bundle / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match=r"model\.safetensors has changed"):
        compress.run(copy, Params.load(copy.params))
