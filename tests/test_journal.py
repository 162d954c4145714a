"""The journal: reasons kept, one winner of two, and the same state after a kill."""

import contextlib
import dataclasses
import itertools
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monitoring import leases, states
from monitoring.episodes import (
    approve,
    ask_human,
    configuration,
    dismiss,
    identity,
    mark_failed,
    mark_promoted,
    mark_rejected,
    mark_retrain_started,
    retrains_since,
)
from monitoring.journal import Episode, Journal, Step
from pipeline.errors import StateError
from pipeline.params import Params, Watch
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


OLD = """
CREATE TABLE steps (
    id INTEGER PRIMARY KEY, time TEXT NOT NULL, champion TEXT, episode TEXT, window TEXT, images INTEGER NOT NULL,
    statistic REAL, log10_e REAL, decision TEXT NOT NULL, reason TEXT NOT NULL, evidence TEXT, detail TEXT NOT NULL
);
CREATE TABLE episodes (
    id TEXT PRIMARY KEY, version INTEGER NOT NULL, state TEXT NOT NULL, champion TEXT NOT NULL, reference TEXT NOT NULL,
    window TEXT NOT NULL, since TEXT NOT NULL, opened TEXT NOT NULL, changed TEXT NOT NULL, why TEXT NOT NULL,
    queue TEXT, labels_used INTEGER NOT NULL, retrain_started TEXT, challenger TEXT
);
CREATE TABLE streams (champion TEXT PRIMARY KEY, cursor TEXT NOT NULL, evidence TEXT NOT NULL);
"""


def test_a_journal_from_before_the_new_columns_opens_and_goes_on(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "j.sqlite")) as old:
        old.executescript(OLD)
        row = (1, "%s", "c", "r", "w", *[NOW.isoformat()] * 3, "darker", None, 0, None, None)
        for name, state in (("e1", "promoted"), ("e2", "awaiting_labels")):
            values = (name, 1, state, *row[2:])
            old.execute(f"INSERT INTO episodes VALUES ({', '.join('?' * 14)})", values)  # noqa: S608
        old.commit()
    with Journal(tmp_path / "j.sqlite") as journal, Journal(tmp_path / "j.sqlite") as again:
        assert journal.episode("e1").state == "monitoring", "where promoted was the end"
        assert again.open_episode() == journal.episode("e2")
        assert journal.episode("e2").trigger == "drift"
        assert mark_retrain_started(journal, "e2", now=NOW, labels=50)
    with Journal(tmp_path / "j.sqlite") as journal:
        walked(journal, "e2", "promoted", now=NOW)
    with Journal(tmp_path / "j.sqlite") as journal:
        assert journal.episode("e2").state == "promoted", "now it is on the way"


def test_every_move_that_the_table_lacks_is_refused(tmp_path: Path) -> None:
    names = sorted(states.TRANSITIONS) + list(states.CLOSED[1:])
    refused = 0
    with Journal(tmp_path / "j.sqlite") as journal, journal.transaction():
        for number, (before, after) in enumerate(itertools.product(names, names)):
            if before == after:
                continue
            one = dataclasses.replace(episode(f"e{number}"), state=before)
            journal.begin(dataclasses.replace(one, state="dismissed"))
            journal._db.execute("UPDATE episodes SET state = ? WHERE id = ?", (before, one.id))
            if states.allowed(before, after) and before not in states.CLOSED:
                journal.move(one, after, now=NOW)
            else:
                with pytest.raises(StateError, match=f"is {before}: from there nothing leads to {after}"):
                    journal.move(one, after, now=NOW)
                refused += 1
            journal._db.execute("UPDATE episodes SET state = 'dismissed'")
    assert refused > 150


def test_the_states_are_the_ones_of_the_specification_in_their_order() -> None:
    path = ("monitoring", "drift_open", "awaiting_labels", "dataset_frozen", "training", "evaluating", "infra_validating",
            "shadow", "promoted", "observing", "monitoring")  # fmt: skip
    assert all(states.allowed(*pair) for pair in itertools.pairwise(path))


def test_the_month_s_budget_survives_a_clock_that_was_in_the_future(tmp_path: Path) -> None:
    future = NOW + timedelta(days=4000)
    with Journal(tmp_path / "j.sqlite") as journal:
        for time in (NOW, future, NOW + timedelta(days=1)):
            journal.record(Step(time=time, decision="dataset_frozen", reason="x", detail={"started": True}))
        assert retrains_since(journal, NOW - timedelta(days=29)) == 3
        assert retrains_since(journal, NOW + timedelta(days=40)) == 0, "not until the future has come"


def test_the_same_event_is_the_same_episode_and_other_settings_another() -> None:
    assert identity("c", "r", "w", "s") == identity("c", "r", "w", "s")
    others = {
        identity(*one)
        for one in [("x", "r", "w", "s"), ("c", "x", "w", "s"), ("c", "r", "x", "s"), ("c", "r", "w", "x")]
    }
    assert len(others | {identity("c", "r", "w", "s")}) == 5
    assert configuration(Params()) == configuration(Params())
    assert configuration(Params()) != configuration(Params(watch=Watch(alpha=0.02)))


def test_a_person_lets_go_on_what_waits_and_nothing_else(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.begin(episode())
        assert mark_retrain_started(journal, "e1", now=NOW, labels=50)
        with pytest.raises(StateError, match="is dataset_frozen, which waits for nobody"):
            approve(journal, "e1", by="ann", why="x", now=NOW)
        walked(journal, "e1", "evaluating", now=NOW)
        assert ask_human(
            journal, "e1", asks="verdict", why="too few test images", now=NOW, challenger="d" * 64
        )
        after = approve(journal, "e1", by="ann", why="seen on the line", now=NOW)
        assert (after.state, after.approved) == (
            "infra_validating",
            "ann at 2026-03-01 12:00 UTC: seen on the line",
        )
        last = journal.steps(1)[0]
        assert last.decision == "approved"
        assert "ann at 2026-03-01 12:00 UTC: seen on the line" in last.reason
