"""Choosing a backbone: what is measured, what is said of it, and by which rule one is taken."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.__main__ import main
from pipeline.artifacts import SPLIT, Workspace, read_json, read_table, write_table
from pipeline.errors import DataError
from pipeline.params import Model
from pipeline.selection.candidates import candidates
from pipeline.selection.logme import logme
from pipeline.selection.recommendation import Measured, pareto, ranks, recommended
from tests import tiny_training

Rows = list[dict[str, str]]


# LogME


def features(count: int = 40, width: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, width] that say something of labels [n] of 3 classes."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    return generator.normal(0, 1, (count, width)) + np.eye(3, width)[labels], labels


def direct(values: np.ndarray, targets: np.ndarray) -> float:
    """The largest log density of ``targets`` under N(0, I / beta + F F^T / alpha), by a general optimiser."""
    from scipy.optimize import minimize
    from scipy.stats import multivariate_normal

    def negative(point: np.ndarray) -> float:
        alpha, beta = np.exp(point)
        covariance = np.eye(len(values)) / beta + values @ values.T / alpha
        return -float(multivariate_normal.logpdf(targets, np.zeros(len(values)), covariance))

    starts = [(0.0, 0.0), (2.0, 2.0), (5.0, 1.0)]
    options = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 4000, "maxfev": 4000}
    return -min(minimize(negative, start, method="Nelder-Mead", options=options).fun for start in starts)


@pytest.mark.parametrize(("count", "width"), [(40, 6), (12, 20)])
def test_logme_is_the_maximum_of_the_evidence(count: int, width: int) -> None:
    values, labels = features(count, width)
    unit = values / np.sqrt(np.mean(values**2))
    by_hand = np.mean([direct(unit, (labels == label).astype(float)) for label in range(3)]) / count
    assert logme(values, labels, 3) == pytest.approx(by_hand, abs=1e-6)


def test_logme_prefers_features_that_explain_and_ignores_their_scale() -> None:
    values, labels = features(90)
    useless = np.random.default_rng(1).normal(0, 1, values.shape)
    assert logme(values, labels, 3) > logme(useless, labels, 3)
    assert logme(values * 1e6, labels, 3) == pytest.approx(logme(values, labels, 3), abs=1e-9)
    rotation = np.linalg.qr(np.random.default_rng(2).normal(0, 1, (6, 6)))[0]
    assert logme(values @ rotation, labels, 3) == pytest.approx(logme(values, labels, 3), abs=1e-9)


def test_logme_of_dead_and_of_perfect_features_is_a_number() -> None:
    labels = np.arange(30) % 3
    dead = logme(np.zeros((30, 4), dtype=np.float32), labels, 3)
    perfect = logme(np.eye(3)[labels], labels, 3)
    assert math.isfinite(dead)
    assert math.isfinite(perfect)
    assert perfect > dead
    with pytest.raises(ValueError, match="one image"):
        logme(np.zeros((0, 4)), labels[:0], 3)


# The rule


def test_the_fastest_within_one_standard_error_of_the_best_is_taken() -> None:
    slow, middle, fast = (
        Measured(0.90, 0.02, 50.0),
        Measured(0.885, 0.02, 20.0),
        Measured(0.86, 0.02, 5.0),
    )
    assert recommended([slow, middle, fast]) == (1, 0)
    assert pareto([slow, middle, fast]) == [2, 1, 0]
    beaten = Measured(0.884, 0.02, 30.0)
    assert pareto([slow, beaten, middle, fast]) == [3, 2, 0]
    assert recommended([slow, beaten, middle, fast]) == (2, 0)
    assert recommended([fast]) == (0, 0)
    assert recommended([Measured(1.0, 0.0, 9.0), Measured(1.0, 0.0, 3.0)]) == (1, 1)
    with pytest.raises(ValueError, match="nothing"):
        recommended([])


MEASURED = st.builds(
    Measured, st.integers(0, 20).map(lambda n: n / 20), st.just(0.06), st.integers(1, 9).map(float)
)


@given(st.lists(MEASURED, min_size=1, max_size=9))
def test_whatever_is_taken_is_on_the_front_good_enough_and_none_such_is_faster(found: list[Measured]) -> None:
    take, best = recommended(found)
    assert take in pareto(found)
    assert found[best].accuracy == max(one.accuracy for one in found)
    enough = found[best].accuracy - found[best].standard_error
    assert found[take].accuracy >= enough
    assert found[take].milliseconds == min(one.milliseconds for one in found if one.accuracy >= enough)


def test_ranks_give_equals_the_better_place() -> None:
    assert ranks([3.0, 1.0, 3.0, 2.0]) == [1, 4, 1, 3]


# What is compared


def test_candidates_are_names_paths_both_or_the_current_model(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    current = Model(weights="somewhere/net.v2", image_size=96)
    found = candidates([], "hub", current, tmp_path)
    assert [(one.label, one.model) for one in found] == [("net.v2", current)]
    texts = ["resnet18", "local", "resnet18", "resnet10t=w/model.safetensors", "x/w.safetensors", "bundled"]
    found = candidates(texts, "none", current, tmp_path)
    assert [(one.label, one.model.backbone, one.model.weights) for one in found] == [
        ("resnet18, random", "resnet18", "none"),
        ("local", "auto", "local"),
        ("resnet10t=w/model.safetensors", "resnet10t", "w/model.safetensors"),  # two are called w
        ("x/w.safetensors", "auto", "x/w.safetensors"),
        ("bundled", "auto", "bundled"),
    ]
    assert {one.model.image_size for one in found} == {96}


def rows(groups: dict[str, list[int]]) -> Rows:
    """Split rows: class → how many images each of its groups has."""
    return [
        {
            "image_id": f"{label}{group}{n}",
            "path": "",
            "label": label,
            "group": f"{label}{group}",
            "split": "train",
        }
        for label, sizes in groups.items()
        for group, size in enumerate(sizes)
        for n in range(size)
    ]


def test_a_sample_keeps_groups_whole_and_small_classes_in() -> None:
    from pipeline.selection.scoring import sample

    found = rows({"many": [4] * 200, "some": [3] * 40, "few": [1] * 6})
    whole = sample(found, 0)
    assert len(whole.labels) == len(found)
    drawn = sample(found, 0, most=100)
    assert 90 < len(drawn.labels) < 125
    for group in set(drawn.groups):
        assert drawn.groups.count(group) == whole.groups.count(group)
    assert (drawn.labels == drawn.classes.index("few")).sum() >= 5
    assert drawn.folds == 5
    assert drawn.image_ids == sample(found, 0, most=100).image_ids
    assert drawn.image_ids != sample(found, 1, most=100).image_ids


@pytest.mark.parametrize(
    ("groups", "words"),
    [({"a": [1] * 9, "b": [9]}, "images of b are all of one group"), ({"a": [1] * 9}, "needs two")],
)
def test_what_cannot_be_cross_validated_is_refused(groups: dict[str, list[int]], words: str) -> None:
    from pipeline.selection.scoring import sample

    with pytest.raises(DataError, match=words):
        sample(rows(groups), 0)


def test_a_group_is_never_on_both_sides_of_a_fold() -> None:
    """Features that know the group but nothing of the class: shots of one part would give it away."""
    from pipeline.selection.scoring import sample, score

    generator = np.random.default_rng(0)
    images = sample(rows({"a": [4] * 20, "b": [4] * 20}), 0)
    of_group = {group: generator.normal(0, 1, 30) for group in sorted(set(images.groups))}
    values = np.stack([of_group[group] for group in images.groups]).astype(np.float32)
    blind = score(values, images, 0)
    assert blind.accuracy < 0.75
    assert blind.interval[0] < blind.accuracy < blind.interval[1]
    assert blind.interval[1] - blind.interval[0] > 0.2  # 40 groups, not 160 images
    assert blind.standard_error == pytest.approx((blind.interval[1] - blind.interval[0]) / 3.92, rel=1e-3)
    seeing = score(values + 6 * np.eye(2, 30, dtype=np.float32)[images.labels], images, 0)
    assert seeing.accuracy > 0.9
    assert seeing.logme > blind.logme


# The verb


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    return tiny_training.save_weights(tmp_path_factory.mktemp("weights") / "local")


@pytest.fixture
def workspace(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    made = tiny_training.make(tmp_path / "w", weights)
    monkeypatch.chdir(made.root)
    monkeypatch.setenv("VISIONLOOP_HOME", str(made.home))
    return made


def set_model(workspace: Workspace, **model: Any) -> None:
    content = json.loads(workspace.params.read_text())
    content["model"] |= model
    workspace.params.write_text(json.dumps(content))


@pytest.mark.slow
def test_several_are_compared_and_a_failing_one_is_a_row(
    workspace: Workspace, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_model(workspace, image_size=48)
    texts = [str(weights), "squeezenet1_1", "resnet10t", "mobilnetv3_smal_050", "no/such/folder", "vgg11"]
    assert main(["select", *texts, "--weights", "none"]) == 0
    found = read_json(workspace.root / "reports/select.json")
    assert [row["candidate"] for row in found["candidates"]] == [
        "local",
        "squeezenet1_1, random",
        "resnet10t, random",
    ]
    assert (found["images"], found["groups"], found["classes"], found["folds"]) == (48, 48, 3, 5)
    for row in found["candidates"]:
        low, high = row["accuracy_ci95"]
        assert 0 <= low < row["accuracy"] <= high <= 1
        assert row["standard_error"] > 0
        assert 0 < row["milliseconds_quartiles"][0] <= row["milliseconds"] <= row["milliseconds_quartiles"][1]
        assert row["onnx_bytes"] > row["parameters"]  # about 4 bytes each; equal tensors are stored once
        assert row["image_size"] == 48
    by_name = {row["candidate"]: row for row in found["candidates"]}
    assert by_name["local"]["licence"] == "apache-2.0"
    assert by_name["local"]["accuracy"] > 0.5
    assert by_name["resnet10t, random"]["rank"]["size"] == 1
    assert sorted(row["rank"]["accuracy"] for row in found["candidates"])[0] == 1
    assert by_name[found["recommended"]]["pareto"]
    reasons = {row["candidate"]: row["reason"] for row in found["failed"]}
    assert "mobilenetv3_small_050" in reasons["mobilnetv3_smal_050, random"]
    assert "no such file or folder" in reasons["folder"]
    assert "at least 224" in reasons["vgg11, random"]
    output = capsys.readouterr().out
    for words in ("ms/image", "LogME", "apache-2.0", "not stated", "vgg11, random  failed:", "1 thread"):
        assert words in output
    assert found["sentence"] in output
    assert "in params.yaml, model: {backbone:" in found["sentence"]
    assert (workspace.root / "reports/select.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_params_name_the_candidates_and_without_them_it_is_the_current_model(
    workspace: Workspace, weights: Path
) -> None:
    assert main(["select"]) == 0
    found = read_json(workspace.root / "reports/select.json")
    assert [row["candidate"] for row in found["candidates"]] == ["local"]
    assert "Only local was measured" in found["sentence"]
    set_model(workspace, candidates=[str(weights), "bundled"])
    assert main(["select"]) == 0
    again = read_json(workspace.root / "reports/select.json")
    assert [row["candidate"] for row in again["candidates"]] == ["local", "bundled"]
    first, second = found["candidates"][0], again["candidates"][0]
    steady = ("accuracy", "accuracy_ci95", "logme", "parameters", "onnx_bytes", "digest")
    assert {name: first[name] for name in steady} == {name: second[name] for name in steady}


@pytest.mark.slow
def test_where_not_one_can_be_measured_the_exit_code_says_so(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = workspace.root / "reports/select.png"
    stale.parent.mkdir(exist_ok=True)
    stale.write_bytes(b"of another comparison")
    assert main(["select", "nosuchnet", "no/such/folder"]) == 1
    found = read_json(workspace.root / "reports/select.json")
    assert (found["candidates"], found["recommended"], found["sentence"]) == ([], None, None)
    assert len(found["failed"]) == 2
    assert not stale.exists()
    output = capsys.readouterr().out
    assert "nosuchnet  failed: model.backbone 'nosuchnet'" in output
    assert "not one candidate" in output


@pytest.mark.slow
def test_an_image_that_has_gone_is_no_candidates_fault(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    row = next(row for row in read_table(workspace.split, SPLIT).to_pylist() if row["split"] == "train")
    (workspace.root / row["path"]).unlink()
    assert main(["select"]) == 1
    assert row["path"] in capsys.readouterr().err


def test_without_a_split_it_names_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    monkeypatch.chdir(tmp_path)
    assert main(["select"]) == 1
    assert "dvc repro split" in capsys.readouterr().err
    write_table(tmp_path / "artifacts/split.parquet", SPLIT.empty_table())
    assert main(["select"]) == 1
    assert "needs two" in capsys.readouterr().err


def test_help_tells_what_a_candidate_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["select", "--help"])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    for words in ("name=path", "--weights {hub,none}", "model.candidates"):
        assert words in output


@pytest.mark.slow
def test_what_was_compared_changes_neither_the_stage_nor_the_bundle(tmp_path: Path) -> None:
    import yaml

    pytest.importorskip("torch")
    from pipeline.params import Params
    from pipeline.transfer.papers import papers

    root = Path(__file__).resolve().parent.parent
    stage = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]["train"]
    assert {"model.backbone", "model.weights", "model.image_size"} <= set(stage["params"])
    assert not {"model", "model.candidates"} & set(stage["params"])
    workspace = tiny_training.make(tmp_path / "w", "none", per_class=6)
    checkpoint: dict[str, Any] = dict.fromkeys(
        (
            "classes",
            "preprocessing",
            "fingerprint",
            "width",
            "strategy",
            "backbone",
            "backbone_kwargs",
            "report",
        )
    )
    checkpoint |= {"weights": {"digest": ""}, "train": {"n": 1, "steps": 0}}
    digests = [
        papers(workspace, Params(model=model), checkpoint)["digests"]["params"]
        for model in (Model(), Model(candidates=("resnet18",)), Model(image_size=64))
    ]
    assert digests[0] == digests[1] != digests[2]
