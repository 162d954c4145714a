"""Triage: what changed, in words that are true of the images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monitoring import contact_sheet
from monitoring.bad_source import bad_source
from monitoring.drift import yardstick
from monitoring.triage import Explanation, explain
from monitoring.window import Log, Window
from tests.monitored import CLASSES, SIZE, START, World, answer, promote, workspace_at
from tests.test_drift import Stream, reference_of, window_of


def explained(stream: Stream, **shift: object) -> Explanation:
    measure = yardstick(stream.reference(200), 0.01)
    return explain(measure, stream.window(80, **shift))  # type: ignore[arg-type]


def test_darker_images_are_called_darker_by_how_much() -> None:
    stream = Stream(1)
    measure = yardstick(stream.reference(300), 0.01)
    points, statistics, chances = stream.draw(120)
    statistics[:, 0] *= 0.66
    found = explain(measure, window_of(points, statistics, chances))
    assert found.kind == "sensor"
    assert found.changes[0].name == "brightness"
    percent = int(found.text.split("% darker")[0].split()[-1])
    assert 30 <= percent <= 38
    assert found.fault == "exposure"
    assert "lamp" in found.text


def test_blur_is_called_less_sharp_and_what_did_not_move_is_not_named() -> None:
    stream = Stream(2)
    measure = yardstick(stream.reference(300), 0.01)
    points, statistics, chances = stream.draw(120)
    statistics[:, 2] -= 0.5
    found = explain(measure, window_of(points, statistics, chances))
    assert "less sharp (edges 3." in found.text
    assert "darker" not in found.text
    assert "colourful" not in found.text


def test_other_class_shares_are_named_with_both_figures() -> None:
    found = explained(Stream(3), shares=(0.05, 0.1, 0.25, 0.6))
    assert found.shares
    assert "→" in found.text
    assert "'" not in found.kind


def test_strange_content_with_the_usual_look() -> None:
    stream = Stream(4)
    measure = yardstick(stream.reference(300), 0.01)
    points, statistics, chances = stream.draw(80)
    found = explain(measure, window_of(points * 1.8, statistics, chances))
    assert found.kind == "content"
    assert found.novel_share > 0.5
    assert "stranger than 99%" in found.text


def test_a_single_bad_source_is_named() -> None:
    stream = Stream(5)
    measure = yardstick(stream.reference(300), 0.01)
    good = window_of(*stream.draw(60), source="press-1")
    bad = window_of(*stream.draw(40, tone=-0.3), source="press-2")
    found = explain(measure, Window((*good.rows, *bad.rows), good.classes))
    assert found.kind == "source"
    assert found.source == "press-2"
    assert all(index >= 60 for index in found.examples[:16])
    everywhere = window_of(*stream.draw(60, tone=-0.3), source="press-1")
    assert explain(measure, Window((*everywhere.rows, *bad.rows), good.classes)).source is None


def test_a_source_that_is_noticed_first_is_not_the_only_one_that_changed() -> None:
    stream = Stream(9)
    measure = yardstick(stream.reference(300), 0.01)
    named = 0
    for _ in range(40):
        parts = [
            window_of(*stream.draw(n, tone=-0.12), source=name) for name, n in (("a", 14), ("b", 9), ("c", 6))
        ]
        named += (
            bad_source(measure, Window(tuple(row for part in parts for row in part.rows), CLASSES))
            is not None
        )
    assert named <= 1


def test_no_change_is_no_claim() -> None:
    found = explained(Stream(6))
    assert found.changes == ()
    assert found.shares == {}
    assert found.kind == "unclear"


def test_grey_to_colour_has_no_infinite_percentage() -> None:
    stream = Stream(7)
    points, statistics, chances = stream.draw(200)
    statistics[:, 3] = 0.0
    measure = yardstick(reference_of(points, statistics, chances), 0.01)
    points, statistics, chances = stream.draw(60)
    statistics[:, 3] = 0.4
    found = explain(measure, window_of(points, statistics, chances))
    assert "more colourful (saturation 0.00 → 0.40)" in found.text


@pytest.mark.parametrize("kept", [True, False])
def test_the_contact_sheet_shows_production_above_the_reference(tmp_path: Path, kept: bool) -> None:
    from monitoring.reference import load
    from pipeline.registry import Registry

    workspace, world = workspace_at(tmp_path), World()
    digest = promote(workspace, [world.shot() for _ in range(40)])
    answer(workspace, digest, [world.shot(dark=0.4) for _ in range(20)], kept=kept)
    window = Log(workspace.log, digest, CLASSES, SIZE, since=START).next_window(50, 1)
    assert window is not None
    target = tmp_path / "sheet.png"
    reference = load(Registry(workspace.registry), digest)
    assert contact_sheet.draw(target, window, range(20), reference, workspace.log / "images") is kept
    sheet = np.asarray(Image.open(target).convert("L"), dtype=float)
    dark = [(row < 120).mean() for row in np.array_split(sheet, 2)]
    assert bool(dark[0] > 2 * dark[1]) is kept
