"""The one clock of what is kept as state, and the variable that sets it for a simulation."""

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.clock import now
from pipeline.errors import StateError


def test_it_is_the_machine_s_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISIONLOOP_NOW", raising=False)
    assert abs(now() - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_simulation_sets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONLOOP_NOW", "2031-05-06T09:00:00+02:00")
    assert now() == datetime(2031, 5, 6, 7, tzinfo=UTC)


@pytest.mark.parametrize("given", ["tomorrow", "2031-05-06T09:00:00"])
def test_what_is_no_time_with_a_zone_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("VISIONLOOP_NOW", given)
    with pytest.raises(StateError, match="VISIONLOOP_NOW"):
        now()
