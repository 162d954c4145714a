"""``python -m monitoring``: help, words with figures, the next command, and errors without a traceback."""

import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from monitoring.__main__ import main
from monitoring.watch import wake
from pipeline.artifacts import Workspace
from tests.monitored import START, World, answer, params_for_tests, promote, workspace_at

PARAMS = params_for_tests()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VISIONLOOP_HOME", raising=False)
    (tmp_path / "params.yaml").write_text("label: {budget: 20, min_labels: 10}\n", encoding="utf-8")
    return workspace_at(tmp_path)


def alarmed(workspace: Workspace) -> None:
    world = World()
    digest = promote(workspace, [world.shot() for _ in range(150)])
    answer(workspace, digest, [world.shot() for _ in range(50)])
    wake(workspace, PARAMS, now=START + timedelta(hours=1), draw=False)
    wake(workspace, PARAMS, now=START + timedelta(hours=2), draw=False)
    wake(workspace, PARAMS, now=START + timedelta(hours=3), draw=False)
    dark = [world.shot(dark=0.6) for _ in range(50)]
    answer(workspace, digest, dark, start=START + timedelta(hours=4), source="line-b")
    wake(workspace, PARAMS, now=START + timedelta(hours=5), draw=False)


def test_status_says_that_the_log_is_lossy(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert "lossy" not in capsys.readouterr().out
    workspace.params.write_text("log: {mode: lossy}\n", encoding="utf-8")
    assert main(["status"]) == 0
    assert capsys.readouterr().out.startswith("Log       lossy (log.mode): answers may be missing")


def test_every_verb_has_help() -> None:
    here = Path(__file__).resolve().parent.parent
    for arguments in (["--help"], ["label", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "monitoring", *arguments],
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0
        assert "Traceback" not in done.stderr
    assert "--new-class" in done.stdout


def test_before_anything_was_watched_it_says_what_to_run(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status"]) == main(["why"]) == main(["queue"]) == 0
    out = capsys.readouterr().out
    assert out.count("python -m flows.watch") == 2
    assert "No episode is open" in out


def test_status_shows_the_champion_the_windows_and_the_next_command(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    alarmed(workspace)
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "Champion" in out
    assert "quiet" in out
    assert "drift_open" in out
    assert "20 asked in var/queue/" in out
    assert "python -m monitoring label var/queue/" in out


def test_why_answers_in_words_with_figures(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    alarmed(workspace)
    assert main(["why"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert "No retrain: labels are awaited" in lines[0]
    assert "0 of 20 asked labels are back; 10 start a retrain" in lines[0]
    alarm = next(line for line in lines if "Alarm" in line)
    assert "% darker" in alarm
    began = re.search(r"since image (\d+) \(2026-03-01", alarm)
    assert began is not None
    assert 48 <= int(began[1]) <= 53  # the 51st is the first dark one
    # Two wake-ups with the same answer are one line.
    assert sum("Too few images to say (2 times since" in line for line in lines) == 1
    assert main(["why", "--last", "1"]) == 0
    assert len(capsys.readouterr().out.strip().splitlines()) == 1


def test_queue_label_and_dismiss(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    alarmed(workspace)
    assert main(["queue"]) == 0
    assert "20 asked, 0 labels back" in capsys.readouterr().out
    table = next(workspace.queue.glob("*/queue.csv"))
    text = table.read_text(encoding="utf-8").replace(",,\n", ",pit,\n")
    table.write_text(text, encoding="utf-8")
    assert main(["label", str(table), "--by", "ann"]) == 0
    out = capsys.readouterr().out
    assert "20 labels taken for the domain 'line-b'" in out
    assert "python -m flows.watch --act" in out
    assert main(["dismiss", "--why", "lamp replaced"]) == 0
    assert main(["dismiss", "--why", "again"]) == 1
    assert "nothing to dismiss" in capsys.readouterr().err


def test_errors_are_one_sentence_and_exit_1(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    alarmed(workspace)
    (workspace.root / "bad.csv").write_text("image_id,label\nabc,pitt\n", encoding="utf-8")
    assert main(["label", "bad.csv"]) == 1
    assert main(["label", "nowhere"]) == 1
    (workspace.root / "params.yaml").write_text("labell: {}\n", encoding="utf-8")
    assert main(["label", "bad.csv"]) == 1
    workspace.journal.write_bytes(os.urandom(4096))
    assert main(["why"]) == 1
    err = capsys.readouterr().err
    assert "did you mean 'pit'?" in err
    assert "did you mean 'label'?" in err
    assert "not a readable journal" in err
    assert "Traceback" not in err
