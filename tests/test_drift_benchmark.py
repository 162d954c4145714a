"""The drift benchmark's own arithmetic: the same evidence as the product's, and draws that share no image."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.drift_batch import JUDGED, drawn_of, kept
from benchmarks.drift_draws import Cell, Draw, Stack, cells, draws, write
from benchmarks.drift_images import CHANGED, KINDS, LEVELS, Measured, Watched
from benchmarks.drift_levelled import LEAST, Judgement
from benchmarks.drift_ours import Columns
from benchmarks.drift_ours import window_of as window_of_rows
from benchmarks.drift_power import summary
from benchmarks.drift_years import first_crossing
from monitoring.direction import Direction
from monitoring.drift import log10_threshold, seen, yardstick
from monitoring.wealth import Wealth
from tests.test_drift import Stream, window_of


def test_a_year_at_once_is_the_products_evidence_image_by_image() -> None:
    stream = Stream(3)
    measure = yardstick(stream.reference(150), 0.01)
    quiet, dark = stream.draw(120), stream.draw(60)
    dark[1][:, 0] -= 0.3
    both = [np.concatenate(pair) for pair in zip(quiet, dark, strict=True)]
    happened, chance = seen(measure, Direction.of(measure), window_of(*both))
    wealth, bar = Wealth(measure.events), log10_threshold(0.01) * np.log(10)
    log_e = [wealth.step(*image) for image in zip(happened, chance, strict=True)]
    first = next(number for number, value in enumerate(log_e, start=1) if value >= bar)
    assert first > 120
    assert first_crossing(measure, happened, chance, bar) == first
    assert first_crossing(measure, happened[:120], chance[:120], bar) is None


def test_a_stream_of_columns_is_the_window_of_its_rows() -> None:
    part = stack().all.take(np.arange(60))
    stream, window = Columns.of(part, ("a", "b")), window_of_rows(part, ("a", "b"))
    assert (len(stream), stream.labels) == (len(window), window.labels)
    for column in ("embeddings", "statistics", "confidence"):
        assert np.array_equal(getattr(stream, column), getattr(window, column)), column


def stack() -> Stack:
    rng = np.random.default_rng(0)

    def part(n: int) -> Measured:
        return Measured(
            embeddings=rng.normal(size=(n, 4)).astype(np.float16),
            statistics=rng.normal(size=(n, 4)).astype(np.float32),
            probabilities=rng.dirichlet((1.0, 1.0), n).astype(np.float32),
            sizes=np.full((n, 2), 96),
            labels=rng.integers(0, 2, n),
        )

    parts = {"clean": part(430), "new_class": part(30), "other_domain": part(220)}
    parts |= {f"{kind}-{level}": part(CHANGED) for kind in KINDS for level in LEVELS}
    return Stack.of(Watched("made up", ("a", "b"), ("one",) * 430, parts))


def test_reference_and_window_share_no_image_and_hold_what_the_cell_says() -> None:
    one = stack()
    wanted = cells(levels=(3,), sizes=(20, 200))
    found = draws([one], wanted, null=3, each=1, sizes=(20, 200))
    assert len(found) == 2 * 3 + len(wanted)
    for draw in found:
        assert len(draw.window) == draw.cell.n
        assert not set(draw.reference) & set(draw.window)
        if draw.cell.shift in KINDS:
            start = one.starts[f"{draw.cell.shift}-3"]
            moved = (draw.window >= start) & (draw.window < start + CHANGED)
            assert moved.sum() == round(draw.cell.share * draw.cell.n)
            # The corrupted copy of an image and the image itself are not in one window.
            assert len(set(draw.window[moved] - start) | set(draw.window[~moved])) == draw.cell.n


def test_a_slow_contender_judges_the_first_of_each_pool_spread_over_its_cells() -> None:
    found = draws([stack()], cells(levels=(1, 3), sizes=(20, 50)), null=4, each=2, sizes=(20, 50))
    pools: dict[tuple[str, int], list[Draw]] = {}
    for draw in found:
        pools.setdefault(draw.cell.pool, []).append(draw)
    for pool in pools.values():
        assert sorted(draw.rank for draw in pool) == list(range(len(pool)))
    first = [draw for draw in pools["jpeg", 20] if draw.rank < 6]
    assert len({draw.cell for draw in first}) == 6  # two levels, three shares: none twice


def test_what_a_rival_said_of_other_draws_is_not_taken_for_these(tmp_path: Path) -> None:
    one = stack()
    found = draws([one], cells(levels=(1,), sizes=(20,)), null=2, each=1, sizes=(20,))
    write([one], found, tmp_path)
    note = {"draws": drawn_of(tmp_path)}
    (tmp_path / "alibi ks.json").write_text("{}", encoding="utf-8")
    (tmp_path / "alibi ks.made-of.json").write_text(json.dumps(note), encoding="utf-8")
    assert kept(tmp_path, "alibi ks", {"draws": drawn_of(tmp_path)})
    write([one], [*found[1:], replace(found[0], reference=found[1].reference)], tmp_path)
    assert not kept(tmp_path, "alibi ks", {"draws": drawn_of(tmp_path)})


class Made:
    """Draws of two cells, without drift and with it, and what contenders with a fixed taste say of them."""

    def __init__(self, quiet: int, moved: int) -> None:
        empty = np.array([], dtype=int)
        kinds = [Cell("none", 0, 0.0, 20)] * quiet + [Cell("jpeg", 3, 1.0, 20)] * moved
        self.draws = [Draw(n, "s", cell, empty, empty) for n, cell in enumerate(kinds)]
        self.rng = np.random.default_rng(0)

    def judged(self, name: str, power: float, *, first: int = 10**9, coarse: bool = False) -> Judgement:
        """p is uniform without drift; with it, below .02 in a share ``power`` of the draws."""
        scores = {}
        for draw in self.draws:
            hit = draw.cell.shift != "none" and self.rng.random() < power
            p = float(self.rng.random()) * (0.02 if hit else 1.0)
            if draw.cell.shift != "none" or draw.number < first:
                scores[draw.number] = (round(p * 10) / 10 if coarse else p, p <= 0.05)
        return Judgement(name, scores, 0.0)


def test_power_is_compared_at_equal_false_alarms() -> None:
    """A contender that alarms always gains nothing by it, and one that is better is found to be."""
    made = Made(400, 40)
    good, blind = made.judged("visionloop", 1.0), made.judged("r", 0.0)
    always = Judgement("always", {number: (p, True) for number, (p, _) in blind.scores.items()}, 0.0)
    found = summary(made.draws, [good, always])
    assert found["contenders"]["always"]["false_alarms"]["all"]["rate"] == 1.0
    (cell,) = found["power"]
    assert (cell["draws"], cell["raw"]["always"]) == (40, 40)
    assert cell["equal_false_alarms"]["visionloop"] == 40
    assert cell["equal_false_alarms"]["always"] < 10
    assert (found["lost"], found["lost_pools"]) == ([], [])
    assert found["cells"]["always"]["won"] == 1
    back = summary(made.draws, [Judgement("visionloop", blind.scores, 0.0), Judgement("r", good.scores, 0.0)])
    assert [(loss["rival"], loss["draws"]) for loss in back["lost"]] == [("r", 40)]
    assert {loss["pool"] for loss in back["lost_pools"]} == {"all", "jpeg", "jpeg n=20"}
    assert all(loss["high"] < 0 for loss in back["lost_pools"])


def test_equals_differ_by_no_more_than_their_intervals() -> None:
    made = Made(200, 120)
    found = summary(made.draws, [made.judged("visionloop", 0.5), made.judged("r", 0.5)])
    gap = found["pools"][0]["against"]["r"]
    assert gap["low"] < 0 < gap["high"]
    assert gap["high"] - gap["low"] < 0.4
    assert found["cells"]["r"]["lost_by_chance"] < 0.05


def test_too_few_draws_without_drift_are_refused_a_bar_and_reported_raw() -> None:
    """Not counted as a power of nothing: a slow rival would never be found to be better."""
    made = Made(400, 40)
    ours = made.judged("visionloop", 0.2)
    found = summary(made.draws, [ours, made.judged("slow", 1.0, first=LEAST - 1)])
    (cell,) = found["power"]
    assert cell["equal_false_alarms"]["slow"] is None
    assert cell["raw"]["slow"] >= 36
    assert found["contenders"]["slow"]["comparable"] == {20: False}
    assert found["contenders"]["slow"]["draws_without_drift"] == {20: LEAST - 1}
    assert "slow" not in cell["paired"]
    assert "slow" not in found["pools"][0]["against"]
    enough = summary(made.draws, [ours, made.judged("slow", 1.0, first=LEAST)])
    assert enough["power"][0]["equal_false_alarms"]["slow"] > 36
    assert [loss["rival"] for loss in enough["lost"]] == ["slow"]
    assert all(quiet >= LEAST for quiet, _ in JUDGED.values())


def test_a_coarse_score_is_held_to_as_many_false_alarms_as_a_fine_one() -> None:
    """Eleven values, none of them taken by exactly 5 %: without lots the bar would call nothing."""
    made = Made(400, 200)
    coarse = made.judged("r", 0.0, coarse=True)
    found = summary(made.draws, [made.judged("visionloop", 0.0), coarse])
    rates = found["pools"][0]["equal_false_alarms"]
    assert rates["r"]["low"] <= 0.05 <= rates["r"]["high"]
    assert rates["visionloop"]["low"] <= 0.05 <= rates["visionloop"]["high"]
