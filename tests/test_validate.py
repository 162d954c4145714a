"""Bad data fail by name and say which files; the gate's report and Data Docs are written in either case."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.artifacts import MANIFEST, Workspace, read_json, read_table, write_json, write_table
from pipeline.errors import DataError, ParamsError, VisionloopError
from pipeline.expectations import checks
from pipeline.facts import facts, label_problem
from pipeline.ingest import run as ingest
from pipeline.params import Params, Validate
from tests.test_images import encode, picture, png_of_size

# Great Expectations' own imports warn of deprecations, which is nothing that we can mend.
great_expectations = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path / "var")


Put = Callable[..., Path]


@pytest.fixture
def put(workspace: Workspace) -> Put:
    def write(relative: str, image: Image.Image | bytes | int = 0) -> Path:
        path = workspace.root / "data" / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        content = picture(160, 120, image) if isinstance(image, int) else image
        path.write_bytes(content if isinstance(content, bytes) else encode(content, "JPEG", quality=90))
        return path

    return write


def load(workspace: Workspace, **sections: Any) -> Params:
    source = {"path": "data", "domain": "line"}
    write_json(workspace.params, {"data": {"sources": [source]}} | sections)
    return Params.load(workspace.params)


def columns(workspace: Workspace, **sections: Any) -> dict[str, list[Any]]:
    settings = load(workspace, **sections)
    ingest(workspace, settings)
    return facts(read_table(workspace.manifest, MANIFEST), settings.validate, "data/labelled/")


def flagged(found: dict[str, list[Any]], column: str) -> dict[str, str]:
    """Path below data/ → what is wrong with it."""
    return {
        path.removeprefix("data/"): text
        for path, text in zip(found["path"], found[column], strict=True)
        if text is not None
    }


def test_exact_duplicates_conflicts_and_leaks_are_told_apart(workspace: Workspace, put: Put) -> None:
    original = put("cat/train_1.jpg", 1)
    put("cat/train_2.jpg", 2)
    put("dog/train_3.jpg", 3)
    for copy in ("cat/train_1b.jpg", "dog/train_1.jpg", "cat/test_1.jpg"):
        (workspace.root / "data" / copy).write_bytes(original.read_bytes())
    found = columns(workspace, split={"pattern": "/(train|test)_"})
    assert flagged(found, "same bytes, same label").keys() == {"cat/train_1.jpg", "cat/train_1b.jpg"}
    conflict = flagged(found, "same bytes, other label")
    assert conflict.keys() == {"cat/test_1.jpg", "cat/train_1.jpg", "cat/train_1b.jpg", "dog/train_1.jpg"}
    assert conflict["cat/train_1.jpg"] == "data/dog/train_1.jpg (label dog)"
    leaks = flagged(found, "same bytes, other split")
    assert leaks["dog/train_1.jpg"] == "data/cat/test_1.jpg (split test)"
    assert not flagged(found, "near-copy, same label")


def test_near_copies_are_told_apart_by_label_group_and_split(workspace: Workspace, put: Put) -> None:
    for seed in range(4):
        put(f"cat/train_{seed}.jpg", seed)
    put("cat/train_0small.jpg", picture(160, 120, 0).resize((100, 75)))
    put("dog/train_1small.jpg", picture(160, 120, 1).resize((100, 75)))
    put("cat/test_2small.jpg", picture(160, 120, 2).resize((100, 75)))
    found = columns(workspace, split={"pattern": "/(train|test)_"})
    assert flagged(found, "near-copy, same label").keys() == {
        "cat/train_0.jpg", "cat/train_0small.jpg", "cat/train_2.jpg", "cat/test_2small.jpg",
    }  # fmt: skip
    assert flagged(found, "near-copy, other label").keys() == {"cat/train_1.jpg", "dog/train_1small.jpg"}
    assert flagged(found, "near-copy, other split").keys() == {"cat/train_2.jpg", "cat/test_2small.jpg"}


def test_shots_of_one_group_may_be_alike(workspace: Workspace, put: Put) -> None:
    put("cat/part-1_a.jpg", 0)
    put("cat/part-1_b.jpg", picture(160, 120, 0).resize((150, 112)))
    put("dog/part-1_c.jpg", picture(160, 120, 0).resize((140, 105)))
    source = {"path": "data", "domain": "line"}
    found = columns(workspace, data={"sources": [source], "group_pattern": r"(part-\d+)"})
    assert not flagged(found, "near-copy, same label")
    assert len(flagged(found, "near-copy, other label")) == 3


def test_near_copies_of_labelled_images_only_warn(workspace: Workspace, put: Put) -> None:
    """Their split was frozen when they came in: a gate that failed on them could never be passed again."""
    put("cat/train_1.jpg", 1)
    settings = load(workspace, split={"pattern": "/(train|test)_"})
    ingest(workspace, settings)
    rows = read_table(workspace.manifest, MANIFEST).to_pylist()
    rows.append(
        rows[0] | {"path": "data/labelled/aa/x.jpg", "image_id": "a" * 64, "group": "a" * 64, "split": "test"}
    )
    import pyarrow as pa

    found = facts(pa.Table.from_pylist(rows, schema=MANIFEST), settings.validate, "data/labelled/")
    assert len(flagged(found, "near-copy, labelled")) == 2
    assert not flagged(found, "near-copy, other split")


def test_undecodable_files_are_nobodys_duplicates_and_count_for_no_class(
    workspace: Workspace, put: Put
) -> None:
    put("cat/1.jpg", b"")
    put("dog/1.jpg", b"")
    put("dog/2.jpg", 2)
    put("dog/3.jpg", 3)
    found = columns(workspace)
    assert not flagged(found, "same bytes, other label")
    assert flagged(found, "class too small") == {"cat/1.jpg": "'cat' has 0 of at least 2"}


@pytest.mark.parametrize(
    "label", ["cat", "MT_Blowhole", "crack <5 mm", "C++", "Äpfel, rot", "猫", "-1", "don't know", "a+b"]
)
def test_plain_labels_are_accepted(label: str) -> None:
    assert label_problem(label) is None


@pytest.mark.parametrize(
    "label",
    ["", "  ", " cat", "..", "../x", "a/b", "a\\b", "=cmd()", "@sum", "+x", "-x", "<script>", "x</b>", "a\nb", "a\x1b[31m",
     "a\u202eb", "a\0", "x" * 101],
)  # fmt: skip
def test_labels_that_other_programs_would_follow_are_refused(label: str) -> None:
    assert label_problem(label) is not None


def test_labels_spelled_alike_are_noticed(workspace: Workspace, put: Put) -> None:
    for seed, name in enumerate(("Cat-A/1", "Cat-A/2", "cat a/1", "dog/1")):
        put(f"{name}.jpg", seed)
    assert flagged(columns(workspace), "label spelled alike") == {"cat a/1.jpg": "'cat a' beside 'Cat-A'"}


def test_severity_is_overridden_by_name_and_an_unknown_name_refused() -> None:
    changed = {
        c.name: c.severity for c in checks(Validate(severity={"exact_duplicates": "fail", "width": "warn"}))
    }
    assert (changed["exact_duplicates"], changed["width"], changed["height"]) == ("fail", "warn", "fail")
    with pytest.raises(ParamsError, match="did you mean 'exact_duplicates'"):
        checks(Validate(severity={"exact_duplicate": "fail"}))


def test_a_missing_or_empty_manifest_is_an_error_that_names_the_next_step(workspace: Workspace) -> None:
    from pipeline.validate import run

    with pytest.raises(DataError, match="dvc repro"):
        run(workspace, load(workspace))
    write_table(workspace.manifest, MANIFEST.empty_table())
    with pytest.raises(DataError, match="no rows"):
        run(workspace, load(workspace))


def validate(workspace: Workspace, **sections: Any) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code and the expectations of validation.json by name."""
    from pipeline.validate import run

    shutil.rmtree(workspace.sources, ignore_errors=True)
    settings = load(workspace, **sections)
    ingest(workspace, settings)
    code = run(workspace, settings)
    report = json.loads(workspace.validation.read_text())
    assert report.keys() == {"success", "expectations"}
    assert all(
        e.keys() == {"name", "success", "severity", "observed", "examples"} for e in report["expectations"]
    )
    assert report["success"] == (code == 0)
    return code, {e["name"]: e for e in report["expectations"]}


class _Page(HTMLParser):
    """What a browser would execute or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.outside += [
            value for name, value in attrs if name in ("src", "href") and value and "//" in value
        ]


@pytest.mark.slow
@great_expectations
def test_good_data_pass_and_warnings_do_not_fail(
    workspace: Workspace, put: Put, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(4):
        put(f"cat/{seed}.jpg", seed)
        put(f"dog/{seed}.jpg", 10 + seed)
    put("dog/again.jpg", 10)
    put("cat/black.png", encode(Image.new("RGB", (60, 60)), "PNG"))
    code, found = validate(workspace)
    assert code == 0
    warned = {name for name, e in found.items() if not e["success"]}
    assert warned == {"exact_duplicates", "brightness", "contrast"}
    assert {found[name]["severity"] for name in warned} == {"warn"}
    assert found["exact_duplicates"]["examples"] == ["data/dog/again.jpg"]
    assert (workspace.data_docs / "index.html").exists()
    assert "warn" in capsys.readouterr().out
    assert validate(workspace, validate={"severity": {"exact_duplicates": "fail"}})[0] == 1


@pytest.mark.slow
@great_expectations
def test_bad_data_fail_by_name_and_their_names_stay_inert(
    workspace: Workspace, put: Put, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        put(f"cat/train_{seed}.jpg", seed)
        put(f"dog/test_{seed}.jpg", 10 + seed)
    put("dog/train_conflict.jpg", 1)
    put("dog/train_leak.jpg", 10)
    put("dog/train_near.jpg", picture(160, 120, 11).resize((110, 83)))
    put("bird/train_alone.jpg", 20)
    put("cat/train_cut.jpg", encode(picture(160, 120, 30), "JPEG")[:500])
    put("cat/train_bomb.png", png_of_size(50_000, 50_000))
    put("cat/train_tiny.png", encode(Image.new("RGB", (9, 40), "red"), "PNG"))
    put("<script>alert(1)<script>/train_<b>x\x1b[31m.jpg", 40)
    put("=cmd()/train_1.jpg", 41)
    code, found = validate(workspace, split={"pattern": "/(train|test)_"})
    assert code == 1
    assert {name for name, e in found.items() if not e["success"] and e["severity"] == "fail"} == {
        "decodable", "labels_well_formed", "images_per_class", "width", "label_conflicts",
        "exact_duplicates_across_splits", "near_duplicates_across_splits",
    }  # fmt: skip
    assert set(found["decodable"]["examples"]) == {"data/cat/train_cut.jpg", "data/cat/train_bomb.png"}
    assert set(found["label_conflicts"]["examples"]) == {
        "data/cat/train_1.jpg",
        "data/dog/train_conflict.jpg",
    }
    assert "data/<script>alert(1)<script>/train_<b>x\x1b[31m.jpg" in found["labels_well_formed"]["examples"]
    assert "'bird' has 1 of at least 2" in found["images_per_class"]["observed"]
    printed = capsys.readouterr().out
    assert "FAIL decodable" in printed
    assert "data/cat/train_cut.jpg: truncated" in printed
    assert "\x1b" not in printed
    pages = list(workspace.data_docs.rglob("*.html"))
    assert len(pages) >= 3
    for page in pages:
        parser = _Page()
        parser.feed(page.read_text())
        assert (parser.scripts, parser.outside) == (0, []), page
    index = (workspace.data_docs / "index.html").read_text()
    target = re.search(r'<a href="(validations/[^"]+)"', index)
    assert target is not None
    assert (workspace.data_docs / target[1]).exists()
    assert "truncated" in index


@pytest.mark.slow
@great_expectations
def test_a_share_of_undecodable_files_can_be_allowed(workspace: Workspace, put: Put) -> None:
    for seed in range(5):
        put(f"cat/{seed}.jpg", seed)
        put(f"dog/{seed}.jpg", 10 + seed)
    put("dog/bad.jpg", b"text")
    assert not validate(workspace, validate={"max_undecodable": 0.05})[1]["decodable"]["success"]
    assert validate(workspace, validate={"max_undecodable": 0.1})[0] == 0


@pytest.mark.slow
@great_expectations
def test_one_class_alone_fails(workspace: Workspace, put: Put) -> None:
    put("cat/1.jpg", 1)
    put("cat/2.jpg", 2)
    code, found = validate(workspace)
    assert code == 1
    assert found["classes"]["observed"] == "1 class"


@pytest.mark.slow
@great_expectations
def test_a_check_that_can_not_be_evaluated_is_named_and_is_not_bad_data(
    workspace: Workspace, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The facts lose a column, as if a library had changed under us."""
    put("cat/1.jpg", 1)
    put("dog/1.jpg", 2)

    def poorer(*arguments: Any) -> dict[str, list[Any]]:
        return {name: values for name, values in facts(*arguments).items() if name != "width"}

    monkeypatch.setattr("pipeline.validate.facts", poorer)
    with pytest.raises(VisionloopError, match="'width' could not be evaluated"):
        validate(workspace)
    assert not workspace.validation.exists()
    assert not workspace.data_docs.exists()


@pytest.mark.slow
@great_expectations
@pytest.mark.real
def test_real_sets_pass_with_their_official_split(
    workspace: Workspace, real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    """Similar shots of one shelf are no near-copies; exposures of one tile are."""
    from pipeline.validate import run

    def report(name: str, path: Path, **sections: Any) -> dict[str, dict[str, Any]]:
        place = Workspace(tmp_path / name, tmp_path / name / "var")
        write_json(place.params, {"data": {"sources": [{"path": str(path), "domain": name}]}} | sections)
        settings = Params.load(place.params)
        ingest(place, settings)
        assert run(place, settings) == 0
        return {e["name"]: e for e in read_json(place.validation)["expectations"]}

    grocery = report(
        "grocery20", real_data("grocery20") / "grocery20", split={"pattern": "/(train|val|test)_"}
    )
    assert grocery["near_duplicates_across_splits"]["success"]
    boards = report("deeppcb_cls", real_data("deeppcb_cls") / "deeppcb_cls")
    assert boards["near_duplicates"]["success"]
    assert boards["near_label_conflicts"]["success"]
    tiles = report("magnetic_tile", real_data("magnetic_tile") / "magnetic_tile/images")
    assert not tiles["near_duplicates"]["success"]
