"""What else than drift starts a retrain, each a param; and that it does not where nothing is new to learn from."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from monitoring.episodes import dismiss, mark_retrain_started
from monitoring.journal import Journal
from monitoring.labels import Label, append_labels, read_labels
from monitoring.watch import Outcome, wake
from pipeline.artifacts import Workspace, write_json
from pipeline.errors import ParamsError
from pipeline.params import Params, Watch
from tests.monitored import START, Shot, World, params_for_tests, promote, workspace_at


def woken(workspace: Workspace, params: Params, days: float) -> Outcome:
    return wake(workspace, params, now=START + timedelta(days=days), draw=False)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = workspace_at(tmp_path)
    promote(workspace, shots(0))
    return workspace


def shots(seed: int) -> list[Shot]:
    world = World(seed)
    return [world.shot() for _ in range(60)]


def labelled(workspace: Workspace, count: int, days: float, label: str = "pit") -> None:
    time = START + timedelta(days=days)
    first = len(read_labels(workspace.labels))
    rows = [Label(f"{first + n:064x}", "p", label, "b", "g", "train", "ann", time) for n in range(count)]
    append_labels(workspace.labels, rows)


TRIGGERS = [
    (
        "schedule",
        {"retrain_every_days": 7.0},
        3,
        "last retrain was 8.0 days ago, watch.retrain_every_days is 7",
    ),
    ("labels", {"retrain_after_labels": 5}, 5, "5 labels came since the champion's data"),
    ("age", {"max_age_days": 7.0}, 1, "promoted 8.0 days ago, watch.max_age_days is 7"),
]


@pytest.mark.parametrize(("name", "params", "count", "words"), TRIGGERS)
def test_each_opens_an_episode_that_says_why_and_retrains(
    workspace: Workspace, name: str, params: dict[str, Any], count: int, words: str
) -> None:
    settings = params_for_tests(**params)
    labelled(workspace, count, 1)
    outcome = woken(workspace, settings, 8)
    assert outcome.retrain
    assert outcome.episode is not None
    assert outcome.episode.trigger == name
    assert words in outcome.episode.why
    assert f"{count} new labels are back (1 needed)" in outcome.reason
    with Journal(workspace.journal) as journal:
        assert [step.decision for step in journal.steps()] == ["drift_open", "retrain"]
    assert woken(workspace, settings, 8.1).episode == outcome.episode, (
        "the same event again is the same episode"
    )
    assert woken(workspace, params_for_tests(), 8.2).episode == outcome.episode


@pytest.mark.parametrize(("name", "params", "count", "words"), TRIGGERS)
def test_off_by_default_and_before_its_time(
    workspace: Workspace, name: str, params: dict[str, Any], count: int, words: str
) -> None:
    labelled(workspace, count - 1 if name == "labels" else count, 1)
    assert woken(workspace, params_for_tests(), 100).decision == "insufficient_data"
    assert woken(workspace, params_for_tests(**params), 6).decision == "insufficient_data"


@pytest.mark.parametrize(
    ("params", "decision"),
    [({"retrain_every_days": 7.0}, "suppressed"), ({"max_age_days": 7.0}, "needs_human")],
)
def test_without_new_labels_it_is_said_and_nothing_starts(
    workspace: Workspace, params: dict[str, Any], decision: str
) -> None:
    outcome = woken(workspace, params_for_tests(**params), 8)
    assert outcome.decision == decision
    assert "no label came since the champion's data" in outcome.reason
    assert "nothing new to learn from" in outcome.reason
    with Journal(workspace.journal) as journal:
        assert journal.episodes() == []


def test_the_same_labels_have_one_turn_and_new_ones_another(workspace: Workspace) -> None:
    settings = params_for_tests(max_age_days=7.0)
    labelled(workspace, 3, 1)
    first = woken(workspace, settings, 8).episode
    assert first is not None
    with Journal(workspace.journal) as journal:
        dismiss(journal, first.id, why="not now", now=START + timedelta(days=8))
    again = woken(workspace, settings, 9)
    assert again.decision == "needs_human"
    assert "had its turn" in again.reason
    labelled(workspace, 1, 10)
    second = woken(workspace, settings, 11)
    assert second.retrain
    assert second.episode is not None
    assert second.episode.id != first.id


def test_labels_of_a_frozen_data_version_are_not_new_to_the_champion_that_came_of_it(
    workspace: Workspace,
) -> None:
    settings = params_for_tests(retrain_after_labels=3)
    labelled(workspace, 3, 1)
    episode = woken(workspace, settings, 8).episode
    assert episode is not None
    with Journal(workspace.journal) as journal:
        now = START + timedelta(days=8)
        assert mark_retrain_started(journal, episode.id, now=now, labels=3)
        journal._db.execute(
            "UPDATE episodes SET state = 'monitoring', challenger = ?",
            (promote(workspace, shots(1), name="second", since=now),),
        )
    assert woken(workspace, settings, 9).decision == "insufficient_data"


def test_labelled_accuracy_below_the_bound_by_its_whole_interval(workspace: Workspace) -> None:
    settings = params_for_tests(min_labelled_accuracy=0.8)
    labelled(workspace, 20, 1, label="pit")
    champion = promote(workspace, shots(0))

    def asked(right: int) -> None:
        items = [
            {"image_id": f"{n:064x}", "file": "", "random": True, "why": "", "predicted": "pit" if n < right else "clean",
             "confidence": 1.0, "domain_score": 0.0, "source": "", "dhash": "0"}
            for n in range(20)
        ]  # fmt: skip
        write_json(workspace.queue / "0123456789abcdef/manifest.json", {"champion": champion, "items": items})

    asked(14)
    assert woken(workspace, settings, 8).decision == "insufficient_data", "0.70, but up to 0.85"
    asked(10)
    outcome = woken(workspace, settings, 9)
    assert outcome.retrain
    assert outcome.episode is not None
    assert "10 of 20 (0.50, 95 %: 0.30 to 0.70), all below" in outcome.episode.why


@pytest.mark.parametrize(
    "wrong",
    [
        {"retrain_every_days": 0.0},
        {"retrain_after_labels": 0},
        {"max_age_days": -1.0},
        {"min_labelled_accuracy": 80.0},
    ],
)
def test_a_trigger_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParamsError, match=next(iter(wrong))):
        Watch(**wrong)
