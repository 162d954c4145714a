"""Plans for rare classes are tested on held-out folds: one that hurts goes, noise changes nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import train
from pipeline.artifacts import SPLIT, Workspace, read_json, read_table, write_json, write_table
from pipeline.params import Balance, Params
from pipeline.transfer.checkpoint import read_checkpoint
from pipeline.transfer.examples import Examples
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.plan_test import compare_plans
from pipeline.transfer.task import Task
from tests import tiny_training
from tests.test_balance import plan, support
from tests.test_probe import CLASSES, clouds


def plan_of(name: str, weights: tuple[float, float, float], labels: np.ndarray) -> Plan:
    classes = {label: {"weight": weight} for label, weight in zip(CLASSES, weights, strict=True)}
    return Plan.of({"plan": name, "classes": classes}, labels, CLASSES)


def rare(spread: float = 2.5, few: int = 12) -> tuple[Examples, list[str]]:
    """150 images of each of two classes, a few of the third."""
    features, labels = clouds(150, spread)
    keep = np.concatenate([np.arange(300), 300 + np.arange(few)])
    labels = labels[keep]
    examples = Examples(features[None, keep], labels, np.ones(len(keep)), np.zeros(3))
    return examples, [str(row) for row in range(len(keep))]


def test_balance_contests_its_own_choice_only_and_only_where_classes_are_unequal() -> None:
    assert plan(support(a=100, b=33), Balance()).contested
    assert not plan(support(a=100, b=40), Balance()).contested
    assert not plan(support(a=100, b=33), Balance(plan="class_weights")).contested


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_a_plan_that_hurts_is_replaced(kind: Any) -> None:
    """Weights the wrong way round: the rare class counts next to nothing."""
    examples, groups = rare()
    labels = examples.labels
    wrong = plan_of("class_weights", (1.45, 1.45, 0.1), labels)
    others = [plan_of("none", (1, 1, 1), labels), plan_of("logit_adjustment", (1, 1, 1), labels)]
    outcome = compare_plans(examples, [wrong, *others], groups, kind, 0)
    assert outcome.plan.name == outcome.figures["kept"] == "logit_adjustment"
    row = outcome.figures["plans"]["logit_adjustment"]
    assert row["gain"] > row["standard_error"] > 0
    assert row["balanced_accuracy"] > outcome.figures["plans"]["class_weights"]["balanced_accuracy"]
    assert "is kept instead of the balance stage's class_weights" in outcome.report


def test_what_is_no_better_than_noise_changes_nothing() -> None:
    """Two plans that are the same: the first stays, whichever it is, and the difference is exactly none."""
    examples, groups = rare()
    same = [plan_of("none", (1, 1, 1), examples.labels), plan_of("class_weights", (1, 1, 1), examples.labels)]
    for first in (0, 1):
        outcome = compare_plans(examples, [same[first], same[1 - first]], groups, "logistic", 0)
        assert outcome.plan.name == same[first].name
        assert {row["gain"] for row in outcome.figures["plans"].values()} == {0.0}
        assert "no other is better" in outcome.report


def test_a_class_of_one_group_can_not_be_tested_and_says_so() -> None:
    examples, groups = rare()
    groups = [group if label < 2 else "one" for group, label in zip(groups, examples.labels, strict=True)]
    outcome = compare_plans(examples, [plan_of("none", (1, 1, 1), examples.labels)], groups, "logistic", 0)
    assert outcome.plan.name == "none"
    assert "one group only" in outcome.report


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_training.save_weights(tmp_path_factory.mktemp("weights") / "local")


def unequal(root: Path, weights: Path, balance: dict[str, Any]) -> Workspace:
    """A workspace with 96 training images of two classes each and 16 of `dots`, planned as ``balance`` says."""
    workspace = tiny_training.make(root, weights, per_class=144, train={"strategy": "probe"})
    rows = read_table(workspace.split, SPLIT).to_pylist()
    dots = [row for row in rows if row["label"] == "dots" and row["split"] == "train"]
    for row in dots[16:]:
        row["split"] = "excluded"
    write_table(workspace.split, type(read_table(workspace.split, SPLIT)).from_pylist(rows, SPLIT))
    write_json(workspace.balance, read_json(workspace.balance) | balance)
    return workspace


@pytest.mark.slow
def test_the_train_stage_reports_the_test_and_trains_by_its_outcome(weights: Path, tmp_path: Path) -> None:
    support = {"across": 1.48, "dots": 0.04, "down": 1.48}  # the wrong way round
    wrong = {
        "plan": "class_weights",
        "contested": True,
        "classes": {label: {"weight": weight} for label, weight in support.items()},
    }
    workspace = unequal(tmp_path / "w", weights, wrong)
    train.run(workspace, Params.load(workspace.params))
    info = read_checkpoint(workspace.checkpoint)
    found = info["imbalance"]
    assert found["plans"].keys() == {"none", "class_weights", "logit_adjustment"}
    assert found["balance_stage"] == "class_weights"
    assert found["kept"] != "class_weights"
    assert found["images"] == 208
    assert "the same as class_weights" in found["sampler"]
    assert f"{found['kept']} is kept instead" in info["report"]
    assert f"sampling plan {found['kept']}." in info["report"]


class EnoughSeenError(Exception):
    pass


@pytest.mark.slow
def test_a_contested_plan_weighs_domains_once(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = unequal(tmp_path / "w", weights, {"plan": "none", "contested": True})
    rows = read_table(workspace.split, SPLIT).to_pylist()
    for number, row in enumerate(rows):
        row["domain"] = "new" if number % 12 == 0 else "old"
    write_table(workspace.split, type(read_table(workspace.split, SPLIT)).from_pylist(rows, SPLIT))
    params = json.loads(workspace.params.read_text())
    params["train"]["domain_balance"] = 1.0
    workspace.params.write_text(json.dumps(params))
    tasks = []

    def stop(task: Task) -> None:
        tasks.append(task)
        raise EnoughSeenError

    monkeypatch.setattr(train, "train", stop)
    with pytest.raises(EnoughSeenError):
        train.run(workspace, Params.load(workspace.params))
    [task] = tasks
    data, plan = task.data, task.plan
    domains, labels = np.array(data.domains[: data.trained]), data.labels[: data.trained]
    once = plan.again(labels, data.classes).by_domain(domains.tolist(), 1.0)
    np.testing.assert_allclose(plan.probe_weights, once.probe_weights)
    new, old = (plan.probe_weights[(domains == name) & (labels == 0)] for name in ("new", "old"))
    assert len(set(domains)) == 2
    assert new[0] / old[0] == pytest.approx((domains == "old").sum() / (domains == "new").sum())


@pytest.mark.slow
def test_a_plan_that_was_asked_for_is_not_tested(weights: Path, tmp_path: Path) -> None:
    workspace = unequal(tmp_path / "w", weights, {"plan": "logit_adjustment", "contested": False})
    train.run(workspace, Params.load(workspace.params))
    info = read_checkpoint(workspace.checkpoint)
    assert info["imbalance"] is None
    assert "sampling plan logit_adjustment." in info["report"]
