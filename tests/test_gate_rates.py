"""The gate's own error rates at a smaller scale than `python -m benchmarks.gate`, and that a broken gate shows in them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import coverage, gate_chart, verdicts
from benchmarks.populations import Change, Population, simulated
from benchmarks.record import RESULTS
from benchmarks.verdicts import Case
from benchmarks.versions import Versions
from pipeline.params import Gate

# Fewer draws than the benchmark's 2,000: the bounds leave room for chance.
WORSE, EQUAL = Change(losses=0.05), Change(wins=0.06, losses=0.06)


@pytest.fixture(scope="module")
def single() -> Population:
    return simulated(accuracy=0.9, classes=6, group=1, alike=0, seed=0)


@pytest.fixture(scope="module")
def shots() -> Population:
    return simulated(accuracy=0.9, classes=3, group=7, alike=0.6, seed=1)


def rate(case: Case, draws: int) -> float:
    return float(verdicts.rates(case, draws, seed=0)["share"])


def worse(population: Population) -> Case:
    return Case("worse", population, WORSE, "PROMOTE", 0.01, domains=False)


def at_the_bound() -> Case:
    population = verdicts.at_the_bound(20, 0.5, seed=2)
    return Case("bound", population, None, "recall fails", 0.05, recall_bound=0.5)


def test_what_is_planted_is_the_truth(single: Population, shots: Population) -> None:
    generator = np.random.default_rng(0)
    for population in (single, shots):
        rows = np.arange(len(population.labels))
        for change in (WORSE, EQUAL, replace(WORSE, where="classes"), replace(EQUAL, alike=0.5)):
            ours = population.changed(rows, population.groups, change, generator)
            right = ours.argmax(axis=1) == population.labels
            won, lost = (right & ~population.right).mean(), (~right & population.right).mean()
            assert (won, lost) == pytest.approx((change.wins, change.losses), abs=0.012)
    drawn, groups = shots.draw(500, generator)
    assert len(drawn) == len(groups) == 500
    assert all(len(set(shots.groups[drawn[groups == group]])) == 1 for group in range(20))


def test_one_that_is_five_points_worse_is_not_promoted(single: Population) -> None:
    assert rate(worse(single), 40) == 0


def test_one_that_is_equal_is_rarely_rejected(single: Population) -> None:
    assert rate(Case("equal", single, EQUAL, "REJECT", 0.05), 40) <= 0.15


def test_twenty_classes_at_the_bound_are_rarely_rejected() -> None:
    assert rate(at_the_bound(), 40) <= 0.15


def test_the_intervals_hold_the_truth(shots: Population) -> None:
    rows = {row.interval: row.covered / row.draws for row in coverage.metrics(shots, 300, 100, seed=0)}
    assert set(rows) == {*coverage.METRICS, "recall"}
    assert min(rows.values()) >= 0.87, rows
    paired = coverage.paired(300, 0.12, -0.06, 7, 0.6, 300, seed=0)
    assert 0.91 <= paired.covered / paired.draws <= 0.985


def test_the_whole_gate_as_it_ships_rarely_rejects_an_equal_one_and_sees_a_fragile_one(
    single: Population,
) -> None:
    unsure = Change(wins=0.04, losses=0.04, where="unsure")
    case = Case("whole", single, unsure, "REJECT", 0.05, whole=Gate(), versions=Versions(right=0.7))
    checks = verdicts.draw(case, np.random.default_rng(0)).checks
    names = {check.name.split("/")[0] for check in checks}
    assert {"accuracy", "ece", "recall", "slice", "gap", "robustness", "noninferiority"} <= names
    kinds = {check.name.split("/")[1] for check in checks if check.name.startswith("noninferiority/")}
    assert kinds == {"domain", "image_size", "brightness", "class"}
    assert rate(case, 20) <= 0.15
    assert rate(replace(case, versions=Versions(right=0.7, less=1.2)), 5) == 1


def test_the_intervals_of_robustness_and_of_a_gap_hold_the_truth() -> None:
    for row in coverage.robustness(Versions(right=0.7, less=0.2, alike=0.5), 60, 7, 150, seed=0):
        assert 0.88 <= row.covered / row.draws <= 0.99, row
    row = coverage.gap(250, (0.8, 0.6), 1, 0.0, 150, seed=0)
    assert 0.88 <= row.covered / row.draws <= 0.99


def test_what_becomes_right_and_wrong_where_it_is_unsure_leaves_the_calibration() -> None:
    calibrated = simulated(accuracy=0.9, classes=6, group=1, alike=0, seed=3, overconfidence=1.0)
    rows, generator = np.tile(np.arange(len(calibrated.labels)), 5), np.random.default_rng(0)
    change = Change(wins=0.03, losses=0.03, where="unsure")
    ours = calibrated.changed(rows, np.arange(len(rows)), change, generator)
    right = ours.argmax(axis=1) == calibrated.labels[rows]
    sure = ours.max(axis=1)
    for low, high in ((0.4, 0.7), (0.7, 0.95), (0.95, 1.0)):
        part = (sure > low) & (sure <= high)
        was = calibrated.right[rows][part].mean()
        assert right[part].mean() == pytest.approx(was, abs=0.02), (low, high)


def test_a_margin_that_is_not_held_shows(single: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "COMPARISON", replace(verdicts.COMPARISON, noninferiority_margin=0.1))
    assert rate(worse(single), 20) > 0.3


def test_twenty_tests_without_holm_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.checks.holm", lambda p_values: p_values)
    assert rate(at_the_bound(), 20) > 0.25


def test_intervals_that_take_shots_for_images_show(
    shots: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.metrics.intraclass", lambda values, groups: 0.0)
    monkeypatch.setattr("pipeline.paired.intraclass", lambda values, groups: 0.0)
    rows = {row.interval: row.covered / row.draws for row in coverage.metrics(shots, 300, 100, seed=0)}
    assert rows["accuracy"] < 0.87
    paired = coverage.paired(300, 0.12, -0.06, 7, 0.6, 300, seed=0)
    assert paired.covered / paired.draws < 0.88


def test_the_recorded_rates_meet_their_goals_and_name_what_does_not(tmp_path: Path) -> None:
    details = json.loads((RESULTS / "gate.json").read_text(encoding="utf-8"))["details"]
    assert details["draws"] >= 2000
    for row in details["verdicts"]:
        assert row["draws"] >= 2000
        assert row["met"], row["case"]
        assert row["ci95"][0] <= row["share"] <= row["ci95"][1]
    missed = [row for row in details["coverage"] if not row["met"]]
    assert len(details["missed"]) == len(missed)
    field = [row for row in details["coverage"] if row["field"]]
    assert all(row["share"] >= 0.93 for row in field), "none claims more than it knows"
    assert sum(row["met"] for row in field) >= 0.93 * len(field), "and few hold the truth too often"
    gate_chart.draw(tmp_path / "gate.png", details)
    assert (tmp_path / "gate.png").read_bytes()[:4] == b"\x89PNG"
