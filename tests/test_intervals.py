"""Intervals and exact tests: known values, and coverage where images come in groups."""

import math
from itertools import product

import numpy as np
import pytest

from pipeline.intervals import (
    binomial_below,
    calibration_interval,
    codes,
    effective_size,
    holm,
    intraclass,
    jackknife,
    proportion,
    resample,
    standard_error,
    studentised,
    totals,
    wilson,
)
from pipeline.paired import paired_intervals, sign_flip, tango


def test_wilson_has_the_published_values() -> None:
    # Newcombe 1998, table I: 81 of 263 and 15 of 148
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20)[0] == 0
    assert wilson(20, 20) == (pytest.approx(0.8389, abs=5e-5), 1.0)
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize(("wins", "losses", "n"), [(12, 2, 50), (0, 1, 44), (3, 9, 400)])
def test_tango_inverts_the_score_test(wins: int, losses: int, n: int) -> None:
    """At each end, the score statistic with the most likely nuisance share (by search) is 1.96."""
    for delta, sign in zip(tango(wins, losses, n), (1, -1), strict=True):
        share = np.linspace(max(0.0, -delta) + 1e-7, (1 - delta) / 2 - 1e-7, 400_001)
        likelihood = wins * np.log(share + delta) + (n - wins - losses) * np.log(1 - 2 * share - delta)
        best = share[np.argmax(likelihood + losses * np.log(share))]
        score = (wins - losses - n * delta) / math.sqrt(n * (2 * best + delta * (1 - delta)))
        assert score == pytest.approx(sign * 1.96, abs=0.01)


def test_agreement_in_thirty_images_is_no_proof() -> None:
    low, high = tango(0, 0, 30)
    assert low == pytest.approx(-(1.96**2) / (30 + 1.96**2), abs=1e-3)
    assert high == pytest.approx(-low, abs=1e-6)


def test_copies_count_as_one_image() -> None:
    groups = np.repeat(np.arange(20), 5)
    copies = np.repeat(np.arange(20) % 4 > 0, 5)
    assert intraclass(copies.astype(float), groups) == pytest.approx(1)
    assert effective_size(groups, 1.0) == pytest.approx(20)
    assert proportion(copies, groups) == pytest.approx(wilson(15, 20))
    assert proportion(copies, np.arange(100)) == pytest.approx(wilson(75, 100))


def test_no_variation_is_no_proof_of_independence() -> None:
    groups = np.repeat(np.arange(5), 4)
    assert proportion(np.ones(20, dtype=bool), groups) == pytest.approx(wilson(5, 5))


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_intervals_of_grouped_images_cover_the_truth(correlation: float) -> None:
    generator = np.random.default_rng(0)
    truth, hits, naive = 0.85, 0, 0
    for _ in range(400):
        groups = np.repeat(np.arange(40), generator.integers(1, 8, 40))
        chance = np.full(40, truth)
        if correlation:
            spread = (1 - correlation) / correlation
            chance = generator.beta(truth * spread, (1 - truth) * spread, 40)
        right = generator.random(len(groups)) < chance[groups]
        low, high = proportion(right, groups)
        hits += low <= truth <= high
        low, high = wilson(right.sum(), len(right))
        naive += low <= truth <= high
    assert 0.92 <= hits / 400 <= 0.99
    if correlation:
        assert naive / 400 < 0.85


def test_resampling_draws_whole_groups_and_agrees_with_theory() -> None:
    values = np.array([0.0, 1.0] * 200)[:, None]
    single = totals(np.concatenate([values, np.ones((400, 1))], axis=1), np.arange(400))
    sums = resample(single, 2000, seed=0)
    means = sums[:, 0] / sums[:, 1]
    assert means.std() == pytest.approx(math.sqrt(0.25 / 400), rel=0.06)
    assert np.array_equal(sums, resample(single, 2000, seed=0))
    paired = resample(
        totals(values, np.arange(400) // 2), 100, seed=0
    )  # each group holds one right and one wrong
    assert set(paired[:, 0]) == {200.0}


def test_paired_intervals_are_tangos_for_single_images_and_cover_where_shots_are_alike() -> None:
    difference = np.array([1.0] * 12 + [-1.0] * 2 + [0.0] * 36)
    assert paired_intervals(difference, np.arange(50)) == [pytest.approx(tango(12, 2, 50))]
    copies = paired_intervals(np.repeat(difference, 4), np.repeat(np.arange(50), 4))
    assert copies == [pytest.approx(tango(12, 2, 50))]
    generator = np.random.default_rng(1)
    covered = naive = 0
    for _ in range(400):
        chance = generator.dirichlet(np.array([0.08, 0.14, 0.78]) * 1.5, size=60)  # correlated by 0.4
        groups = np.repeat(np.arange(60), 5)
        drawn = (generator.random(300)[:, None] > chance[groups].cumsum(axis=1)).sum(axis=1)
        difference = np.array([1.0, -1.0, 0.0])[drawn]
        [(low, high)] = paired_intervals(difference, groups)
        covered += low <= -0.06 <= high
        low, high = tango((difference > 0).sum(), (difference < 0).sum(), 300)
        naive += low <= -0.06 <= high
    assert 0.92 <= covered / 400 <= 0.98
    assert naive / 400 < 0.88


def test_two_that_never_disagree_may_still_differ() -> None:
    [(low, high)] = paired_intervals(np.zeros(40), np.arange(40))
    assert low < -0.05 < 0.05 < high
    [(lower, higher)] = paired_intervals(np.zeros(40), np.repeat(np.arange(10), 4))  # ten parts say less
    assert lower < low < high < higher


def test_sign_flip_is_mcnemar_for_single_images_and_exact_for_groups() -> None:
    difference = np.array([-1.0] * 6 + [1.0] * 1 + [0.0] * 30)
    assert sign_flip(difference, np.arange(37)) == pytest.approx(8 / 2**7)  # P(at most 1 of 7)
    # Six losses of one part are one loss.
    assert sign_flip(
        np.array([-1.0] * 6 + [0.0] * 30), np.array([0] * 6 + list(range(1, 31)))
    ) == pytest.approx(0.5)
    net, sizes = np.array([-3, -2, 1, 2]), [3, 2, 1, 2]
    flips = [
        sum(s * size for s, size in zip(signs, sizes, strict=True)) for signs in product((-1, 1), repeat=4)
    ]
    rows = np.repeat(np.arange(4), np.abs(net))
    expected = np.mean([total <= net.sum() for total in flips])
    assert sign_flip(np.sign(net)[rows].astype(float), rows) == pytest.approx(expected)
    assert sign_flip(np.zeros(5), np.arange(5)) == 1.0


def test_binomial_tail_and_holm() -> None:
    exact = sum(math.comb(20, k) * 0.5**20 for k in range(6))
    assert binomial_below(5, 20, 0.5) == pytest.approx(exact)
    assert binomial_below(20, 20, 0.5) == 1
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_a_jackknifed_proportion_is_the_proportions_own_interval() -> None:
    hits = np.arange(200) < 170
    without = (hits.sum() - hits) / 199
    low, high = jackknife(0.85, without) or (0, 0)
    assert (low, high) == pytest.approx(wilson(170, 200), abs=0.002)
    copies = (hits.sum() - hits) * 4 / (199 * 4)  # four shots of each: no more is known
    assert jackknife(0.85, copies) == pytest.approx((low, high))
    assert jackknife(1.0, np.ones(200)) is None


def test_the_mean_of_skewed_values_is_covered_where_a_symmetric_interval_ends_too_low() -> None:
    generator = np.random.default_rng(2)
    covered = plain = 0
    for seed in range(300):
        values = np.exp(generator.normal(0, 1.2, 80))
        low, high = studentised(values, np.arange(80), 300, seed)
        covered += low <= math.exp(0.72) <= high
        half = 1.96 * values.std(ddof=1) / 80**0.5
        plain += abs(values.mean() - math.exp(0.72)) <= half
    assert covered / 300 >= 0.91
    assert plain / 300 < covered / 300 - 0.02
    assert studentised(values, np.arange(80), 300, 0) == studentised(values, np.arange(80), 300, 0)
    assert studentised(np.full(8, 0.3), np.arange(8), 100, 0) == pytest.approx((0.3, 0.3))


def test_noise_alone_is_no_miscalibration_and_a_true_gap_is_one() -> None:
    generator = np.random.default_rng(3)
    noise = generator.normal(0, 0.01, (500, 8))
    [drawn] = generator.normal(0, 0.01, (1, 8))
    low, high = calibration_interval(drawn + noise, drawn)
    assert low == 0 < high
    gap = np.full(8, 0.02) + drawn
    low, high = calibration_interval(gap + noise, gap)
    assert 0.05 < low < 0.16 < high < 0.24


def test_group_names_become_codes() -> None:
    assert codes(["b", "a", "b"]).tolist() == [1, 0, 1]


def test_the_standard_error_is_that_of_repeated_draws_and_knows_of_groups() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], [200, 20])
    draws = generator.normal(0, 1, (4000, 220))
    means = draws[:, :200].mean(axis=1) / 2 + draws[:, 200:].mean(axis=1) / 2
    errors = [standard_error(values, np.arange(220), labels) for values in draws[:400]]
    assert np.mean(errors) == pytest.approx(means.std(), rel=0.05)
    copies = np.repeat(draws[0], 5)
    assert standard_error(copies, np.arange(1100) // 5, np.repeat(labels, 5)) == pytest.approx(errors[0])
    assert standard_error(draws[0], np.arange(220)) == pytest.approx(draws[0].std(ddof=1) / 220**0.5)
    assert standard_error(draws[0], np.zeros(220)) == float("inf")
