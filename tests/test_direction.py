"""The learned direction: it sees what is strange in no single image, keeps its bounds, and survives a kill."""

import json

import numpy as np
import pytest

from monitoring.direction import REFIT, Direction
from monitoring.drift import log10_threshold, seen, yardstick
from monitoring.evidence import SHIFT, TAILS, Yardstick
from monitoring.wealth import Wealth
from monitoring.words import evidence_in_words
from tests.test_drift import Stream, Watching, images_of, reference_of, window_of


def moved(stream: Stream, n: int, by: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images that have all gone the same way, where the known ones hardly vary."""
    points = stream.draw(2000)[0]
    quiet = np.linalg.eigh(np.cov(points.T))[1][:, 0]
    drawn = stream.draw(n)
    return drawn[0] + by * quiet, drawn[1], drawn[2]


def test_what_moves_every_image_a_little_the_same_way_is_seen() -> None:
    stream = Stream(11)
    measure = yardstick(stream.reference(250), 0.01)
    quiet, gone = stream.window(200), window_of(*moved(stream, 300, 1.0))
    watching = Watching(measure)
    assert watching.alarm_at(quiet) is None
    decision = watching.take(gone)
    assert decision.alarm
    assert decision.leads[0].statistic == SHIFT
    assert 190 <= decision.onset <= 320
    said = evidence_in_words(decision, None)
    assert said.startswith(
        "The embedding lies unusually far along the direction that the images before had taken in "
    )
    fixed = Wealth(measure.events)
    events = np.array([event.statistic != SHIFT for event in measure.events])
    for window in (quiet, gone):
        for happened, _, point in images_of(measure, window):
            chance = np.array([event.chance for event in measure.events])
            fixed.step(happened & events, chance, point, measure.near)
    assert fixed.log_e < 0.5 * log10_threshold(0.01) * np.log(10), "distance to known images does not tell"


@pytest.mark.slow
def test_images_like_the_reference_lie_beyond_no_oftener_than_the_bounds_say() -> None:
    """40 references of 90 images, 600 fresh images each; one in two lies beyond a bound without its share of delta."""
    luckier = 0
    for seed in range(40):
        stream = Stream(500 + seed)
        measure = Yardstick(stream.reference(90), 0.1)
        beyond, chance = Direction.of(measure).take(stream.draw(600)[0])
        assert (chance[:REFIT] == 1).all(), "nothing is learned yet"
        assert not beyond[:REFIT].any()
        assert (chance[REFIT:] < 1).all()
        luckier += int((beyond[REFIT:].mean(axis=0) > TAILS).any())
        assert (beyond[REFIT:].mean(axis=0) <= chance[REFIT:].mean(axis=0)).all()
    assert luckier >= 10, "or the bounds were never needed"


def test_known_domains_in_other_shares_are_no_direction() -> None:
    stream = Stream(8)
    first, second = stream.draw(150), stream.draw(80, tone=-0.35)
    apart = np.zeros(24)
    apart[:6] = 6.0
    both = [np.concatenate(pair) for pair in zip(first, second, strict=True)]
    both[0][150:] += apart
    measure = yardstick(reference_of(*both, domains=("old",) * 150 + ("new",) * 80), 0.01)
    only_new = stream.draw(300, tone=-0.35)
    watching = Watching(measure)
    assert watching.alarm_at(window_of(only_new[0] + apart, only_new[1], only_new[2])) is None


def test_a_killed_watch_goes_on_with_the_same_direction() -> None:
    stream = Stream(6)
    measure = yardstick(stream.reference(100), 0.01)
    windows = [stream.window(40, tone=0.05) for _ in range(4)]
    whole, halves = Direction.of(measure), Direction.of(measure)
    for window in windows:
        expected = seen(measure, whole, window)
        found = seen(measure, halves, window)
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)
        halves = Direction.from_dict(measure, json.loads(json.dumps(halves.to_dict())))
    assert halves.learned == 2 * len(windows) - 1
    assert Direction.from_dict(measure, {}).weight == 0
