"""The balance stage: what it refuses, what it plans and why."""

import csv
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import artifacts
from pipeline.artifacts import Workspace
from pipeline.balance import Counts, count, effective_number_weights, plan, run
from pipeline.errors import DataError
from pipeline.params import Balance, Params


def support(**train: int) -> Counts:
    return {
        label: {"train": n, "validation": max(1, n // 5), "test": max(1, n // 4)}
        for label, n in train.items()
    }


def test_small_and_absent_classes_are_all_named_with_what_to_collect() -> None:
    counts = support(clean=100, crack=40) | {
        "pit": {"train": 4, "validation": 1, "test": 1},
        "patch": {"train": 12, "validation": 2, "test": 0},
        "gone": {"train": 0, "validation": 0, "test": 0},
    }
    with pytest.raises(DataError) as refused:
        plan(counts, Balance(min_per_class=10))
    message = str(refused.value)
    assert "pit: 4 in train, 6 more" in message
    assert "patch: 0 in test, 1 more" in message
    assert "gone: 0 in train, 10 more; 0 in test, 1 more" in message
    assert "crack" not in message
    assert "balance.min_per_class" in message


@pytest.mark.parametrize("counts", [{}, support(clean=100)])
def test_fewer_than_two_classes_are_refused(counts: Counts) -> None:
    with pytest.raises(DataError, match="at least two"):
        plan(counts, Balance())


@pytest.mark.parametrize(
    ("train", "expected", "words"),
    [
        ({"a": 100, "b": 40}, "none", "imbalance_ratio 3"),
        ({"a": 100, "b": 33}, "class_weights", "Cui"),
        ({"a": 500, "b": 20}, "logit_adjustment", "Menon"),
    ],
)
def test_auto_chooses_by_the_imbalance_and_says_why(train: dict[str, int], expected: str, words: str) -> None:
    chosen = plan(support(**train), Balance())
    assert chosen.plan == expected
    assert words in chosen.reason
    assert "b" in chosen.reason


def test_an_explicit_plan_is_taken_even_where_auto_would_not() -> None:
    chosen = plan(support(a=50, b=40), Balance(plan="sampler"))
    assert chosen.plan == "sampler"
    assert "asks for sampler" in chosen.reason
    assert chosen.classes["b"].weight > chosen.classes["a"].weight


def test_weights_have_mean_one_and_follow_rarity() -> None:
    weights = effective_number_weights({"a": 400, "b": 40, "c": 40})
    assert sum(weights.values()) / 3 == pytest.approx(1)
    assert weights["b"] == weights["c"]
    # Effective numbers by hand: (1 - .999^n) / .001
    assert weights["b"] / weights["a"] == pytest.approx((1 - 0.999**400) / (1 - 0.999**40))
    assert {c.weight for c in plan(support(a=50, b=40), Balance()).classes.values()} == {1.0}


def test_the_width_of_the_test_interval_follows_from_the_support() -> None:
    counts = {label: {"train": 50, "validation": 5, "test": n} for label, n in (("few", 10), ("many", 1000))}
    classes = plan(counts, Balance()).classes
    assert classes["few"].test_ci_width == pytest.approx(0.3866, abs=1e-3)  # Wilson of 9 of 10: .596 to .982
    assert classes["many"].test_ci_width == pytest.approx(0.0373, abs=1e-3)


def test_left_out_images_do_not_count_but_their_class_does() -> None:
    counts = count(["a", "a", "b"], ["train", "excluded", "excluded"])
    assert counts == {
        "a": {"train": 1, "validation": 0, "test": 0},
        "b": {"train": 0, "validation": 0, "test": 0},
    }


def split_table(rows: list[tuple[str, str]]) -> pa.Table:
    row = dict.fromkeys(artifacts.SPLIT.names, "x")
    return pa.Table.from_pylist(
        [row | {"label": label, "split": s} for label, s in rows], schema=artifacts.SPLIT
    )


def test_the_verb_writes_the_plan_and_its_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = Workspace(tmp_path, tmp_path / "var")
    rows = [
        (label, split)
        for label in ("<script>", "pit")
        for split in ("train", "validation", "test")
        for _ in range(12)
    ]
    artifacts.write_table(workspace.split, split_table(rows))
    assert run(workspace, Params()) == 0
    written = artifacts.read_json(workspace.balance)
    assert written["plan"] == "none"
    assert written["classes"]["pit"] == {
        "train": 12, "validation": 12, "test": 12, "weight": 1.0, "test_ci_width": pytest.approx(0.354, abs=0.01),
    }  # fmt: skip
    with (workspace.plots / "support.csv").open(newline="") as stream:
        plot = list(csv.DictReader(stream))
    assert {row["label"] for row in plot} == {"‹script›", "pit"}  # DVC pastes them into a page's script
    assert "plan: none" in capsys.readouterr().out


def test_the_verb_refuses_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = Workspace(tmp_path, tmp_path / "var")
    artifacts.write_table(workspace.split, split_table([("pit", "train")] * 20 + [("rare", "train")]))
    with pytest.raises(DataError, match="rare: 1 in train, 9 more"):
        run(workspace, Params())
    assert not workspace.balance.exists()
    assert "rare" in capsys.readouterr().out
