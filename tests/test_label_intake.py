"""Labels come back: checked first, all or nothing, split for good, and twice is once."""

import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from monitoring.drift import yardstick
from monitoring.journal import Episode, Journal
from monitoring.label_intake import Taken, take
from monitoring.label_queue import write
from monitoring.label_split import Newcomer, assign
from monitoring.labels import Label, read_labels
from monitoring.queue_files import Item
from monitoring.reference import load
from monitoring.second_look import Judged, second_looks
from monitoring.window import Log
from pipeline.artifacts import MANIFEST, Workspace, digest_file, write_table
from pipeline.errors import DataError
from pipeline.registry import Registry
from tests.monitored import (
    CLASSES,
    SIZE,
    START,
    Shot,
    World,
    answer,
    commented,
    params_for_tests,
    promote,
    workspace_at,
)

PARAMS = params_for_tests()
NOW = START + timedelta(days=1)


EPISODE = Episode(
    id="abcdef0123456789",
    version=1,
    state="awaiting_labels",
    champion="c" * 64,
    reference="r" * 64,
    window="w",
    since=START,
    opened=START,
    changed=START,
    why="darker",
)


def asked(
    tmp_path: Path, *, source: str = "line-b", open_episode: bool = True
) -> tuple[Workspace, list[Item]]:
    """A workspace whose queue asks 20 images."""
    workspace, world = workspace_at(tmp_path), World(1)
    digest = promote(workspace, [world.shot() for _ in range(60)])
    answer(workspace, digest, [world.shot() for _ in range(40)], source=source)
    window = Log(workspace.log, digest, CLASSES, SIZE, since=START).next_window(500, 1)
    assert window is not None
    episode = replace(EPISODE, champion=digest)
    if open_episode:
        with Journal(workspace.journal) as journal:
            journal.begin(episode)
    measure = yardstick(load(Registry(workspace.registry), digest), 0.01)
    return workspace, write(workspace, episode, window, measure, PARAMS)


def filled(workspace: Workspace, labels: dict[str, str], name: str = "answers.csv") -> Path:
    path = workspace.root / name
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image_id", "why", "label", "note"])
        writer.writerows([image_id, "", label, "x, y"] for image_id, label in labels.items())
    return path


def taken(workspace: Workspace, given: Path, **options: object) -> Taken:
    return take(workspace, PARAMS, given, by="ann", now=NOW, **options)  # type: ignore[arg-type]


def snapshot(workspace: Workspace) -> list[str]:
    files = [path for path in (workspace.root / "data").rglob("*") if path.is_file()]
    return sorted(f"{path}:{digest_file(path)}" for path in files)


def test_answers_are_copied_split_and_journalled(tmp_path: Path) -> None:
    workspace, items = asked(tmp_path)
    answers = {item.image_id: CLASSES[index % 3] for index, item in enumerate(items)}
    answers[items[0].image_id] = ""
    result = taken(workspace, filled(workspace, answers))
    rows = read_labels(workspace.labels)
    assert len(rows) == 19
    assert result.empty == 1
    for row in rows:
        assert row.label == answers[row.image_id]
        assert digest_file(workspace.root / row.path) == row.image_id
        assert row.path.startswith(f"data/labelled/{row.image_id[:2]}/")
        assert (row.domain, row.labelled_by) == ("line-b", "ann")
    at_random = {item.image_id for item in items if item.random}
    splits = Counter(row.split for row in rows)
    assert splits["test"] == 8  # 40 % of 19
    assert splits["validation"] == 3
    assert all(row.image_id in at_random for row in rows if row.split == "test")
    with Journal(workspace.journal) as journal:
        assert journal.steps()[-1].decision == "labelled"
        assert journal.steps()[-1].episode == "abcdef0123456789"


def test_the_same_file_twice_changes_nothing(tmp_path: Path) -> None:
    workspace, items = asked(tmp_path)
    answers = filled(workspace, {item.image_id: "pit" for item in items})
    taken(workspace, answers)
    before = snapshot(workspace)
    again = taken(workspace, answers)
    assert snapshot(workspace) == before
    assert (again.labels, again.known) == ([], 20)
    assert "20 already in data/labels.csv" in again.text


def test_a_picture_is_labelled_under_one_id_whatever_its_file_says_beside(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World(1)
    digest = promote(workspace, [world.shot() for _ in range(60)])
    plain = [world.shot() for _ in range(30)]
    sent = [commented(shot, "by Ann") for shot in plain]
    answer(workspace, digest, [*sent, *(commented(shot, "by Bob") for shot in plain)])
    window = Log(workspace.log, digest, CLASSES, SIZE, since=START).next_window(500, 1)
    assert window is not None
    measure = yardstick(load(Registry(workspace.registry), digest), 0.01)
    items = write(workspace, EPISODE, window, measure, PARAMS)
    assert len(items) == len({item.dhash for item in items}) == 20
    assert {item.received for item in items} <= {row.image_id for row in window.rows}
    assert all(item.image_id != item.received for item in items)
    # The data set holds one of them, as it was sent.
    held = [row.image_id for row in window.rows if row.kept_id == items[0].image_id]
    table = {name: held if name == "image_id" else [None] * 2 for name in MANIFEST.names}
    write_table(workspace.manifest, pa.table(table, schema=MANIFEST))
    answers = filled(workspace, {item.image_id: "pit" for item in items})
    first = taken(workspace, answers, domain="line-b")
    assert (len(first.labels), first.trained) == (19, 1)
    # Somebody labels the same pictures again, from the files of the camera.
    for shot in sent:
        path = tmp_path / "folder/pit" / f"{shot.image_id[:8]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(shot.data)
    second = taken(workspace, tmp_path / "folder", domain="line-b")
    assert (len(second.labels), second.known, second.trained) == (10, 19, 1)
    assert taken(workspace, tmp_path / "folder", domain="line-b").labels == []
    for label in read_labels(workspace.labels):
        data = (workspace.root / label.path).read_bytes()
        assert hashlib.sha256(data).hexdigest() == label.image_id
        assert b"Ann" not in data
        assert b"Bob" not in data


def test_splits_are_frozen_when_more_labels_come(tmp_path: Path) -> None:
    workspace, items = asked(tmp_path)
    taken(workspace, filled(workspace, {item.image_id: "pit" for item in items[::2]}))
    first = {row.image_id: row.split for row in read_labels(workspace.labels)}
    taken(workspace, filled(workspace, {item.image_id: "pit" for item in items}))
    rows = read_labels(workspace.labels)
    assert {row.image_id: row.split for row in rows if row.image_id in first} == first
    assert sum(row.split == "test" for row in rows) == 8


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"label": "scrach"}, "unknown class 'scrach'; did you mean 'scratch'?"),
        ({"label": "../x"}, "unknown class '../x'"),
        ({"image_id": "f" * 64}, "unknown image id 'ffffffffffffffff'"),
        ({"image_id": "../../etc/passwd"}, "unknown image id"),
    ],
)
def test_a_wrong_answer_is_named_and_nothing_is_taken(tmp_path: Path, wrong: dict, message: str) -> None:
    workspace, items = asked(tmp_path)
    answers = {item.image_id: "pit" for item in items}
    answers[wrong.get("image_id", items[3].image_id)] = wrong.get("label", "pit")
    before = snapshot(workspace)
    with pytest.raises(DataError, match="nothing was taken") as error:
        taken(workspace, filled(workspace, answers))
    assert message in str(error.value)
    assert "answers.csv line" in str(error.value)
    assert snapshot(workspace) == before


def test_one_image_with_two_labels_is_a_conflict(tmp_path: Path) -> None:
    workspace, items = asked(tmp_path)
    path = filled(workspace, {items[0].image_id: "pit"})
    path.write_text(path.read_text(encoding="utf-8") + f"{items[0].image_id},,clean,\n", encoding="utf-8")
    with pytest.raises(DataError, match="is 'clean' here and 'pit' before"):
        taken(workspace, path)
    taken(workspace, filled(workspace, {items[0].image_id: "pit"}))
    with pytest.raises(DataError, match="is 'clean' here and 'pit' before"):
        taken(workspace, filled(workspace, {items[0].image_id: "clean"}))


def test_a_queue_image_that_was_edited_is_refused(tmp_path: Path) -> None:
    workspace, items = asked(tmp_path)
    image = workspace.queue / "abcdef0123456789" / items[0].file
    shutil.copyfile(image.with_name(Path(items[1].file).name), image)
    with pytest.raises(DataError, match="not those of its id"):
        taken(workspace, filled(workspace, {items[0].image_id: "pit"}))


def test_a_new_class_is_taken_only_when_it_is_named_as_new(tmp_path: Path) -> None:
    workspace, items = asked(tmp_path)
    answers = filled(workspace, {items[0].image_id: "rust"})
    with pytest.raises(DataError, match="--new-class 'rust'"):
        taken(workspace, answers)
    taken(workspace, answers, new_classes=["rust"])
    assert [row.label for row in read_labels(workspace.labels)] == ["rust"]


def folder_of(workspace: Workspace, shots: list[Shot], label: str = "pit") -> Path:
    folder = workspace.root / "mine" / label
    folder.mkdir(parents=True, exist_ok=True)
    for number, shot in enumerate(shots):
        (folder / f"{number}.png").write_bytes(shot.data)
    return folder.parent


def test_a_folder_of_class_folders_is_taken_and_never_gives_test_images(tmp_path: Path) -> None:
    workspace, _ = asked(tmp_path)
    world = World(7)
    result = taken(workspace, folder_of(workspace, [world.shot() for _ in range(10)]))
    assert len(result.labels) == 10
    assert {label.split for label in result.labels} == {"train", "validation"}
    assert {label.domain for label in result.labels} == {"production-abcdef01"}


def test_a_folder_with_what_is_no_image_is_refused_whole(tmp_path: Path) -> None:
    workspace, _ = asked(tmp_path)
    folder = folder_of(workspace, [World(7).shot()])
    (folder / "pit/broken.jpg").write_bytes(b"\xff\xd8\xff cut off")
    before = snapshot(workspace)
    with pytest.raises(DataError, match=r"pit/broken\.jpg"):
        taken(workspace, folder)
    assert snapshot(workspace) == before
    (folder / "pit/broken.jpg").unlink()
    (folder / "pit" / f"{'0' * 64}.png").write_bytes(World(8).shot().data)
    with pytest.raises(DataError, match="not those of its id"):
        taken(workspace, folder)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    workspace, _ = asked(tmp_path)
    folder = folder_of(workspace, [World(7).shot()])
    (tmp_path / "outside.png").write_bytes(World(9).shot().data)
    (folder / "pit/link.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(DataError, match="link that leaves"):
        taken(workspace, folder)


def test_images_of_the_data_set_are_reported_and_skipped(tmp_path: Path) -> None:
    workspace, items = asked(tmp_path)
    row = dict.fromkeys(MANIFEST.names) | {"image_id": items[0].image_id, "label": "pit"}
    write_table(workspace.manifest, pa.Table.from_pylist([row], MANIFEST))
    result = taken(workspace, filled(workspace, {item.image_id: "pit" for item in items[:3]}))
    assert result.trained == 1
    assert len(result.labels) == 2


def export(items: list[Item], label: str = "scratch") -> list[dict]:
    choice = {"type": "choices", "value": {"choices": [label]}}
    return [
        {
            "id": number,
            "data": {"image": f"/data/local-files/?d={item.file}", "image_id": item.image_id},
            "annotations": [{"completed_by": 7, "result": [choice], "was_cancelled": False}],
            "predictions": [{"result": [{"type": "choices", "value": {"choices": ["clean"]}}]}],
        }
        for number, item in enumerate(items)
    ]


def test_label_studios_export_is_read_and_hints_never_become_labels(tmp_path: Path) -> None:
    workspace, items = asked(tmp_path)
    tasks = export(items[:6])
    tasks[4]["annotations"] = []  # only the hint is left
    tasks[5]["annotations"][0]["was_cancelled"] = True
    path = workspace.root / "export.json"
    path.write_text(json.dumps(tasks), encoding="utf-8")
    result = taken(workspace, path)
    assert [label.label for label in result.labels] == ["scratch"] * 4
    assert {label.labelled_by for label in result.labels} == {"7"}
    assert result.empty == 2
    tasks[0]["annotations"] = (
        export(items[:1], "pit")[0]["annotations"] + export(items[:1], "clean")[0]["annotations"]
    )
    path.write_text(json.dumps(tasks), encoding="utf-8")
    with pytest.raises(DataError, match="'clean' here and 'pit' before"):
        taken(workspace, path)


def exported(workspace: Workspace, tasks: list[dict]) -> Path:
    path = workspace.root / "export.json"
    path.write_text(json.dumps(tasks), encoding="utf-8")
    return path


def test_a_row_of_json_min_is_an_annotation(tmp_path: Path) -> None:
    """As Label Studio's converter writes it: `data`, then a key by control, `annotator`, `lead_time`, all flat."""
    workspace, items = asked(tmp_path)
    rows = [
        {
            "image": f"/data/local-files/?d={item.file}",
            "image_id": item.image_id,
            "why": "random",
            "id": number,
        }
        | {"label": "pit", "annotator": 7, "annotation_id": number, "lead_time": 3.2}
        for number, item in enumerate(items[:6])
    ]
    del rows[3]["label"]  # submitted without a choice
    rows[4]["lead_time"] = None  # created from the prediction
    rows[5] |= {
        "image": f"/data/upload/1/5b1e3483-{items[5].image_id}.png",
        "image_id": None,
    }  # uploaded by hand
    result = taken(workspace, exported(workspace, rows))
    assert {label.image_id for label in result.labels} == {items[index].image_id for index in (0, 1, 2, 5)}
    assert {(label.label, label.labelled_by) for label in result.labels} == {("pit", "7")}
    assert (result.empty, result.hints) == (1, 1)
    rows[0]["label"] = {"choices": ["pit", "clean"]}
    with pytest.raises(DataError, match="is 'clean' here and 'pit' before"):
        taken(workspace, exported(workspace, rows))


def test_annotations_that_label_studio_made_of_hints_are_no_labels(tmp_path: Path) -> None:
    """Its "Create Annotations From Predictions" submits every hint at once, under the name of who clicked."""
    workspace, items = asked(tmp_path)
    tasks = export(items[:4])
    for task in tasks[:2]:
        task["annotations"][0] |= {"parent_prediction": 11, "lead_time": None}
    tasks[2]["annotations"][0] |= {"parent_prediction": 12, "lead_time": 4.1}  # a person opened it and agreed
    tasks[3]["drafts"] = tasks[3].pop("annotations")
    tasks[3]["annotations"] = []
    result = taken(workspace, exported(workspace, tasks))
    assert [label.image_id for label in result.labels] == [items[2].image_id]
    assert (result.empty, result.hints) == (1, 2)
    assert "2 left out: annotations that Label Studio made of the hints" in result.text


def test_annotators_who_disagree_are_named_and_nothing_is_taken(tmp_path: Path) -> None:
    workspace, items = asked(tmp_path)
    tasks = export(items[:3], "pit")
    other = export(items[:1], "clean")[0]["annotations"][0]
    agrees = export(items[1:2], "pit")[0]["annotations"][0] | {"completed_by": 9}
    tasks[0]["annotations"].append(other | {"completed_by": {"id": 8, "email": "ben@example.org"}})
    tasks[1]["annotations"].append(agrees)
    before = snapshot(workspace)
    with pytest.raises(
        DataError, match=r"1 answers need a look.*\n.*annotators 7 and ben@example.org disagree"
    ):
        taken(workspace, exported(workspace, tasks))
    assert snapshot(workspace) == before
    tasks[0]["annotations"][1]["was_cancelled"] = True  # ben skipped it after all
    assert len(taken(workspace, exported(workspace, tasks)).labels) == 3


def test_a_list_of_tasks_without_their_annotations_is_no_export(tmp_path: Path) -> None:
    workspace, items = asked(tmp_path)
    tasks = export(items[:2])
    tasks[1]["annotations"] = [17]  # ids alone, as Label Studio's API lists tasks
    with pytest.raises(DataError, match=r"export.json task 1: its annotations are missing"):
        taken(workspace, exported(workspace, tasks))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"id;class\n1;pit\n", "header lacks image_id, label"),
        ("a.csv", b"\xff\xfe\x00", "not UTF-8"),
        ("a.json", b"{", "not JSON"),
        ("a.json", b'{"a": 1}', "list of tasks"),
        ("missing.csv", None, "is missing"),
    ],
)
def test_a_file_in_no_known_form_is_a_clear_error(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    workspace, _ = asked(tmp_path)
    if content is not None:
        (workspace.root / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        taken(workspace, workspace.root / name)


def test_a_spreadsheets_semicolons_and_apostrophes_are_understood(tmp_path: Path) -> None:
    workspace, items = asked(tmp_path)
    path = workspace.root / "excel.csv"
    path.write_bytes("image_id;label\r\n".encode("utf-8-sig") + f"{items[0].image_id};'=cmd()\r\n".encode())
    result = taken(workspace, path, new_classes=["=cmd()"])
    assert [label.label for label in result.labels] == ["=cmd()"]


def test_the_domain_is_the_common_source_or_the_episodes_or_asked_for(tmp_path: Path) -> None:
    workspace, items = asked(tmp_path, source="line-a")  # a training domain already
    answers = filled(workspace, {items[0].image_id: "pit"})
    assert taken(workspace, answers).domain == "production-abcdef01"
    other, items = asked(tmp_path / "other", source="<script>", open_episode=False)
    answers = filled(other, {items[0].image_id: "pit"})
    with pytest.raises(DataError, match="--domain"):
        taken(other, answers)
    with pytest.raises(DataError, match="may hold letters"):
        taken(other, answers, domain="../x")
    assert taken(other, answers, domain="line-c").domain == "line-c"


hexes = st.text("0123456789abcdef", min_size=64, max_size=64)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(hexes, st.integers(0, 5), st.booleans()), unique_by=lambda one: one[0], max_size=30),
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
)
def test_near_alike_images_never_lie_on_two_sides(
    images: list[tuple[str, int, bool]], cuts: list[int]
) -> None:
    """However the labels come in: near-alike ones share a split, test ones were drawn, nothing moves."""
    looks = [f"{(1 << (40 * kind)) * 0xFFFFF:064x}" for kind in range(6)]  # 20 bits from each other
    newcomers = [Newcomer(image_id, looks[kind], random) for image_id, kind, random in images]
    existing: list[Label] = []
    hashes: dict[str, str | None] = {}
    for cut in [*cuts, 99]:
        batch, newcomers = newcomers[:cut], newcomers[cut:]
        splits, left_out = assign(batch, existing, hashes, "d", PARAMS)
        assert len(splits) + len(left_out) == len(batch)
        for one in batch:
            if one.image_id in splits:
                split, group = splits[one.image_id]
                assert split != "test" or one.random
                existing.append(Label(one.image_id, "x", "pit", "d", group, split, "me", NOW))
                hashes[one.image_id] = one.dhash
    for look in looks:
        alike = [label for label in existing if hashes[label.image_id] == look]
        assert len({label.split for label in alike}) <= 1
        assert len({label.group for label in alike}) <= 1


def judged(index: int, label: str, predicted: str, confidence: float) -> Judged:
    return Judged(f"{index:064x}", label, f"{index:064x}", predicted, confidence)


def test_an_answer_against_a_model_that_knows_the_images_deserves_a_second_look() -> None:
    agreed = [judged(index, "pit", "pit", 0.95) for index in range(20)]
    slip, unsure = judged(30, "clean", "pit", 0.97), judged(31, "clean", "pit", 0.6)
    (found,) = second_looks([*agreed, slip, unsure], bits=0)
    assert found.startswith(slip.image_id[:12])
    assert "sure (0.97) of 'pit', and right in 20 of the 20 other answers" in found
    assert second_looks([*agreed[:19], slip, unsure], bits=0) == []  # too few to know whether it knows


def test_a_model_that_is_surely_wrong_on_the_new_domain_has_no_say() -> None:
    answers = [judged(index, "pit" if index % 3 else "clean", "pit", 0.99) for index in range(60)]
    assert second_looks(answers, bits=0) == []


def test_near_alike_images_under_two_labels_are_taken_and_named(tmp_path: Path) -> None:
    workspace, _ = asked(tmp_path)
    shot = World(7).shot()
    again = Image.open(io.BytesIO(shot.data))
    folder = folder_of(workspace, [shot])
    (folder / "clean").mkdir()
    again.save(folder / "clean/again.webp", quality=90)
    result = taken(workspace, folder)
    assert len(result.labels) == 2
    (found,) = result.second_looks
    assert shot.image_id[:12] in found
    assert "near-alike, but one is" in result.text
    assert "second look" in result.text


@pytest.mark.slow
def test_in_a_dvc_workspace_the_images_are_versioned(tmp_path: Path) -> None:
    workspace, items = asked(tmp_path)
    dvc = [str(Path(sys.executable).with_name("dvc"))]
    for command in (["git", "init", "-q"], [*dvc, "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    result = taken(workspace, filled(workspace, {item.image_id: "pit" for item in items[:3]}))
    assert "data/labelled.dvc" in result.versioned
    first = (tmp_path / "data/labelled.dvc").read_text(encoding="utf-8")
    taken(workspace, filled(workspace, {item.image_id: "pit" for item in items[:5]}))
    assert (tmp_path / "data/labelled.dvc").read_text(encoding="utf-8") != first
