"""Evaluation: the bundle over real images, the champion over the same ones, metrics that can be checked by hand."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline import artifacts
from pipeline.artifacts import Workspace, digest_file
from pipeline.asked import read_origin
from pipeline.bundle import Bundle
from pipeline.errors import DataError, IntegrityError, StateError
from pipeline.evaluate import run, summarise, tabulate
from pipeline.metrics import measure, measure_domains
from pipeline.params import Evaluate, Params
from pipeline.registry import Registry
from tests import tiny_bundle

COLOURS = {"red": (220, 40, 40), "green": (40, 220, 40), "blue": (40, 40, 220)}
PARAMS = Params(evaluate=Evaluate(bootstrap=200))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Eight images a class in test, four in validation, two in train; one test image is labelled wrongly."""
    workspace = Workspace(tmp_path, tmp_path / "var")
    rows = []
    for label, colour in COLOURS.items():
        for number in range(14):
            path = tmp_path / f"data/{label}-{number}.png"
            path.parent.mkdir(exist_ok=True)
            shade = tuple(min(255, channel + 2 * number) for channel in colour)
            Image.new("RGB", (40, 48), shade).save(path)
            split = "test" if number < 8 else "validation" if number < 12 else "train"
            rows.append(
                {
                    "image_id": digest_file(path),
                    "path": workspace.relative(path),
                    "label": "blue" if (label, number) == ("red", 0) else label,
                    "domain": "line-b" if number % 4 == 3 else "line-a",
                    "group": f"{label}-part-{number // 2}",
                    "split": split,
                    "reason": "assigned",
                }
            )
    artifacts.write_table(workspace.split, pa.Table.from_pylist(rows, schema=artifacts.SPLIT))
    artifacts.write_json(workspace.champion_pin, {"digest": None})
    tiny_bundle.make(workspace.bundle)
    return workspace


def read(workspace: Workspace, name: str) -> list[dict[str, str]]:
    with (workspace.plots / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_metrics_are_those_of_the_images(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace, PARAMS) == 0
    metrics = artifacts.read_json(workspace.metrics)
    test = metrics["test"]
    assert test["n"] == 24
    assert test["groups"] == 12
    assert test["accuracy"] == pytest.approx(23 / 24, abs=1e-6)
    assert test["per_class"]["blue"]["support"] == 9
    assert test["per_class"]["blue"]["recall"] == pytest.approx(8 / 9, abs=1e-6)
    assert test["per_class"]["red"]["precision"] == pytest.approx(7 / 8, abs=1e-6)
    f1 = (2 * 7 / 15 + 1 + 2 * 8 / 17) / 3
    assert test["macro_f1"] == pytest.approx(f1, abs=1e-6)
    assert test["balanced_accuracy"] == pytest.approx((1 + 1 + 8 / 9) / 3, abs=1e-6)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "nll", "ece"):
        low, high = test[f"{name}_ci95"]
        assert low <= test[name] <= high
    assert {domain: row["n"] for domain, row in metrics["by_domain"].items()} == {"line-a": 18, "line-b": 6}
    assert metrics["validation"]["n"] == 12
    assert metrics["strategy"] == "probe"
    assert metrics["backbone"] == "mean-colour"
    assert {"load", "predict", "champion", "metrics"} <= metrics["seconds"].keys()
    assert "24 test images in 12 groups" in capsys.readouterr().out


def test_predictions_name_each_image_and_their_bundle(workspace: Workspace) -> None:
    run(workspace, PARAMS)
    table = artifacts.read_table(workspace.predictions, artifacts.PREDICTIONS)
    assert table.num_rows == 36  # train images are not predicted
    assert set(table["split"].to_pylist()) == {"test", "validation"}
    row = table.to_pylist()[0]
    assert row["predicted"] == "red"
    assert row["correct"] is False  # labelled blue
    assert row["confidence"] == pytest.approx(max(row["probabilities"]))
    assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)
    bundle = Bundle.load(workspace.bundle)
    assert read_origin(workspace.predictions) == {"bundle": bundle.digest, "classes": bundle.classes}
    assert artifacts.read_table(workspace.champion_predictions, artifacts.PREDICTIONS).num_rows == 0
    assert read_origin(workspace.champion_predictions) == {}


def test_a_second_run_gives_the_same_bytes(workspace: Workspace) -> None:
    run(workspace, PARAMS)
    before = [digest_file(workspace.predictions), digest_file(workspace.plots / "recall.csv")]
    first = artifacts.read_json(workspace.metrics)
    run(workspace, PARAMS)
    assert [digest_file(workspace.predictions), digest_file(workspace.plots / "recall.csv")] == before
    again = artifacts.read_json(workspace.metrics)
    assert {**again, "seconds": None} == {**first, "seconds": None}


def test_the_champion_sees_the_same_test_images_with_its_own_classes(workspace: Workspace) -> None:
    champion = workspace.root / "champion"
    tiny_bundle.make(champion, gain=2.0, classes=("red", "green"))
    digest = Registry(workspace.registry).add(champion)
    artifacts.write_json(workspace.champion_pin, {"digest": digest})
    run(workspace, PARAMS)
    table = artifacts.read_table(workspace.champion_predictions, artifacts.PREDICTIONS)
    assert table.num_rows == 24
    assert set(table["split"].to_pylist()) == {"test"}
    assert read_origin(workspace.champion_predictions) == {"bundle": digest, "classes": ["red", "green"]}
    assert "blue" not in table["predicted"].to_pylist()


def test_a_pinned_champion_that_is_not_here_names_the_next_command(workspace: Workspace) -> None:
    artifacts.write_json(workspace.champion_pin, {"digest": "a" * 64})
    with pytest.raises(StateError, match=r"VISIONLOOP_HOME.*pipeline\.registry pin"):
        run(workspace, PARAMS)
    assert not workspace.metrics.exists()


def test_a_changed_bundle_is_refused(workspace: Workspace) -> None:
    weights = workspace.bundle / "model.safetensors"
    weights.write_bytes(b"x" + weights.read_bytes()[1:])
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        run(workspace, PARAMS)


def test_a_network_of_nan_is_refused(workspace: Workspace) -> None:
    shutil.rmtree(workspace.bundle)
    tiny_bundle.make(workspace.bundle, gain=float("nan"))
    with pytest.raises(IntegrityError, match="36 of 36 images"):
        run(workspace, PARAMS)


def test_a_class_that_the_bundle_does_not_know_is_named(workspace: Workspace) -> None:
    shutil.rmtree(workspace.bundle)
    tiny_bundle.make(workspace.bundle, classes=("red", "green"))
    with pytest.raises(DataError, match=r"\['blue'\].*dvc repro train"):
        run(workspace, PARAMS)


def test_no_test_image_is_an_error(workspace: Workspace) -> None:
    table = artifacts.read_table(workspace.split, artifacts.SPLIT)
    rows = [row for row in table.to_pylist() if row["split"] != "test"]
    artifacts.write_table(workspace.split, pa.Table.from_pylist(rows, schema=artifacts.SPLIT))
    with pytest.raises(DataError, match="no test image"):
        run(workspace, PARAMS)


def test_plots_hold_one_row_per_image_class_and_bin(workspace: Workspace) -> None:
    run(workspace, PARAMS)
    confusion = read(workspace, "confusion.csv")
    assert len(confusion) == 24
    assert {"actual": "blue", "predicted": "red"} in confusion
    recall = {row["label"]: row for row in read(workspace, "recall.csv")}
    assert float(recall["blue"]["low"]) < float(recall["blue"]["recall"]) < float(recall["blue"]["high"])
    bins = read(workspace, "reliability.csv")
    assert sum(int(row["images"]) for row in bins) == 24


# --- the metrics alone, on made-up predictions


def predictions(labels: list[str], probabilities: np.ndarray, groups: list[str] | None = None) -> pa.Table:
    n = len(labels)
    rows: dict[str, Any] = {
        "image_id": [f"{i:03}" for i in range(n)],
        "path": [f"{i}.jpg" for i in range(n)],
        "label": labels,
        "domain": ["line-a"] * n,
        "group": groups or [f"g{i}" for i in range(n)],
        "split": ["test"] * n,
        "reason": ["assigned"] * n,
    }
    return tabulate(
        pa.table(rows, schema=artifacts.SPLIT), probabilities.astype(np.float32), ["a", "b"], "0" * 64
    )


def measured(table: pa.Table, resamples: int = 500) -> dict[str, Any]:
    return measure(table, ["a", "b"], resamples=resamples, seed=0)


def test_near_alike_shots_widen_the_interval() -> None:
    right = np.repeat([1, 1, 1, 0] * 10, 5)
    p = np.where(right[:, None] == 1, [0.9, 0.1], [0.1, 0.9])
    alone = measured(predictions(["a"] * 200, p))
    grouped = measured(predictions(["a"] * 200, p, [f"part{i // 5}" for i in range(200)]))
    assert grouped["accuracy"] == alone["accuracy"]
    width = {
        name: m["accuracy_ci95"][1] - m["accuracy_ci95"][0] for name, m in (("one", alone), ("five", grouped))
    }
    assert width["five"] > 2 * width["one"]


def test_no_error_is_still_no_certainty() -> None:
    p = np.array([[0.9, 0.1]] * 10 + [[0.1, 0.9]] * 10)
    perfect = measured(predictions(["a"] * 10 + ["b"] * 10, p))
    assert perfect["macro_f1"] == 1
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert perfect[f"{name}_ci95"][0] < 0.9
        assert perfect[f"{name}_ci95"][1] == 1
    assert perfect["per_class"]["a"]["recall_ci95"][0] < 0.8


def test_one_single_group_has_no_bootstrap_interval() -> None:
    table = predictions(["a", "b"] * 5, np.array([[0.8, 0.2]] * 10), ["video"] * 10)
    result = measured(table)
    assert result["macro_f1_ci95"] is None
    assert result["ece_ci95"] is None
    json.dumps(result, allow_nan=False)


def test_a_class_without_images_has_no_recall_and_does_not_count() -> None:
    result = measured(predictions(["a"] * 10, np.array([[0.8, 0.2]] * 9 + [[0.2, 0.8]])))
    assert result["per_class"]["b"] == {
        "support": 0,
        "precision": None,
        "recall": None,
        "f1": None,
        "recall_ci95": None,
    }
    assert result["balanced_accuracy"] == 0.9


def test_ece_sees_overconfidence_and_forgives_noise() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1, 400)
    p = np.stack([confidence, 1 - confidence], axis=1)
    honest = measured(predictions(np.where(generator.random(400) < confidence, "a", "b").tolist(), p))
    boastful = measured(predictions(np.where(generator.random(400) < confidence - 0.3, "a", "b").tolist(), p))
    assert honest["ece_ci95"][0] < 0.02  # perfect calibration can't be ruled out
    assert boastful["ece"] == pytest.approx(0.3, abs=0.05)
    assert boastful["ece_ci95"][0] > 0.15


def test_domains_are_told_apart() -> None:
    table = predictions(["a"] * 10, np.array([[0.8, 0.2]] * 5 + [[0.2, 0.8]] * 5))
    domains = ["line-a"] * 5 + ["line-b"] * 5
    place = table.schema.get_field_index("domain")
    by_domain = measure_domains(table.set_column(place, "domain", pa.array(domains)))
    assert {domain: row["accuracy"] for domain, row in by_domain.items()} == {"line-a": 1.0, "line-b": 0.0}


def test_summaries_are_equal_for_equal_predictions() -> None:
    p = np.random.default_rng(0).dirichlet([1, 1], 60)
    table = predictions(["a", "b"] * 30, p)
    info = {"classes": ["a", "b"], "strategy": "probe", "backbone": "x"}
    assert summarise(table, info, PARAMS) == summarise(table, info, PARAMS)
