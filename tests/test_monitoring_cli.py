"""``python -m monitoring``: help, words with figures, the next command, and errors without a traceback."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from monitoring.__main__ import main
from monitoring.journal import Journal
from monitoring.watch import wake
from pipeline.artifacts import Workspace
from pipeline.params import Release
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
    assert "less sharp (edges" in alarm
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


def test_why_did_it_not_retrain_last_night_in_two_sentences_with_figures(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    alarmed(workspace)
    assert main(["why", "--last", "1"]) == 0
    said = capsys.readouterr().out.strip()
    assert len(re.findall(r"[a-z0-9)`]\.(?= [A-Z]|$)", said)) == 2, said
    assert "0 of 20 asked labels are back; 10 start a retrain." in said
    assert "In the 24 h before, 100 images were seen in 2 windows" in said
    assert said.endswith("0 labels came back and 0 retrains started.")


def moved(workspace: Workspace, state: str, **changes: object) -> None:
    """The open episode straight into a state, as its steps would have brought it there."""
    with Journal(workspace.journal) as journal:
        episode = journal.open_episode()
        assert episode is not None
        columns = ", ".join(f"{name} = ?" for name in ("state", *changes))
        journal._db.execute(f"UPDATE episodes SET {columns}", (state, *changes.values()))  # noqa: S608


@pytest.mark.parametrize(
    ("state", "changes", "meaning", "words"),
    [
        ("needs_human", {"asks": "rejected"}, "No retrain: a person is needed", "monitoring approve --why"),
        (
            "needs_human",
            {"asks": "labels"},
            "No retrain: a person is needed",
            "0 of 20 asked labels are back, 10 start",
        ),
        ("needs_human", {"asks": "verdict"}, "No retrain: a person is needed", "reports/verdict.html"),
        (
            "rejected",
            {"labels_used": 15},
            "No retrain: a person is needed",
            "trained on 15 labels was not promoted",
        ),
        ("infra_validating", {}, "Release", "passed its verdict: its release waits"),
        (
            "shadow",
            {"challenger": "d" * 64},
            "the challenger answers in shadow",
            "0 of 50 images beside the champion",
        ),
        (
            "failed",
            {"retrain_started": (START + timedelta(hours=4)).isoformat()},
            "No retrain",
            "0 of 20 asked",
        ),
    ],
)
@pytest.mark.slow
def test_why_and_status_have_words_for_every_state(
    workspace: Workspace,
    capsys: pytest.CaptureFixture[str],
    state: str,
    changes: dict[str, object],
    meaning: str,
    words: str,
) -> None:
    alarmed(workspace)
    moved(workspace, state, **changes)
    settings = replace(PARAMS, release=Release(shadow_images=50))
    wake(workspace, settings, now=START + timedelta(hours=6), draw=False)
    assert main(["why", "--last", "1"]) == 0
    said = capsys.readouterr().out
    assert meaning in said
    assert words in said
    assert len(re.findall(r"[a-z0-9)`]\.(?= [A-Z]|$)", said.strip())) == 2, said
    assert main(["status"]) == 0
    assert "Next  " in capsys.readouterr().out


def test_approve_lets_what_waits_go_on_and_says_who_and_why(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["approve", "--why", "x"]) == 1
    assert "no episode waits for anybody" in capsys.readouterr().err
    alarmed(workspace)
    moved(workspace, "needs_human", asks="release")
    assert main(["approve", "--why", "checked on the line", "--by", "ann"]) == 0
    assert "is infra_validating" in capsys.readouterr().out
    moved(workspace, "needs_human", asks="rejected")
    assert main(["approve", "--why", "a new backbone", "--by", "ann"]) == 0
    assert "is awaiting_labels" in capsys.readouterr().out
    assert main(["why", "--last", "1"]) == 0
    assert re.search(
        r"approved by ann at .* UTC: a new backbone",
        capsys.readouterr().out.replace("Approved by", "approved by"),
    )
    assert main(["dismiss", "--why", "lamp replaced"]) == 0
    assert main(["approve", "--why", "look again", "--by", "ann"]) == 0
    assert "drift like that of episode" in capsys.readouterr().out
    assert main(["approve", "--why", "twice"]) == 1


def test_what_is_champion_already_is_not_dismissed(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    alarmed(workspace)
    moved(workspace, "observing")
    assert main(["dismiss", "--why", "x"]) == 1
    assert "its challenger is champion" in capsys.readouterr().err
