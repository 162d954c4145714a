"""Accuracy without labels, harm from a few labels, and what few images could have shown."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from monitoring.drift import log10_threshold, yardstick
from monitoring.estimate import RECORDED, estimate, estimated, measured
from monitoring.journal import Journal
from monitoring.reference import load
from monitoring.risk import confidence_sequence, judged
from monitoring.sensitivity import smallest
from monitoring.watch import wake
from monitoring.wealth import Wealth
from pipeline.artifacts import STRESS, STRESS_TABLE, write_table
from pipeline.errors import DataError
from pipeline.registry import Registry
from tests.monitored import START, World, answer, params_for_tests, promote, workspace_at
from tests.test_drift import Stream, images_of, window_of
from tests.test_watch import drifted, label

ROOT = Path(__file__).parents[1]


def sure(n: int, rng: np.random.Generator, doubt: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences of a calibrated network, and whether it was right; ``doubt`` takes from its confidence."""
    confidence = np.clip(rng.beta(6, 2, n) - doubt, 0.05, 0.999)
    return confidence, rng.random(n) < confidence


def test_a_calibrated_network_knows_how_much_worse_it_has_become() -> None:
    rng = np.random.default_rng(0)
    known, right = sure(400, rng)
    unknown, truth = sure(400, rng, doubt=0.25)
    found = estimated(known, right, unknown)
    assert found.before == pytest.approx(right.mean())
    assert found.low <= truth.mean() <= found.high
    assert abs(found.accuracy - truth.mean()) < 0.2 < found.before - truth.mean()
    assert found.low <= found.accuracy <= found.high


def test_the_interval_holds_without_drift() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(60):
        known, right = sure(200, rng)
        unknown, _ = sure(100, rng)
        found = estimated(known, right, unknown)
        inside += found.low <= 0.75 <= found.high  # the mean of beta(6, 2)
    assert inside >= 54


def test_the_interval_reaches_as_far_as_the_estimate_was_off_on_corruptions() -> None:
    """A network that stays sure while it grows wrong: the noise of the samples does not hold the truth, this does."""
    rng = np.random.default_rng(2)
    known, right = sure(300, rng)
    blind = [(sure(96, rng)[0], rng.random(96) < 0.75 - 0.02 * step) for step in range(25)]
    error = measured(known, right, blind[:-1])
    assert error.corruptions == 24
    assert 0.35 < error.over < 0.6
    assert error.under < 0.2
    unknown, truth = blind[-1]
    bare, wide = estimated(known, right, unknown), estimated(known, right, unknown, error)
    assert bare.accuracy == wide.accuracy
    assert bare.low > truth.mean() + 0.2
    assert wide.low <= truth.mean() + 0.1
    assert wide.low == pytest.approx(wide.accuracy - error.over)
    assert 0 <= wide.low <= bare.low <= bare.high <= wide.high <= 1
    said = f"off on 24 corruptions of this champion's held-out images ({error.mean:.2f} on average)"
    assert wide.words.endswith(said)
    assert "guessed from the confidence" in wide.words
    assert measured(known, right, blind[:10]) is RECORDED, "too few to be the worst of"


def test_what_is_recorded_holds_the_recorded_cells() -> None:
    recorded = json.loads((ROOT / "benchmarks/results/drift.json").read_text(encoding="utf-8"))
    cells = recorded["details"]["estimates"]["cells"]
    off = np.array([cell["estimated"] - cell["truth"] for cell in cells])
    within = np.mean((off <= RECORDED.over) & (off >= -RECORDED.under))
    assert within >= 0.94
    assert np.abs(off).mean() == pytest.approx(RECORDED.mean, abs=0.01)
    assert (
        "recorded corruptions of other champions' images"
        in estimated(*sure(50, np.random.default_rng(0)), np.full(20, 0.7), RECORDED).words
    )


def test_the_release_keeps_the_stress_test_and_the_watch_reads_its_champions_rows(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    digest = promote(workspace, [world.shot() for _ in range(20)])
    registry = Registry(workspace.registry)
    assert load(registry, digest).corrupted == ()
    rows = [
        {"bundle": bundle, "image_id": str(n), "kind": kind, "name": name, "severity": severity,
         "predicted": "pit", "confidence": 0.9, "correct": None if kind == "foreign" else n < hits}
        for bundle, hits in ((digest, 3), ("0" * 64, 0))
        for kind, name, severity in (
            ("corruption", "clean", 0), ("corruption", "blur", 1), ("corruption", "jpeg", 5), ("foreign", "noise", 0)
        )
        for n in range(12)
    ]  # fmt: skip
    kept = registry.recipe_path(digest) / STRESS_TABLE
    write_table(kept, pa.Table.from_pylist(rows, STRESS))
    found = load(registry, digest).corrupted
    assert [len(confidence) for confidence, _ in found] == [12, 12]
    assert [int(right.sum()) for _, right in found] == [3, 3]
    kept.write_bytes(b"torn")
    with pytest.raises(DataError, match=r"stress\.parquet"):
        load(registry, digest)


def test_without_labels_in_the_reference_nothing_is_estimated() -> None:
    stream = Stream(1)
    assert estimate(stream.reference(60), stream.window(30)) is None


def test_a_confidence_sequence_holds_at_every_number_of_labels() -> None:
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(100):
        intervals = confidence_sequence(rng.random(150) < 0.8)
        missed += any(not low <= 0.8 <= high for low, high in intervals)
    assert missed <= 5
    assert intervals[-1][1] - intervals[-1][0] < 0.3
    assert confidence_sequence([1.0])[0][1] == 1.0


@pytest.mark.parametrize(("accuracy", "harm"), [(0.5, "harmful"), (0.99, "harmless"), (0.86, "unknown")])
def test_harm_is_told_from_no_harm_or_left_open(accuracy: float, harm: str) -> None:
    right = np.random.default_rng(3).random(120) < accuracy
    found = judged(list(right), 0.85)
    assert found.harm == harm
    assert f"of 120 randomly asked labels {found.accuracy:.0%}" in found.words


def test_the_journal_holds_the_estimate_and_the_harm(tmp_path: Path) -> None:
    workspace, _, _, outcome = drifted(tmp_path)
    with Journal(workspace.journal) as journal:
        alarm = next(step for step in journal.steps() if step.decision == "drift_open")
    found = alarm.detail["estimate"]
    assert 0 <= found["low"] <= found["accuracy"] <= found["high"] <= 1
    assert "Without labels the accuracy" in alarm.reason
    label(workspace, outcome, 12)  # all called "pit": most of the champion's answers were wrong
    wake(workspace, params_for_tests(), now=START + timedelta(hours=4), draw=False)
    with Journal(workspace.journal) as journal:
        last = journal.steps(1)[0]
    assert last.detail["labelled"]["n"] > 0
    assert last.detail["labelled"]["harm"] in ("harmful", "unknown")
    assert "randomly asked labels" in last.reason
    assert json.dumps(last.detail)


def test_few_images_say_what_they_could_have_shown(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    digest = promote(workspace, [world.shot() for _ in range(100)])
    answer(workspace, digest, [world.shot() for _ in range(18)])
    outcome = wake(workspace, params_for_tests(), now=START + timedelta(hours=1), draw=False)
    assert outcome.decision == "insufficient_data"
    assert "with 18 images only a change as large as this would have shown" in outcome.reason
    assert "darker by" in outcome.reason


def test_the_smallest_change_is_the_one_that_half_of_the_streams_show() -> None:
    stream = Stream(5)
    measure = yardstick(stream.reference(200), 0.01)
    found = smallest(measure, 25, 0.01)
    assert found.darker is not None
    bar = log10_threshold(0.01) * np.log(10)

    def alarms(change: float) -> int:
        count = 0
        for _ in range(20):
            points, statistics, chances = stream.draw(25)
            statistics[:, 0] -= change
            wealth = Wealth(measure.events)
            window = window_of(points, statistics, chances)
            log_e = [wealth.step(*image) for image in images_of(measure, window)]
            count += max(log_e) >= bar
        return count

    assert alarms(found.darker / 2) <= 4
    assert alarms(found.darker) >= 7
    assert alarms(1.5 * found.darker) >= 16
    assert smallest(measure, 2, 0.01).words == "with 2 images no change, however large, would have shown"
    more = smallest(measure, 100, 0.01)
    assert more.darker is not None
    assert more.darker < found.darker
