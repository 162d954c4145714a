"""The drift benchmark's own arithmetic: the same evidence as the product's, and draws that share no image."""

import numpy as np

from benchmarks.drift_batch import Judgement, Rate, summary
from benchmarks.drift_draws import Cell, Draw, Stack, cells, draws
from benchmarks.drift_images import CHANGED, KINDS, LEVELS, Measured, Watched
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


def test_power_is_compared_at_equal_false_alarms() -> None:
    """A contender that alarms always gains nothing by it."""
    rng = np.random.default_rng(0)
    empty = np.array([], dtype=int)
    quiet = [Draw(n, "s", Cell("none", 0, 0.0, 20), empty, empty) for n in range(400)]
    moved = [Draw(n, "s", Cell("jpeg", 3, 1.0, 20), empty, empty) for n in range(400, 440)]
    noise = {d.number: float(rng.random()) for d in quiet}
    honest = noise | {d.number: float(0.02 * rng.random()) for d in moved}
    always = {d.number: float(rng.random()) for d in [*quiet, *moved]}
    ours = Judgement("visionloop", {k: (v, v <= 0.05) for k, v in honest.items()}, 0.0)
    rival = Judgement("always", {k: (v, True) for k, v in always.items()}, 0.0)
    found = summary([*quiet, *moved], [ours, rival])
    assert found["contenders"]["always"]["false_alarms"]["all"]["rate"] == 1.0
    (cell,) = found["power"]
    assert cell["raw"]["always"]["rate"] == 1.0
    assert cell["equal_false_alarms"]["visionloop"]["rate"] == 1.0
    assert cell["equal_false_alarms"]["always"]["rate"] < 0.25
    assert found["lost"] == []
    back = summary(
        [*quiet, *moved], [Judgement("visionloop", rival.scores, 0.0), Judgement("r", ours.scores, 0.0)]
    )
    assert [loss["rival"] for loss in back["lost"]] == ["r"]
    assert Rate(5, 100).to_dict()["high"] < 0.12
