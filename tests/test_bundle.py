"""A bundle loads only as it was made, and the verb makes it whole or not at all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline import bundle as verb
from pipeline.artifacts import REFERENCE, SPLIT, Workspace, digest_file, read_json, read_table, write_table
from pipeline.bundle import Bundle, softmax, verify
from pipeline.errors import DataError, IntegrityError
from pipeline.params import Params
from tests import tiny_bundle, tiny_training


@pytest.fixture
def small(tmp_path: Path) -> Path:
    tiny_bundle.make(tmp_path / "bundle")
    return tmp_path / "bundle"


def edit(bundle: Path, **changes: object) -> None:
    info = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(info | changes))


def test_it_answers_with_calibrated_probabilities(small: Path) -> None:
    edit(small, temperature=2.0)
    bundle = Bundle.load(small, threads=1)
    views = np.zeros((70, 32, 32, 3), dtype=np.uint8)  # more than one batch
    views[:, :, :, 1] = 255
    prediction = bundle.predict(views)
    assert bundle.digest == verify(small) == digest_file(small / "bundle.json")
    assert prediction.logits.shape == (70, 3)
    assert prediction.embedding.shape == (70, 3)
    assert (prediction.probabilities.argmax(axis=1) == 1).all()
    np.testing.assert_allclose(prediction.probabilities, softmax(prediction.logits / 2), rtol=1e-6)
    assert prediction.probabilities.dtype == np.float32
    assert len(bundle.predict(views[:0]).logits) == 0


def test_views_of_another_shape_are_a_mistake(small: Path) -> None:
    with pytest.raises(ValueError, match="uint8"):
        Bundle.load(small).predict(np.zeros((1, 16, 16, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_one_flipped_byte_is_refused_by_name(small: Path, name: str) -> None:
    data = bytearray((small / name).read_bytes())
    data[len(data) // 2] ^= 1
    (small / name).write_bytes(data)
    for open_it in (verify, Bundle.load):
        with pytest.raises(IntegrityError, match=f"{name} has changed"):
            open_it(small)


def test_a_missing_file_and_an_empty_folder_are_refused(small: Path, tmp_path: Path) -> None:
    (small / "model.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"model.safetensors is missing"):
        verify(small)
    with pytest.raises(IntegrityError, match="holds no bundle"):
        verify(tmp_path)


def test_an_edited_bundle_json_is_another_bundle_and_nonsense_is_none(small: Path) -> None:
    digest = verify(small)
    edit(small, temperature=3.0)
    assert verify(small) != digest
    edit(small, format=2)
    with pytest.raises(IntegrityError, match="format 2"):
        verify(small)
    edit(small, format=1, files={"../secret": "0" * 64})
    with pytest.raises(IntegrityError, match="outside"):
        verify(small)
    (small / "bundle.json").write_text("{")
    with pytest.raises(IntegrityError, match="damaged"):
        verify(small)


def test_another_preprocessing_is_refused(small: Path) -> None:
    edit(small, fingerprint="0" * 64)
    with pytest.raises(IntegrityError, match="preprocessing gives another result"):
        Bundle.load(small)


def test_a_network_that_is_not_what_the_papers_say_is_refused(small: Path) -> None:
    edit(small, embedding_size=5)
    with pytest.raises(IntegrityError, match="declares the widths"):
        Bundle.load(small)
    (small / "model.onnx").write_bytes(b"no network")
    edit(small, files={"model.onnx": digest_file(small / "model.onnx")})
    with pytest.raises(IntegrityError, match="can't be opened"):
        Bundle.load(small)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a probe's checkpoint and the bundle made from it."""
    from pipeline import train

    root = tmp_path_factory.mktemp("trained")
    workspace = tiny_training.make(root / "work", tiny_training.save_weights(root / "weights"))
    train.run(workspace, Params.load(workspace.params))
    assert verb.run(workspace, Params.load(workspace.params)) == 0
    return workspace


@pytest.fixture
def copy(trained: Workspace, tmp_path: Path) -> Workspace:
    shutil.copytree(trained.root, tmp_path / "copy")
    return Workspace(tmp_path / "copy", tmp_path / "copy/var")


@pytest.mark.slow
def test_the_bundle_names_all_that_it_follows_from(trained: Workspace) -> None:
    bundle = Bundle.load(trained.bundle)
    assert bundle.classes == list(tiny_training.CLASSES)
    assert bundle.info["digests"]["split"] == digest_file(trained.split)
    assert bundle.info["digests"]["manifest"] == digest_file(trained.manifest)
    assert bundle.info["weights"]["licence"] == "apache-2.0"
    assert bundle.info["code"] == {"commit": None, "dirty": None}  # no git checkout here
    assert set(bundle.info["files"]) == {"model.onnx", "model.safetensors", "reference.parquet"}
    validation = bundle.info["validation"]
    assert validation["n"] == 12
    assert validation["cross_fitted"]
    for figures in (validation["before"], validation["after"]):
        assert figures.keys() == {"nll", "nll_ci95", "ece", "ece_ci95"}
    assert "Calibration on 12 validation images" in bundle.info["report"]
    assert not list(trained.bundle.parent.glob(".bundle*"))


@pytest.mark.slow
def test_a_ridge_head_is_as_good_and_ships_the_same_way(copy: Workspace) -> None:
    from pipeline import train

    logistic = read_json(copy.checkpoint / "checkpoint.json")
    settings = json.loads(copy.params.read_text())
    settings["train"] = {"strategy": "probe", "head": "ridge"}
    copy.params.write_text(json.dumps(settings))
    train.run(copy, Params.load(copy.params))
    ridge = read_json(copy.checkpoint / "checkpoint.json")
    assert "a ridge head" in ridge["report"]
    n = ridge["validation"]["n"]
    room = 2 * (0.25 / n) ** 0.5  # two standard errors of an accuracy of n images
    assert abs(ridge["validation"]["accuracy"] - logistic["validation"]["accuracy"]) <= room
    assert verb.run(copy, Params.load(copy.params)) == 0  # refused where torch and ONNX Runtime disagree
    assert 0.3 < Bundle.load(copy.bundle).temperature < 3  # its logits are logits already


@pytest.mark.slow
def test_vector_scaling_ships_inside_the_head(copy: Workspace) -> None:
    from safetensors.numpy import load_file

    from pipeline.views import views

    rows = read_table(copy.split, SPLIT).to_pylist()
    places = [place for place, row in enumerate(rows) if row["split"] == "test"]
    before = Bundle.load(copy.bundle)
    pixels = views(
        copy, [rows[p]["path"] for p in places], [rows[p]["image_id"] for p in places], before.preprocessing,
        max_pixels=10**6, max_bytes=10**6,
    )  # fmt: skip
    plain = before.predict(pixels).logits
    settings = json.loads(copy.params.read_text())
    copy.params.write_text(json.dumps(settings | {"bundle": {"calibration": "vector"}}))
    assert verb.run(copy, Params.load(copy.params)) == 0  # refused where torch and ONNX Runtime disagree
    after = Bundle.load(copy.bundle)
    assert after.temperature == 1.0
    assert after.info["validation"]["method"] == "vector"
    heads = [load_file(folder / "model.safetensors") for folder in (copy.checkpoint, copy.bundle)]
    scale = (heads[1]["head.weight"] / heads[0]["head.weight"]).mean(axis=1)
    assert (scale > 0).all()
    shift = heads[1]["head.bias"] - scale * heads[0]["head.bias"]
    np.testing.assert_allclose(after.predict(pixels).logits, plain * scale + shift, atol=1e-3)
    np.testing.assert_array_equal(
        heads[0]["backbone.conv_stem.weight"], heads[1]["backbone.conv_stem.weight"]
    )


@pytest.mark.slow
def test_the_calibration_plot_holds_both_curves(trained: Workspace) -> None:
    table = (trained.plots / "calibration.csv").read_text().splitlines()
    assert table[0] == "confidence,accuracy,low,high,images,when"
    assert {line.split(",")[-1] for line in table[1:]} == {"before", "after"}


@pytest.mark.slow
def test_the_reference_holds_no_training_image(trained: Workspace) -> None:
    reference = read_table(trained.bundle / "reference.parquet", REFERENCE).to_pylist()
    split = {row["image_id"]: row for row in read_table(trained.split, SPLIT).to_pylist()}
    assert len(reference) == 24
    assert {split[row["image_id"]]["split"] for row in reference} == {"validation", "test"}
    bundle = Bundle.load(trained.bundle)
    for row in reference:
        assert len(row["embedding"]) == bundle.info["embedding_size"]
        assert row["predicted"] == bundle.classes[int(np.argmax(row["probabilities"]))]
        assert (row["width"], row["height"]) == (60, 52)
        assert row["thumbnail"].startswith(b"\xff\xd8")
        assert row["group"] == split[row["image_id"]]["group"]


@pytest.mark.slow
def test_the_temperature_follows_from_validation_alone(copy: Workspace) -> None:
    temperature = Bundle.load(copy.bundle).temperature
    rows = read_table(copy.split, SPLIT).to_pylist()
    for row in rows:
        if row["split"] == "test":
            row["label"] = tiny_training.CLASSES[0]
    write_table(copy.split, type(read_table(copy.split, SPLIT)).from_pylist(rows, SPLIT))
    verb.run(copy, Params.load(copy.params))
    assert Bundle.load(copy.bundle).temperature == temperature


@pytest.mark.slow
def test_a_network_that_does_not_survive_the_export_is_refused_and_the_old_bundle_stays(
    copy: Workspace,
) -> None:
    digest = verify(copy.bundle)
    copy.params.write_text(
        json.dumps(json.loads(copy.params.read_text()) | {"bundle": {"max_parity_error": 0.0}})
    )
    with pytest.raises(IntegrityError, match=r"max_parity_error.*does not survive"):
        verb.run(copy, Params.load(copy.params))
    assert verify(copy.bundle) == digest
    assert not list(copy.bundle.parent.glob(".bundle*"))


@pytest.mark.slow
def test_a_corrupted_checkpoint_is_refused_and_the_old_bundle_stays(copy: Workspace) -> None:
    digest = verify(copy.bundle)
    weights = copy.checkpoint / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(IntegrityError, match="dvc repro train"):
        verb.run(copy, Params.load(copy.params))
    (copy.checkpoint / "checkpoint.json").write_text("{")
    with pytest.raises(IntegrityError, match="damaged"):
        verb.run(copy, Params.load(copy.params))
    weights.unlink()
    with pytest.raises(IntegrityError, match=r"missing|damaged"):
        verb.run(copy, Params.load(copy.params))
    assert verify(copy.bundle) == digest


@pytest.mark.slow
def test_a_held_out_image_that_has_gone_is_named(copy: Workspace) -> None:
    shutil.rmtree(copy.cache)
    gone = next(row["path"] for row in read_table(copy.split, SPLIT).to_pylist() if row["split"] == "test")
    (copy.root / gone).unlink()
    with pytest.raises(DataError, match=Path(gone).name):
        verb.run(copy, Params.load(copy.params))


@pytest.mark.slow
def test_a_kill_leaves_the_old_bundle_and_the_next_run_cleans_up(copy: Workspace) -> None:
    digest = verify(copy.bundle)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "bundle"],
        cwd=copy.root,
        env=os.environ | {"PYTHONPATH": str(Path.cwd()), "VISIONLOOP_HOME": str(copy.home)},
        stdout=subprocess.DEVNULL,
    )
    while not list(copy.bundle.parent.glob(".bundle.new.*/model.onnx")):
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert verify(copy.bundle) == digest
    assert list(copy.bundle.parent.glob(".bundle.new.*"))
    verb.run(copy, Params.load(copy.params))
    assert not list(copy.bundle.parent.glob(".bundle*"))
    assert (
        read_json(copy.bundle / "bundle.json")["files"]
        == json.loads((copy.bundle / "bundle.json").read_text())["files"]
    )
    assert Bundle.load(copy.bundle).info["files"]["model.onnx"]
