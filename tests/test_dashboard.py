"""The Evidently workspace: runs add up over time, panels have data, and a failure to draw is not a failure to decide."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from monitoring.dashboard.point import Point, thresholds
from monitoring.journal import Journal
from monitoring.label_queue import items_of
from monitoring.labels import Label, append_labels
from monitoring.watch import wake
from pipeline.artifacts import Workspace
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
@pytest.mark.timeout(300)
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
    assert {value["legend"] for value in panels["Share of each class"]["values"]} == {"clean", "pit", SCRIPT}
    labelled = next(run for run in runs if "correct" in means(run))
    assert all(f'"{name}"' in json.dumps(labelled) for name in ("correct_low", "correct_high"))


@pytest.mark.slow
@pytest.mark.timeout(300)
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
