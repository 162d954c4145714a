"""Retraining as Prefect runs it: what a person reads in its log and pages, what is retried, what is refused."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows import pages
from flows.repro_process import Reproducer, StageError, reproducer
from flows.server import end
from monitoring.journal import Episode, Journal
from pipeline.artifacts import Workspace, digest_file, write_json
from pipeline.errors import StateError
from pipeline.registry import Registry
from tests import tiny_workspace
from tests.prefect_server import PrefectServer

ROOT = Path(__file__).resolve().parent.parent
NOW = datetime.now(UTC)
EPISODE = "0123456789abcdef"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A tiny workspace, entered."""
    workspace = tiny_workspace.make(tmp_path / "workspace")
    monkeypatch.chdir(workspace.root)
    monkeypatch.delenv("VISIONLOOP_HOME", raising=False)
    return workspace


@pytest.fixture
def api(prefect_server: PrefectServer) -> Iterator[PrefectServer]:
    """Flows called in this process report to the test server."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        yield prefect_server


def open_episode(workspace: Workspace, state: str = "awaiting_labels", **more: object) -> Episode:
    episode = Episode(
        id=EPISODE, version=1, state=state, champion="c" * 64, reference="r", window="w",
        since=NOW, opened=NOW, changed=NOW, why="darker", **more,  # type: ignore[arg-type]
    )  # fmt: skip
    with Journal(workspace.journal) as journal:
        return journal.begin(episode)


def state_of(workspace: Workspace, episode: str = EPISODE) -> str:
    with Journal(workspace.journal) as journal:
        return journal.episode(episode).state


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(path: Path, seconds: float = 60) -> str:
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)
    return path.read_text().strip()


# One DVC for all stages


@pytest.mark.slow
def test_stages_run_in_order_each_with_its_own_lines(workspace: Workspace) -> None:
    lines: dict[str, list[str]] = {}
    with reproducer(workspace.root) as dvc:
        plan = dvc.plan("gate")
        outcomes = [dvc.reproduce(stage, lines.setdefault(stage, []).append) for stage in plan]
        again = [dvc.reproduce(stage, lines.setdefault(stage, []).append) for stage in plan]
    assert plan == ["scan", "validate", "balance", "train", "bundle", "evaluate", "gate"]
    assert all(f"{stage} at work" in lines[stage] for stage in plan)
    assert not any(f"{other} at work" in lines[stage] for stage in plan for other in plan if other != stage)
    assert all(outcome.changed for outcome in outcomes)
    assert not any(outcome.changed for outcome in again)
    assert sum(outcome.seconds for outcome in again) < 2


@pytest.mark.slow
def test_a_failing_stage_gives_its_last_lines_and_the_next_request_still_works(workspace: Workspace) -> None:
    tiny_workspace.script(workspace, "scan", "echo starting; echo 'scan: no images' >&2; exit 3")
    with reproducer(workspace.root) as dvc:
        with pytest.raises(
            StageError, match=r"stage scan failed with exit code 3:\nstarting\nscan: no images"
        ) as caught:
            dvc.reproduce("scan", lambda line: None)
        assert not caught.value.killed
        tiny_workspace.script(workspace, "scan", "kill -9 $$")
        with pytest.raises(StageError) as caught:
            dvc.reproduce("scan", lambda line: None)
        assert caught.value.killed
        with pytest.raises(StageError, match=r"can't plan .dvc repro nothing.*not found"):
            dvc.plan("nothing")
        assert dvc.plan("scan") == ["scan"]
        _busy(workspace, dvc)


def _busy(workspace: Workspace, dvc: Reproducer) -> None:
    """Somebody types `dvc repro` in another shell meanwhile: DVC's lock names this very process."""
    holder = {"pid": os.getpid(), "cmd": "dvc repro"}
    out = str(workspace.root / "artifacts/sources/line-a.parquet")
    write_json(workspace.root / ".dvc/tmp/rwlock", {"write": {out: holder}, "read": {}})
    with pytest.raises(
        StateError, match=rf"another DVC command is at work(.|\n)*PID {os.getpid()}\): dvc repro"
    ):
        dvc.reproduce("scan", lambda line: None)


def test_what_is_left_of_a_killed_retrain_is_waited_for(workspace: Workspace) -> None:
    """Its child ends by itself, a moment later; until then DVC's lock names it."""
    ending = subprocess.Popen(["sleep", "2"])
    threading.Thread(target=ending.wait).start()
    holder = {"pid": ending.pid, "cmd": "/opt/visionloop/flows/repro_process.py 9"}
    out = str(workspace.root / "artifacts/sources/line-a.parquet")
    with reproducer(workspace.root) as dvc:
        write_json(workspace.root / ".dvc/tmp/rwlock", {"write": {out: holder}, "read": {}})
        assert dvc.reproduce("scan", lambda line: None).changed
    assert ending.poll() is not None


def test_two_retrains_in_one_workspace_the_second_is_told_who_is_there(workspace: Workspace) -> None:
    second = reproducer(workspace.root)
    told = f"another retrain.*process {os.getpid()}"
    with reproducer(workspace.root), pytest.raises(StateError, match=told), second:
        pass


@pytest.mark.slow
def test_when_the_flow_is_killed_its_stage_ends_too(workspace: Workspace) -> None:
    tiny_workspace.script(workspace, "scan", "echo $$ > pid; exec sleep 60")
    code = "from pathlib import Path; from flows.repro_process import reproducer\n"
    code += "with reproducer(Path('.')) as dvc: dvc.reproduce('scan', print)"
    flow = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)})
    stage = int(wait_for(workspace.root / "pid"))
    flow.kill()
    flow.wait()
    deadline = time.monotonic() + 120
    while alive(stage):
        assert time.monotonic() < deadline, "the stage outlived its flow"
        time.sleep(0.05)


# The flow


@pytest.mark.slow
def test_a_rejected_challenger_is_a_completed_run_with_pages_and_a_journal(
    workspace: Workspace, api: PrefectServer
) -> None:
    from flows.retrain import retrain

    tiny_workspace.new_challenger(workspace, decision="REJECT")
    state = retrain(reason="a test", return_state=True)

    assert state.is_completed()
    assert "REJECT" in str(state.message)
    assert "accuracy" in str(state.message)
    with Journal(workspace.journal) as journal:
        (step,) = journal.steps()
    assert step.decision == "verdict"
    assert "a test" in step.reason
    (run,) = api.post("flow_runs/filter", flow_runs={"id": {"any_": [str(state.state_details.flow_run_id)]}})
    tasks = _tasks(api, run)
    assert [task["name"] for task in tasks] == [
        "scan",
        "validate",
        "balance",
        "train",
        "bundle",
        "evaluate",
        "gate",
    ]
    assert {str(task["state_type"]) for task in tasks} == {"COMPLETED"}
    assert next(task["tags"] for task in tasks if task["name"] == "train") == ["gpu"]
    artifacts = api.post("artifacts/filter", artifacts={"flow_run_id": {"any_": [run["id"]]}})
    assert {"validation", "balance", "training", "metrics", "verdict"} <= {
        artifact["key"] for artifact in artifacts
    }
    assert "<script" not in json.dumps(artifacts)
    assert "](http" not in json.dumps(artifacts)
    assert _log_of(api, run, "train", tasks)


def _tasks(api: PrefectServer, run: dict[str, object]) -> list[dict[str, object]]:
    """Once all have arrived: task states are sent in the background."""
    for _ in range(100):
        tasks = api.post(
            "task_runs/filter", flow_runs={"id": {"any_": [run["id"]]}}, sort="EXPECTED_START_TIME_ASC"
        )
        if tasks and all(task["state_type"] in ("COMPLETED", "FAILED") for task in tasks):
            return tasks
        time.sleep(0.1)
    raise AssertionError(tasks)


def _log_of(api: PrefectServer, run: dict[str, object], name: str, tasks: list[dict[str, object]]) -> bool:
    task = next(task["id"] for task in tasks if task["name"] == name)
    for _ in range(100):
        if any(
            row["message"] == f"{name} at work"
            for row in api.post("logs/filter", logs={"task_run_id": {"any_": [task]}})
        ):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_a_killed_training_is_tried_again_a_refusing_validation_is_not(
    workspace: Workspace, api: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import tasks
    from flows.retrain import retrain

    monkeypatch.setattr(tasks, "RETRY_SECONDS", 0.1)
    train = (workspace.root / "inputs/train.sh").read_text()
    tiny_workspace.script(workspace, "train", f"[ -e tried ] || {{ touch tried; kill -9 $$; }}\n{train}")
    validate = (
        "echo x >> validated; cp inputs/made/validation.json reports/; echo 'label conflict' >&2; exit 1"
    )
    open_episode(workspace)

    state = retrain(episode=EPISODE, return_state=True)
    assert state.is_completed()
    assert (workspace.root / "tried").exists()
    assert state_of(workspace) == "needs_human"  # PROMOTE, and nobody was told to release it

    tiny_workspace.script(workspace, "validate", validate)
    state = retrain(return_state=True)
    assert state.is_failed()
    assert "stage validate failed with exit code 1:\nlabel conflict" in str(state.message)
    assert (workspace.root / "validated").read_text().count("x") == 1


@pytest.mark.slow
def test_an_episode_that_does_not_wait_is_left_alone(workspace: Workspace, api: PrefectServer) -> None:
    from flows.retrain import retrain

    open_episode(workspace, "training", retrain_started=NOW)
    state = retrain(episode=EPISODE, return_state=True)
    assert state.is_completed()
    assert "does not wait" in str(state.message)
    assert not workspace.verdict.exists()
    unknown = retrain(episode="f" * 16, return_state=True)
    assert unknown.is_failed()
    assert "no episode ffff" in str(unknown.message)


@pytest.mark.slow
def test_a_retrain_that_breaks_says_so_in_the_episode(workspace: Workspace, api: PrefectServer) -> None:
    from flows.retrain import retrain

    open_episode(workspace)
    tiny_workspace.script(workspace, "scan", "echo 'disk on fire' >&2; exit 1")
    assert retrain(episode=EPISODE, return_state=True).is_failed()
    with Journal(workspace.journal) as journal:
        assert journal.episode(EPISODE).state == "failed"
        assert "disk on fire" in journal.steps(1)[0].reason
    # The second event for it comes at once: the cooldown keeps it from running into the same wall.
    assert "does not wait" in str(retrain(episode=EPISODE, return_state=True).message)


@pytest.mark.slow
def test_a_retrain_that_is_killed_is_gone_on_with_up_to_one_promotion(
    workspace: Workspace, api: PrefectServer
) -> None:
    from flows.retrain import retrain

    workspace.params.write_text("release: {golden_images: 4}\nwatch: {cooldown_hours: 0.0}\n")
    train = (workspace.root / "inputs/train.sh").read_text()
    tiny_workspace.script(workspace, "train", f"[ -e pid ] || {{ echo $$ > pid; exec sleep 600; }}\n{train}")
    open_episode(workspace)
    worker = subprocess.Popen(
        [sys.executable, "-m", "flows.retrain", "--episode", EPISODE, "--release"],
        cwd=workspace.root, env=api.environment | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(workspace.root / "pid", 120)
    told = retrain(episode=EPISODE, release=True, return_state=True)
    assert "does not wait" in str(told.message), "a worker that lives is left alone"
    worker.kill()
    worker.wait()
    assert state_of(workspace) == "training"

    state = retrain(episode=EPISODE, release=True, return_state=True)
    assert state.is_completed(), state.message
    assert "is champion" in str(state.message)
    with Journal(workspace.journal) as journal:
        said = [step.decision for step in journal.steps()]
        assert journal.episode(EPISODE).dataset is None  # there is no data/labels.csv here
    first, again = ["dataset_frozen", "training"], ["dataset_frozen", "training", "evaluating"]
    assert said == [*first, "failed", *again, "verdict", "infra_validating", "promoted"]
    assert len(Registry(workspace.registry).history()) == 1
    twice = retrain(episode=EPISODE, release=True, return_state=True)
    assert "does not wait" in str(twice.message)


@pytest.mark.slow
def test_labels_that_come_back_while_the_data_are_read_are_in_it_or_not(
    workspace: Workspace, api: PrefectServer
) -> None:
    """The stages of the data are read again until data/labels.csv stood still."""
    from flows.retrain import retrain

    header = "image_id,path,label,domain,group,split,labelled_by,time"
    later = f"{'1' * 64},p,red,line-b,g,train,ann,{datetime.now(UTC).isoformat()}"
    workspace.labels.write_text(header + "\n")
    scan = (workspace.root / "inputs/scan.sh").read_text()
    tiny_workspace.script(workspace, "scan", f"echo {later} >> data/labels.csv\n{scan}")
    tiny_workspace.new_challenger(workspace, decision="REJECT")
    open_episode(workspace)
    assert retrain(episode=EPISODE, return_state=True).is_completed()
    with Journal(workspace.journal) as journal:
        episode = journal.episode(EPISODE)
        said = [step.decision for step in journal.steps()]
    assert said.count("dataset_frozen") == 2
    assert episode.labels_used == 1
    assert episode.dataset == digest_file(workspace.labels)
    assert episode.state == "rejected"


@pytest.mark.parametrize(
    ("state", "started", "approved", "waits"),
    [
        ("awaiting_labels", None, None, True),
        ("training", timedelta(hours=25), None, False),
        ("failed", timedelta(hours=1), None, False),
        ("failed", timedelta(hours=1), "ann: the disk is free again", True),
        ("failed", timedelta(hours=25), None, True),
        ("rejected", timedelta(hours=25), None, False),  # a person is asked
        ("needs_human", timedelta(hours=25), None, False),
        ("drift_open", None, None, False),
        ("promoted", None, None, False),
    ],
)
def test_when_an_episode_waits_for_a_retrain(
    state: str, started: timedelta | None, approved: str | None, waits: bool
) -> None:
    from flows.retrain import _waits

    episode = Episode(
        id=EPISODE, version=1, state=state, champion="c", reference="r", window="w", since=NOW, opened=NOW,
        changed=NOW, why="", approved=approved, retrain_started=NOW - started if started else None,
    )  # fmt: skip
    assert _waits(episode, NOW, 24.0) is waits


def _shell(folder: Path, script: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A shell that leads a session of its own, once it has made the file ``ready``."""
    process = subprocess.Popen(["sh", "-c", script, *arguments], cwd=folder, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (folder / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.slow
def test_a_process_has_ended_when_all_that_it_started_has(tmp_path: Path) -> None:
    """The leader goes at once, its worker first finishes what it is at."""
    worker = "trap 'sleep .3; touch finished; exit' TERM; touch ready; while :; do sleep .02; done"
    leader = _shell(tmp_path, 'sh -c "$0" & exec sleep 60', worker)
    started = time.monotonic()
    end(leader)
    assert (tmp_path / "finished").exists()
    assert time.monotonic() - started < 8, "it waited for nobody"
    with pytest.raises(ProcessLookupError):
        os.killpg(leader.pid, 0)


@pytest.mark.slow
def test_what_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    stubborn = _shell(tmp_path, "trap '' TERM; touch ready; while :; do sleep .02; done")
    end(stubborn, seconds=0.2)
    assert stubborn.returncode == -signal.SIGKILL


# Without a server


@pytest.mark.slow
def test_a_bare_shell_needs_no_server_and_leaves_none(workspace: Workspace) -> None:
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("PREFECT_", "VISIONLOOP_"))}
    done = subprocess.run(
        [sys.executable, "-m", "flows.retrain", "--reason", "by hand"],
        env=environment | {"PYTHONPATH": str(ROOT), "HOME": str(workspace.root.parent)},
        capture_output=True, text=True, timeout=500, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Finished in state Completed('PROMOTE" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not (workspace.root.parent / ".prefect").exists()
    assert _recorded(workspace.home / "prefect/prefect.db") == [("gate", "COMPLETED")]
    listening = subprocess.run(
        ["pgrep", "-f", str(workspace.root)], capture_output=True, text=True, check=False
    )
    assert listening.stdout == ""


@pytest.mark.slow
def test_the_temporary_server_leaves_the_cores_to_the_training(tmp_path: Path) -> None:
    """Prefect rounds its recorder's interval down; at 0 the waiting server kept a whole core busy."""
    script = (
        "import flows, pathlib, psutil, sys, time\n"
        "from flows.server import _temporary_server\n"
        "with _temporary_server(pathlib.Path(sys.argv[1])):\n"
        "    time.sleep(1)\n"
        "    [server] = psutil.Process().children()\n"
        "    before = sum(server.cpu_times()[:2])\n"
        "    time.sleep(4)\n"
        "    print(sum(server.cpu_times()[:2]) - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "log")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "prefect")},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert float(done.stdout.split()[-1]) < 2, "core seconds of four in which nothing happens"


def _recorded(database: Path) -> list[tuple[str, str]]:
    import sqlite3

    connection = sqlite3.connect(database)
    try:
        return list(connection.execute("SELECT name, state_type FROM task_run WHERE name = 'gate'"))
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "state/prefect"),
        ({"PREFECT_HOME": "/elsewhere"}, "/elsewhere"),
        ({"PREFECT_API_URL": "http://127.0.0.1:4200/api"}, None),
    ],
)
def test_prefect_keeps_its_state_with_ours_unless_told_otherwise(
    tmp_path: Path, given: dict[str, str], expected: str | None
) -> None:
    environment = {n: v for n, v in os.environ.items() if not n.startswith("PREFECT_")}
    environment |= {"PYTHONPATH": str(ROOT), "VISIONLOOP_HOME": "state", "HOME": str(tmp_path)} | given
    code = "import os, flows; print(os.environ.get('PREFECT_HOME'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == (str(tmp_path / expected) if expected else "None")


def test_a_profile_that_names_a_server_is_the_users_own_prefect(tmp_path: Path) -> None:
    profiles = tmp_path / ".prefect/profiles.toml"
    profiles.parent.mkdir()
    profiles.write_text('active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://prefect.example/api"\n')
    environment = {n: v for n, v in os.environ.items() if not n.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", "import os, flows; print(os.environ.get('PREFECT_HOME'))"],
        cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "None"


# Pages


def test_hostile_names_stay_text() -> None:
    assert pages.plain("<script>") == "‹script›"
    assert pages.plain("integrity_data recall/crack: 3+1") == "integrity_data recall/crack: 3+1"
    assert "\n" not in pages.plain("# a\n\nb")
    assert "](" not in pages.plain("[x](http://evil)")
    page = pages.verdict_page(
        {
            "decision": "REJECT", "challenger": "a" * 64, "champion": None,
            "checks": [
                {"name": "recall a|b<img>", "outcome": "pass", "value": 0.91234, "ci95": [0.8, 1.0], "bound": 0.5},
                {"name": "accuracy", "outcome": "fail", "value": 0.4, "ci95": None, "bound": 0.8, "support": 9,
                 "detail": "4 of 9", "would_flip": "4 more correct"},
            ],
        }
    )  # fmt: skip
    assert "<img>" not in page
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert [row.count("|") for row in rows] == [7, 7]
    assert "- accuracy (fail): 4 of 9 4 more correct" in page
    assert "accuracy" in rows[0], "what stands against it comes first"


def test_a_signal_is_told_from_a_decision() -> None:
    """Exit codes of a killed command, with and without a shell in between."""
    assert StageError("", -signal.SIGKILL).killed
    assert StageError("", 137).killed
    assert not StageError("", 1).killed
    assert not StageError("").killed
