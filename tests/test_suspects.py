"""Suspect labels: flipped ones are found and ranked first, clean sets stay quiet, and nothing runs by itself."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline import suspects
from pipeline.artifacts import SPLIT, Workspace, digest_file, read_table, write_table
from pipeline.errors import DataError
from pipeline.params import Params
from pipeline.suspects import search
from pipeline.suspects_page import MOST, page
from pipeline.transfer.confident import find_suspects
from pipeline.transfer.probe import MOST_IN_SEARCH
from tests import tiny_training
from tests.conftest import ROOT
from tests.test_probe import CLASSES, clouds

FLIPPED = 8


def rows_of(labels: list[str], groups: list[str] | None = None) -> list[dict[str, Any]]:
    groups = groups or [str(n) for n in range(len(labels))]
    return [
        {"image_id": str(n), "path": f"{n}.png", "split": "train", "label": label, "group": group}
        for n, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]


def test_thresholds_are_each_class_s_own_and_the_worst_margin_comes_first() -> None:
    probabilities = np.array(
        [
            [0.9, 0.1, 0.0],
            [0.5, 0.3, 0.2],
            [0.5, 0.5, 0.0],  # as likely as its own class: no suspect
            [0.2, 0.1, 0.7],  # given b; c's threshold is .55, reached
            [0.0, 0.9, 0.1],
            [0.1, 0.3, 0.6],
            [0.4, 0.1, 0.5],  # given c; a is less likely, and its threshold of .7 is not reached
            [0.65, 0.3, 0.05],  # given b, a is likelier, but not as likely as a's own images are
            [0.75, 0.05, 0.2],  # given b, and a's own images are less sure
        ]
    )
    labels = np.array([0, 0, 1, 1, 1, 2, 2, 1, 1])
    found = find_suspects(probabilities, labels)
    assert [(one.row, one.suggested) for one in found] == [(8, 0), (3, 2)]
    assert found[0].margin == pytest.approx(0.05 - 0.75)


def test_flipped_labels_come_first_and_clean_ones_stay_quiet() -> None:
    features, codes = clouds(60, 0.8)
    labels = [CLASSES[code] for code in codes]
    clean = search(rows_of(labels), features, Params())
    assert len(clean.suspects) <= 0.03 * len(labels)
    flips = np.random.default_rng(0).choice(len(labels), FLIPPED, replace=False)
    for row in flips:
        labels[row] = CLASSES[(codes[row] + 1) % 3]
    found = search(rows_of(labels), features, Params())
    first = [one.row for one in found.suspects[:FLIPPED]]
    assert set(first) <= set(flips.tolist())
    assert len(first) >= 5  # by chance it would be 8 x 8 / 180, a third of one
    assert all(found.classes[one.suggested] == CLASSES[codes[one.row]] for one in found.suspects)


def test_shots_of_one_part_do_not_vouch_for_each_other() -> None:
    """Five near-alike shots of a part, all labelled wrongly alike: only whole parts held out can tell."""
    features, codes = clouds(30, 1.0)
    shots = np.repeat(features, 5, axis=0) + np.random.default_rng(1).normal(0, 0.01, (450, 20)).astype(
        np.float32
    )
    labels = [CLASSES[code] for code in np.repeat(codes, 5)]
    labels[:5] = [CLASSES[1]] * 5
    groups = [f"part-{n // 5}" for n in range(450)]
    found = search(rows_of(labels, groups), shots, Params())
    assert {one.row for one in found.suspects[:5]} == set(range(5))
    alone = search(rows_of(labels), shots, Params())
    assert not {one.row for one in alone.suspects} & set(range(5))


def test_a_class_that_is_too_small_is_skipped_by_name_and_two_must_be_left() -> None:
    features, codes = clouds(20, 1.0)
    labels = [CLASSES[code] for code in codes]
    rows = rows_of([*labels[:40], *["rare"] * 4], None)
    found = search(rows, features[:44], Params())
    assert found.skipped == {"rare": 4}
    assert "rare (4)" in found.report
    assert {row["label"] for row in found.rows} == {"a", "b"}
    with pytest.raises(DataError, match="1 of 2 classes"):
        search(rows_of([*labels[:20], *["rare"] * 4]), features[:24], Params())


def test_a_set_larger_than_the_search_s_sample_is_looked_at_whole() -> None:
    features, codes = clouds(1_700, 1.2, width=4)
    assert len(codes) > MOST_IN_SEARCH
    found = search(rows_of([CLASSES[code] for code in codes]), features, Params())
    assert len(found.rows) == len(codes)


HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, set[str], dict[str, str]]:
    """A workspace whose verb has run: the workspace, the flipped images, and the digests before it ran."""
    root = tmp_path_factory.mktemp("suspects")
    workspace = tiny_training.make(root / "w", tiny_training.save_weights(root / "weights"), per_class=60)
    rows = read_table(workspace.split, SPLIT).to_pylist()
    renamed = {"dots": HOSTILE, "across": "=cmd()"}
    labels = [renamed.get(row["label"], row["label"]) for row in rows]
    flipped = np.random.default_rng(4).choice(len(rows), FLIPPED, replace=False).tolist()
    names = sorted(set(labels))
    for place, row in enumerate(rows):
        row["label"] = labels[place]
        if place in flipped:
            row["label"] = names[(names.index(labels[place]) + 1) % 3]
    hostile = workspace.root / "=1+1.png"
    (workspace.root / rows[flipped[0]]["path"]).rename(hostile)
    rows[flipped[0]]["path"] = hostile.name
    write_table(workspace.split, type(read_table(workspace.split, SPLIT)).from_pylist(rows, SPLIT))
    before = {str(path): digest_file(path) for path in workspace.root.rglob("*.p*") if path.is_file()}
    assert suspects.run(workspace, Params.load(workspace.params)) == 0
    return workspace, {rows[place]["image_id"] for place in flipped}, before


def read(workspace: Workspace) -> list[dict[str, str]]:
    with workspace.suspects.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_the_verb_finds_what_was_flipped_and_changes_nothing(
    searched: tuple[Workspace, set[str], dict[str, str]],
) -> None:
    workspace, flipped, before = searched
    table = read(workspace)
    assert [int(row["rank"]) for row in table] == list(range(1, len(table) + 1))
    found = sum(row["image_id"] in flipped for row in table[:FLIPPED])
    assert found >= 4  # by chance 8 x 8 / 180
    margins = [float(row["label_probability"]) - float(row["suggested_probability"]) for row in table]
    assert margins == sorted(margins)
    assert max(margins) < 0
    after = {name: digest_file(Path(name)) for name in before}
    assert after == before


@pytest.mark.slow
def test_page_and_table_agree_and_hostile_names_stay_text(
    searched: tuple[Workspace, set[str], dict[str, str]],
) -> None:
    workspace = searched[0]
    table, text = read(workspace), workspace.suspects_page.read_text(encoding="utf-8")
    assert re.findall(r'data-image="(\w+)"', text) == [row["image_id"] for row in table][:MOST]
    assert text.count("data:image/jpeg;base64,") == min(len(table), MOST)
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text
    assert "http" not in text.replace("http-equiv", "")
    cells = [cell for row in table for cell in row.values()]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert "'=1+1.png" in cells
    assert text.count('class="test"') == sum(row["split"] == "test" for row in table)


@pytest.mark.slow
def test_a_second_run_says_the_same(searched: tuple[Workspace, set[str], dict[str, str]]) -> None:
    workspace = searched[0]
    before = (digest_file(workspace.suspects), digest_file(workspace.suspects_page))
    assert suspects.run(workspace, Params.load(workspace.params)) == 0
    assert (digest_file(workspace.suspects), digest_file(workspace.suspects_page)) == before


def test_the_page_shows_the_first_and_a_gone_file_by_its_path(tmp_path: Path) -> None:
    row = {
        "image_id": "f", "path": "gone.png", "split": "test", "label": "a", "suggested": "b",
        "label_probability": 0.1, "suggested_probability": 0.8,
    }  # fmt: skip
    table = [{"rank": rank, **row} for rank in range(1, MOST + 2)]
    text = page(table, "Many.", tmp_path, {})
    assert text.count("<li ") == MOST
    assert f"Shown are the first {MOST}" in text
    assert "gone or damaged" in text


def test_no_stage_waits_for_it() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert "suspects" in stages
    others = {name: json.dumps(stage) for name, stage in stages.items() if name != "suspects"}
    assert not [name for name, text in others.items() if "reports/suspects" in text]
