"""Whether more has changed than a drift that a person dismissed: seldom said by chance, and soon where it is so."""

from datetime import UTC, datetime, timedelta

import numpy as np

from monitoring.growth import FIRST, LAST, grown_since
from monitoring.journal import Step

START = datetime(2026, 1, 1, tzinfo=UTC)


def hour(number: int) -> datetime:
    return START + timedelta(hours=number)


def steps(values: np.ndarray) -> list[Step]:
    return [
        Step(
            time=hour(number + 1), decision="suppressed", reason="", window=f"w{number}", statistic=float(value),
            detail={"first": hour(number).isoformat()},
        )
        for number, value in enumerate(values)
    ]  # fmt: skip


def said(values: np.ndarray) -> int | None:
    """After how many windows it is first said."""
    told = steps(values)
    for count, step in enumerate(told):
        if grown_since(told[:count], hour(count), float(step.statistic or 0.0)):
            return count + 1
    return None


def test_windows_alike_are_seldom_called_more_in_a_hundred_looks() -> None:
    rng = np.random.default_rng(0)
    false = sum(said(rng.standard_normal(120)) is not None for _ in range(400))
    assert false <= 10  # 0.9 % of 400 is 3.5; more than 10 has a chance below 0.2 %


def test_a_move_is_told_after_three_windows_and_since_the_first_of_them() -> None:
    rng = np.random.default_rng(1)
    moved = np.concatenate([rng.normal(0.005, 0.007, 30), rng.normal(0.06, 0.01, 5)])
    assert said(moved) == 30 + LAST
    told = steps(moved)
    assert grown_since(told[:32], hour(32), float(moved[32])) == hour(30)


def test_too_few_windows_before_say_nothing() -> None:
    values = np.concatenate([np.zeros(FIRST - 1), np.ones(LAST)])
    assert said(values) is None
    assert said(np.concatenate([[0.0], values])) == FIRST + LAST
