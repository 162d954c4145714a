"""The journal: reasons kept, one winner of two, and the same state after a kill."""

import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monitoring import leases
from monitoring.episodes import (
    dismiss,
    mark_failed,
    mark_promoted,
    mark_rejected,
    mark_retrain_started,
    retrains_since,
)
from monitoring.journal import Episode, Journal, Step
from pipeline.errors import StateError
from tests.monitored import walked

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def episode(name: str = "e1") -> Episode:
    return Episode(
        id=name,
        version=1,
        state="awaiting_labels",
        champion="c" * 64,
        reference="r" * 64,
        window="w",
        since=NOW,
        opened=NOW,
        changed=NOW,
        why="darker",
    )


def test_steps_come_back_as_they_were_written(tmp_path: Path) -> None:
    step = Step(
        time=NOW, decision="quiet", reason="<script> 'x'", images=50, log10_e=0.5, detail={"p": [0.1]}
    )
    with Journal(tmp_path / "deep/journal.sqlite") as journal:
        journal.record(step)
        journal.record(Step(time=NOW, decision="quiet", reason="second"))
        assert journal.steps()[0] == step
        assert [one.reason for one in journal.steps(1)] == ["second"]


def test_an_episodes_way_to_promotion(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.begin(episode())
        assert mark_retrain_started(journal, "e1", now=NOW, labels=50)
        assert journal.episode("e1").labels_used == 50
        walked(journal, "e1", "infra_validating", now=NOW)
        assert mark_promoted(journal, "e1", challenger="d" * 64, now=NOW)
        assert journal.episode("e1").promoted == NOW
        assert [step.decision for step in journal.steps()] == ["dataset_frozen", "promoted"]


def test_a_repeated_or_reordered_event_changes_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite") as journal:
        first = journal.begin(episode())
        assert journal.begin(episode()) == first
        assert not mark_promoted(journal, "e1", challenger="d" * 64, now=NOW)
        assert not mark_rejected(journal, "e1", challenger="d" * 64, why="accuracy", now=NOW)
        assert mark_retrain_started(journal, "e1", now=NOW, labels=50)
        assert not mark_retrain_started(journal, "e1", now=NOW + timedelta(hours=1), labels=60)
        assert mark_failed(journal, "e1", why="disk full", now=NOW)
        assert not mark_failed(journal, "e1", why="disk full", now=NOW)
        assert dismiss(journal, "e1", why="lamp replaced", now=NOW)
        assert not mark_promoted(journal, "e1", challenger="d" * 64, now=NOW)
        assert not mark_retrain_started(journal, "e1", now=NOW, labels=99)
        assert journal.episode("e1").state == "dismissed"
        assert journal.begin(episode()).state == "dismissed", "the same event later opens nothing"


def test_one_episode_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.begin(episode("e1"))
        with pytest.raises(StateError, match="one at a time"):
            journal.begin(episode("e2"))
        dismiss(journal, "e1", why="x", now=NOW)
        journal.begin(episode("e2"))


def test_of_two_who_read_the_same_version_one_is_told(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite") as first, Journal(tmp_path / "j.sqlite") as second:
        first.begin(episode())
        mine, yours = first.episode("e1"), second.episode("e1")
        first.move(mine, "dataset_frozen", now=NOW)
        with pytest.raises(StateError, match="moved by another process"):
            second.move(yours, "dismissed", now=NOW)
        assert second.episode("e1").state == "dataset_frozen"


def test_an_error_inside_a_transaction_leaves_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite") as journal:
        with pytest.raises(ZeroDivisionError):
            _broken(journal)
        assert journal.steps() == []
        assert journal.stream("c") == ({}, {})


def _broken(journal: Journal) -> None:
    with journal.transaction():
        journal.record(Step(time=NOW, decision="quiet", reason="never"))
        journal.save_stream("c", {"n": 1}, {})
        raise ZeroDivisionError


def test_what_is_no_journal_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"not a database at all, but long enough to be looked at as one" * 10)
    with pytest.raises(StateError, match="not a readable journal"):
        Journal(path)
    with Journal(tmp_path / "j.sqlite") as journal, pytest.raises(StateError, match="holds no episode nope"):
        journal.episode("nope")


def test_a_held_lock_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    with Journal(path) as journal:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        journal._db.execute("PRAGMA busy_timeout = 100")
        with pytest.raises(StateError, match="holding it"):
            journal.record(Step(time=NOW, decision="quiet", reason="x"))
        other.execute("ROLLBACK")
        other.close()


WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from monitoring.journal import Journal, Step
with Journal(Path(sys.argv[1])) as journal:
    count = journal.stream("c")[0].get("n", 0)
    print("ready", flush=True)
    while True:
        count += 1
        with journal.transaction():
            journal.save_stream("c", {"n": count}, {"wealth": [count] * 500})
            journal.record(Step(time=datetime.now(UTC), decision="quiet", reason=str(count)))
"""


@pytest.mark.slow
def test_cursor_evidence_and_row_move_together_through_kills(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    for attempt in range(8):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.02 + 0.013 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with Journal(path) as journal:
            cursor, evidence = journal.stream("c")
            steps = journal.steps()
            count = cursor.get("n", 0)
            assert evidence.get("wealth", []) == [count] * (500 if count else 0)
            assert [step.reason for step in steps] == [str(number + 1) for number in range(count)]
    assert count > 8


def test_retrains_are_counted_by_their_start(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.begin(episode())
        assert mark_retrain_started(journal, "e1", now=NOW, labels=50)
        journal.record(Step(time=NOW, decision="training", reason="a retrain is on its way"))
        assert mark_failed(journal, "e1", why="killed", now=NOW)
        leases.revoke(journal, "e1")
        assert mark_retrain_started(journal, "e1", now=NOW + timedelta(days=40), labels=50)
        assert retrains_since(journal, NOW - timedelta(days=1)) == 2
        assert retrains_since(journal, NOW + timedelta(days=1)) == 1
