"""An INT8 network ships only where it agrees with float32, and answers only where it is asked for."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import bundle as verb
from pipeline import evaluate
from pipeline.artifacts import REFERENCE, Workspace, digest_file, read_json, read_table
from pipeline.asked import as_served
from pipeline.bundle import Bundle, open_session, verify
from pipeline.errors import IntegrityError, ParamsError
from pipeline.params import Bundle as Limits
from pipeline.params import Evaluate, Params, Serve
from pipeline.transfer.int8 import try_int8
from services import settings
from services.engine import Engine
from tests import tiny_bundle, tiny_training
from tests.test_evaluate import workspace  # noqa: F401  (a fixture)

BOTH: dict[str, Any] = {"formats": ["onnx", "int8"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a probe's bundle, 16 validation images, INT8 asked for within wide limits."""
    from pipeline import train

    root = tmp_path_factory.mktemp("trained")
    place = tiny_training.make(root / "work", tiny_training.save_weights(root / "weights"), per_class=48)
    settings = json.loads(place.params.read_text())
    limits = {"min_int8_agreement": 0.75, "max_int8_drop": 0.2}
    place.params.write_text(json.dumps(settings | {"bundle": BOTH | limits}))
    train.run(place, Params.load(place.params))
    assert verb.run(place, Params.load(place.params)) == 0
    return place


@pytest.mark.slow
def test_int8_ships_beside_float32_with_its_figures_and_its_own_reference(trained: Workspace) -> None:
    info = read_json(trained.bundle / "bundle.json")
    figures = info["formats"]["int8"]
    assert figures["kept"], info["report"]
    assert figures["images"] == 24
    assert figures["agreement"] >= 0.75
    assert figures["agreement_ci95"][0] < figures["agreement"]
    assert figures["megabytes"] < 0.5 * info["formats"]["onnx"]["megabytes"]
    assert f"{figures['agreement']:.3f}" in info["report"]
    assert {"model.onnx", "model.int8.onnx", "reference.int8.parquet"} <= info["files"].keys()
    assert not list(trained.bundle.glob("prepared*"))
    speed = read_json(trained.bundle / "timings.json")["milliseconds_per_image"]
    assert speed.keys() == {"onnx", "int8"}
    assert min(speed.values()) > 0
    assert "milliseconds" not in json.dumps(info)  # the same network has the same digest on a busy machine
    whole, small = (Bundle.load(trained.bundle, form=form) for form in ("onnx", "int8"))  # type: ignore[arg-type]
    assert whole.digest == small.digest
    tables = [
        read_table(trained.bundle / name, REFERENCE)
        for name in ("reference.parquet", "reference.int8.parquet")
    ]
    assert tables[0]["image_id"].equals(tables[1]["image_id"])
    embeddings = [np.array(table["embedding"].to_pylist()) for table in tables]
    assert np.abs(embeddings[0] - embeddings[1]).max() > 0


@pytest.mark.slow
def test_the_same_network_gives_the_same_bytes(trained: Workspace) -> None:
    digest = verify(trained.bundle)
    verb.run(trained, Params.load(trained.params))
    assert verify(trained.bundle) == digest


def draft_of(place: Workspace, folder: Path) -> Bundle:
    shutil.copytree(place.bundle, folder)
    (folder / "model.int8.onnx").unlink()
    info = read_json(folder / "bundle.json")
    return Bundle(folder, "", info, open_session(folder, info, 1))


@pytest.mark.slow
def test_an_int8_network_that_disagrees_is_left_out_and_the_report_says_so(
    trained: Workspace, tmp_path: Path
) -> None:
    """Ranges that were measured on black images clip what real ones need."""
    from pipeline.views import views

    draft = draft_of(trained, tmp_path / "draft")
    paths = sorted((trained.root / "images").rglob("*.png"))
    pixels = views(
        trained, [str(path) for path in paths], [digest_file(path) for path in paths], draft.preprocessing,
        max_pixels=10**6, max_bytes=10**6,
    )  # fmt: skip
    labels = np.repeat(np.arange(3), 48)
    groups = [str(path) for path in paths]
    black = np.zeros((8, *pixels.shape[1:]), dtype=np.uint8)
    judged = try_int8(draft, black, pixels, labels, groups, Limits())
    assert judged.bundle is None
    assert not judged.figures["kept"]
    assert judged.figures["agreement"] < 0.95
    assert "left out of the bundle" in judged.report
    assert "bundle.min_int8_agreement" in judged.report
    assert {path.name for path in draft.path.iterdir()} == {
        path.name for path in trained.bundle.iterdir()
    } - {"model.int8.onnx"}
    sound = try_int8(
        draft, pixels[::3], pixels, labels, groups, Limits(min_int8_agreement=0.75, max_int8_drop=0.2)
    )
    assert sound.bundle is not None
    assert sound.figures["agreement"] > judged.figures["agreement"]


@pytest.mark.slow
def test_the_verb_ships_float32_alone_where_int8_is_refused(trained: Workspace, tmp_path: Path) -> None:
    shutil.copytree(trained.root, tmp_path / "copy")
    copy = Workspace(tmp_path / "copy", tmp_path / "copy/var")
    (copy.bundle / "model.int8.onnx").unlink()
    params = json.loads(copy.params.read_text())
    params["train"] |= {"strategy": "probe"}
    params["bundle"] = BOTH | {"min_int8_agreement": 1.0, "max_int8_drop": 0.0}
    copy.params.write_text(json.dumps(params))
    assert verb.run(copy, Params.load(copy.params)) == 0
    info = read_json(copy.bundle / "bundle.json")
    kept = info["formats"]["int8"]["kept"]
    assert ("model.int8.onnx" in info["files"]) is kept
    assert ("left out of the bundle" in info["report"]) is not kept
    assert kept is (info["formats"]["int8"]["agreement"] == 1.0)


def test_float32_can_not_be_left_out_and_limits_are_shares() -> None:
    with pytest.raises(ParamsError, match="must hold onnx"):
        Limits(formats=("int8",))
    with pytest.raises(ParamsError, match=r"min_int8_agreement is 1\.01"):
        Limits(min_int8_agreement=1.01)


def two_networks(folder: Path) -> Path:
    """A bundle whose "INT8" network is surer of itself, so that it can be told which one answered."""
    tiny_bundle.make(folder / "sure", gain=40.0)
    tiny_bundle.make(folder / "bundle")
    shutil.copy(folder / "sure/model.onnx", folder / "bundle/model.int8.onnx")
    info = read_json(folder / "bundle/bundle.json")
    info["files"]["model.int8.onnx"] = digest_file(folder / "bundle/model.int8.onnx")
    (folder / "bundle/bundle.json").write_text(json.dumps(info))
    return folder / "bundle"


def test_a_bundle_without_an_int8_network_refuses_to_answer_with_one(tmp_path: Path) -> None:
    tiny_bundle.make(tmp_path / "bundle")
    with pytest.raises(IntegrityError, match=r"holds no int8 network.*serve\.format.*bundle\.formats"):
        settings.open_bundle(tmp_path / "bundle", 1, "int8")
    path = two_networks(tmp_path / "two")
    (path / "model.int8.onnx").write_bytes(b"changed")
    with pytest.raises(IntegrityError, match=r"model\.int8\.onnx has changed"):
        settings.open_bundle(path, 1, "onnx")


def test_what_is_judged_is_what_will_be_served(workspace: Workspace, tmp_path: Path) -> None:  # noqa: F811
    two = two_networks(tmp_path / "two")
    shutil.rmtree(workspace.bundle)
    shutil.copytree(two, workspace.bundle)
    losses = []
    for form in ("onnx", "int8"):
        params = Params(evaluate=Evaluate(bootstrap=100), serve=Serve(format=form))  # type: ignore[arg-type]
        evaluate.run(workspace, params)
        losses.append(read_json(workspace.metrics)["test"]["nll"])
    assert losses[0] != losses[1]


def test_a_champion_from_before_int8_is_compared_by_what_it_has(tmp_path: Path) -> None:
    tiny_bundle.make(tmp_path / "old")
    two = two_networks(tmp_path / "two")
    assert as_served(tmp_path / "old", "int8").form == "onnx"
    assert as_served(two, "int8").form == "int8"


@pytest.mark.parametrize("form", ["onnx", "int8"])
def test_the_service_answers_with_the_network_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    from tests.test_service_inputs import encoded, plain

    path = two_networks(tmp_path)
    monkeypatch.setenv("VISIONLOOP_BUNDLE", str(path))
    engine = Engine(Params(serve=Serve(format=form)), Workspace(tmp_path, tmp_path / "var"))
    try:
        deadline = time.monotonic() + 120
        while not engine.ready and time.monotonic() < deadline:
            time.sleep(0.01)
        assert engine.loaded.bundle.form == form
        import asyncio

        reply = asyncio.run(engine.answer(encoded(plain()), None))
    finally:
        engine.close()
    assert (reply["probabilities"]["red"] > 0.99999) is (form == "int8")


def test_drift_is_measured_against_what_the_served_network_saw(tmp_path: Path) -> None:
    from monitoring.reference import load
    from pipeline.artifacts import REFERENCES, write_table
    from pipeline.registry import Registry

    path = two_networks(tmp_path / "two")
    digest = verify(path)
    registry = Registry(tmp_path / "registry")
    folder = registry.bundle_path(digest)
    shutil.copytree(path, folder)
    for offset, name in enumerate(REFERENCES.values()):
        row = dict.fromkeys(REFERENCE.names, 0.0) | {
            "image_id": "i", "domain": "d", "group": "g", "label": "red", "predicted": "red",
            "probabilities": [1.0, 0.0, 0.0], "embedding": [float(offset)] * 3, "width": 1, "height": 1, "thumbnail": b"",
            "look": None,
        }  # fmt: skip
        write_table(folder / name, read_back(row))
    assert load(registry, digest).embeddings[0, 0] == 0
    assert load(registry, digest, "int8").embeddings[0, 0] == 1


def read_back(row: dict[str, Any]) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist([row], REFERENCE)
