"""k-fold cross-validation of a strategy: every image judged once, by a network that has not seen it or its part."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import train
from pipeline.artifacts import SPLIT, Workspace, read_table, write_table
from pipeline.params import Params
from pipeline.transfer.checkpoint import read_checkpoint
from pipeline.transfer.folds import cross_validate
from pipeline.transfer.task import Candidate, Task
from tests import tiny_training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_training.save_weights(tmp_path_factory.mktemp("weights") / "local")


def made(root: Path, weights: Path, **settings: Any) -> Workspace:
    """24 images a class in parts of two shots; 20 of them train or validate."""
    workspace = tiny_training.make(root, weights, train=settings)
    rows = read_table(workspace.split, SPLIT).to_pylist()
    for place, row in enumerate(rows):
        row["group"] = f"part-{place // 6}-{'validation test'.find(row['split'])}-{place % 6 // 2}"
    write_table(workspace.split, type(read_table(workspace.split, SPLIT)).from_pylist(rows, SPLIT))
    return workspace


def info_of(workspace: Workspace) -> dict[str, Any]:
    train.run(workspace, Params.load(workspace.params))
    return read_checkpoint(workspace.checkpoint)


def test_every_image_is_judged_once_by_a_network_that_has_not_seen_its_part(
    weights: Path, tmp_path: Path
) -> None:
    workspace = made(tmp_path / "w", weights, strategy="probe", folds=4)
    params = Params.load(workspace.params)
    task = train.task_of(workspace, params, "cpu")
    seen: list[Task] = []

    def watched(variant: Task) -> Candidate:
        seen.append(variant)
        return train.train(variant)

    found = cross_validate(task, "probe", watched)
    assert found.figures["folds"] == len(seen) == 4
    assert found.figures["n"] == len(task.data.labels) == 60
    everything = set(task.data.image_ids)
    held = [everything - set(variant.data.image_ids) for variant in seen]
    assert sorted(image for part in held for image in part) == sorted(everything)
    group = dict(zip(task.data.image_ids, task.data.groups, strict=True))
    for variant, left_out in zip(seen, held, strict=True):
        data = variant.data
        trained, validation = ({data.groups[row] for row in rows} for rows in (data.train, data.validation))
        assert not trained & validation
        assert not (trained | validation) & {group[image] for image in left_out}
        assert set(data.labels[data.train]) == {0, 1, 2}
        assert variant.curves is None
        np.testing.assert_array_equal(
            variant.pixels[0], task.pixels[task.data.image_ids.index(data.image_ids[0])]
        )
    assert found.figures["accuracy"] == pytest.approx(
        np.average(found.figures["fold_accuracy"], weights=[len(h) for h in held]), abs=1e-4
    )
    low, high = found.figures["accuracy_ci95"]
    assert low < found.figures["accuracy"] < high


def test_the_train_stage_reports_it_and_trains_the_same_network_as_without(
    weights: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"strategy": "finetune", "epochs": 2, "batch_size": 16}
    plain = info_of(made(tmp_path / "plain", weights, **settings))
    crossed = info_of(made(tmp_path / "crossed", weights, **settings, folds=2))
    assert plain["cross_validation"] is None
    figures = crossed["cross_validation"]
    assert figures["strategy"] == "finetune"
    assert len(figures["fold_accuracy"]) == 2
    assert figures["log_loss_ci95"][0] < figures["log_loss"] < figures["log_loss_ci95"][1]
    assert "2-fold cross-validation of finetune over 60 training and validation images" in crossed["report"]
    assert crossed["sha256"] == plain["sha256"]
    assert not (tmp_path / "crossed/var/train").exists()


def test_an_imbalance_plan_is_made_again_for_each_fold(weights: Path, tmp_path: Path) -> None:
    workspace = made(tmp_path / "w", weights, strategy="probe", folds=3)
    balance = json.loads(workspace.balance.read_text())
    balance["plan"] = "class_weights"
    for label, weight in zip(tiny_training.CLASSES, (0.5, 2.0, 0.5), strict=True):
        balance["classes"][label] = {"weight": weight}
    workspace.balance.write_text(json.dumps(balance))
    task = train.task_of(workspace, Params.load(workspace.params), "cpu")

    def checked(variant: Task) -> Candidate:
        plan, labels = variant.plan, variant.data.labels[: variant.data.trained]
        assert len(plan.probe_weights) == len(labels)
        assert plan.probe_weights.mean() == pytest.approx(1)
        dots = plan.probe_weights[labels == 1]
        assert dots / plan.probe_weights[labels == 0][0] == pytest.approx(np.full(len(dots), 4.0))
        return train.train(variant)

    assert cross_validate(task, "probe", checked).figures["folds"] == 3


def test_domains_weigh_in_each_fold_as_they_do_in_training(weights: Path, tmp_path: Path) -> None:
    workspace = made(tmp_path / "w", weights, strategy="probe", folds=3, domain_balance=1.0)
    rows = read_table(workspace.split, SPLIT).to_pylist()
    for number, row in enumerate(rows):
        row["domain"] = "new" if number % 24 < 6 else "old"
    write_table(workspace.split, type(read_table(workspace.split, SPLIT)).from_pylist(rows, SPLIT))
    task = train.task_of(workspace, Params.load(workspace.params), "cpu")

    def checked(variant: Task) -> Candidate:
        domains = np.array(variant.data.domains[: variant.data.trained])
        sums = [variant.plan.probe_weights[domains == name].sum() for name in ("new", "old")]
        assert sums[0] == pytest.approx(sums[1])
        assert (domains == "new").sum() < (domains == "old").sum()
        return train.train(variant)

    assert cross_validate(task, "probe", checked).figures["folds"] == 3


def test_classes_of_one_part_can_not_be_cross_validated_and_it_says_so(weights: Path, tmp_path: Path) -> None:
    workspace = made(tmp_path / "w", weights, strategy="probe", folds=5)
    rows = read_table(workspace.split, SPLIT).to_pylist()
    for row in rows:
        row["group"] = row["label"]
    write_table(workspace.split, type(read_table(workspace.split, SPLIT)).from_pylist(rows, SPLIT))
    info = info_of(workspace)
    assert info["cross_validation"]["folds"] == 0
    assert "Not cross-validated: a class has too few groups" in info["report"]
