"""What gives a class away beside the object is found with its evidence; honest classes are left alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from pipeline.artifacts import MANIFEST, Workspace, read_table, write_json
from pipeline.class_statistics import class_statistics, statistics_csv, statistics_html
from pipeline.facts import facts, suspect_labels
from pipeline.ingest import run as ingest
from pipeline.mixtures import groups_across_splits, pixel_kinds, turned
from pipeline.params import Params
from pipeline.shortcuts import shortcuts
from tests.test_images import encode, picture

CLASSES, SHOTS = ("crack", "dent", "pit"), 40
Edit = Callable[[Image.Image], Image.Image]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path / "var")


def written(
    workspace: Workspace, edit: Edit | None = None, kind: str = "JPEG", quality: int = 90, shots: int = SHOTS
) -> pa.Table:
    """The manifest of pictures whose classes differ in nothing; those of "pit" are edited."""
    for place, label in enumerate(CLASSES):
        folder = workspace.root / "data" / label
        folder.mkdir(parents=True)
        for shot in range(shots):
            image = picture(120, 90, seed=1000 * place + shot)
            changed = label == "pit"
            if changed and edit:
                image = edit(image)
            name = kind if changed else "JPEG"
            options = {"quality": quality if changed else 90} if name == "JPEG" else {}
            (folder / f"part-{shot}.jpg").write_bytes(encode(image, name, **options))
    write_json(workspace.params, {"data": {"sources": [{"path": "data", "domain": "line"}]}})
    ingest(workspace, Params.load(workspace.params))
    return read_table(workspace.manifest, MANIFEST)


def stamp(image: Image.Image) -> Image.Image:
    ImageDraw.Draw(image).rectangle((104, 78, 116, 87), fill=(255, 0, 200))
    return image


def frame(image: Image.Image) -> Image.Image:
    ImageDraw.Draw(image).rectangle((0, 0, 119, 89), outline=(128, 128, 128), width=3)
    return image


def darken(image: Image.Image) -> Image.Image:
    return image.point(lambda value: value // 3)


@pytest.mark.parametrize(
    ("edit", "kind", "quality", "what", "part"),
    [
        (stamp, "JPEG", 90, "the corners", "the bottom right corner"),
        (frame, "JPEG", 90, "the border", " side"),
        (darken, "JPEG", 90, "the exposure", "brightness"),
        (None, "PNG", 90, "the file", "format"),
        (None, "JPEG", 40, "the file", "bytes"),
        (lambda image: image.resize((100, 75)), "JPEG", 90, "the file", "width"),
    ],
)
def test_what_marks_a_class_is_named(
    workspace: Workspace, edit: Edit | None, kind: str, quality: int, what: str, part: str
) -> None:
    table = written(workspace, edit, kind, quality)
    found = [one for one in shortcuts(table) if one.what == what]
    assert [one.label for one in found if one.share >= 0.9] == ["pit"], shortcuts(table)
    one = next(one for one in found if one.label == "pit")
    assert part in one.part
    assert one.interval[0] > 0.5
    assert one.majority == pytest.approx(1 / 3)
    labels = table["label"].to_pylist()
    assert {labels[row] for row in one.rows} == {"pit"}
    assert "pit" not in {labels[row] for row in one.others}
    settings = Params.load(workspace.params).validate
    texts = [text for text in facts(table, settings, "data/labelled/")["shortcut"] if text]
    assert any(f"{what} alone, above all" in text and "Compare data/pit/" in text for text in texts)


def test_honest_classes_are_not_warned_of(workspace: Workspace) -> None:
    table = written(workspace, shots=120)
    assert shortcuts(table) == []
    rng = np.random.default_rng(0)
    for _ in range(10):  # whatever the labels are
        names = pa.array(rng.choice(CLASSES, table.num_rows))
        assert shortcuts(table.set_column(table.schema.get_field_index("label"), "label", names)) == []


def test_shots_of_few_parts_prove_nothing(workspace: Workspace) -> None:
    table = written(workspace, stamp)
    parts = pa.array([f"line/{row % 4}" for row in range(table.num_rows)])
    assert shortcuts(table.set_column(table.schema.get_field_index("group"), "group", parts)) == []


@pytest.mark.real
def test_real_sets_have_no_shortcut(workspace: Workspace, real_data: Callable[[str], Path]) -> None:
    for name, folder in (
        ("grocery20", "grocery20"),
        ("deeppcb_cls", "deeppcb_cls"),
        ("magnetic_tile", "magnetic_tile/images"),
    ):
        place = Workspace(workspace.root / name, workspace.home)
        write_json(
            place.params, {"data": {"sources": [{"path": str(real_data(name) / folder), "domain": name}]}}
        )
        ingest(place, Params.load(place.params))
        assert shortcuts(read_table(place.manifest, MANIFEST)) == []


def table(**columns: list[object]) -> pa.Table:
    count = len(next(iter(columns.values())))
    plain = {name: [None] * count for name in MANIFEST.names} | {
        "path": [f"data/{row}.png" for row in range(count)]
    }
    plain |= {"domain": ["line"] * count, "group": [f"{row}" for row in range(count)]}
    return pa.table(
        {name: pa.array((plain | columns)[name], MANIFEST.field(name).type) for name in MANIFEST.names}
    )


def test_a_group_in_two_splits_is_named_with_an_image_of_each() -> None:
    found = groups_across_splits(
        table(
            image_id=list("abcdefgh"),
            group=["line/1", "line/1", "line/1", "line/2", "line/2", "f", "line/3", "line/3"],
            split=["train", "test", "train", "train", None, "test", "train", "test"],
            path=[*(f"data/{name}.png" for name in "abcdefg"), "data/labelled/h.png"],
        ),
        "data/labelled/",
    )
    assert found == ["the group 'line/1' lies in test (data/b.png) and train (data/a.png)", *[None] * 7]


def test_turned_pictures_and_kinds_of_pixels_are_named_by_class() -> None:
    found = table(
        orientation=[1, 6, 2, None], mode=["L", "I;16", "L", None], bits=[8, 16, 8, None], label=["a", "b", "a", "b"],
        error=[None, None, None, "empty: 0 bytes"],
    )  # fmt: skip
    assert [bool(text) for text in turned(found)] == [False, True, True, False]
    assert "turned by 90 degrees to the right" in str(turned(found)[1])
    assert pixel_kinds(found) == [
        None,
        "16-bit gray: 1 of 3 images, the others mostly 8-bit gray; by class 'b' 1 of 1",
        None,
        None,
    ]


def test_suspects_count_only_under_the_label_that_they_were_suspected_under(workspace: Workspace) -> None:
    found = table(image_id=["x", "y"], label=["a", "b"])
    assert suspect_labels(found, workspace) == ([None, None], "not looked for yet: `dvc repro suspects`")
    workspace.suspects.parent.mkdir(parents=True)
    workspace.suspects.write_text(
        "rank,image_id,label,suggested,suggested_probability\n1,x,a,b,0.9\n2,y,a,b,0.8\n"
    )
    assert suspect_labels(found, workspace) == (["rather 'b' (0.9)", None], "of 2 in reports/suspects.csv")


def test_statistics_by_class_are_whole_and_inert(workspace: Workspace) -> None:
    rows = class_statistics(written(workspace, shots=5))
    assert [(row["label"], row["images"], row["formats"]) for row in rows] == [
        (label, 5, "JPEG:5") for label in CLASSES
    ]
    assert all(row["brightness_p10"] <= row["brightness_median"] <= row["brightness_p90"] for row in rows)
    rows[0]["label"] = "=cmd(<b>)"
    assert "'=cmd(<b>)," in statistics_csv(rows)
    assert "<b>" not in statistics_html(rows)
