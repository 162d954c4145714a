"""Every planted fault is refused, by the gate that must, in its words; and the drill itself can fail."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import record
from benchmarks.errors import ContenderError
from benchmarks.fire_drill import kept
from flows import lineage
from flows.drill_workspace import CHAIN, Drill, Fault
from flows.fire_drill import Refusal, Result, all_faults, judged, told
from pipeline.artifacts import write_json

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
    assert [fault.name for fault in faults if (fault.gate is None) != bool(fault.escapes)] == []


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


def results(faults: list[Fault], gate: str | None = None) -> list[Result]:
    """As if each had been refused by the gate that must, or all by ``gate``."""
    return [
        judged(fault, [Refusal(gate or fault.gate, "")] if fault.gate else [], 0.0)
        for fault in (replace(fault, words="") for fault in faults)
    ]


def test_a_report_says_of_which_commit_it_is_what_escapes_and_whether_it_is_whole() -> None:
    report = told(results(all_faults()))
    assert report["whole"] is True
    assert told(results(all_faults()[:3]))["whole"] is False
    assert report["commit"] == lineage.head(ROOT)
    escaped = "\n".join(str(line) for line in report["not_caught"])  # type: ignore[attr-defined]
    for words in ("training and test alike", "first model", "one cropped", "timings", "stress.parquet"):
        assert words in escaped
    assert "under another name" in str(report["hardest_escape"])
    assert "judging the evidence again" in str(report["hardest_to_catch"])


def test_only_a_whole_success_of_this_commit_is_kept(tmp_path: Path) -> None:
    report = tmp_path / "fire_drill.json"
    whole = told(results(all_faults()))
    for content, words in (
        (told(results(all_faults()[:3])), "a part of a drill"),
        (told(results(all_faults(), gate="gate: nobody")), "no success: corrupt_jpeg"),
        (whole | {"commit": "0" * 40}, "of 000000000000"),
    ):
        write_json(report, content)
        with pytest.raises(ContenderError, match=words):
            kept(report, tmp_path)
    with pytest.raises(ContenderError, match=r"flows\.fire_drill. first"):
        kept(tmp_path / "none.json", tmp_path)
    write_json(report, whole)
    recorded = json.loads(kept(report, tmp_path / "results").read_text())
    assert record.faults(recorded) == []
    assert recorded["details"]["refused"] == whole["refused"] >= 30  # type: ignore[operator]
    assert recorded["details"]["hardest_escape"] == whole["hardest_escape"]


TWINS = {"cropped_copy", "mirrored_copy", "one_cropped_copy", "wrong_in_both", "half_written", "empty_file"}
"""Faults whose gate another one tries as well, or that none refuses: `make fire-drill` plants them too."""


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_faults_are_refused_by_the_gate_that_must(tmp_path: Path) -> None:
    environment = os.environ | {"VISIONLOOP_HOME": str(tmp_path / "var"), "PYTHONPATH": str(ROOT)}
    planted = [fault for fault in all_faults() if fault.name not in TWINS]
    assert {fault.gate for fault in planted} == {fault.gate for fault in all_faults()}
    done = subprocess.run(
        [sys.executable, "-m", "flows.fire_drill", *(fault.name for fault in planted)], cwd=tmp_path,
        env=environment, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    report = json.loads((tmp_path / "reports/fire_drill_part.json").read_text())
    assert report["control"] == "PROMOTE"
    assert report["refused"] == report["faults"] >= 30
    assert report["as_expected"] == len(report["results"]) == len(planted)
    assert report["not_caught"]
    assert str(tmp_path) not in json.dumps(report), "it is to be kept: no place on this machine"
    assert not (tmp_path / "reports/fire_drill.json").exists(), "a part is no whole drill"
