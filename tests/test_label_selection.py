"""Which images a queue asks: a random part that nothing can bias, a chosen one, no scene twice, the budget kept."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.domain_score import domain_scores, scenes_of
from monitoring.evidence import distances
from monitoring.label_selection import Candidate, select, spread
from monitoring.queue_files import Item
from monitoring.window import Window
from pipeline.params import Label
from tests.monitored import params_for_tests
from tests.test_drift import window_of

PARAMS = params_for_tests()
NEAR = 0.5
CLEAR = np.array([0.8, 0.1, 0.1])


def production(points: np.ndarray, chances: np.ndarray | None = None) -> tuple[Window, list[Candidate]]:
    """A window of images at these points; no two pictures alike but by their place."""
    count = len(points)
    chances = np.tile(CLEAR, (count, 1)) if chances is None else chances
    candidates = [Candidate(row, Path(f"{row}.png"), f"{row:064x}") for row in range(count)]
    return window_of(points, np.zeros((count, 4)), chances), candidates


def queue(
    window: Window,
    candidates: list[Candidate],
    scores: np.ndarray | None = None,
    *,
    budget: int = 10,
    seed: int = 0,
    asked: list[Item] | None = None,
) -> list[Item]:
    params = replace(PARAMS, seed=seed, label=Label(budget=budget, random_share=0.5))
    scores = np.full(len(window), 0.5) if scores is None else scores
    return select(window, candidates, scores, near=NEAR, bits=0, params=params, asked=asked or [])


def scattered(scenes: list[int], seed: int = 0) -> np.ndarray:
    """Scenes of so many near-alike images each, far from one another."""
    rng = np.random.default_rng(seed)
    centres = 10.0 * np.eye(len(scenes), 60)
    return np.concatenate([c + 0.01 * rng.normal(size=(n, 60)) for c, n in zip(centres, scenes, strict=True)])


def rows_of(items: list[Item]) -> list[int]:
    return [int(item.image_id) for item in items]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=20),
    st.integers(1, 25),
    st.integers(0, 99),
    st.randoms(use_true_random=False),
)
def test_the_budget_is_exact_no_scene_is_asked_twice_and_order_does_not_matter(
    scenes: list[int], budget: int, seed: int, shuffler
) -> None:  # type: ignore[no-untyped-def]
    points = scattered(scenes)
    window, candidates = production(points)
    scores = np.random.default_rng(seed).uniform(size=len(points))
    items = queue(window, candidates, scores, budget=budget, seed=seed)
    assert len(items) == min(budget, len(scenes))
    assert sum(item.random for item in items) == int(np.ceil(0.5 * len(items)))
    gaps = distances(points[rows_of(items)], points[rows_of(items)])
    assert (gaps + np.eye(len(items)) * 99 >= NEAR**2).all()
    shuffler.shuffle(candidates)
    assert queue(window, candidates, scores, budget=budget, seed=seed) == items


def test_the_order_is_the_same_in_every_process() -> None:
    code = (
        "from tests.test_label_selection import production, queue, scattered\n"
        "print(*(int(item.image_id) for item in queue(*production(scattered([1] * 30)), budget=12)))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert len(said[0].split()) == 12


def test_nothing_that_the_model_says_moves_the_random_part() -> None:
    points = scattered([1] * 40)
    rng = np.random.default_rng(1)
    at_random = {
        frozenset(item.image_id for item in queue(*production(points, chances), scores) if item.random)
        for chances, scores in (
            (rng.dirichlet(np.ones(3), size=40), rng.uniform(size=40)),
            (rng.dirichlet(np.ones(3), size=40), rng.uniform(size=40)),
        )
    }
    assert len(at_random) == 1


def test_every_scene_is_drawn_as_often_as_every_other_however_many_images_it_has() -> None:
    scenes = [1, 2, 3, 8] * 5
    window, candidates = production(scattered(scenes))
    scene = np.repeat(np.arange(len(scenes)), scenes)
    drawn, draws = np.zeros(len(window)), 120
    for seed in range(draws):
        drawn[[int(item.image_id) for item in queue(window, candidates, seed=seed) if item.random]] += 1
    by_scene = np.bincount(scene, weights=drawn)
    # 5 of 20 scenes in each draw: 30 expected, standard error 4.7.
    assert np.abs(by_scene - draws / 4).max() < 4 * 4.7
    by_size = [by_scene[np.array(scenes) == size].mean() for size in (1, 8)]
    assert abs(by_size[0] - by_size[1]) < 4 * 4.7 * np.sqrt(2 / 5)
    inside = drawn[scene == 3]  # eight images that stand for each other
    assert inside.max() <= by_scene[3] / 8 + 4 * np.sqrt(by_scene[3] / 8)


def test_the_random_part_estimates_the_accuracy_without_bias_and_the_chosen_part_does_not() -> None:
    """A model that errs where it is unsure and where images are of a new kind, which is what the choice looks for."""
    rng = np.random.default_rng(2)
    count, draws = 120, 60
    scores = rng.uniform(0.2, 1.0, size=count)
    sure = rng.uniform(0.4, 1.0, size=count)
    right = rng.uniform(size=count) < sure * (1.2 - scores)
    chances = np.stack([sure, (1 - sure) / 2, (1 - sure) / 2], axis=1)
    window, candidates = production(rng.normal(size=(count, 16)), chances)
    estimates = []
    for seed in range(draws):
        items = queue(window, candidates, scores, budget=40, seed=seed)
        estimates.append(
            [
                right[[int(item.image_id) for item in items if item.random is part]].mean()
                for part in (True, False)
            ]
        )
    (random, chosen), errors = np.mean(estimates, axis=0), np.std(estimates, axis=0) / np.sqrt(draws)
    assert abs(random - right.mean()) < 4 * errors[0]
    assert chosen < right.mean() - 0.1
    assert chosen < right.mean() - 10 * errors[1]


@pytest.mark.parametrize(("budget", "filled"), [(64, True), (40, False)])
def test_a_queue_that_is_filled_up_stays_uniform_over_all_images(budget: int, filled: bool) -> None:
    """30 early images, 90 later ones: a quarter of the random part is early, or nothing changes.

    Beside 30 of 40, only 10 more can be asked: 13 random ones at most where 15 were, so none is.
    """
    window, candidates = production(10 * np.eye(120, 121))
    drawn = np.zeros(120)
    for seed in range(40):
        first = queue(window.take(range(30)), candidates[:30], budget=budget, seed=seed)
        assert (len(first), sum(item.random for item in first)) == (30, 15)
        both = queue(window, candidates[30:], budget=budget, seed=seed, asked=first)
        assert [item.image_id for item in both[:30]] == [item.image_id for item in first]
        assert (both != first) == filled
        assert len(both) == (budget if filled else 30)
        drawn[[int(item.image_id) for item in both if item.random]] += 1
    if filled:
        assert drawn.sum() == 40 * 32
        assert abs(drawn[:30].mean() - drawn[30:].mean()) < 0.5  # of 10.7 each
        assert drawn.max() < 10.7 + 5 * np.sqrt(10.7 * 0.73)


def test_the_chosen_part_weighs_distance_by_worth() -> None:
    points = np.array([[0.0], [1.0], [2.0], [10.0]])
    candidates = [Candidate(row, Path("x"), "0") for row in range(4)]
    alike = spread(candidates, [0], points, np.ones(4), 2)
    assert [one.row for one in alike] == [3, 2]
    worth = np.array([1.0, 1.0, 1.0, 0.05])  # the farthest is hardly of the new kind
    assert [one.row for one in spread(candidates, [0], points, worth, 1)] == [2]


def test_a_mixed_window_is_asked_for_its_new_part() -> None:
    rng = np.random.default_rng(4)
    reference = rng.normal(size=(150, 16))
    points = np.concatenate([rng.normal(size=(80, 16)), rng.normal(size=(40, 16)) + 1.2])
    groups = [str(row) for row in range(150)]
    scores = domain_scores(reference, groups, points, np.arange(120), seed=0)
    assert np.median(scores[80:]) > 0.7 > 0.6 > np.median(scores[:80])
    items = queue(*production(points), scores, budget=24)
    chosen = np.array([int(item.image_id) for item in items if not item.random])
    assert (chosen >= 80).mean() > 0.6  # a third of the window


class TestDomainScore:
    reference = np.random.default_rng(5).normal(size=(60, 200))
    groups = tuple(str(row) for row in range(60))

    def test_images_of_the_same_kind_score_about_half_though_any_two_sets_can_be_told_apart(self) -> None:
        """200 columns separate 120 rows perfectly in the sample that a classifier was fitted to."""
        same = np.random.default_rng(6).normal(size=(60, 200))
        scores = domain_scores(self.reference, self.groups, same, np.arange(60), seed=0)
        assert abs(scores.mean() - 0.5) < 0.06
        assert np.array_equal(scores, domain_scores(self.reference, self.groups, same, np.arange(60), seed=0))

    def test_near_alike_images_do_not_vouch_for_each_other(self) -> None:
        """Ten scenes of six shots: told apart only by a classifier that saw a sister shot."""
        rng = np.random.default_rng(7)
        shots = np.repeat(rng.normal(size=(10, 200)), 6, axis=0) + 0.01 * rng.normal(size=(60, 200))
        scenes = scenes_of(shots, near=1.0)
        assert scenes.tolist() == np.repeat(np.arange(10), 6).tolist()
        together = domain_scores(self.reference, self.groups, shots, scenes, seed=0)
        apart = domain_scores(self.reference, self.groups, shots, np.arange(60), seed=0)
        assert apart.mean() > 0.7
        assert together.mean() < 0.6

    def test_another_kind_scores_high(self) -> None:
        other = np.random.default_rng(8).normal(size=(60, 200)) + 0.5
        assert domain_scores(self.reference, self.groups, other, np.arange(60), seed=0).mean() > 0.75

    @pytest.mark.parametrize("count", [1, 4])
    def test_too_few_images_for_folds_say_nothing(self, count: int) -> None:
        few = np.ones((count, 200))
        assert (
            domain_scores(self.reference, self.groups, few, np.arange(count), seed=0).tolist()
            == [0.5] * count
        )
