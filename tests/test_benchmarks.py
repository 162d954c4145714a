"""The benchmarks' own tools: windows in turn, a watched process, the jury, the records and the tables."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import flops, labels, record, soak, table
from benchmarks import pictures as made_up
from benchmarks.contenders import Outcome
from benchmarks.errors import CommandError, ContenderError, LoadedError, SetError, TableError
from benchmarks.interleave import interleave, order, ratio_of_medians, wait_until_quiet
from benchmarks.judge import Judged, Truth, compare, judge, pool
from benchmarks.log_cost import another
from benchmarks.log_kills import _row, checked, pictures
from benchmarks.process import watch
from benchmarks.sets import prepare, real_data
from benchmarks.time_to_accuracy import Run, comparisons
from benchmarks.training_speed import rows as speed_rows
from pipeline.artifacts import Workspace, encode_log_row
from pipeline.images import decode, describe


def row(**changes: Any) -> record.Row:
    values: dict[str, Any] = {
        "case": "grocery20", "measure": "images to network", "unit": "s", "better": "lower",
        "ours": "visionloop auto", "rival": "timm train.py", "ours_value": 20.0, "rival_value": 1234.5,
        "ratio": 61.7, "ratio_ci95": (55.0, 70.0), "windows": 5, "headline": True,
    }  # fmt: skip
    return record.Row(**values | changes)


def recorded(folder: Path, name: str = "speed", *rows: record.Row) -> dict[str, Any]:
    with record.measuring(name, what="Seconds.", state="cold", force=True, results=folder) as result:
        result.rows += rows
    return dict(json.loads((folder / f"{name}.json").read_text()))


def pages(root: Path) -> None:
    (root / "benchmarks").mkdir()
    for page in ("README.md", "benchmarks/README.md"):
        (root / page).write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")


class TestInterleave:
    def test_each_round_runs_the_other_way(self) -> None:
        assert "".join(order(["A", "B"], 5)) == "ABBAABBAAB"
        assert "".join(order(["A", "B", "C"], 2)) == "ABCCBA"

    def test_a_warm_up_is_not_measured(self) -> None:
        calls: list[str] = []

        def contender(name: str) -> Callable[[], float]:
            return lambda: float(calls.append(name) or len(calls))

        contenders = {"A": contender("A"), "B": contender("B")}
        figures = interleave(contenders, state="warm", windows=2, say=lambda _: None)
        assert "".join(calls) == "ABABBA"
        assert figures == {"A": [3.0, 6.0], "B": [4.0, 5.0]}

    def test_a_ratio_comes_with_its_spread(self) -> None:
        clear = ratio_of_medians([10.0, 10.1, 9.9, 10.0, 10.2], [5.0, 5.1, 4.9, 5.0, 5.0])
        assert clear.value == pytest.approx(2.0)
        assert 1.9 < clear.low <= clear.value <= clear.high < 2.1
        vague = ratio_of_medians([10.0, 20.0, 5.0], [10.0, 4.0, 30.0])
        assert vague.low < 1 < vague.high

    def test_a_machine_at_work_is_refused(self) -> None:
        with pytest.raises(LoadedError, match="--force"):
            wait_until_quiet(load=lambda: 100.0, patience=0.0, pause=0.0)
        assert wait_until_quiet(load=lambda: 100.0, force=True) == 100.0
        falling = iter([100.0, 100.0, 0.01, 0.01])
        assert wait_until_quiet(load=lambda: next(falling), patience=60.0, pause=0.0) == 0.01


class TestProcess:
    def test_seconds_memory_and_output(self, tmp_path: Path) -> None:
        code = "import time; held = b'x' * 50_000_000; time.sleep(1.8); print('done', len(held))"
        watched = watch([sys.executable, "-c", code], cwd=tmp_path)
        assert watched.output == "done 50000000\n"
        assert watched.seconds >= 1.8
        assert 0 < watched.cpu_seconds < watched.seconds + 1
        assert watched.peak_process_bytes >= 50_000_000
        assert 0 <= watched.others <= 1
        if sys.platform == "linux":
            assert watched.peak_bytes >= 50_000_000

    def test_a_failure_says_what_the_command_said(self, tmp_path: Path) -> None:
        with pytest.raises(CommandError, match=r"exit code 3\nno luck"):
            watch([sys.executable, "-c", "print('no luck'); raise SystemExit(3)"], cwd=tmp_path)

    def test_what_runs_too_long_is_ended(self, tmp_path: Path) -> None:
        with pytest.raises(CommandError, match=r"ran longer than 0\.3 s"):
            watch([sys.executable, "-c", "import time; time.sleep(60)"], cwd=tmp_path, timeout=0.3)


class TestJudge:
    def test_accuracy_and_paired_difference(self) -> None:
        truth = Truth(np.array([0, 1, 0, 1] * 25), np.array([f"set/{n}" for n in range(100)]))
        right = np.eye(2)[truth.labels]
        wrong = right.copy()
        wrong[:20] = 1 - wrong[:20]
        ours, rival = judge(right, truth), judge(wrong, truth)
        assert (ours.accuracy, rival.accuracy) == (1.0, 0.8)
        difference = compare(ours, rival)
        assert difference.value == pytest.approx(0.2)
        assert 0.1 < difference.low < 0.2 < difference.high < 0.35
        assert compare(ours, ours).low < 0 < compare(ours, ours).high

    def test_no_numbers_are_no_answers(self) -> None:
        with pytest.raises(ValueError, match="no numbers"):
            judge(np.full((2, 2), np.nan), Truth(np.array([0, 1]), np.array(["a", "b"])))

    def test_an_object_counts_once_over_seeds(self) -> None:
        part = Judged(np.array([True, False]), np.array(["s/1", "s/2"]))
        both = pool([part, part])
        assert len(both.correct) == 4
        assert len(set(both.groups)) == 2


class TestComparisons:
    def run_of(self, name: str, case: str, seconds: float, right: int) -> Run:
        judged = Judged(np.arange(50) < right, np.array([f"{case}/{n}" for n in range(50)]))
        outcome = Outcome(name, seconds, seconds, {}, None, 0, 0.0, 0.0)
        return Run(case, 0, outcome, {"last": judged})

    def test_each_set_and_all_together(self) -> None:
        runs = [
            self.run_of(name, case, seconds, right)
            for case in ("one", "two")
            for name, seconds, right in (("visionloop auto", 10.0, 45), ("timm train.py", 30.0, 40))
        ]
        rows = comparisons(runs, "images to network")
        assert [r.case for r in rows] == ["one", "two", "all 2 sets"]
        assert [r.ratio for r in rows] == [3.0, 3.0, 3.0]
        assert rows[0].ratio_ci95 is None  # one window says nothing of the spread
        assert (rows[2].ours_value, rows[2].rival_value) == (20.0, 60.0)
        assert rows[2].accuracy is not None
        assert rows[2].accuracy.n == 100
        assert rows[2].accuracy.difference == pytest.approx(0.1)


class TestTrainingSpeed:
    def run_of(self, name: str, speed: float | None) -> Run:
        return Run("deeppcb_cls", 0, Outcome(name, 1.0, 1.0, {}, speed, 0, 0.0, 0.0), {})

    def test_medians_of_images_a_second_beside_each_rival(self) -> None:
        fast = [self.run_of("visionloop finetune", speed) for speed in (90.0, 100.0, 110.0)]
        slow = [self.run_of("timm train.py", speed) for speed in (45.0, 50.0, 55.0)]
        (found,) = speed_rows([*slow, *fast], 128)
        assert (found.ours_value, found.rival_value, found.ratio) == (100.0, 50.0, 2.0)
        assert found.ratio_ci95 is not None

    def test_a_run_that_kept_its_probe_is_no_training(self) -> None:
        runs = [self.run_of("visionloop finetune", None), self.run_of("timm train.py", 50.0)]
        with pytest.raises(ContenderError, match="kept its probe"):
            speed_rows(runs, 128)


class TestRecord:
    def test_a_result_holds_all_that_is_needed_to_judge_it(self, tmp_path: Path) -> None:
        result = recorded(tmp_path, "speed", row())
        assert record.faults(result) == []
        assert result["machine"]["cores"] == os.cpu_count()
        assert result["versions"]["ours"]["torch"]
        assert isinstance(result["versions"]["ours"]["dirty"], bool)
        assert result["forced"] is True
        assert "node" not in json.dumps(result["machine"])

    def test_what_is_missing_is_named(self) -> None:
        assert "lacks machine" in record.faults({"rows": [{}]})
        assert "row 0 lacks ratio" in record.faults({"rows": [{}]})

    def test_no_place_on_this_machine_is_recorded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VISIONLOOP_REAL_DATA", "/somewhere/real/")
        given = {"flags": ["--weights", "/somewhere/real/weights", f"{record.ROOT}/var/bench"], "n": 3}
        found = record.without_places(given)
        assert found == {"flags": ["--weights", "$VISIONLOOP_REAL_DATA/weights", "var/bench"], "n": 3}

    def test_a_failed_measurement_leaves_no_result(self, tmp_path: Path) -> None:
        def fail() -> None:
            with record.measuring("speed", what="Seconds.", state="cold", force=True, results=tmp_path):
                raise CommandError("the rival broke")

        with pytest.raises(CommandError):
            fail()
        assert list(tmp_path.iterdir()) == []


class TestLogBenchmarks:
    def test_every_request_is_another_image(self) -> None:
        image = next(pictures(0))
        files = [another(image, number) for number in (0, 1, 254, 255, 256, 65_024, 65_025)]
        assert len(set(files)) == len(files)
        assert all(decode(data).image.size == (96, 64) for data in files)

    def test_a_lost_row_a_doubled_one_and_a_missing_image_are_found(self, tmp_path: Path) -> None:
        workspace = Workspace(tmp_path, tmp_path / "var")
        rows = {name: _row(number, b"x" * number) for number, name in enumerate("abcd")}
        folder = workspace.log / "2026-03-01"
        folder.mkdir(parents=True)
        lines = [encode_log_row(rows[name] | {"request_id": name}) for name in "aacd"]
        (folder / "w-0.log").write_bytes(b"".join(lines) + b"torn")
        image = workspace.log / "images" / rows["c"]["kept"]
        image.parent.mkdir(parents=True)
        image.write_bytes(b"xx")
        done = checked(workspace, list("abcd"), kills=1)
        assert (done.lost, done.doubled, done.without_image, done.damaged) == (["b"], ["a"], ["d"], 1)
        assert not done.whole


class TestPictures:
    def test_each_is_another_jpeg_that_depends_on_its_number_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(made_up, "ENCODED", 4)  # of 24 scenes: a few seconds
        monkeypatch.setattr(made_up, "SCENES", 1)
        made_up._encoded.cache_clear()
        made_up.make_pictures(tmp_path / "a", 6)
        files = sorted((tmp_path / "a").rglob("*.jpg"), key=lambda path: path.name)
        decoded = [decode(file.read_bytes()) for file in files]
        assert [one.image.size for one in decoded] == [made_up.SIZE] * 6
        assert len({describe(one)[1] for one in decoded}) == 6
        made_up.make_pictures(tmp_path / "b", 2, start=4)
        again = sorted((tmp_path / "b").rglob("*.jpg"), key=lambda path: path.name)
        assert [file.read_bytes() for file in again] == [file.read_bytes() for file in files[4:]]
        made_up._encoded.cache_clear()
        made_up._scene.cache_clear()

    def test_what_is_there_stays(self, tmp_path: Path) -> None:
        for number in range(3):
            place = tmp_path / f"class-{number:02d}/{number:07d}.jpg"
            place.parent.mkdir()
            place.write_bytes(b"there")
        made_up.make_pictures(tmp_path, 3)
        assert {path.read_bytes() for path in tmp_path.rglob("*.jpg")} == {b"there"}


class TestTable:
    def test_rows_become_lines(self, tmp_path: Path) -> None:
        accuracy = record.Accuracies(
            ours=0.91, rival=0.9, n=526, difference=0.01, difference_ci95=(-0.02, 0.04)
        )
        result = recorded(tmp_path, "speed", row(accuracy=accuracy), row(case="minor", headline=False))
        result["load"]["before"] = 100.0
        page = table.headlines([result])
        assert "| 20.0 s (visionloop auto) | 1,234 s (timm train.py) | **61.70** (55.00 to 70.00) |" in page
        assert "0.910 − 0.900 = +0.010 (-0.020 to +0.040), n = 526" in page
        assert "minor" not in page
        assert "The machine was at other work." in page
        result["load"]["before"] = 0.0  # forced, and idle all the same
        assert "at other work" not in table.headlines([result])
        assert "minor" in table.everything([result])
        assert table.headlines([]) == table.everything([]) == table.NOTHING

    def test_check_fails_where_a_page_differs(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pages(tmp_path)
        results = tmp_path / "results"
        recorded(results, "speed", row())
        arguments = {"root": tmp_path, "results": results}
        assert table.main(["--check"], **arguments) == 1
        assert "README.md, benchmarks/README.md differ" in capsys.readouterr().err
        assert "old" in (tmp_path / "README.md").read_text()
        assert table.main([], **arguments) == 0
        assert table.main(["--check"], **arguments) == 0
        page = (tmp_path / "README.md").read_text()
        assert page.startswith(f"before\n{table.BEGIN}\n| on |")
        assert page.endswith(f"{table.END}\nafter\n")

    def test_a_benchmark_may_bring_a_table_of_its_own(self, tmp_path: Path) -> None:
        result = recorded(tmp_path, "speed", row())
        own = {"head": ["strategy", "accuracy"], "rows": [["probe", ".9"], ["lora", ".8"]]}
        page = table.everything([result | {"details": {"table": own}}])
        assert (
            "\n\n| strategy | accuracy |\n| --- | --- |\n| probe | .9 |\n| lora | .8 |\n\n`speed`: " in page
        )
        assert "strategy" not in table.everything([result])

    @pytest.mark.parametrize("page", ["none", f"{table.END}{table.BEGIN}", table.BEGIN * 2 + table.END])
    def test_a_page_without_a_place_is_refused(self, page: str) -> None:
        with pytest.raises(TableError):
            table.replaced(page, "x")


def test_the_recorded_results_are_whole() -> None:
    for path in record.RESULTS.glob("*.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        assert record.faults(result) == [], path
        assert result["name"] == path.stem
        assert not record.disturbed(result), f"{path}: measured on a machine at other work"


def test_the_pointer_is_recorded_as_whole_after_every_kill() -> None:
    details = json.loads((record.RESULTS / "kills.json").read_text(encoding="utf-8"))["details"]
    assert all(done["faults"] == [] for done in details.values())
    release = details.pop("release")
    assert sum(done["kills"] for done in details.values()) >= 200
    assert release["kills"] >= 20
    assert {"build", "sandbox", "promote", "after promote"} <= set(release["fell"])


def test_the_queue_is_recorded_as_nowhere_worse_than_random_images() -> None:
    """By more than its interval; where the labels are all trained on, and where an intake divides them."""
    result = json.loads((record.RESULTS / "labels.json").read_text(encoding="utf-8"))
    ours = [gain for gain in result["details"]["gains"] if gain["way"] == "ours"]
    assert {(gain["case"], gain["divided"]) for gain in ours} == {
        (name, divided) for name in labels.CASES for divided in (True, False)
    }
    assert [gain for gain in ours if gain["gain"]["ci95"][1] < 0] == []
    assert all(case["seeds"] >= 5 for case in result["details"]["cases"])


def test_a_recorded_soak_lost_nothing_missed_nothing_and_promoted_nothing_worse() -> None:
    for path in record.RESULTS.glob("soak.json"):
        year = json.loads(path.read_text(encoding="utf-8"))["details"]
        assert year["days"] == 365
        assert year["requests"]["acknowledged"] > 20_000
        assert year["requests"]["lost"] == year["requests"]["doubled"] == year["requests"]["read_twice"] == 0
        assert year["requests"]["unknown_windows"] == 0
        assert year["wrong_promotions"] == 0 < len(year["promotions"])
        assert year["without_alarm"]["real"] == []


def test_a_soaked_year_that_failed_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "ROOT", tmp_path)  # no flows there
    monkeypatch.setattr("sys.argv", ["soak", "--results", str(tmp_path)])
    with pytest.raises(ContenderError, match=r"flows\.soak --seed 0` ended with code 1"):
        soak.main()
    assert list(tmp_path.iterdir()) == []


def test_a_gain_is_over_as_many_random_labels_on_the_same_division() -> None:
    key = {"case": "x", "divided": False, "trained": 9, "old": 1.0}
    rows = [
        key | {"seed": seed, "way": way, "labels": count, "new": 0.5 + 0.1 * seed + bonus * (count > 0)}
        for seed in range(3)
        for way, bonus in (("random", 0.1), ("ours", 0.15))
        for count in (0, 10, 20)
    ]
    means, gains = labels.summary(rows)
    assert [(mean["way"], mean["labels"]) for mean in means if mean["gain"]["mean"] > 0.04] == [
        ("ours", 10),
        ("ours", 20),
    ]
    assert gains[0]["gain"] == {"mean": 0.05, "ci95": [0.05, 0.05]}


def test_the_pages_say_what_the_results_say() -> None:
    assert table.main(["--check"]) == 0


def test_the_real_images_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISIONLOOP_REAL_DATA", raising=False)
    with pytest.raises(SetError, match="VISIONLOOP_REAL_DATA"):
        real_data()


@pytest.mark.slow
def test_the_loop_s_flops_are_those_of_the_network_and_below_the_device_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "--device cpu --models resnet18 --image-size 64 --batch 4 --batches 2 --windows 1 --matrix 512 --force"
    monkeypatch.setattr(sys, "argv", ["flops", *options.split(), "--results", str(tmp_path)])
    assert flops.main() == 0
    found = json.loads((tmp_path / "flops.json").read_text())
    # 1.8e9 multiply-adds at 224 px (torchvision's model page), two FLOPs each, backward twice the forward.
    counted = found["details"]["resnet18, float32 channels last eager"]["gflops_an_image"]
    assert counted == pytest.approx(3 * 2 * 1.8 * (64 / 224) ** 2, rel=0.1)
    assert 0 < found["rows"][0]["ratio"] < 1


@pytest.mark.slow
@pytest.mark.real
def test_all_contenders_see_the_same_images(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    real_data("weights")  # skips where there are none
    prepared = prepare("pacs3_photo", tmp_path, seed=1, image_size=64)
    assert sum(prepared.counts().values()) == 385
    assert len(prepared.classes) == 7
    for part, count in prepared.counts().items():
        assert len(list((prepared.tree / part).glob("*/*.jpg"))) == count > 0
    assert (prepared.workspace / "artifacts/balance.json").exists()
