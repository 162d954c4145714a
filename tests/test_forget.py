"""What is forgotten is gone from log, archive, images and queues, and nothing else is."""

import csv
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monitoring.__main__ import main
from monitoring.archive import every_row
from monitoring.compact import compact
from monitoring.drift import yardstick
from monitoring.forget import Forgotten, forget
from monitoring.label_intake import take
from monitoring.label_queue import items_of, write
from monitoring.reference import load
from monitoring.watch import wake
from monitoring.window import Log as Reader
from pipeline.artifacts import Workspace, encode_log_row, read_json
from pipeline.errors import DataError
from pipeline.params import Log
from pipeline.registry import Registry
from services.prediction_log import PredictionLog
from tests.monitored import (
    CLASSES,
    SIZE,
    START,
    World,
    answer,
    commented,
    log_row,
    params_for_tests,
    promote,
    workspace_at,
)
from tests.nursery import ROOT, Nursery
from tests.test_label_intake import EPISODE

NOW = START + timedelta(days=1)
PARAMS = params_for_tests()


def rows(workspace: Workspace) -> dict[str, dict]:
    return {row["request_id"]: row for row in every_row(workspace.log, None) if row}


def forgotten(workspace: Workspace, *ids: str) -> Forgotten:
    return forget(workspace, Log(), ids, why="asked to", by="ann", now=datetime.now(UTC))


def left_on_disk(workspace: Workspace, *texts: str) -> list[Path]:
    """Files below var/ that still hold one of the texts."""
    files = [path for path in workspace.home.rglob("*") if path.is_file()]
    return [
        path
        for path in files
        if any(text.encode() in path.read_bytes() or text in path.name for text in texts)
    ]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VISIONLOOP_HOME", raising=False)
    (tmp_path / "params.yaml").write_text("label: {budget: 20, min_labels: 10}\n", encoding="utf-8")
    workspace, world = workspace_at(tmp_path), World(1)
    digest = promote(workspace, [world.shot() for _ in range(60)])
    answer(workspace, digest, [commented(world.shot(), "by Ann") for _ in range(20)], writer="a-0")
    answer(workspace, digest, [world.shot() for _ in range(20)], writer="b-0")
    return workspace


def champion(workspace: Workspace) -> str:
    found = Registry(workspace.registry).champion()
    assert found is not None
    return found.digest


def reader(workspace: Workspace, cursor: dict | None = None) -> Reader:
    return Reader(workspace.log, champion(workspace), CLASSES, SIZE, cursor=cursor or {})


@pytest.mark.parametrize("compacted", [False, True], ids=["log", "archive"])
@pytest.mark.parametrize("by", ["request_id", "image_id", "kept"])
def test_a_row_and_its_image_go_by_any_of_their_ids(workspace: Workspace, by: str, compacted: bool) -> None:
    before = rows(workspace)
    log = reader(workspace)
    first = log.next_window(25, 1)
    assert first is not None
    cursor = log.position()
    victim = rows(workspace)[first.rows[3].request_id]
    late = next(row for name, row in before.items() if name not in {row.request_id for row in first.rows})
    if compacted:
        compact(workspace, Log(), now=NOW)
    one = Path(victim["kept"]).stem if by == "kept" else victim[by]
    done = forgotten(workspace, one, late["request_id"])
    assert (done.rows, done.archived, done.images) == ((0, 2, 2) if compacted else (2, 0, 2))
    gone = {victim["request_id"], late["request_id"]}
    assert rows(workspace).keys() == before.keys() - gone
    rest = reader(workspace, cursor).next_window(100, 1)
    assert rest is not None
    assert len(rest) == 14, "the cursor stands where it stood, and the late one does not come"
    again = reader(workspace)
    assert again.next_window(100, 1) is not None
    assert again.dropped == {"damaged": 0, "torn": 0, "duplicates": 0, "others": 0}
    assert left_on_disk(workspace, *gone, victim["image_id"], Path(victim["kept"]).stem) == []
    [begun, ended] = [
        json.loads(line) for line in (workspace.log / "deletions.jsonl").read_text().splitlines()
    ]
    assert (begun["state"], ended["state"], ended["why"], ended["by"]) == ("begun", "done", "asked to", "ann")
    assert hashlib.sha256(one.encode()).hexdigest() in ended["ids"]
    assert "journal" not in done.text, "nothing was watched, so no evidence holds anything"
    assert forgotten(workspace, one).before == [one]


def test_a_segment_that_a_service_writes_loses_the_row_and_goes_on(workspace: Workspace) -> None:
    live = PredictionLog(workspace.log, Log())
    shot = World(7).shot()

    def append(name: str) -> None:
        row = log_row(shot, champion(workspace), name, datetime.now(UTC), source="", kept=False)
        live.append(row, b"").result(10)

    append("one-live-row")
    append("another-live-row")
    assert forgotten(workspace, "one-live-row").rows == 1
    append("a-third-live-row")
    live.close()
    assert {"another-live-row", "a-third-live-row"} <= rows(workspace).keys()
    assert left_on_disk(workspace, "one-live-row") == []


def test_what_a_challenger_said_in_shadow_loses_the_request_s_id(workspace: Workspace) -> None:
    name, other = list(rows(workspace))[:2]
    path = workspace.shadow / ("c" * 64) / "w.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps({"request_id": one, "label": "pit"}) + "\n" for one in (other, name)))
    forgotten(workspace, name)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert found == [{"request_id": other, "label": "pit"}, {"request_id": "0" * len(name), "label": "pit"}]
    assert left_on_disk(workspace, name) == []


def test_what_the_evidence_still_holds_is_said(workspace: Workspace) -> None:
    wake(workspace, PARAMS, now=NOW, draw=False)
    name = list(rows(workspace))[-1]
    done = forgotten(workspace, name)
    assert done.rows == 1
    assert left_on_disk(workspace, name) == [workspace.journal], (
        "an id that names nothing any more, in its cursor"
    )
    assert "var/journal.sqlite holds no picture and no answer of it" in done.text
    assert "the last 10 images that counted, and a fading sum" in done.text


def test_an_image_that_others_sent_too_stays_and_the_answer_says_so(workspace: Workspace) -> None:
    row = next(iter(rows(workspace).values()))
    with (workspace.log / "2026-03-01/c-0.log").open("wb") as stream:
        stream.write(encode_log_row(row | {"request_id": "the-same-again"}))
    done = forgotten(workspace, row["request_id"])
    assert (done.rows, done.images) == (1, 0)
    assert "stays: 1 other requests sent it" in done.text
    assert (workspace.log / "images" / row["kept"]).exists()
    done = forgotten(workspace, row["image_id"])
    assert (done.rows, done.images) == (1, 1)
    assert "the-same-again" not in rows(workspace)


def queued(workspace: Workspace) -> Path:
    window = reader(workspace).next_window(500, 1)
    assert window is not None
    write(
        workspace,
        EPISODE,
        window,
        yardstick(load(Registry(workspace.registry), champion(workspace)), 0.01),
        PARAMS,
    )
    return workspace.queue / EPISODE.id


def test_an_unlabelled_image_leaves_the_queue_and_the_rest_can_be_answered(workspace: Workspace) -> None:
    folder = queued(workspace)
    before = items_of(workspace, EPISODE.id)
    victim = before[2]
    table = folder / "queue.csv"
    answered = table.read_text().replace(",,\n", ",pit,\n")  # somebody has begun
    table.write_text(answered)
    done = forgotten(workspace, victim.received)
    assert (done.rows, done.images, done.asked) == (1, 1, 1)
    assert items_of(workspace, EPISODE.id) == [item for item in before if item != victim]
    assert left_on_disk(workspace, victim.image_id, victim.received) == []
    with table.open(newline="") as stream:
        assert [row["label"] for row in csv.DictReader(stream)] == ["pit"] * 19
    assert len(read_json(folder / "labelstudio.json")) == 19
    assert len(take(workspace, PARAMS, table, by="ann", now=NOW, domain="line-b").labels) == 19


def test_a_labelled_image_is_named_with_what_to_do(workspace: Workspace) -> None:
    folder = queued(workspace)
    victim = items_of(workspace, EPISODE.id)[0]
    table = folder / "queue.csv"
    table.write_text(table.read_text().replace(",,\n", ",pit,\n"))
    take(workspace, PARAMS, table, by="ann", now=NOW, domain="line-b")
    done = forgotten(workspace, victim.received)
    assert (done.images, done.asked) == (1, 1)
    assert f"data/labelled/{victim.image_id[:2]}/{victim.image_id}" in done.text
    assert "dvc add data/labelled" in done.text
    assert victim in items_of(workspace, EPISODE.id), "its label still needs to know how it was drawn"


def test_the_command_says_what_it_did_and_what_is_no_id(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    name = next(iter(rows(workspace)))
    assert main(["forget", name, "0" * 64, "--why", "asked to"]) == 0
    out = capsys.readouterr().out
    assert "Removed: 1 rows of the log, 0 of the archive, 1 kept images" in out
    assert f"{'0' * 64} is in neither log nor archive nor queue" in out
    assert main(["compact"]) == 0
    assert "39 rows of 2 segments" in capsys.readouterr().out
    assert main(["forget", "etc/passwd", "--why", "x"]) == 1
    assert "no request_id" in capsys.readouterr().err
    with pytest.raises(DataError):
        forgotten(workspace, "a b")


KILLED = """
import os, signal, sys
from datetime import datetime, UTC
from pathlib import Path
from monitoring.forget import forget
from pipeline.artifacts import Workspace
from pipeline.params import Log

def work(text):
    place, left, *ids = text.split()
    left = int(left)

    def count(event, arguments):
        nonlocal left
        if event.startswith("fcntl.") or any(str(argument).startswith(place) for argument in arguments[:2]):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    forget(Workspace(Path(place), Path(place) / "var"), Log(), ids, why="x", by="y", now=datetime.now(UTC))
"""


@pytest.mark.slow
def test_a_kill_before_every_file_that_a_deletion_touches(
    workspace: Workspace, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    queued(workspace)
    before = rows(workspace)
    victims = [item.received for item in items_of(workspace, EPISODE.id)[:2]]
    gone = {name for name, row in before.items() if row["image_id"] in victims}
    errors = tmp_path_factory.mktemp("errors") / "errors"
    kills, code = 0, -9
    with Nursery(KILLED, cwd=ROOT, errors=errors) as nursery:
        while code:
            nursery.bear(f"{tmp_path} {kills} {' '.join(victims)}")
            code = nursery.bury()
            assert code in (0, -9), nursery.said()
            assert rows(workspace).keys() >= before.keys() - gone, "nothing else goes"
            kills += 1
    assert kills > 5
    assert rows(workspace).keys() == before.keys() - gone
    assert left_on_disk(workspace, *victims, *gone) == []
