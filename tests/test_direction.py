"""The learned direction: it sees what is strange in no single image, keeps its bounds, and survives a kill."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from monitoring.direction import REFIT, Direction
from monitoring.drift import log10_threshold, yardstick
from monitoring.evidence import SHIFT, TAILS, Yardstick
from monitoring.journal import Journal
from monitoring.stream import Stream as WatchStream
from monitoring.wealth import Wealth
from monitoring.words import evidence_in_words
from pipeline.registry import Registry
from tests.monitored import SIZE, START, World, answer, params_for_tests, promote, workspace_at
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
        for happened, _, counts in images_of(measure, window):
            chance = np.array([event.chance for event in measure.events])
            fixed.step(happened & events, chance, counts)
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


def test_a_direction_outlasts_windows_and_a_kill_between_them() -> None:
    """However the images are cut into windows: each direction is used on 25, and what it says is the same."""
    stream = Stream(6)
    measure = yardstick(stream.reference(100), 0.01)
    points = stream.draw(160)[0]
    whole, halves = Direction.of(measure), Direction.of(measure)
    expected = whole.take(points)
    found = []
    for part in np.split(points, [30, 33, 60, 75, 110]):
        found.append(halves.take(part))
        halves = Direction.from_dict(measure, json.loads(json.dumps(halves.to_dict())))
    assert halves.learned == whole.learned == 160 // REFIT
    for column, one in enumerate(expected):
        together = np.concatenate([pair[column] for pair in found])
        np.testing.assert_allclose(together, one, rtol=1e-9)
    assert Direction.from_dict(measure, {}).weight == 0


def test_a_burst_of_near_alike_images_leads_nowhere() -> None:
    stream = Stream(6)
    measure = yardstick(stream.reference(100), 0.01)
    usual, odd = stream.draw(60)[0], stream.draw(1)[0] + 6.0
    burst = np.concatenate([usual[:30], np.repeat(odd, 8, axis=0), usual[30:]])
    counts = np.array([not 30 < row < 38 for row in range(len(burst))])
    once, thinned, full = Direction.of(measure), Direction.of(measure), Direction.of(measure)
    once.take(np.concatenate([usual[:30], odd, usual[30:]]))
    thinned.take(burst, counts)
    full.take(burst)
    np.testing.assert_allclose(thinned.total, once.total)
    assert np.linalg.norm(full.total) > 2 * np.linalg.norm(once.total)


def test_a_restart_goes_on_counting_the_directions(tmp_path: Path) -> None:
    """Or each restart would spend the whole of delta again; also where no image came since."""
    workspace, world = workspace_at(tmp_path), World()
    shots = [world.shot() for _ in range(50)]
    digest = promote(workspace, shots[:40])
    champion = Registry(workspace.registry).champion()
    assert champion is not None
    learned, bounds = [], []
    with Journal(workspace.journal) as journal:
        for hour in (1, 3):
            answer(
                workspace, digest, shots, start=START + timedelta(hours=hour), writer=f"w-{hour}", kept=False
            )
            stream = WatchStream.of(workspace, params_for_tests(), champion, journal)
            while (window := stream.next_window()) is not None:
                stream.observe(window)
            learned.append(stream.direction.learned)
            bounds.append([chance for _, chance in stream.direction._bounds(np.eye(SIZE)[0])])
            stream.restart(START + timedelta(hours=hour + 1))
            with journal.transaction():
                stream.save(journal)
            again = WatchStream.of(workspace, params_for_tests(), champion, journal)
            assert (again.direction.weight, again.direction.axis, again.wealth.seen) == (0, None, 0)
            assert again.direction.learned == stream.direction.learned
    assert learned == [1, 2]
    assert all(later > earlier for earlier, later in zip(*bounds, strict=True))
