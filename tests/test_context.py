"""Context: an alarm names the source and the hours that its images come from, and nothing where they come from all."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from monitoring.context import carriers, places
from monitoring.drift import yardstick
from monitoring.window import Row, Window
from monitoring.words import evidence_in_words
from tests.monitored import START
from tests.test_drift import NAMES, Stream, Watching, window_of


def darker(stream: Stream, n: int, where: Callable[[Row], bool], *, minutes: int = 20) -> Window:
    """Images of three cameras, ``minutes`` apart; those ``where`` it holds are dark."""
    points, statistics, chances = stream.draw(n)
    rows = [
        replace(
            row,
            source=f"cam-{stream.rng.integers(1, 4)}",
            time=START + timedelta(minutes=minutes * number),
        )
        for number, row in enumerate(window_of(points, statistics, chances).rows)
    ]
    return Window(
        tuple(
            replace(row, statistics=row.statistics - np.float32([0.5, 0, 0, 0])) if where(row) else row
            for row in rows
        ),
        NAMES,
    )


def test_the_alarm_says_from_which_source_its_images_come() -> None:
    stream = Stream(2)
    measure = yardstick(stream.reference(200), 0.01)
    watching = Watching(measure)
    watching.take(darker(stream, 100, lambda row: False))
    decision = watching.take(darker(stream, 100, lambda row: row.source == "cam-3"))
    assert decision.alarm
    (place,) = decision.context
    assert (place.kind, place.name) == ("source", "cam-3")
    assert place.share > 0.9 > 0.4 > place.others
    assert place.p < 1e-6
    assert "of these come from source 'cam-3', of the other images " in evidence_in_words(decision, None)
    assert json.loads(json.dumps(decision.to_dict()))["context"][0]["name"] == "cam-3"


def test_a_source_that_was_not_there_before_is_named_though_nobody_else_sends() -> None:
    stream = Stream(3)
    measure = yardstick(stream.reference(200), 0.01)
    watching = Watching(measure)
    watching.take(stream.window(100))
    points, statistics, chances = stream.draw(60, tone=-0.3)
    gone = [replace(row, source="line-b") for row in window_of(points, statistics, chances).rows]
    late = tuple(replace(row, time=row.time + timedelta(hours=1)) for row in gone)
    (place,) = watching.take(Window(late, NAMES)).context
    assert place.words.startswith("all of these come from source 'line-b', of the other images ")
    assert place.others < 0.05


@pytest.mark.parametrize(("first", "last"), [(18, 22), (23, 2)])
def test_the_hours_of_the_day_are_named(first: int, last: int) -> None:
    """Four days of it, over midnight too."""
    stream = Stream(4)
    measure = yardstick(stream.reference(200), 0.01)
    window = darker(stream, 288, lambda row: (row.time.hour - first) % 24 < (last - first) % 24)
    carry = carriers(measure, window)
    assert carry is not None
    (place,) = places(carry, window)
    assert (place.kind, place.name) == ("hours", f"{first}-{last}")
    assert f"% of these lie between {first} and {last} h UTC, of the other images 0%" in place.words


def test_what_comes_from_everywhere_at_any_hour_names_nothing() -> None:
    stream = Stream(5)
    measure = yardstick(stream.reference(200), 0.01)
    for number in range(20):
        quiet = darker(stream, 200, lambda row: False)
        assert places(stream.rng.random(200) < 0.3, quiet) == (), number
    half = darker(stream, 200, lambda row: int(row.request_id) % 2 == 0)
    carry = carriers(measure, half)
    assert carry is not None
    assert places(carry, half) == ()


def test_that_a_drift_began_in_the_evening_makes_it_no_drift_of_the_evening() -> None:
    stream = Stream(6)
    measure = yardstick(stream.reference(200), 0.01)
    window = darker(stream, 200, lambda row: row.time >= START + timedelta(hours=10), minutes=6)
    decision = Watching(measure).take(window)
    assert decision.alarm
    assert 95 <= decision.onset <= 105
    assert decision.context == ()
