"""Drift: alarms when the camera changes, and does not cry wolf however long it looks."""

import json
import resource
import time
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from monitoring.bursts import Bursts
from monitoring.direction import Direction
from monitoring.drift import Decision, log10_threshold, matched, observe, seen, yardstick
from monitoring.evidence import TAILS, Yardstick
from monitoring.reference import Reference
from monitoring.sensitivity import smallest
from monitoring.two_sample import Comparison, class_shares, compare, holm, kolmogorov_smirnov, mmd
from monitoring.wealth import Wealth, prior
from monitoring.window import Row, Window
from monitoring.words import evidence_in_words
from tests.monitored import START

NAMES = ("a", "b", "c", "d")


class Stream:
    """Draws without end from a mixture of tight, unequal clusters: classes, and looks within a class."""

    def __init__(self, seed: int, size: int = 24) -> None:
        self.rng = np.random.default_rng(seed)
        self.looks = self.rng.normal(0, 1.5, (len(NAMES), 3, size))
        self.spread = np.exp(self.rng.normal(-0.5, 0.4, (len(NAMES), size)))
        self.tone = self.rng.normal(0.5, 0.1, (len(NAMES), 4))

    def draw(
        self,
        n: int,
        *,
        embedding: float = 0.0,
        tone: float = 0.0,
        shares: tuple[float, ...] = (0.5, 0.25, 0.15, 0.1),
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        classes = self.rng.choice(len(NAMES), n, p=shares)
        looks = self.looks[classes, self.rng.integers(0, 3, n)]
        points = looks + self.rng.standard_t(5, looks.shape) * self.spread[classes] * (1 + embedding)
        statistics = self.tone[classes] + self.rng.normal(0, 0.08, (n, 4)) + tone
        logits = -((points[:, None] - self.looks.mean(axis=1)) ** 2).sum(axis=2) / 10
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        return points, statistics, chances / chances.sum(axis=1, keepdims=True)

    def reference(self, n: int, domains: tuple[str, ...] | None = None) -> Reference:
        return reference_of(*self.draw(n), domains=domains)

    def window(self, n: int, **shift: float) -> Window:
        return window_of(*self.draw(n, **shift))  # type: ignore[arg-type]


def reference_of(
    points: np.ndarray,
    statistics: np.ndarray,
    chances: np.ndarray,
    *,
    domains: tuple[str, ...] | None = None,
    groups: tuple[str, ...] | None = None,
) -> Reference:
    ids = tuple(f"{index:06d}" for index in range(len(points)))
    return Reference(
        champion="c" * 64,
        digest="r" * 64,
        classes=NAMES,
        image_ids=ids,
        embeddings=points.astype(np.float32),
        statistics=statistics.astype(np.float32),
        probabilities=chances.astype(np.float32),
        sizes=np.full((len(points), 2), 40),
        predicted=tuple(NAMES[index] for index in chances.argmax(axis=1)),
        groups=groups or ids,
        domains=domains or ("line-a",) * len(points),
        thumbnails=(b"",) * len(points),
    )


def window_of(
    points: np.ndarray, statistics: np.ndarray, chances: np.ndarray, source: str = "line-a"
) -> Window:
    rows = [
        Row(
            request_id=str(index),
            time=START + timedelta(seconds=index),
            image_id=f"{index:064d}",
            label=NAMES[int(chances[index].argmax())],
            source=source,
            kept=None,
            probabilities=chances[index].astype(np.float32),
            embedding=points[index].astype(np.float32),
            statistics=statistics[index].astype(np.float32),
            size=(40, 40),
        )
        for index in range(len(points))
    ]
    return Window(tuple(rows), NAMES)


def from_sources(window: Window, rng: np.random.Generator, names: tuple[str, ...]) -> Window:
    """The images as such sources send them, in turns of chance."""
    drawn = rng.choice(names, len(window))
    rows = (replace(row, source=str(name)) for row, name in zip(window.rows, drawn, strict=True))
    return Window(tuple(rows), window.classes)


class Watching:
    """The evidence of one champion's stream, from its first image."""

    def __init__(self, measure: Yardstick) -> None:
        self.measure, self.wealth, self.direction = measure, Wealth(measure.events), Direction.of(measure)

    def take(self, window: Window, alpha: float = 0.01, permutations: int = 199) -> Decision:
        return observe(
            self.measure, self.wealth, self.direction, window, alpha=alpha, permutations=permutations, seed=0
        )

    def restored(self) -> None:
        """As a watch that was killed reads it back."""
        wealth, direction = (json.loads(json.dumps(one.to_dict())) for one in (self.wealth, self.direction))
        self.wealth = Wealth.from_dict(self.measure.events, wealth)
        self.direction = Direction.from_dict(self.measure, direction)

    def alarm_at(self, window: Window) -> int | None:
        """How many of the window's images it took; None without an alarm."""
        before = self.wealth.seen
        at = self.take(window).alarm_at
        return None if at is None else at - before


@pytest.mark.slow
def test_false_alarms_stay_under_alpha_over_long_streams_of_fresh_images() -> None:
    """40 lives of 600 images, each checked at every image, against its own reference of 60 to 200 images."""
    alpha, lives = 0.1, 40
    alarms = 0
    for life in range(lives):
        stream = Stream(1000 + life)
        measure = yardstick(stream.reference((60, 100, 200)[life % 3]), alpha)
        wealth = Wealth(measure.events)
        threshold = log10_threshold(alpha) * np.log(10)
        log_e = [wealth.step(*image) for image in images_of(measure, stream.window(600))]
        alarms += max(log_e) >= threshold
    assert alarms <= alpha * lives


def images_of(
    measure: Yardstick, window: Window, *, thinned: bool = True
) -> list[tuple[np.ndarray, np.ndarray, bool]]:
    """What ``Wealth.step`` takes, image by image."""
    counts = Bursts().take(window, measure.near) if thinned else np.ones(len(window), dtype=bool)
    happened, chance = seen(measure, Direction.of(measure), window, counts)
    return list(zip(happened, chance, counts.tolist(), strict=True))


@pytest.mark.slow
def test_the_bounds_hold_for_the_reference_at_hand() -> None:
    """Over many references, an event's true chance exceeds its bound in at most delta of them."""
    exceeded, references = 0, 60
    for seed in range(references):
        stream = Stream(seed)
        measure = Yardstick(stream.reference(80), 0.1)
        happened = measure.happened(stream.window(1500))
        chances = np.array([event.chance for event in measure.events])
        # Three standard errors: it is the true chance that must not exceed the bound.
        margin = 3 * np.sqrt(chances * (1 - chances) / 1500)
        exceeded += bool(np.any(happened.mean(axis=0) > chances + margin))
    assert exceeded <= 0.1 * references


@pytest.mark.parametrize(
    ("shift", "within"),
    [
        ({"tone": -0.3}, 40),
        ({"embedding": 0.8}, 60),
        ({"tone": 0.1}, 300),
        ({"shares": (0.05, 0.05, 0.45, 0.45)}, 300),
    ],
)
def test_an_alarm_comes_soon_after_a_shift_and_a_long_quiet_past_does_not_delay_it(
    shift: dict, within: int
) -> None:
    stream = Stream(7)
    measure = yardstick(stream.reference(200), 0.01)
    watching = Watching(measure)
    assert watching.alarm_at(stream.window(1000)) is None
    took = watching.alarm_at(stream.window(within, **shift))
    assert took is not None, "no alarm"


def test_the_decision_says_what_moved_where_and_since_when() -> None:
    stream = Stream(3)
    measure = yardstick(stream.reference(200), 0.01)
    points, statistics, chances = stream.draw(150)
    statistics[100:, 0] -= 0.4
    # Of 199 permutations the smallest p that one statistic's share of the level can reach is around .05 itself.
    decision = Watching(measure).take(window_of(points, statistics, chances), permutations=999)
    assert decision.alarm
    assert decision.alarm_at is not None
    assert 100 < decision.alarm_at <= 130
    assert 97 <= decision.onset <= 103
    lead = decision.leads[0]
    assert (lead.statistic, lead.direction) == ("brightness", "down")
    assert lead.share > lead.chance
    assert decision.adjusted["brightness"] < 0.05 < decision.adjusted["contrast"]
    assert json.loads(json.dumps(decision.to_dict()))["images"] == 150


def test_a_class_may_be_called_as_a_statistic_is() -> None:
    """The same stream under such names says the same, and what leads is the class."""
    names = dict(zip(NAMES, ("shift", "novelty", "confidence", "brightness"), strict=True))
    stream = Stream(9)
    plain = stream.reference(200)
    called = replace(
        plain, classes=tuple(names.values()), predicted=tuple(names[name] for name in plain.predicted)
    )
    window = stream.window(150, shares=(0.02, 0.02, 0.02, 0.94))
    rows = tuple(replace(row, label=names[row.label]) for row in window.rows)
    expected = Watching(yardstick(plain, 0.01)).take(window)
    measure = yardstick(called, 0.01)
    found = Watching(measure).take(Window(rows, called.classes))
    assert expected.alarm
    assert found.log10_e == expected.log10_e
    assert found.adjusted == expected.adjusted
    said = evidence_in_words(found, None)
    assert said.startswith(
        ("Class 'brightness' is predicted in ", "Another class than 'shift' is predicted in ")
    )
    assert smallest(measure, 40, 0.01) == smallest(yardstick(plain, 0.01), 40, 0.01)


def test_a_burst_of_one_odd_part_is_no_alarm_and_a_dead_camera_is() -> None:
    stream = Stream(5)
    measure = yardstick(stream.reference(200), 0.01)
    usual = stream.draw(200)
    odd = [np.repeat(column[:1], 200, axis=0) for column in stream.draw(1)]
    odd[0], odd[1] = odd[0] + 6.0, odd[1] - 0.4  # black, and like nothing known
    mixed = [np.concatenate([a[:60], b[:8], a[68:]]) for a, b in zip(usual, odd, strict=True)]
    watching = Watching(measure)
    assert watching.alarm_at(window_of(*mixed)) is None
    assert watching.wealth.bursts.repeats >= 7
    took = watching.alarm_at(window_of(*odd))
    assert took is not None
    assert took <= 120


@pytest.mark.slow
def test_shots_of_a_part_side_by_side_are_no_alarm() -> None:
    """Four near-alike shots of each part in a row: independent they are not, and without the rule it alarms."""
    alarms = {True: 0, False: 0}
    for seed in range(8):
        stream = Stream(300 + seed)
        measure = yardstick(stream.reference(100), 0.01)
        parts = [np.repeat(column, 4, axis=0) for column in stream.draw(120)]
        parts[0] = parts[0] + stream.rng.normal(0, 0.02, parts[0].shape)
        for thinned in (True, False):
            wealth = Wealth(measure.events)
            images = images_of(measure, window_of(*parts), thinned=thinned)
            log_e = [wealth.step(*image) for image in images]
            alarms[thinned] += max(log_e) >= log10_threshold(0.01) * np.log(10)
    assert alarms[True] == 0
    assert alarms[False] >= 1


def test_any_mix_of_known_domains_is_no_drift_and_a_third_one_is() -> None:
    stream = Stream(11)
    first, second = stream.draw(150), stream.draw(60, tone=-0.35, embedding=0.5)
    both = [np.concatenate(pair) for pair in zip(first, second, strict=True)]
    measure = yardstick(reference_of(*both, domains=("old",) * 150 + ("new",) * 60), 0.01)
    watching = Watching(measure)
    assert watching.alarm_at(stream.window(300, tone=-0.35, embedding=0.5)) is None
    assert watching.alarm_at(stream.window(300)) is None
    assert watching.alarm_at(stream.window(100, tone=0.4)) is not None


def two_domains(stream: Stream, old: int, new: int) -> Yardstick:
    """A bright domain and a much darker one."""
    parts = zip(stream.draw(old), stream.draw(new, tone=-0.8), strict=True)
    both = [np.concatenate(pair) for pair in parts]
    return yardstick(reference_of(*both, domains=("old",) * old + ("new",) * new), 0.01)


def test_what_lies_between_two_known_domains_is_drift() -> None:
    """Neither the darkest nor the brightest: in the two domains' common range, and like neither."""
    stream = Stream(12)
    measure = two_domains(stream, 150, 60)
    assert Watching(measure).alarm_at(stream.window(200, tone=-0.4)) is not None


@pytest.mark.slow
def test_no_false_alarm_while_two_known_domains_take_turns() -> None:
    """12 lives of 500 images in changing shares, against references whose younger domain is small."""
    alarms = 0
    for seed in range(12):
        stream = Stream(500 + seed)
        measure = two_domains(stream, 120, 36)
        old, new = stream.draw(500), stream.draw(500, tone=-0.8)
        dark = stream.rng.random(500) < (seed % 4) / 3
        mixed = [np.where(dark.reshape(-1, *[1] * (a.ndim - 1)), b, a) for a, b in zip(old, new, strict=True)]
        alarms += Watching(measure).alarm_at(window_of(*mixed)) is not None
    assert alarms == 0


def test_the_batch_compares_with_the_domains_that_a_window_resembles() -> None:
    stream = Stream(11)
    first, second = stream.draw(150), stream.draw(60)
    second = (second[0] + 9.0, second[1], second[2])
    both = [np.concatenate(pair) for pair in zip(first, second, strict=True)]
    reference = reference_of(*both, domains=("old",) * 150 + ("new",) * 60)
    new = matched(reference, window_of(*[column[:30] for column in second]))
    assert {reference.domains[index] for index in new} == {"new"}
    half = matched(
        reference, window_of(*[np.concatenate([a[:30], b[:30]]) for a, b in zip(first, second, strict=True)])
    )
    assert [reference.domains[index] for index in half].count("new") == len(half) // 2


def test_near_alike_shots_in_the_reference_count_once() -> None:
    points, statistics, chances = Stream(2).draw(50)
    tripled = [np.repeat(column, 3, axis=0) for column in (points, statistics, chances)]
    groups = tuple(f"part-{index // 3}" for index in range(150))
    once = Yardstick(reference_of(points, statistics, chances), 0.01)
    thrice = Yardstick(reference_of(*tripled, groups=groups), 0.01)
    chances_once = [event.chance for event in once.events if event.family == "statistics"]
    assert chances_once == [event.chance for event in thrice.events if event.family == "statistics"]


def test_grey_images_are_no_drift_when_the_reference_is_grey() -> None:
    stream = Stream(4)
    points, statistics, chances = stream.draw(200)
    statistics[:, 3] = 0.0
    measure = yardstick(reference_of(points, statistics, chances), 0.01)
    points, statistics, chances = stream.draw(300)
    statistics[:, 3] = 0.0
    assert Watching(measure).alarm_at(window_of(points, statistics, chances)) is None


def test_evidence_survives_a_restart_bit_by_bit() -> None:
    stream = Stream(6)
    measure = yardstick(stream.reference(100), 0.01)
    window = from_sources(stream.window(120, tone=0.05), stream.rng, ("a", "b"))
    window = window.take([index for index in range(120) for _ in range(1 + (index % 9 == 0))])
    whole, halves = Watching(measure), Watching(measure)
    expected = whole.take(window)
    for start in range(0, len(window), 17):
        found = halves.take(window.take(range(start, min(start + 17, len(window)))))
        halves.restored()
    assert found.log10_e == expected.log10_e
    assert (found.images, found.repeats, found.flooded) == (
        expected.images,
        expected.repeats,
        expected.flooded,
    )
    assert found.repeats >= 12
    assert found.onset == expected.onset


def test_the_weights_of_starting_times_are_at_most_one() -> None:
    assert sum(prior(block) for block in range(1, 100_000)) < 1.0


def test_evidence_of_other_events_is_not_taken_over() -> None:
    stream = Stream(6)
    measure, other = (yardstick(stream.reference(100), 0.01) for _ in range(2))
    wealth = Wealth(measure.events)
    wealth.step(*images_of(measure, stream.window(1))[0])
    assert Wealth.from_dict(measure.events, wealth.to_dict()).seen == 1
    assert Wealth.from_dict(other.events, wealth.to_dict()).seen == 0


def test_mmd_finds_a_shift_and_its_p_is_uniform_without_one() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 16)), rng.normal(size=(120, 16))
    statistic, p = mmd(x + 0.5, y, permutations=199, rng=rng)
    assert p == 1 / 200
    assert statistic > 0
    null = [
        mmd(rng.normal(size=(30, 8)), rng.normal(size=(40, 8)), permutations=99, rng=rng)[1]
        for _ in range(200)
    ]
    assert np.mean(np.array(null) <= 0.1) <= 0.16  # binomial(200, 0.1): 3 standard errors
    assert min(null) >= 0.01


def compared(x: np.ndarray, y: np.ndarray, rng: np.random.Generator, shift: float = 0.0) -> Comparison:
    """Embeddings, one number that both sides share with them, and classes."""
    numbers = {"brightness": (x[:, 0] + shift, y[:, 0])}
    labels = [["a" if value > 0 else "b" for value in side[:, 1]] for side in (x, y)]
    return compare((x, y), numbers, (labels[0], labels[1]), permutations=99, rng=rng)


def test_all_tests_of_a_window_together_keep_the_level() -> None:
    rng = np.random.default_rng(0)
    smallest = np.array(
        [
            min(compared(rng.normal(size=(25, 8)), rng.normal(size=(50, 8)), rng).adjusted.values())
            for _ in range(200)
        ]
    )
    assert np.mean(smallest <= 0.05) <= 0.1  # binomial(200, 0.05): 3 standard errors
    assert np.mean(smallest <= 0.5) > 0.35  # and none is wasted


def test_a_move_in_one_number_is_its_own() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 8)), rng.normal(size=(100, 8))
    found = compared(x, y, rng, shift=1.5)
    assert found.adjusted["brightness"] <= 0.05 < min(found.adjusted["embedding"], found.adjusted["classes"])
    assert all(found.adjusted[name] >= p for name, p in found.p.items())


def test_a_move_along_a_quiet_direction_is_seen_by_the_whitened_kernel() -> None:
    rng = np.random.default_rng(2)
    spread = np.array([10.0] * 4 + [0.5] * 8)
    x, y = rng.normal(size=(60, 12)) * spread, rng.normal(size=(100, 12)) * spread
    x[:, 4:] += 0.35
    found = compared(x, y, rng)
    assert found.p["embedding_whitened"] <= 0.02 < found.p["embedding"]


@pytest.mark.slow
def test_mmd_of_a_thousand_against_a_thousand_is_quick_and_small() -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(1000, 512)).astype(np.float32) for _ in range(2))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    mmd(x, y, permutations=500, rng=rng)
    # Two seconds on two idle cores; processor time does not depend on who else works here.
    assert time.process_time() - started < 4.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024


@pytest.mark.parametrize(("shift", "exact"), [(0.0, 0.68257), (0.3, 0.02428), (0.8, 0.00019029)])
def test_kolmogorov_smirnov_agrees_with_the_exact_test(shift: float, exact: float) -> None:
    """Exact values: ``scipy.stats.ks_2samp(x, y, method="exact")`` of the same draws."""
    rng = np.random.default_rng(0)
    for drawn in (0.0, 0.3, 0.8):
        x, y = rng.normal(size=60), rng.normal(size=150) + drawn
        if drawn == shift:
            assert kolmogorov_smirnov(x, y) == pytest.approx(exact, rel=0.25)


def test_class_shares_by_permutation() -> None:
    rng = np.random.default_rng(0)
    usual = ["a"] * 50 + ["b"] * 30 + ["c"] * 3
    assert class_shares(usual, usual, NAMES, permutations=199, rng=rng) > 0.9
    assert class_shares(["c"] * 30 + ["a"] * 20, usual, NAMES, permutations=199, rng=rng) == 1 / 200
    assert class_shares(["a"] * 30, ["a"] * 50, NAMES, permutations=199, rng=rng) == 1.0


def test_holm_is_the_textbooks() -> None:
    assert holm({"x": 0.01, "y": 0.04, "z": 0.03}) == pytest.approx({"x": 0.03, "y": 0.06, "z": 0.06})
    assert len(TAILS) == 4
