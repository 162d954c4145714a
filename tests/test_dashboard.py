"""The Evidently workspace: runs add up over time, panels have data, and a failure to draw is not a failure to decide."""

import json
from base64 import b64decode
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from monitoring.dashboard import draw
from monitoring.dashboard.due import due, read_drawn
from monitoring.dashboard.point import Point, thresholds
from monitoring.journal import Episode, Journal, Step
from monitoring.label_queue import items_of
from monitoring.labels import Label, append_labels
from monitoring.queue_files import Item, describe
from monitoring.stream import Stream
from monitoring.watch import wake
from pipeline.artifacts import Workspace
from pipeline.registry import Registry
from tests import monitored
from tests.monitored import START, World, answer, params_for_tests, promote, workspace_at

PARAMS = params_for_tests()
SCRIPT = "<script>alert(1)</script>"


def snapshots(workspace: Workspace) -> list[dict]:
    files = sorted(workspace.evidently.glob("*/snapshots/*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def means(snapshot: dict) -> set[str]:
    """Columns whose mean a run holds."""
    found = json.dumps(snapshot)
    return {
        name for name in ("log10_e", "alarm_at", "mmd", "drifted_share", "correct") if f'"{name}"' in found
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_window_is_a_run_and_labels_add_the_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitored, "CLASSES", ("clean", "pit", SCRIPT))
    workspace, world = workspace_at(tmp_path), World()
    digest = promote(workspace, [world.shot() for _ in range(120)])
    answer(workspace, digest, [world.shot() for _ in range(50)])
    assert wake(workspace, PARAMS, now=START + timedelta(hours=1)).report_error is None
    assert len(snapshots(workspace)) == 1
    later = START + timedelta(hours=2)
    answer(workspace, digest, [world.shot(dark=0.6) for _ in range(50)], start=later, writer="b")
    # Not drawn now, but by the next wake-up that draws.
    outcome = wake(workspace, PARAMS, now=later + timedelta(hours=1), draw=False)
    assert len(snapshots(workspace)) == 1
    assert outcome.episode is not None
    rows = [
        Label(item.image_id, "x", item.predicted if number % 2 else "pit", "d", "g", "test", "me", later)
        for number, item in enumerate(items_of(workspace, outcome.episode.id))
    ]
    append_labels(workspace.labels, rows)
    assert wake(workspace, PARAMS, now=later + timedelta(hours=2)).report_error is None
    runs = snapshots(workspace)
    assert len(runs) == 3
    assert sum("correct" in means(run) for run in runs) == 1
    assert sum({"log10_e", "alarm_at", "mmd", "drifted_share"} <= means(run) for run in runs) == 2
    assert len({run["timestamp"] for run in runs}) == 2
    # A third wake-up without news draws nothing, and one project holds it all.
    wake(workspace, PARAMS, now=later + timedelta(hours=3))
    assert len(snapshots(workspace)) == 3
    projects = [path for path in workspace.evidently.iterdir() if path.is_dir()]
    assert len(projects) == 1
    # A run holds class names as text; the legend is one, which the pages put in as text.
    assert not [
        path for path in projects[0].rglob("snapshots/*.json") if "<script" in path.read_text("utf-8")
    ]
    board = json.loads((projects[0] / "dashboard.json").read_text(encoding="utf-8"))
    assert len(board["panels"]) == len(board["tabs"][0]["panels"])
    panels = {panel["title"]: panel for panel in board["panels"]}
    assert len(panels) == len(board["panels"]), "made anew when they change, never twice"
    titles = {
        "Estimated accuracy",
        "Accuracy where labels exist",
        "Abstentions",
        "Volume",
        "Time of an answer",
    }
    assert titles <= set(panels)
    assert "alarm line" in json.dumps(panels)
    assert f"var/monitoring/{outcome.episode.window}/contact-sheet.png" in json.dumps(panels)
    opened = next(run for run in runs if run["metadata"].get("contact sheet"))
    words, picture, *_ = opened["widgets"]
    assert words["params"]["text"].startswith("The images")
    (inside,) = picture["params"]["layout"]["images"]
    with Image.open(BytesIO(b64decode(inside["source"].partition(",")[2]))) as shown:
        assert shown.size == (inside["sizex"], inside["sizey"])
    assert sum("contact sheet" in run["metadata"] for run in runs) == 1, "the window that raised the alarm"
    assert {value["legend"] for value in panels["Share of each class"]["values"]} == {"clean", "pit", SCRIPT}
    labelled = next(run for run in runs if "correct" in means(run))
    assert all(f'"{name}"' in json.dumps(labelled) for name in ("correct_low", "correct_high"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_error_while_drawing_is_told_and_the_decision_stands(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    digest = promote(workspace, [world.shot() for _ in range(120)])
    answer(workspace, digest, [world.shot() for _ in range(50)])
    workspace.evidently.parent.mkdir(parents=True, exist_ok=True)
    workspace.evidently.write_text("a file where the folder should be", encoding="utf-8")
    outcome = wake(workspace, PARAMS, now=START + timedelta(hours=1))
    assert outcome.decision == "quiet"
    assert outcome.report_error is not None
    with Journal(workspace.journal) as journal:
        assert [step.decision for step in journal.steps()] == ["quiet", "report_failed"]


def test_a_backlog_is_drawn_to_its_end_and_labels_of_the_oldest_window_still_reach_it(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    digest = promote(workspace, [world.shot() for _ in range(60)])
    answer(workspace, digest, [world.shot() for _ in range(300)], kept=False)
    champion = Registry(workspace.registry).champion()
    assert champion is not None
    params = params_for_tests(window=5, min_window=5)
    with Journal(workspace.journal) as journal:
        stream = Stream.of(workspace, params, champion, journal)
    windows, steps = [], []
    while (window := stream.next_window()) is not None:
        first, last = (window.rows[end].time.isoformat() for end in (0, -1))
        detail = {"first": first, "traffic": {"last": last}}
        windows.append(window)
        steps.append(
            Step(time=START, decision="quiet", reason="", window=window.name, images=5, detail=detail)
        )
    assert len(steps) == 60

    def drawn_now(drawn: dict) -> tuple[list[str], dict]:
        """Names that are due, newest first, and what is remembered once they are drawn."""
        found = due(stream, steps, drawn)
        now = {str(one.step.window): {"labels": len(one.correct), "run": None} for one in found.due}
        hits = drawn["hits"] if found.hits is None else found.hits
        return list(now), {"windows": drawn["windows"] | now, "hits": hits}

    newest_first = [window.name for window in reversed(windows)]
    first, drawn = drawn_now(read_drawn(workspace.evidently))
    assert first == newest_first[:50]
    second, drawn = drawn_now(drawn)
    assert second == newest_first[50:], "the oldest have waited, and are drawn by the next"
    assert drawn_now(drawn) == ([], drawn)

    queue, rows = workspace.queue / ("a" * 16), windows[0].rows
    queue.mkdir(parents=True)
    items = [Item(row.kept_id, "x", True, "random", row.label, 1.0, 0.5, "", "0") for row in rows[:2]]
    opened = Episode(
        id=queue.name, version=1, state="awaiting_labels", champion=digest, reference="r", window="w",
        since=START, opened=START, changed=START, why="darker",
    )  # fmt: skip
    describe(queue, opened, items, windows[0].classes, params, first=rows[0].time, last=rows[-1].time)
    labels = [Label(item.image_id, "x", "none of them", "d", "g", "test", "me", START) for item in items]
    append_labels(workspace.labels, labels)
    read = []
    since = stream.since
    stream.since = lambda time, most: (read.append(time), since(time, most))[1]
    late, drawn = drawn_now(drawn)
    assert late == [windows[0].name], "59 windows later"
    assert drawn["windows"][windows[0].name]["labels"] == 2
    assert read == [rows[0].time], "of 60 windows the log is read for one"
    assert drawn_now(drawn) == ([], drawn)
    assert len(read) == 1, "and not again at each wake-up"


def test_a_window_that_the_log_lost_is_not_looked_for_again(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    digest = promote(workspace, [world.shot() for _ in range(60)])
    answer(workspace, digest, [world.shot() for _ in range(20)], kept=False)
    champion = Registry(workspace.registry).champion()
    assert champion is not None
    with Journal(workspace.journal) as journal:
        stream = Stream.of(workspace, params_for_tests(), champion, journal)
    detail = {"first": START.isoformat()}
    lost = Step(time=START, decision="quiet", reason="", window="20260301T080000-0", images=20, detail=detail)
    assert draw(stream, [lost]) == 0
    assert read_drawn(workspace.evidently)["windows"] == {lost.window: {"labels": 0, "run": None}}


def test_column_thresholds_follow_the_number_of_images() -> None:
    def point(count: int) -> Point:
        shots = [World(count).shot() for _ in range(1)]
        world = World(3)
        shots = [world.shot() for _ in range(count)]
        columns: dict[str, list] = {
            name: [shot.numbers[name] for shot in shots]
            for name in ("brightness", "contrast", "sharpness", "saturation")
        }
        columns |= {"confidence": [float(shot.probabilities.max()) for shot in shots]}
        columns |= {"predicted": [shot.label for shot in shots]}
        return Point("w", START, columns, columns, {})

    few, many = thresholds(point(40)), thresholds(point(160))
    assert set(few) == {"brightness", "contrast", "sharpness", "saturation", "confidence", "predicted"}
    assert all(few[name] > many[name] for name in ("brightness", "contrast", "sharpness", "predicted"))
    assert few["brightness"] > 0.2  # a fixed 0.1 would call most windows of 40 images drifted
