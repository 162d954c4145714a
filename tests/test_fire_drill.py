"""Every planted fault is refused, by the gate that must, in its words; and the drill itself can fail."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from flows.drill_workspace import CHAIN, Drill, Fault
from flows.fire_drill import Refusal, all_faults, judged

ROOT = Path(__file__).resolve().parent.parent


def fault(gate: str | None, words: str = "") -> Fault:
    def nothing(drill: Drill) -> None:
        pass

    return Fault("name", "says", nothing, "gate", gate, words)


def test_there_are_many_faults_each_under_a_name_of_its_own() -> None:
    faults = all_faults()
    assert sum(fault.gate is not None for fault in faults) >= 30
    assert any(fault.gate is None for fault in faults)  # what nothing catches is said
    assert Counter(fault.name for fault in faults).most_common(1)[0][1] == 1
    assert {fault.start for fault in faults} <= set(CHAIN)


@pytest.mark.parametrize(
    ("expected", "words", "refused", "right"),
    [
        ("gate: size", "MB", [Refusal("gate: size", "12 MB")], True),
        ("gate: size", "MB", [Refusal("gate: ece", "x"), Refusal("gate: size", "12 MB")], True),
        ("gate: size", "MB", [Refusal("gate: size", "too large")], False),  # other words
        ("gate: size", "", [Refusal("gate: latency", "12 ms")], False),  # another gate
        ("gate: size", "", [], False),  # nobody
        (None, "", [], True),  # known to escape
        (None, "", [Refusal("gate: size", "12 MB")], False),  # caught after all: the list is out of date
    ],
)
def test_only_the_gate_that_must_in_its_words_counts(
    expected: str | None, words: str, refused: list[Refusal], right: bool
) -> None:
    assert judged(fault(expected, words), refused, 0.0).as_expected is right


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_every_fault_is_refused_by_the_gate_that_must(tmp_path: Path) -> None:
    environment = os.environ | {"VISIONLOOP_HOME": str(tmp_path / "var"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "flows.fire_drill"], cwd=tmp_path, env=environment, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    report = json.loads((tmp_path / "reports/fire_drill.json").read_text())
    assert report["control"] == "PROMOTE"
    assert report["refused"] == report["faults"] >= 30
    assert report["as_expected"] == len(report["results"])
    assert report["not_caught"]
