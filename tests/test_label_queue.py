"""The label queue: part at random, part telling, nothing twice, within the budget, safe to open."""

import csv
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from monitoring import label_queue
from monitoring.drift import yardstick
from monitoring.evidence import Yardstick
from monitoring.journal import Episode
from monitoring.label_queue import candidates_of, items_of, labels_of, write
from monitoring.label_selection import Candidate, select
from monitoring.labels import Label, append_labels
from monitoring.queue_files import Item, describe
from monitoring.reference import load
from monitoring.window import Log, Window
from pipeline.artifacts import Workspace, digest_file
from pipeline.errors import StateError
from pipeline.params import Label as LabelParams
from pipeline.registry import Registry
from tests.monitored import CLASSES, SIZE, START, Shot, World, answer, params_for_tests, promote, workspace_at

PARAMS = params_for_tests()
EPISODE = Episode(
    id="abcdef0123456789",
    version=1,
    state="drift_open",
    champion="c" * 64,
    reference="r" * 64,
    window="w",
    since=START,
    opened=START + timedelta(hours=1),
    changed=START,
    why="34 % darker",
)


def answered(tmp_path: Path, shots: list[Shot], *, kept: bool = True) -> tuple[Workspace, Window, Yardstick]:
    workspace, world = workspace_at(tmp_path), World(1)
    digest = promote(workspace, [world.shot() for _ in range(100)])
    answer(workspace, digest, shots, kept=kept)
    window = Log(workspace.log, digest, CLASSES, SIZE, since=START).next_window(500, 1)
    assert window is not None
    return workspace, window, yardstick(load(Registry(workspace.registry), digest), 0.01)


def test_half_at_random_half_telling_within_the_budget(tmp_path: Path) -> None:
    world = World(2)
    workspace, window, measure = answered(tmp_path, [world.shot() for _ in range(60)])
    items = write(workspace, EPISODE, window, measure, PARAMS)
    assert len(items) == len({item.image_id for item in items}) == 20
    assert sum(item.random for item in items) == 10
    folder = workspace.queue / EPISODE.id
    for item in items:
        assert digest_file(folder / item.file) == item.image_id
    with (folder / "queue.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image_id"] for row in rows] == [item.image_id for item in items]
    assert {row["label"] for row in rows} == {""}
    assert {row["why"] for row in rows} <= {"random", "uncertain", "novel"}
    assert items_of(workspace, EPISODE.id) == items


def test_the_random_part_is_drawn_uniformly() -> None:
    """Over many draws every image is asked equally often at random, the telling ones too."""
    world = World(3)
    shots = [world.shot() for _ in range(40)]
    counts = np.zeros(40)
    for seed in range(120):
        counts[[index for index, random in enumerate(_selected(shots, seed)) if random]] += 1
    # 10 of 40 in each of 120 draws: 30 expected, standard error 4.7.
    assert counts.min() > 30 - 4 * 4.7
    assert counts.max() < 30 + 4 * 4.7


def _selected(shots: list[Shot], seed: int) -> list[bool]:
    from tests.test_drift import window_of

    points, chances = np.array([s.embedding for s in shots]), np.array([s.probabilities for s in shots])
    window = window_of(points, np.zeros((len(shots), 4)), chances)
    window = Window(
        tuple(replace(row, image_id=shot.image_id) for row, shot in zip(window.rows, shots, strict=True)),
        CLASSES,
    )
    candidates = [
        Candidate(index, Path(f"{shot.image_id}.png"), f"{index:064x}") for index, shot in enumerate(shots)
    ]
    items = select(
        window, candidates, np.full(len(shots), 0.5), near=0.0, bits=0, params=replace(PARAMS, seed=seed)
    )
    random = {item.image_id for item in items if item.random}
    return [shot.image_id in random for shot in shots]


def test_the_chosen_part_prefers_novel_images(tmp_path: Path) -> None:
    world = World(4)
    strange = [world.shot(novel=3.0) for _ in range(8)]
    workspace, window, measure = answered(tmp_path, [world.shot() for _ in range(80)] + strange)
    items = write(workspace, EPISODE, window, measure, PARAMS)
    asked = {item.image_id for item in items if not item.random}
    assert sum(shot.image_id in asked for shot in strange) >= 4


def test_near_alike_and_already_labelled_images_are_not_asked(tmp_path: Path) -> None:
    world = World(5)
    shots = [world.shot() for _ in range(6)]
    twins = [replace(world.shot(), embedding=shots[0].embedding + 1e-3) for _ in range(10)]
    workspace, window, measure = answered(tmp_path, [*shots, *shots, *twins])
    append_labels(
        workspace.labels, [Label(shots[5].image_id, "x", "pit", "d", shots[5].image_id, "train", "me", START)]
    )
    asked = {item.image_id for item in write(workspace, EPISODE, window, measure, PARAMS)}
    assert shots[5].image_id not in asked
    assert len(asked & {shot.image_id for shot in [shots[0], *twins]}) == 1
    assert len(asked) == 5


def test_where_no_image_was_kept_the_readme_says_so(tmp_path: Path) -> None:
    world = World(6)
    workspace, window, measure = answered(tmp_path, [world.shot() for _ in range(30)], kept=False)
    assert write(workspace, EPISODE, window, measure, PARAMS) == []
    readme = (workspace.queue / EPISODE.id / "README.txt").read_text(encoding="utf-8")
    assert "log.keep_images" in readme


def test_a_kept_image_whose_bytes_are_not_its_ids_is_not_asked(tmp_path: Path) -> None:
    world = World(7)
    workspace, window, _ = answered(tmp_path, [world.shot() for _ in range(4)])
    images = sorted((workspace.log / "images").rglob("*.png"))
    images[0].write_bytes(images[1].read_bytes())
    images[2].write_bytes(b"cut off")
    assert len(candidates_of(workspace, window, PARAMS)) == 2


def test_a_short_queue_is_filled_up_until_people_begin_it(tmp_path: Path) -> None:
    world = World(8)
    workspace, window, measure = answered(tmp_path, [world.shot() for _ in range(60)])
    first = write(workspace, EPISODE, window.take(range(12)), measure, PARAMS)
    second = write(workspace, EPISODE, window, measure, PARAMS)
    assert len(first) < 20 == len(second)
    assert [item.image_id for item in second[: len(first)]] == [item.image_id for item in first]
    assert len({item.image_id for item in second}) == 20
    assert 9 <= sum(item.random for item in second) <= 12
    table = workspace.queue / EPISODE.id / "queue.csv"
    assert table.read_text(encoding="utf-8").count("\n") == 21
    table.write_text(table.read_text(encoding="utf-8") + "mine", encoding="utf-8")
    bigger = replace(PARAMS, label=LabelParams(budget=30))
    assert write(workspace, EPISODE, window, measure, bigger) == second
    assert table.read_text(encoding="utf-8").endswith("mine")


def test_a_queue_cut_off_half_way_is_written_again(tmp_path: Path) -> None:
    world = World(9)
    workspace, window, measure = answered(tmp_path, [world.shot() for _ in range(30)])
    leftover = workspace.queue / EPISODE.id / "images"
    leftover.mkdir(parents=True)
    (leftover / "half.png").write_bytes(b"x")
    (workspace.queue / f".incoming-{EPISODE.id}").mkdir()
    items = write(workspace, EPISODE, window, measure, PARAMS)
    assert len(items) == 20
    assert not (leftover / "half.png").exists()
    assert [path.name for path in workspace.queue.iterdir()] == [EPISODE.id]


def test_predictions_are_hints_and_class_names_are_inert(tmp_path: Path) -> None:
    item = Item("0" * 64, "images/x.png", True, "random", '=cmd("<script>")', 0.9, 1.0, "", "0")
    folder = tmp_path / "queue"
    folder.mkdir()
    classes = ['=cmd("<script>")', "pit"]
    describe(folder, EPISODE, [item], classes, PARAMS, first=START, last=START)
    row = next(csv.DictReader((folder / "queue.csv").read_text(encoding="utf-8").splitlines()))
    assert row["predicted"].startswith("'=cmd")
    task = json.loads((folder / "labelstudio.json").read_text(encoding="utf-8"))[0]
    assert "annotations" not in task
    assert task["predictions"][0]["model_version"].startswith("hint")
    assert "<script>" not in (folder / "labelstudio.xml").read_text(encoding="utf-8")


def test_label_studio_finds_the_images_the_controls_and_the_classes(tmp_path: Path) -> None:
    """The export is in its task format, and the labelling page beside it names the same control and classes."""
    world = World(11)
    workspace, window, measure = answered(tmp_path, [world.shot() for _ in range(30)])
    items = write(workspace, EPISODE, window, measure, PARAMS)
    folder = workspace.queue / EPISODE.id
    page = ElementTree.fromstring((folder / "labelstudio.xml").read_text(encoding="utf-8"))  # noqa: S314 - our own
    image, control = page.find("Image"), page.find("Choices")
    assert image is not None
    assert control is not None
    assert [choice.get("value") for choice in control] == list(CLASSES)
    assert control.get("toName") == image.get("name")
    tasks = json.loads((folder / "labelstudio.json").read_text(encoding="utf-8"))
    assert len(tasks) == len(items)
    for task, item in zip(tasks, items, strict=True):
        address = task["data"][image.get("value", "").removeprefix("$")]
        assert digest_file(folder / address.removeprefix("/data/local-files/?d=")) == item.image_id
        (prediction,) = task["predictions"]
        assert 0 <= prediction["score"] <= 1
        (result,) = prediction["result"]
        assert (result["from_name"], result["to_name"]) == (control.get("name"), image.get("name"))
        assert result["type"] == "choices"
        assert result["value"] == {"choices": [item.predicted]}
    readme = (folder / "README.txt").read_text(encoding="utf-8")
    assert "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT" in readme
    assert "accuracy over distinct scenes" in readme


def test_labels_of_an_episode_are_its_queues_and_those_given_since(tmp_path: Path) -> None:
    world = World(10)
    workspace, window, measure = answered(tmp_path, [world.shot() for _ in range(30)])
    items = write(workspace, EPISODE, window, measure, PARAMS)
    before = START - timedelta(days=3)
    rows = [
        Label(items[0].image_id, "x", "pit", "d", "g", "train", "me", before),
        Label("1" * 64, "x", "pit", "d", "g", "train", "me", EPISODE.opened + timedelta(hours=1)),
        Label("2" * 64, "x", "pit", "d", "g", "train", "me", before),
    ]
    append_labels(workspace.labels, rows)
    assert labels_of(workspace, EPISODE) == 2


def test_an_episode_id_is_never_a_path(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no episode id"):
        label_queue.folder_of(workspace_at(tmp_path), "../../etc")
