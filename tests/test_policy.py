"""The policy: labels are the only reason to retrain, and it says why it does nothing."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from monitoring.policy import Situation, decide

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CALM = Situation(
    now=NOW, images=100, min_window=30, alarm=False, evidence="figures", cooldown_hours=24.0, min_labels=40
)
WAITING = replace(CALM, images=0, state="awaiting_labels", asked=120)


def test_quiet_and_too_little_data_are_two_answers() -> None:
    assert decide(CALM).kind == "quiet"
    few = decide(replace(CALM, images=29))
    assert few.kind == "insufficient_data"
    assert "29" in few.reason
    assert "30" in few.reason


def test_an_alarm_opens_an_episode_and_never_a_retrain() -> None:
    assert decide(replace(CALM, alarm=True)).kind == "drift_open"


def test_labels_start_a_retrain_from_the_minimum_on() -> None:
    few = decide(replace(WAITING, labels=39))
    assert few.kind == "awaiting_labels"
    assert "39 of 120" in few.reason
    assert decide(replace(WAITING, labels=40)).kind == "retrain"


def test_a_queue_smaller_than_the_minimum_can_still_be_answered() -> None:
    small = replace(WAITING, asked=12)
    assert decide(replace(small, labels=11)).kind == "awaiting_labels"
    assert decide(replace(small, labels=12)).kind == "retrain"


def test_where_no_image_was_kept_it_says_so_and_what_to_do() -> None:
    empty = decide(replace(WAITING, asked=0))
    assert empty.kind == "awaiting_labels"
    assert "log.keep_images" in empty.reason
    assert "python -m monitoring label" in empty.reason
    assert decide(replace(WAITING, asked=0, labels=40)).kind == "retrain"


def test_the_cooldown_suppresses_a_retrain_and_ends() -> None:
    ready = replace(WAITING, labels=50, last_retrain=NOW - timedelta(hours=23))
    held = decide(ready)
    assert held.kind == "suppressed"
    assert "1.0 h" in held.reason
    assert decide(replace(ready, now=NOW + timedelta(hours=1))).kind == "retrain"


def test_a_clock_that_jumped_back_can_not_stretch_the_cooldown() -> None:
    ready = replace(WAITING, labels=50, last_retrain=NOW + timedelta(days=400))
    held = decide(ready)
    assert held.kind == "suppressed"
    assert "24.0 h" in held.reason


def test_a_rejected_challenger_is_not_trained_again_on_the_same_labels() -> None:
    rejected = replace(WAITING, state="rejected", labels=60, labels_used=60)
    held = decide(rejected)
    assert held.kind == "suppressed"
    assert "dismiss" in held.reason
    assert decide(replace(rejected, labels=100)).kind == "retrain"


def test_a_broken_retrain_may_start_again_with_the_labels_it_had() -> None:
    failed = replace(WAITING, state="failed", labels=60, labels_used=60, last_retrain=NOW)
    assert decide(failed).kind == "suppressed"
    assert decide(replace(failed, now=NOW + timedelta(hours=24))).kind == "retrain"


def test_a_retrain_under_way_is_left_alone_until_it_is_given_up() -> None:
    training = replace(WAITING, state="training", labels=60, last_retrain=NOW - timedelta(hours=1))
    assert decide(training).kind == "training"
    assert decide(replace(training, now=NOW + timedelta(hours=30))).kind == "retrain"


def test_a_dismissed_drift_is_silent_for_the_cooldown() -> None:
    again = replace(CALM, alarm=True, dismissed=NOW - timedelta(hours=2))
    assert decide(again).kind == "suppressed"
    assert "22.0 h" in decide(again).reason
    assert decide(replace(again, now=NOW + timedelta(hours=22))).kind == "drift_open"


@pytest.mark.parametrize("state", ["drift_open", "awaiting_labels", "training", "rejected", "failed"])
def test_while_an_episode_is_open_another_alarm_opens_none(state: str) -> None:
    known = replace(WAITING, state=state, alarm=True, last_retrain=NOW)
    assert decide(known).kind != "quiet"
    assert (decide(known).kind == "drift_open") == (state == "drift_open")


def test_a_queue_that_nobody_answers_asks_for_a_person_and_never_retrains() -> None:
    asked = replace(WAITING, labels=12, waiting_since=NOW - timedelta(days=15), label_timeout_days=14.0)
    late = decide(asked)
    assert late.kind == "needs_human"
    assert "12 of 120" in late.reason
    assert "python -m monitoring dismiss" in late.reason
    assert decide(replace(asked, now=NOW - timedelta(days=2))).kind == "awaiting_labels"
    assert decide(replace(asked, labels=40)).kind == "retrain"  # they came, late


def test_the_months_budget_of_retrains_is_kept_and_says_how_to_go_on() -> None:
    ready = replace(WAITING, labels=50, retrains=8, retrains_a_month=8)
    held = decide(ready)
    assert held.kind == "suppressed"
    assert "8 retrains started in the last 30 days" in held.reason
    assert decide(replace(ready, retrains=7)).kind == "retrain"
    lost = replace(CALM, state="training", last_retrain=NOW - timedelta(hours=30), retrains=8)
    assert decide(lost).kind == "suppressed"
    assert decide(replace(lost, retrains=1)).kind == "retrain"
