"""The verdict's page: what it must say for each decision, in which order, and that nothing on it can act."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline import artifacts
from pipeline.artifacts import Workspace
from pipeline.checks import Check, integrity
from pipeline.comparison import compare
from pipeline.evaluate import tabulate
from pipeline.params import Data, Params
from pipeline.verdict_page.page import Judged, page, write
from pipeline.verdict_page.pictures import MOST_CHANGED, MOST_ERRORS

SCRIPT = "<script>alert(1)</script>"
CLASSES = [SCRIPT, 'b" onerror="alert(2)', "c"]
OURS, THEIRS = "c" * 64, "a" * 64
PARAMS = Params(data=Data(licence="CC-BY-4.0 <b>"))
INFO = {
    "classes": CLASSES,
    "strategy": "probe",
    "backbone": SCRIPT,
    "weights": {"name": "net", "licence": "apache-2.0", "source": "hub"},
    "code": {"commit": "e" * 40, "dirty": True},
    "digests": {"manifest": "d" * 64},
}


class Seen(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.folded = ""
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data
            if "details" in self._open:
                self.folded += data

    def all(self, name: str) -> list[str]:
        return [value for found, value in self.attributes if found == name]


def images(root: Path, count: int) -> list[dict[str, Any]]:
    """Test images on disk, labelled in turn."""
    rows = []
    for number in range(count):
        path = root / f"{number}.png"
        Image.new("RGB", (12, 8), (number % 256, 7 * number % 256, 40)).save(path)
        rows.append(
            {
                "image_id": hashlib.sha256(path.read_bytes()).hexdigest(),
                "path": path.name,
                "label": CLASSES[number % 3],
                "domain": "line-a" if number % 2 else "line-b",
                "group": f"part-{number}",
                "split": "test",
            }
        )
    return rows


def predictions(
    rows: Sequence[dict[str, Any]], right: np.ndarray, digest: str, confidence: np.ndarray | float = 0.9
) -> pa.Table:
    """Image i is named correctly where ``right[i]``, else taken for the next class; ``confidence`` of what is named."""
    labels = np.array([CLASSES.index(row["label"]) for row in rows])
    named = np.where(right, labels, (labels + 1) % 3)
    sure = np.broadcast_to(confidence, (len(rows),))
    probabilities = np.repeat(((1 - sure) / 2)[:, None], 3, axis=1)
    probabilities[np.arange(len(rows)), named] = sure
    table = pa.Table.from_pylist([row | {"reason": "assigned"} for row in rows], schema=artifacts.SPLIT)
    return tabulate(table, probabilities.astype(np.float32), CLASSES, digest)


def verdict(decision: str, checks: Sequence[Check], champion: str | None = None) -> dict[str, Any]:
    return {
        "decision": decision,
        "summary": "",
        "challenger": OURS,
        "champion": champion,
        "checks": [asdict(check) for check in checks],
    }


def compared(rows: Sequence[dict[str, Any]], ours: pa.Table, theirs: pa.Table) -> list[Check]:
    """The gate's own comparison."""
    difference = np.array(ours["correct"]).astype(float) - np.array(theirs["correct"]).astype(float)
    parts = {
        kind: {name: np.array([row[column] == name for row in rows]) for name in sorted({row[column] for row in rows})}
        for kind, column in (("domain", "domain"), ("class", "label"))
    }  # fmt: skip
    return compare(difference, np.arange(len(rows)), parts, PARAMS.gate)


def drawn(
    root: Path, said: dict[str, Any], ours: pa.Table, theirs: pa.Table | None = None, **more: Any
) -> str:
    none = artifacts.PREDICTIONS.empty_table()
    facts = {
        "info": INFO,
        "ours": ours,
        "theirs": none if theirs is None else theirs,
        "known": CLASSES,
        "masks": {},
    }
    return page(root, PARAMS, said, Judged(**facts | more))


ACCURACY = Check("accuracy", "pass", 0.9, [0.85, 0.94], 0.8, 60, "7 more wrong of 60")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], pa.Table, pa.Table]:
    """60 images: the challenger newly wrong on 30 and newly right on 4, the champion ever surer."""
    root = tmp_path_factory.mktemp("images")
    rows = images(root, 60)
    right, was_right = np.ones(60, dtype=bool), np.ones(60, dtype=bool)
    right[:30] = False
    was_right[30:34] = False
    return (
        root,
        rows,
        predictions(rows, right, OURS),
        predictions(rows, was_right, THEIRS, np.linspace(0.5, 0.99, 60)),
    )


def test_a_first_model_says_what_was_judged_and_what_would_flip_it(tmp_path: Path) -> None:
    rows = images(tmp_path, 30)
    ours = predictions(rows, np.arange(30) > 2, OURS)
    text = drawn(tmp_path, verdict("PROMOTE", [ACCURACY]), ours)
    said = Seen(text).text
    assert "✓ Promote" in said
    assert "there is no champion yet, over 30 test images in 30 independent groups" in said
    assert "Any one of these would flip it" in said
    assert "Accuracy: 7 more wrong of 60" in said
    assert "0.900 0.850 to 0.940" in said
    assert "Images that changed" not in said
    assert "3 of 30 test images are wrong" in said
    assert "CC-BY-4.0 <b>" in said
    assert "apache-2.0" in said
    assert f"commit {'e' * 40}, with uncommitted changes" in said
    assert "0.900, 95 % 0.850 to 0.940, at least 0.8" in Seen(text).all("aria-label")


def test_names_that_people_chose_are_text(
    judged: tuple[Path, list[dict[str, Any]], pa.Table, pa.Table],
) -> None:
    root, rows, ours, theirs = judged
    hostile = Check(f"recall/{SCRIPT}", "fail", kind="new<kind>", detail=SCRIPT, would_flip=SCRIPT)  # type: ignore[arg-type]
    text = drawn(root, verdict("REJECT", [*compared(rows, ours, theirs), hostile], THEIRS), ours, theirs)
    seen = Seen(text)
    assert "script" not in seen.tags
    assert SCRIPT in seen.text
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert "href" not in dict(seen.attributes)
    assert set(seen.tags) >= {"img", "svg"}
    assert all(source.startswith("data:image/jpeg;base64,") for source in seen.all("src"))
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in " ".join(seen.all("content"))


def test_the_plot_counts_and_draws_the_comparison(
    judged: tuple[Path, list[dict[str, Any]], pa.Table, pa.Table],
) -> None:
    root, rows, ours, theirs = judged
    checks = compared(rows, ours, theirs)
    lines = {name: np.array([row["domain"] == name for row in rows]) for name in ("line-a", "line-b")}
    text = drawn(root, verdict("REJECT", checks, THEIRS), ours, theirs, masks={"domain": lines})
    seen = Seen(text)
    for column, by_domain, by_class in (("Newly wrong", 15, 10), ("Both right", 13, 9)):
        assert text.count(f'data-column="{column}">{by_domain}</td>') == 2, "line-a and line-b"
        assert f'data-column="{column}">{by_class}</td>' in text
    labels = seen.all("aria-label")
    assert "26 both right, 4 newly right, 30 newly wrong, 0 both wrong" in labels
    overall = checks[0]
    assert overall.value == pytest.approx(-26 / 60, abs=1e-6)
    drawn_as = [label for label in labels if label.startswith("difference")]
    assert drawn_as[0].startswith("difference −0.433, 95 % −")
    assert len(drawn_as) == 1 + 2 + 3  # over all, two domains, three classes
    assert "By domain" in seen.text
    assert "By class" in seen.text
    assert "margin −0.020" in seen.text


def test_newly_wrong_images_come_first_and_the_largest_change_first(
    judged: tuple[Path, list[dict[str, Any]], pa.Table, pa.Table],
) -> None:
    root, rows, ours, theirs = judged
    checks = compared(rows, ours, theirs)
    text = drawn(root, verdict("REJECT", checks, THEIRS), ours, theirs)
    changed, errors = text.split("Images that changed their answer</h2>")[1].split(
        "Most confident errors</h2>"
    )
    shown = Seen(changed).all("data-image")
    # The champion was the surer the later the image, so the latest of the newly wrong has changed most.
    assert shown == [row["image_id"] for row in rows[29 : 29 - MOST_CHANGED : -1]]
    assert (
        f"34 of 60 test images changed their answer. Shown are {MOST_CHANGED}; {34 - MOST_CHANGED} more are not."
        in changed
    )
    assert "Newly right <small>4, 0 shown" in changed
    assert len(Seen(errors).all("data-image")) == MOST_ERRORS
    assert len(Seen(text).all("src")) == MOST_CHANGED + MOST_ERRORS
    first = Seen(changed).text
    assert "champion: ✓" in first
    assert "challenger: ✗" in first


def test_the_surest_errors_come_first(tmp_path: Path) -> None:
    rows = images(tmp_path, 9)
    sure = np.linspace(0.5, 0.9, 9)
    ours = predictions(rows, np.zeros(9, dtype=bool), OURS, sure)
    errors = drawn(tmp_path, verdict("REJECT", [ACCURACY]), ours).split("Most confident errors</h2>")[1]
    assert Seen(errors).all("data-image") == [row["image_id"] for row in reversed(rows)]


def test_predictions_that_can_t_be_trusted_are_not_drawn(
    judged: tuple[Path, list[dict[str, Any]], pa.Table, pa.Table],
) -> None:
    root, _, ours, theirs = judged
    broken = integrity("predictions", "12 rows contradict their own labels", "", "`dvc repro -f evaluate`")
    seen = Seen(drawn(root, verdict("REJECT", [broken], THEIRS), ours, theirs))
    assert "✗ Reject" in seen.text
    assert "can't be trusted, so nothing else was looked at: Predictions" in seen.text
    assert "12 rows contradict" in seen.text
    assert "code" in seen.tags
    assert "Predictions: dvc repro -f evaluate" in seen.text
    assert "can't be used" in seen.text
    assert "img" not in seen.tags
    assert "svg" not in seen.tags
    damaged = Seen(drawn(root, verdict("REJECT", [broken]), ours, info={}))
    assert "no git commit recorded" in damaged.text


def test_what_holds_it_back_is_named_first_in_words_and_sign(tmp_path: Path) -> None:
    rows = images(tmp_path, 9)
    ours = predictions(rows, np.ones(9, dtype=bool), OURS)
    checks = [
        Check("accuracy", "pass", 1.0, [0.7, 1.0], 0.8, 9),
        Check("recall/c", "unknown", 1.0, [0.4, 1.0], 0.5, 3, "17 more test images", decides=False),
        Check("macro_f1", "unknown", 0.7, None, 0.75, 9, "needs 11 more test images"),
    ]
    seen = Seen(drawn(tmp_path, verdict("INSUFFICIENT_EVIDENCE", checks), ours))
    assert "? Not enough evidence" in seen.text
    assert "1 check of 3 can't be decided and holds it back: Macro-F1" in seen.text
    assert "Macro-F1: needs 11 more test images" in seen.text
    table = seen.text.split("All checks")[1]
    places = [
        table.index(words) for words in ("? undecided: holds it back", "? undecided: shown only", "✓ passes")
    ]
    assert places == sorted(places)
    assert "names every test image correctly" in seen.text


def test_every_check_is_on_the_page_and_many_that_pass_are_folded(tmp_path: Path) -> None:
    ours = predictions(images(tmp_path, 9), np.ones(9, dtype=bool), OURS)
    checks = [Check(f"recall/class-{n}", "pass", 0.9, [0.8, 1.0], 0.5, 30) for n in range(200)]
    checks += [Check("noninferiority", "pass", 0.0, [-0.01, 0.01], -0.02, 30, kind="comparison")]
    checks += [
        Check(f"noninferiority/class/{n}", "unknown", 0.0, None, -0.02, 3, kind="comparison", decides=False)
        for n in range(30)
    ]
    checks += [Check("recall/worst", "fail", 0.1, [0.0, 0.2], 0.5, 30, "12 more correct of 30")]
    checks += [Check("cosmic_rays", "pass", 4.2, None, None, 5, kind="weather_in_space")]  # type: ignore[arg-type]
    seen = Seen(drawn(tmp_path, verdict("REJECT", checks), ours))
    assert all(check.name in seen.text for check in checks)
    assert "Weather in space" in seen.text
    assert seen.folded.count("recall/class-") == 196
    assert seen.folded.count("noninferiority/class/") == 26
    assert "recall/worst" not in seen.folded
    assert not re.search("noninferiority(?!/)", seen.folded), "what is about all images is never folded"
    assert seen.text.index("recall/worst") < seen.text.index("recall/class-0")


def test_a_bound_from_above_is_drawn_from_above(tmp_path: Path) -> None:
    ours = predictions(images(tmp_path, 9), np.ones(9, dtype=bool), OURS)
    ece = Check("ece", "fail", 0.2, [0.1, 0.3], 0.15, 9)
    slow = Check("latency", "pass", 12.34, [11.0, 13.0], 250.0, None, kind="performance")
    labels = Seen(drawn(tmp_path, verdict("REJECT", [ece, slow]), ours)).all("aria-label")
    assert "0.200, 95 % 0.100 to 0.300, at most 0.15" in labels
    assert "12.3, 95 % 11 to 13, at most 250" in labels


def test_images_that_are_gone_changed_or_broken_are_said_to_be(tmp_path: Path) -> None:
    rows = images(tmp_path, 4)
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes((tmp_path / "2.png").read_bytes())
    (tmp_path / "2.png").write_bytes(b"no image")
    rows[2]["image_id"] = hashlib.sha256(b"no image").hexdigest()
    ours = predictions(rows, np.zeros(4, dtype=bool), OURS)
    seen = Seen(drawn(tmp_path, verdict("REJECT", [ACCURACY]), ours))
    assert len(seen.all("src")) == 1
    for words in (
        "the file is not here",
        "the file has changed since it was judged",
        "the file can't be read",
    ):
        assert seen.text.count(words) == 1, words


def test_classes_that_the_champion_does_not_know_are_no_part_of_the_comparison(tmp_path: Path) -> None:
    rows = images(tmp_path, 30)
    ours = predictions(rows, np.ones(30, dtype=bool), OURS)
    theirs = predictions(rows, np.ones(30, dtype=bool), THEIRS)
    shares = [share[1:] for share in theirs["probabilities"].to_pylist()]
    column = pa.array(shares, artifacts.PREDICTIONS.field("probabilities").type)
    theirs = theirs.set_column(theirs.column_names.index("probabilities"), "probabilities", column)
    known = [row for row in rows if row["label"] != SCRIPT]
    checks = [Check("noninferiority", "pass", 0.0, [-0.1, 0.1], -0.02, len(known), kind="comparison")]
    seen = Seen(drawn(tmp_path, verdict("PROMOTE", checks, THEIRS), ours, theirs, known=CLASSES[1:]))
    assert "the same 20 test images. 10 more are of classes that the champion does not know." in seen.text
    assert "20 both right, 0 newly right, 0 newly wrong, 0 both wrong" in seen.all("aria-label")
    assert "the same answer to every test image" in seen.text
    stranger = Seen(drawn(tmp_path, verdict("INSUFFICIENT_EVIDENCE", checks, THEIRS), ours, theirs, known=[]))
    assert "nothing can be compared" in stranger.text


def test_a_quantised_network_that_was_judged_is_named(
    judged: tuple[Path, list[dict[str, Any]], pa.Table, pa.Table],
) -> None:
    root, rows, ours, theirs = judged
    said = verdict("REJECT", compared(rows, ours, theirs), THEIRS)
    for form, named in (("onnx", False), ("int8", True)):
        text = Seen(drawn(root, said | {"format": form}, ours, theirs)).text
        assert ("its INT8 network" in text) is named


def test_the_same_inputs_give_the_same_bytes(
    judged: tuple[Path, list[dict[str, Any]], pa.Table, pa.Table],
) -> None:
    root, rows, ours, theirs = judged
    said = verdict("REJECT", compared(rows, ours, theirs), THEIRS)
    assert drawn(root, said, ours, theirs) == drawn(root, said, ours, theirs)
    assert not re.search(r"20\d\d-\d\d-\d\d", Seen(drawn(root, said, ours, theirs)).text)


def test_a_page_that_can_t_be_drawn_says_so_and_costs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(tmp_path, tmp_path / "var")
    ours = predictions(images(tmp_path, 3), np.ones(3, dtype=bool), OURS)
    none = artifacts.PREDICTIONS.empty_table()
    said = verdict("PROMOTE", [ACCURACY])
    write(workspace, PARAMS, said, Judged({"classes": ["other"]}, ours, none, [], {}))
    text = workspace.verdict_page.read_text()
    assert "could not be drawn" in text
    assert "reports/verdict.json" in text
    assert SCRIPT not in text
    assert "warning: reports/verdict.html" in capsys.readouterr().err
