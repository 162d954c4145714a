"""Bursts: what a flooding source sends is no drift, and neither a lone source nor a new one goes unseen."""

from dataclasses import replace
from datetime import timedelta

import numpy as np

from monitoring.bursts import BURST, Bursts
from monitoring.drift import yardstick
from monitoring.triage import explain
from monitoring.window import Row, Window
from tests.test_drift import NAMES, Stream, Watching, window_of


def from_cameras(window: Window, *, pace: float = 1.0, after: Row | None = None) -> list[Row]:
    """Each class has a camera of its own; ``pace`` is seconds an image, from ``after`` on."""
    start = after.time if after else window.rows[0].time
    return [
        replace(row, source=f"cam-{row.label}", time=start + timedelta(seconds=pace * (number + 1)))
        for number, row in enumerate(window.rows)
    ]


def together(*parts: list[Row]) -> Window:
    return Window(tuple(row for part in parts for row in part), NAMES)


def test_a_source_that_floods_the_log_with_what_it_usually_sends_is_no_alarm() -> None:
    """Nothing changed but the mix of sources; without their names it is an alarm."""
    for seed in range(2):
        stream = Stream(seed)
        measure = yardstick(stream.reference(200), 0.01)
        usual = from_cameras(stream.window(300))
        flood = from_cameras(stream.window(60, shares=(0.1, 0.05, 0.05, 0.8)), pace=0.2, after=usual[-1])
        watching = Watching(measure)
        decision = watching.take(together(usual, flood))
        assert not decision.alarm
        assert decision.flooded >= 30
        nameless = [replace(row, source="") for row in (*usual, *flood)]
        assert Watching(measure).take(together(nameless)).alarm


def test_a_flood_counts_one_image_in_ten_until_the_others_fall_silent() -> None:
    rng = np.random.default_rng(0)
    stream = Stream(1)
    window = stream.window(400)
    turns = [replace(row, source=str(rng.choice(["a", "b", "c"]))) for row in window.rows[:200]]
    usual = Bursts()
    assert usual.take(together(turns), 0.0).mean() > 0.93, "turns of chance are no flood"
    pace = [timedelta(seconds=seconds) for seconds in (0.05, 1.0)]
    fast, slow = (
        [
            replace(row, source="a", time=turns[-1].time + step * number)
            for number, row in enumerate(window.rows[200:300], start=1)
        ]
        for step in pace
    )
    quick, lone = Bursts.from_dict(usual.to_dict()), Bursts.from_dict(usual.to_dict())
    counts = quick.take(together(fast), 0.0)
    assert counts[:5].all()
    assert 8 <= counts[10:].sum() <= 90 // BURST + 1
    # At the others' own pace they are missed after ten of their gaps: this source is all that is left.
    assert lone.take(together(slow), 0.0)[30:].all()


def test_one_source_is_no_flood_and_a_new_one_in_its_place_is_soon_seen() -> None:
    stream = Stream(4)
    measure = yardstick(stream.reference(200), 0.01)
    usual = stream.window(150)
    points, statistics, chances = stream.draw(60, tone=-0.3)
    dark = [
        replace(row, time=usual.rows[-1].time + timedelta(seconds=number + 1))
        for number, row in enumerate(window_of(points, statistics, chances).rows)
    ]
    for name in ("line-a", "another"):
        watching = Watching(measure)
        assert watching.alarm_at(usual) is None
        took = watching.alarm_at(together([replace(row, source=name) for row in dark]))
        assert took is not None
        assert took <= 45
        assert watching.wealth.bursts.flooded == 0 or name == "another"


def test_a_source_that_goes_wrong_at_its_usual_pace_is_an_alarm() -> None:
    stream = Stream(2)
    measure = yardstick(stream.reference(200), 0.01)
    rng = np.random.default_rng(2)
    points, statistics, chances = stream.draw(500)
    sources = rng.choice(["a", "b", "c"], 500)
    statistics[300:, 0] -= 0.5 * (sources[300:] == "b")
    rows = window_of(points, statistics, chances).rows
    window = together([replace(row, source=str(name)) for row, name in zip(rows, sources, strict=True)])
    took = Watching(measure).alarm_at(window)
    assert took is not None
    assert 300 < took <= 400


def test_an_odd_source_that_floods_is_named_with_its_advice() -> None:
    """Its first images are evidence, and what they say is that this device is to be looked at."""
    stream = Stream(6)
    measure = yardstick(stream.reference(200), 0.01)
    rng = np.random.default_rng(6)
    points, statistics, chances = stream.draw(400)
    sources = rng.choice(["a", "b", "c"], 400)
    sources[300:] = np.where(rng.random(100) < 0.7, "b", sources[300:])
    statistics[300:, 0] -= 0.5 * (sources[300:] == "b")
    start, rows = window_of(points, statistics, chances).rows[0].time, []
    for number, row in enumerate(window_of(points, statistics, chances).rows):
        seconds = number if number < 300 else 300 + 0.3 * (number - 300)
        rows.append(replace(row, source=str(sources[number]), time=start + timedelta(seconds=seconds)))
    watching = Watching(measure)
    decision = watching.take(together(rows))
    assert decision.alarm
    assert decision.flooded >= 20
    assert [place.name for place in decision.context] == ["b"]
    shifted = together(rows[decision.onset :])
    found = explain(measure, shifted)
    assert (found.kind, found.source) == ("source", "b")
    assert "check that device first" in found.text
