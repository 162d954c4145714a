"""The policy: labels are the only reason to retrain, and it says why it does nothing."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from monitoring.policy import Observed, Shadowed, Situation, decide

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


def test_a_rejected_challenger_asks_a_person_whatever_labels_come() -> None:
    rejected = replace(WAITING, state="rejected", labels=60, labels_used=60)
    asked = decide(rejected)
    assert (asked.kind, asked.state, asked.asks) == ("needs_human", "needs_human", "rejected")
    assert "dismiss" in asked.reason
    waiting = replace(rejected, state="needs_human", asks="rejected", labels=100)
    assert (decide(waiting).kind, decide(waiting).state) == ("needs_human", None)
    assert decide(replace(waiting, state="awaiting_labels", approved="ann: more light")).kind == "retrain"


def test_the_same_drift_as_a_refused_one_opens_nothing() -> None:
    again = replace(CALM, alarm=True, refused="the challenger of episode e1 for the same drift was refused")
    assert decide(again).kind == "suppressed"
    assert "python -m monitoring approve" in decide(again).reason


def test_hysteresis_a_dismissed_drift_has_to_go_away_before_it_opens_another() -> None:
    again = replace(CALM, alarm=True, dismissed=NOW - timedelta(days=9), calm=False)
    assert decide(again).kind == "suppressed"
    assert "has not gone away" in decide(again).reason
    assert decide(replace(again, calm=True)).kind == "drift_open"
    more = decide(replace(again, grown=True))
    assert more.kind == "drift_open"
    assert "More has changed than the drift that was dismissed" in more.reason
    assert decide(replace(again, grown=True, dismissed=NOW)).kind == "suppressed", "the cooldown"


def test_a_broken_retrain_may_start_again_with_the_labels_it_had() -> None:
    failed = replace(WAITING, state="failed", labels=60, labels_used=60, last_retrain=NOW)
    assert decide(failed).kind == "suppressed"
    assert decide(replace(failed, now=NOW + timedelta(hours=24))).kind == "retrain"


@pytest.mark.parametrize("state", ["dataset_frozen", "training", "evaluating", "infra_validating"])
def test_a_retrain_under_way_is_left_alone(state: str) -> None:
    working = replace(WAITING, state=state, at_work=True, labels=60, last_retrain=NOW - timedelta(hours=30))
    assert decide(working).kind == "training"
    assert state in decide(working).reason


def test_a_challenger_that_passed_is_released_by_whoever_comes_next() -> None:
    assert decide(replace(WAITING, state="infra_validating")).kind == "release"


def test_the_shadow_runs_for_its_number_then_the_release_goes_on() -> None:
    running = replace(WAITING, state="shadow", shadowed=Shadowed(19, 20, "agreed on 19 of 19"))
    assert decide(running).kind == "shadow"
    assert "19 of 20" in decide(running).reason
    assert decide(replace(running, shadowed=Shadowed(20, 20, "agreed"))).kind == "release"
    failing = decide(replace(running, shadowed=Shadowed(20, 20, "agreed", "it failed on 2 images")))
    assert (failing.state, failing.asks) == ("needs_human", "shadow")
    idle = decide(replace(running, shadowed=Shadowed(0, 20, ""), waiting_since=NOW - timedelta(days=20)))
    assert idle.state == "needs_human"
    assert "does a service run?" in idle.reason


def test_the_observation_ends_by_itself_by_a_rollback_or_by_a_new_drift() -> None:
    fresh = replace(WAITING, state="promoted", observed=Observed(10, 200, "10 of 200", labelled=False))
    assert (decide(fresh).kind, decide(fresh).state) == ("observing", "observing")
    watched = replace(fresh, state="observing")
    assert decide(watched).state is None
    assert decide(replace(watched, alarm=True)).state is None, "not before its number of images"
    worse = replace(watched, alarm=True, observed=Observed(10, 200, "worse", worse=True))
    assert decide(worse).state == "rolled_back"
    unlabelled = replace(watched, observed=Observed(200, 200, "", labelled=False))
    assert decide(unlabelled).kind == "observing"
    assert decide(replace(unlabelled, alarm=True)).state == "monitoring"
    assert decide(replace(unlabelled, waiting_since=NOW - timedelta(days=20))).state == "monitoring"
    compared = decide(replace(watched, observed=Observed(200, 200, "")))
    assert compared.state == "monitoring"
    assert "not worse than the old one" in compared.reason
    alone = decide(replace(watched, observed=Observed(200, 200, "", compared=False)))
    assert alone.state == "monitoring"
    assert "not compared with the old one" in alone.reason
    assert "not worse" not in alone.reason, "of what nobody has looked at nothing is said"
    assert decide(replace(watched, observed=None)).state == "monitoring"


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
    assert (late.kind, late.state, late.asks) == ("needs_human", "needs_human", "labels")
    assert "12 of 120" in late.reason
    assert "python -m monitoring dismiss" in late.reason
    assert decide(replace(asked, now=NOW - timedelta(days=2))).kind == "awaiting_labels"
    gone_on = replace(asked, state="needs_human", asks="labels")
    assert decide(gone_on).state is None
    assert decide(replace(gone_on, labels=40)).state == "awaiting_labels"  # they came, late


def test_the_months_budget_of_retrains_is_kept_and_says_how_to_go_on() -> None:
    ready = replace(WAITING, labels=50, retrains=8, retrains_a_month=8)
    held = decide(ready)
    assert held.kind == "suppressed"
    assert "8 retrains started in the last 30 days" in held.reason
    assert decide(replace(ready, retrains=7)).kind == "retrain"
    assert decide(replace(ready, approved="ann: once more")).kind == "retrain"
    broken = replace(ready, state="failed", last_retrain=NOW - timedelta(hours=30))
    assert decide(broken).kind == "suppressed"
    assert decide(replace(broken, retrains=1)).kind == "retrain"


def test_a_trigger_besides_drift_needs_one_new_label_and_keeps_the_cooldown() -> None:
    scheduled = replace(WAITING, trigger="schedule", asked=0, labels=1)
    assert decide(scheduled).kind == "retrain"
    assert decide(replace(scheduled, last_retrain=NOW - timedelta(hours=1))).kind == "suppressed"
