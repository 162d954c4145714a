"""One wake-up after another, end to end, on real files: quiet, alarm, queue, labels, retrain, promotion."""

import csv
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from monitoring.episodes import approve, dismiss, mark_rejected, mark_retrain_started
from monitoring.journal import Journal
from monitoring.label_intake import take
from monitoring.watch import Outcome, wake
from pipeline.artifacts import Workspace, digest_file
from tests.monitored import START, World, answer, params_for_tests, promote, walked, workspace_at

PARAMS = params_for_tests()


def woken(workspace: Workspace, hours: float) -> Outcome:
    return wake(workspace, PARAMS, now=START + timedelta(hours=hours), draw=False)


def drifted(tmp_path: Path, *, kept: bool = True) -> tuple[Workspace, World, str, Outcome]:
    """A quiet window, then darker images, and the wake-up that sees them."""
    workspace, world = workspace_at(tmp_path), World()
    digest = promote(workspace, [world.shot() for _ in range(150)])
    answer(workspace, digest, [world.shot() for _ in range(100)])
    assert woken(workspace, 1).decision == "quiet"
    dark = [world.shot(dark=0.6) for _ in range(60)]
    answer(workspace, digest, dark, start=START + timedelta(hours=2), source="line-b", kept=kept)
    return workspace, world, digest, woken(workspace, 3)


def label(workspace: Workspace, outcome: Outcome, count: int) -> None:
    assert outcome.queue is not None
    with (outcome.queue / "queue.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    answers = workspace.root / "answers.csv"
    with answers.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image_id", "label"])
        writer.writerows([row["image_id"], "pit"] for row in rows[:count])
    assert outcome.episode is not None
    take(workspace, PARAMS, answers, by="ann", now=outcome.episode.opened + timedelta(minutes=5))


def decisions(workspace: Workspace) -> list[str]:
    with Journal(workspace.journal) as journal:
        return [step.decision for step in journal.steps()]


def test_without_a_champion_there_is_nothing_to_watch(tmp_path: Path) -> None:
    outcome = woken(workspace_at(tmp_path), 1)
    assert outcome.decision == "no_champion"
    assert "flows.release" in outcome.reason


def test_few_images_are_insufficient_and_wait(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    digest = promote(workspace, [world.shot() for _ in range(100)])
    answer(workspace, digest, [world.shot() for _ in range(12)])
    assert woken(workspace, 1).decision == "insufficient_data"
    answer(workspace, digest, [world.shot() for _ in range(12)], start=START + timedelta(hours=1), writer="b")
    outcome = woken(workspace, 2)
    assert outcome.decision == "quiet"
    assert len(outcome.windows[0].window) == 24


def test_the_alarm_explains_itself_and_asks(tmp_path: Path) -> None:
    _, _, digest, outcome = drifted(tmp_path)
    assert outcome.decision == "drift_open"
    assert not outcome.retrain
    assert "% poorer in contrast" in outcome.reason
    assert "; all of these come from source 'line-b', of the other images " in outcome.reason
    assert outcome.episode is not None
    assert outcome.episode.champion == digest
    # Since the first dark image, to the second.
    assert abs((outcome.episode.since - (START + timedelta(hours=2))).total_seconds()) <= 2
    assert outcome.evidence is not None
    assert (outcome.evidence / "contact-sheet.png").stat().st_size > 5000
    assert "% poorer in contrast" in (outcome.evidence / "explanation.txt").read_text(encoding="utf-8")
    assert outcome.queue is not None
    images = list((outcome.queue / "images").iterdir())
    assert len(images) == 20
    assert all(digest_file(path) == path.stem for path in images)


def test_a_second_alarm_is_the_same_episode(tmp_path: Path) -> None:
    workspace, world, digest, first = drifted(tmp_path)
    answer(
        workspace,
        digest,
        [world.shot(dark=0.5) for _ in range(50)],
        start=START + timedelta(hours=4),
        writer="b",
    )
    second = woken(workspace, 5)
    assert second.decision == "awaiting_labels"
    assert second.episode is not None
    assert first.episode is not None
    assert second.episode.id == first.episode.id
    assert decisions(workspace).count("drift_open") == 1
    assert "drifting" in decisions(workspace)


@pytest.mark.slow
def test_labels_lead_to_a_retrain_and_the_promotion_closes_the_episode(tmp_path: Path) -> None:
    workspace, world, _, outcome = drifted(tmp_path)
    label(workspace, outcome, 9)
    assert woken(workspace, 4).decision == "awaiting_labels"
    label(workspace, outcome, 20)
    ready = woken(workspace, 5)
    assert ready.retrain
    assert ready.episode is not None
    with Journal(workspace.journal) as journal:
        assert mark_retrain_started(journal, ready.episode.id, now=START + timedelta(hours=5), labels=20)
        assert woken(workspace, 5.1).decision == "training"
    since = START + timedelta(hours=6)
    digest = promote(workspace, [world.shot(dark=0.6) for _ in range(100)], name="second", since=since)
    with Journal(workspace.journal) as journal:  # the release was killed when the pointer had moved
        walked(journal, ready.episode.id, "infra_validating", now=since, challenger=digest)
    answer(workspace, digest, [world.shot(dark=0.6) for _ in range(50)], start=since, writer="c")
    after = woken(workspace, 7)
    assert after.decision == "observing"
    assert [len(seen.window) for seen in after.windows] == [20, 20], "more closely"
    assert after.windows[0].decision.images == 20, "with evidence of its own"
    assert after.episode is not None
    assert after.episode.state == "observing"
    assert after.episode.challenger == digest
    assert decisions(workspace)[-3:] == ["quiet", "quiet", "observing"]
    assert decisions(workspace).count("promoted") == 1


@pytest.mark.slow
def test_a_rejected_challenger_waits_for_a_person(tmp_path: Path) -> None:
    workspace, _, _, outcome = drifted(tmp_path)
    label(workspace, outcome, 10)
    assert woken(workspace, 4).retrain
    assert outcome.episode is not None
    with Journal(workspace.journal) as journal:
        mark_retrain_started(journal, outcome.episode.id, now=START + timedelta(hours=4), labels=10)
        walked(journal, outcome.episode.id, "evaluating", now=START + timedelta(hours=4))
        mark_rejected(
            journal,
            outcome.episode.id,
            challenger="d" * 64,
            why="accuracy 0.61",
            now=START + timedelta(hours=4),
        )
    assert woken(workspace, 5).decision == "needs_human"
    label(workspace, outcome, 20)
    asked = woken(workspace, 29)
    assert asked.decision == "needs_human", "labels alone do not start what was rejected"
    assert "monitoring approve" in asked.reason
    with Journal(workspace.journal) as journal:
        approve(journal, outcome.episode.id, by="ann", why="20 labels now", now=START + timedelta(hours=30))
    allowed = woken(workspace, 31)
    assert allowed.retrain
    assert "ann" in allowed.reason


@pytest.mark.slow
def test_a_dismissed_drift_needs_new_evidence(tmp_path: Path) -> None:
    workspace, world, digest, outcome = drifted(tmp_path)
    assert outcome.episode is not None
    with Journal(workspace.journal) as journal:
        dismiss(journal, outcome.episode.id, why="lamp replaced", now=START + timedelta(hours=4))
    answer(workspace, digest, [world.shot() for _ in range(50)], start=START + timedelta(hours=5), writer="b")
    assert woken(workspace, 6).decision == "quiet"
    answer(
        workspace,
        digest,
        [world.shot(dark=0.6) for _ in range(50)],
        start=START + timedelta(hours=7),
        writer="c",
    )
    assert woken(workspace, 8).decision == "suppressed"
    answer(
        workspace,
        digest,
        [world.shot(dark=0.6) for _ in range(50)],
        start=START + timedelta(hours=40),
        writer="d",
    )
    again = woken(workspace, 41)
    assert again.decision == "drift_open"
    assert again.episode is not None
    assert again.episode.id != outcome.episode.id


@pytest.mark.slow
def test_a_refused_challenger_silences_its_own_kind_of_drift_until_a_person_speaks(tmp_path: Path) -> None:
    workspace, world, digest, outcome = drifted(tmp_path)
    assert outcome.episode is not None
    assert outcome.episode.signature is not None
    assert outcome.episode.signature.startswith("sensor: ")
    episode = outcome.episode.id
    with Journal(workspace.journal) as journal:
        mark_retrain_started(journal, episode, now=START + timedelta(hours=4), labels=10)
        walked(journal, episode, "evaluating", now=START + timedelta(hours=4))
        mark_rejected(
            journal, episode, challenger="d" * 64, why="accuracy 0.61", now=START + timedelta(hours=4)
        )
    assert woken(workspace, 5).decision == "needs_human"
    with Journal(workspace.journal) as journal:
        dismiss(journal, episode, why="no better model to be had", now=START + timedelta(hours=6))

    def dark(hours: float, writer: str) -> Outcome:
        shots = [world.shot(dark=0.6) for _ in range(50)]
        answer(workspace, digest, shots, start=START + timedelta(hours=hours), writer=writer)
        return woken(workspace, hours + 1)

    calm = [world.shot() for _ in range(60)]
    answer(workspace, digest, calm, start=START + timedelta(hours=7), writer="b")
    assert woken(workspace, 8).decision == "quiet"
    held = dark(100, "c")  # long after the cooldown, and after it had gone away
    assert held.decision == "suppressed"
    assert f"the challenger of episode {episode} for the same drift" in held.reason
    with Journal(workspace.journal) as journal:
        assert len(journal.episodes()) == 1
        approve(journal, episode, by="ann", why="a new backbone", now=START + timedelta(hours=102))
    assert dark(110, "d").decision == "drift_open"


@pytest.mark.slow
def test_a_dismissed_drift_that_does_not_go_away_opens_nothing(tmp_path: Path) -> None:
    workspace, world, digest, outcome = drifted(tmp_path)
    assert outcome.episode is not None
    with Journal(workspace.journal) as journal:
        dismiss(journal, outcome.episode.id, why="the lamp stays", now=START + timedelta(hours=4))
    for number, hours in enumerate((5, 200)):
        shots = [world.shot(dark=0.6) for _ in range(50)]
        answer(workspace, digest, shots, start=START + timedelta(hours=hours), writer=f"d{number}")
        held = woken(workspace, hours + 1)
        assert held.decision == "suppressed"
    assert "has not gone away since" in held.reason


def test_labels_that_do_not_come_ask_a_person_and_never_retrain(tmp_path: Path) -> None:
    workspace, _, _, outcome = drifted(tmp_path)
    label(workspace, outcome, 9)
    late = woken(workspace, 24 * 15)
    assert late.decision == "needs_human"
    assert late.episode is not None
    assert late.episode.state == "needs_human"
    assert late.episode.asks == "labels"
    again = woken(workspace, 24 * 40)
    assert again.decision == "needs_human"
    assert "9 of 20 asked labels are back, 10 start a retrain" in again.reason
    with Journal(workspace.journal) as journal:
        assert [one.retrain_started for one in journal.episodes()] == [None]
    label(workspace, outcome, 20)
    assert woken(workspace, 24 * 41).retrain, "they came, late"


def test_images_that_a_dismissal_passed_over_never_come_back(tmp_path: Path) -> None:
    """The cursor of the restarted stream no longer knows the days before: they must not be read from their beginning."""
    workspace, world, digest, outcome = drifted(tmp_path)
    assert outcome.episode is not None
    unread = [world.shot(dark=0.6) for _ in range(10)]
    answer(workspace, digest, unread, start=START + timedelta(hours=3.5), writer="unread")
    dismissed = START + timedelta(hours=26)
    with Journal(workspace.journal) as journal:
        dismiss(journal, outcome.episode.id, why="lamp replaced", now=dismissed)
    for hours in (30, 40, 50):
        shots = [world.shot() for _ in range(25)]
        answer(workspace, digest, shots, start=START + timedelta(hours=hours), writer=f"w-{hours}")
        seen = [row for one in woken(workspace, hours + 1).windows for row in one.window.rows]
        assert len(seen) == 25
        assert min(row.time for row in seen) > dismissed


def test_where_no_image_was_kept_the_alarm_still_comes(tmp_path: Path) -> None:
    workspace, _, _, outcome = drifted(tmp_path, kept=False)
    assert outcome.decision == "drift_open"
    assert "log.keep_images" in outcome.reason
    assert woken(workspace, 4).decision == "awaiting_labels"


@pytest.mark.slow
def test_another_champion_by_hand_supersedes_the_episode(tmp_path: Path) -> None:
    workspace, world, _, _ = drifted(tmp_path)
    promote(workspace, [world.shot() for _ in range(50)], name="by hand", since=START + timedelta(hours=4))
    outcome = woken(workspace, 5)
    assert outcome.decision == "insufficient_data"
    assert outcome.episode is not None
    assert outcome.episode.state == "superseded"


WAKE = """
import os, sys
from datetime import datetime
from pathlib import Path
from pipeline.artifacts import Workspace
from monitoring.watch import wake
from tests.monitored import params_for_tests
root = Path(sys.argv[1])
print("started", flush=True)
outcome = wake(Workspace(root, root / "var"), params_for_tests(window=20), now=datetime.fromisoformat(sys.argv[2]), draw=False)
print(outcome.decision, flush=True)
"""


def started(workspace: Workspace, hours: float) -> subprocess.Popen[str]:
    now = (START + timedelta(hours=hours)).isoformat()
    command = [sys.executable, "-c", WAKE, str(workspace.root), now]
    here = Path(__file__).resolve().parent.parent
    environment = os.environ | {"PYTHONPATH": str(here)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=here, env=environment)


@pytest.mark.slow
def test_of_two_watches_at_once_one_does_nothing_and_says_so(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    digest = promote(workspace, [world.shot() for _ in range(100)])
    answer(workspace, digest, [world.shot() for _ in range(1000)], kept=False)
    both = [started(workspace, 1) for _ in range(2)]
    said = sorted(process.communicate(timeout=120)[0].split()[-1] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said in (["busy", "quiet"], ["insufficient_data", "quiet"])
    with Journal(workspace.journal) as journal:
        windows = [step.window for step in journal.steps() if step.window]
        assert len(windows) == len(set(windows)) == 50
        assert sum(step.images for step in journal.steps()) == 1000


@pytest.mark.slow
def test_a_watch_that_is_killed_anywhere_goes_on_where_it_stood(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    digest = promote(workspace, [world.shot() for _ in range(100)])
    answer(workspace, digest, [world.shot() for _ in range(300)], kept=False)
    answer(
        workspace,
        digest,
        [world.shot(dark=0.6) for _ in range(100)],
        start=START + timedelta(hours=1),
        writer="b",
    )
    for attempt in range(3):
        process = started(workspace, 3)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.1 + 0.3 * attempt)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    end = started(workspace, 3)
    end.communicate(timeout=120)
    assert end.returncode == 0
    outcome = woken(workspace, 4)
    with Journal(workspace.journal) as journal:
        steps = journal.steps()
        assert sum(step.images for step in steps if step.window) == 400
        assert [step.decision for step in steps].count("drift_open") == 1
        assert steps[[step.window is not None for step in steps].index(True)].detail["images"] == 20
        seen = [step.detail["images"] for step in steps if step.window]
    assert seen == sorted(seen)
    assert seen[-1] == 400
    assert outcome.decision == "awaiting_labels"
    assert outcome.queue is not None
    assert len(list((outcome.queue / "images").iterdir())) == 20
