"""Folders and tables to a manifest: complete, ordered, and never beyond the source."""

import csv
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.artifacts import MANIFEST, Workspace, read_table, write_json
from pipeline.errors import DataError, IntegrityError, ParamsError
from pipeline.images import describe
from pipeline.ingest import run, scan_stage
from pipeline.params import Params
from pipeline.stored import md5_of, require_whole
from tests.test_images import encode, picture, png_of_size

Write = Callable[..., Path]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path / "var")


@pytest.fixture
def put(tmp_path: Path) -> Write:
    """Write a picture below data/set: ``put("cat/1.jpg", seed=3)``."""

    def write(relative: str, seed: int = 0, root: str = "data/set") -> Path:
        path = tmp_path / root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(60, 40, seed), "PNG" if path.suffix == ".png" else "JPEG"))
        return path

    return write


def params(workspace: Workspace, path: str = "data/set", **sections: Any) -> Params:
    sources = sections.pop("sources", [{"path": path, "domain": "line"}])
    content = {"data": {"sources": sources} | sections.pop("data", {})} | sections
    write_json(workspace.params, content)  # JSON is YAML
    return Params.load(workspace.params)


def ingest(workspace: Workspace, **options: Any) -> list[dict[str, Any]]:
    shutil.rmtree(workspace.sources, ignore_errors=True)
    assert run(workspace, params(workspace, **options)) == 0
    return read_table(workspace.manifest, MANIFEST).to_pylist()


def refusal(workspace: Workspace, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        ingest(workspace, **options)
    assert not workspace.manifest.exists()
    return str(caught.value)


def test_a_folder_becomes_rows_sorted_by_path(
    workspace: Workspace, put: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, name in enumerate(("dog/b.JPG", "dog/deep/er/a.png", "cat/z.jpeg", "cat/a.jpg")):
        put(name, index)
    (workspace.root / "data/set/cat/notes.txt").write_text("no image")
    (workspace.root / "data/set/cat/.hidden.jpg").write_text("hidden")
    (workspace.root / "data/set/.git").mkdir()
    rows = ingest(workspace)
    assert [(row["path"], row["label"]) for row in rows] == [
        ("data/set/cat/a.jpg", "cat"),
        ("data/set/cat/z.jpeg", "cat"),
        ("data/set/dog/b.JPG", "dog"),
        ("data/set/dog/deep/er/a.png", "dog"),
    ]
    data = (workspace.root / "data/set/cat/a.jpg").read_bytes()
    first = rows[0]
    assert first["image_id"] == first["group"] == hashlib.sha256(data).hexdigest()
    assert (first["width"], first["height"], first["mode"], first["format"]) == (60, 40, "RGB", "JPEG")
    assert (first["bytes"], first["domain"], first["split"], first["error"]) == (
        len(data),
        "line",
        None,
        None,
    )
    from pipeline.images import decode

    statistics, dhash, thumbnail, _ = describe(decode(data))
    assert (first["dhash"], first["thumbnail"]) == (dhash, thumbnail)
    assert first["sharpness"] == pytest.approx(statistics["sharpness"], rel=1e-6)
    assert "3 files passed over: 2 hidden, 1 not an image by name" in capsys.readouterr().out


def test_broken_files_are_rows_with_their_error(workspace: Workspace, put: Write) -> None:
    put("cat/good.jpg")
    put("dog/good.jpg", 1)
    cat = workspace.root / "data/set/cat"
    (cat / "cut.jpg").write_bytes((cat / "good.jpg").read_bytes()[:300])
    (cat / "text.jpg").write_text("this is text")
    (cat / "bomb.png").write_bytes(png_of_size(50_000, 50_000))
    (cat / "empty.png").write_bytes(b"")
    (cat / "huge.bmp").write_bytes(bytes(5_000))
    rows = {row["path"].split("/")[-1]: row for row in ingest(workspace, data={"max_bytes": 4_999})}
    reasons = {name: row["error"].split(":")[0] for name, row in rows.items() if row["error"]}
    assert reasons == {
        "cut.jpg": "truncated", "text.jpg": "unknown_format", "bomb.png": "too_many_pixels",
        "empty.png": "empty", "huge.bmp": "too_many_bytes",
    }  # fmt: skip
    assert all(rows[name]["label"] == "cat" and rows[name]["width"] is None for name in reasons)
    assert rows["huge.bmp"]["image_id"] == hashlib.sha256(bytes(5_000)).hexdigest()


def test_a_file_that_can_not_be_read_is_a_row(workspace: Workspace, put: Write) -> None:
    put("cat/good.jpg")
    link = workspace.root / "data/set/cat/gone.jpg"
    link.symlink_to("nowhere.jpg")
    gone = next(row for row in ingest(workspace) if row["path"].endswith("gone.jpg"))
    assert gone["error"].startswith("unreadable")
    assert len(gone["image_id"]) == 64


def test_layouts_that_are_no_source_are_refused(workspace: Workspace, put: Write) -> None:
    assert "does not exist" in refusal(workspace, path="data/nowhere")
    (workspace.root / "data/set").mkdir(parents=True)
    assert "is empty" in refusal(workspace)
    put("cat/1.jpg")
    (workspace.root / "data/set/dog").mkdir()
    assert "have no image ('dog')" in refusal(workspace)
    put("dog/1.jpg")
    put("loose.jpg")
    assert "'loose.jpg'" in refusal(workspace)
    assert "neither a folder" in refusal(workspace, path="data/set/cat/1.jpg")


@pytest.mark.parametrize("kind", ["file", "folder", "class"])
def test_a_link_out_of_the_source_is_refused_by_name(workspace: Workspace, put: Write, kind: str) -> None:
    put("cat/1.jpg")
    outside = put("secret/x.jpg", root="elsewhere")
    link = workspace.root / "data/set" / {"file": "cat/link.jpg", "folder": "cat/link", "class": "link"}[kind]
    link.symlink_to(outside if kind == "file" else outside.parent)
    message = refusal(workspace)
    assert str(link) in message
    assert "leaves the source" in message


def test_links_within_the_source_stay(
    workspace: Workspace, put: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    put("cat/1.jpg")
    (workspace.root / "data/set/cat/2.jpg").symlink_to("1.jpg")
    (workspace.root / "data/set/cat/round").symlink_to("..")
    rows = ingest(workspace)
    assert len(rows) == 2
    assert rows[0]["image_id"] == rows[1]["image_id"]
    assert "1 link to a folder" in capsys.readouterr().out


def test_a_source_may_itself_be_a_link(workspace: Workspace, put: Write) -> None:
    put("cat/1.jpg", root="elsewhere")
    (workspace.root / "data").mkdir()
    (workspace.root / "data/set").symlink_to(workspace.root / "elsewhere")
    assert ingest(workspace)[0]["path"] == "data/set/cat/1.jpg"


def table(workspace: Workspace, rows: list[dict[str, str]], name: str = "data/set/table.csv") -> str:
    path = workspace.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return name
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return name


@pytest.mark.parametrize("name", ["data/set/table.csv", "data/set/table.parquet"])
def test_a_table_names_label_group_and_split(workspace: Workspace, put: Write, name: str) -> None:
    for index in range(3):
        put(f"images/{index}.jpg", index)
    rows = [
        {"path": "images/2.jpg", "label": "../x", "group": "", "split": "val"},
        {"path": "images/0.jpg", "label": "=cmd()", "group": "p1", "split": "train"},
        {"path": "./images/1.jpg", "label": "<script>", "group": "p1", "split": ""},
    ]
    found = ingest(workspace, path=table(workspace, rows, name))
    assert [row["label"] for row in found] == ["=cmd()", "<script>", "../x"]
    assert [row["split"] for row in found] == ["train", None, "validation"]
    assert [row["group"] for row in found] == ["line/p1", "line/p1", found[2]["image_id"]]
    assert [row["path"] for row in found] == [f"data/set/images/{index}.jpg" for index in range(3)]


def test_labels_of_a_table_stay_text(workspace: Workspace, put: Write) -> None:
    put("a.jpg")
    assert ingest(workspace, path=table(workspace, [{"path": "a.jpg", "label": "007"}]))[0]["label"] == "007"


@pytest.mark.parametrize(
    "escape",
    [
        "../elsewhere/x.jpg",
        "images/../../elsewhere/x.jpg",
        "{root}/elsewhere/x.jpg",
        "link/x.jpg",
        "a\0b.jpg",
    ],
)
def test_a_tables_path_may_not_leave_its_folder(workspace: Workspace, put: Write, escape: str) -> None:
    put("x.jpg", root="elsewhere")
    put("ok.jpg")
    (workspace.root / "data/set/link").symlink_to(workspace.root / "elsewhere")
    rows = [{"path": "ok.jpg", "label": "a"}, {"path": escape.format(root=workspace.root), "label": "a"}]
    message = refusal(workspace, path=table(workspace, rows, "data/set/table.parquet"))
    assert "row 2" in message


def test_tables_that_can_not_be_used_are_refused(workspace: Workspace, put: Write) -> None:
    put("a.jpg")
    assert "did you mean 'lable'" in refusal(
        workspace, path=table(workspace, [{"path": "a.jpg", "lable": "x"}])
    )
    twice = [{"path": "a.jpg", "label": "x"}, {"path": "./a.jpg", "label": "y"}]
    message = refusal(workspace, path=table(workspace, twice))
    assert "row 3" in message
    assert "row 2" in message
    assert "none of its 1 paths exists" in refusal(
        workspace, path=table(workspace, [{"path": "b.jpg", "label": "x"}])
    )
    (workspace.root / "data/set/table.csv").write_text("path,label\n")
    assert "no rows" in refusal(workspace, path="data/set/table.csv")
    (workspace.root / "data/set/table.csv").write_bytes(b"path,label\na.jpg,\xff\xfe\n")
    assert "UTF-8" in refusal(workspace, path="data/set/table.csv")
    (workspace.root / "data/set/table.csv").write_text("path,label\na.jpg\n")
    assert "row 2" in refusal(workspace, path="data/set/table.csv")
    (workspace.root / "data/set/table.parquet").write_text("no parquet")
    assert "not a Parquet table" in refusal(workspace, path="data/set/table.parquet")


def test_a_missing_file_of_a_table_is_a_row(workspace: Workspace, put: Write) -> None:
    put("a.jpg")
    rows = ingest(
        workspace, path=table(workspace, [{"path": "a.jpg", "label": "x"}, {"path": "b.jpg", "label": "x"}])
    )
    assert [bool(row["error"]) for row in rows] == [False, True]


def test_patterns_give_group_and_split(workspace: Workspace, put: Write) -> None:
    put("cat/train_part-01_a.jpg", 0)
    put("cat/val_part-02_a.jpg", 1)
    put("dog/test_loose.jpg", 2)
    rows = ingest(workspace, data={"group_pattern": r"(part-\d+)"}, split={"pattern": "/(train|val|test)_"})
    assert [row["group"] for row in rows] == ["line/part-01", "line/part-02", rows[2]["image_id"]]
    assert [row["split"] for row in rows] == ["train", "validation", "test"]


def test_another_word_for_a_split_is_refused(workspace: Workspace, put: Write) -> None:
    put("cat/dev_1.jpg")
    assert "'dev'" in refusal(workspace, split={"pattern": "/([a-z]+)_"})


def test_sources_join_without_mixing_their_groups(workspace: Workspace, put: Write) -> None:
    put("cat/part-1.jpg", 0, root="data/a")
    put("cat/part-1.jpg", 1, root="data/b")
    both = [{"path": "data/b", "domain": "b"}, {"path": "data/a", "domain": "a"}]
    rows = ingest(workspace, sources=both, data={"group_pattern": r"(part-\d+)"})
    assert [(row["domain"], row["group"]) for row in rows] == [("a", "a/part-1"), ("b", "b/part-1")]
    overlap = [{"path": "data/a", "domain": "a"}, {"path": "data/link", "domain": "c"}]
    (workspace.root / "data/link").symlink_to("a")
    assert len(ingest(workspace, sources=overlap)) == 2


def test_overlapping_sources_are_refused(workspace: Workspace, put: Write) -> None:
    put("cat/a.jpg")
    name = table(workspace, [{"path": "cat/a.jpg", "label": "x"}])
    both = [{"path": "data/set", "domain": "a"}, {"path": name, "domain": "b"}]
    message = refusal(workspace, sources=both)
    assert "two sources, a and b" in message


def test_scan_writes_one_source_and_names_the_nearest(workspace: Workspace, put: Write) -> None:
    put("cat/1.jpg")
    settings = params(workspace)
    assert scan_stage(workspace, settings, "line") == 0
    assert pq.read_schema(workspace.sources / "line.parquet").names == MANIFEST.names
    with pytest.raises(DataError, match="did you mean 'line'"):
        scan_stage(workspace, settings, "lime")


@pytest.mark.slow
def test_a_pool_gives_the_same_rows_as_one_process(
    workspace: Workspace, put: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(70):
        put(f"{'cat' if index % 3 else 'dog'}/{index}.jpg", index)
    (workspace.root / "data/set/cat/bad.jpg").write_text("text")
    alone = ingest(workspace)
    monkeypatch.setattr("pipeline.examine.SERIAL_FILES", 1)
    monkeypatch.setattr("pipeline.examine.SERIAL_BYTES", 1)
    monkeypatch.setattr("pipeline.examine._cores", lambda: 2)
    assert ingest(workspace) == alone


LABELS = ("image_id", "path", "label", "domain", "group", "split", "labelled_by", "time")


def give_labels(workspace: Workspace, rows: list[dict[str, str]]) -> None:
    workspace.labels.parent.mkdir(parents=True, exist_ok=True)
    with workspace.labels.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=LABELS, restval="")
        writer.writeheader()
        writer.writerows(rows)


def label_row(workspace: Workspace, seed: int, **changes: str) -> dict[str, str]:
    data = encode(picture(60, 40, seed), "PNG")
    image_id = hashlib.sha256(data).hexdigest()
    path = workspace.labelled / image_id[:2] / f"{image_id}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {
        "image_id": image_id,
        "path": workspace.relative(path),
        "label": "cat",
        "domain": "line-b",
        "split": "test",
    } | changes


def test_labels_that_came_back_join_the_manifest(workspace: Workspace, put: Write) -> None:
    put("cat/1.jpg")
    give_labels(
        workspace,
        [label_row(workspace, 7), label_row(workspace, 8, group="part-1", split="train", label="dog")],
    )
    found = {row["label"]: row for row in ingest(workspace) if row["domain"] == "line-b"}
    assert (found["cat"]["split"], found["cat"]["width"], found["cat"]["error"]) == ("test", 60, None)
    assert found["cat"]["group"] == found["cat"]["image_id"]
    assert (found["dog"]["split"], found["dog"]["group"]) == ("train", "line-b/part-1")


def test_labels_whose_images_are_not_there_or_not_theirs_are_refused(
    workspace: Workspace, put: Write
) -> None:
    put("cat/1.jpg")
    row = label_row(workspace, 7)
    give_labels(workspace, [row])
    path = workspace.root / row["path"]
    data = path.read_bytes()
    path.write_bytes(data + b"\0")
    with pytest.raises(IntegrityError, match="not the image that was labelled"):
        ingest(workspace)
    path.unlink()
    assert "dvc pull data/labelled.dvc" in refusal(workspace)
    path.write_bytes(data)
    for wrong, word in (
        ([row, row], "again"),
        ([row | {"path": "data/labelled/../../etc/x.png"}], "leaves data/labelled"),
        ([row | {"path": "/etc/passwd"}], "leaves data/labelled"),
        ([row | {"split": "val"}], "must be train"),
    ):
        give_labels(workspace, wrong)
        assert word in refusal(workspace)


def test_an_unknown_key_is_refused_before_anything_is_read(workspace: Workspace) -> None:
    with pytest.raises(ParamsError, match="group_pattern"):
        params(workspace, data={"group_patern": "x"})


def settle(folder: Path) -> None:
    """Let the files be old enough to be remembered: their status time can't be set, only waited for."""
    newest = max(path.stat().st_ctime_ns for path in folder.rglob("*"))
    time.sleep(max(0.0, (newest + 2_100_000_000 - time.time_ns()) / 1e9))


def track(workspace: Workspace) -> None:
    """What `dvc add data/set` leaves, and a pipeline."""
    (workspace.root / "dvc.yaml").write_text("stages: {scan: {cmd: scan}}")
    stored = {"outs": [{"md5": md5_of(workspace.root / "data/set"), "path": "set"}]}
    (workspace.root / "data/set.dvc").write_text(json.dumps(stored))


def test_a_second_scan_reads_only_what_is_new_or_changed(
    workspace: Workspace, put: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither to find what DVC stored, nor to decode it."""
    for seed in range(4):
        put(f"cat/{seed}.jpg", seed)
    put("cat/cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    root = workspace.root / "data/set"
    settle(root)
    before = {row["path"]: row for row in ingest(workspace)}
    track(workspace)
    settings = params(workspace)
    for read in (5, 0):
        require_whole(workspace, "scan", settings, "line")
        assert f"{read} of 5 files hashed" in capsys.readouterr().out
    changed, kept = root / "cat/1.jpg", root / "cat/2.jpg"
    dates = changed.stat()
    changed.write_bytes((root / "cat/3.jpg").read_bytes())  # a copy that keeps dates does not hide it
    os.utime(changed, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    (root / "cat/0.jpg").unlink()
    put("dog/9.jpg", 9)
    kept.rename(root / "cat/2b.jpg")
    with pytest.raises(IntegrityError, match=r"data/set is not what `data/set.dvc` stored"):
        require_whole(workspace, "scan", settings, "line")
    assert "3 of 5 files hashed" in capsys.readouterr().out
    track(workspace)
    require_whole(workspace, "scan", settings, "line")
    after = {row["path"]: row for row in ingest(workspace)}
    assert "3 of 5 files are new or changed" in capsys.readouterr().out
    assert after["data/set/cat/1.jpg"]["image_id"] == after["data/set/cat/3.jpg"]["image_id"]
    assert after["data/set/cat/cut.jpg"] == before["data/set/cat/cut.jpg"]
    shutil.rmtree(workspace.cache)
    assert {row["path"]: row for row in ingest(workspace)} == after


def test_what_was_remembered_is_forgotten_with_other_limits_and_where_it_is_damaged(
    workspace: Workspace, put: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    put("cat/1.jpg", 1)
    put("dog/2.jpg", 2)
    settle(workspace.root / "data/set")
    before = ingest(workspace)
    assert any(row["error"] for row in ingest(workspace, data={"max_bytes": 50}))
    for file in (workspace.cache / "examined").iterdir():
        file.write_bytes(b"damaged")
    assert ingest(workspace) == before
    assert "new or changed" not in capsys.readouterr().out


def test_a_worker_is_one_thread() -> None:
    """Each with a thread pool of its own waited for the others' cores: a fifth of the images a second."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from threadpoolctl import threadpool_info

    from pipeline.examine import _begin

    with ProcessPoolExecutor(1, mp_context=get_context("forkserver"), initializer=_begin) as pool:
        libraries = pool.submit(threadpool_info).result()
    assert libraries, "numpy brings one"
    assert {library["num_threads"] for library in libraries} == {1}
