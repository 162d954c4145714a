"""Scheduled and event-driven: a real server, real deployments, a real worker, from a copy of the workspace."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from monitoring.journal import Episode, Journal
from pipeline.artifacts import Workspace
from pipeline.errors import StateError
from pipeline.params import Params
from tests import tiny_workspace
from tests.prefect_server import BIN, PrefectServer, stop

ROOT = Path(__file__).resolve().parent.parent
NOW = datetime.now(UTC)
EPISODE = "0123456789abcdef"
SECONDS = 240.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The tiny workspace with the project's own code and prefect.yaml in it, as a checkout has them."""
    root = tmp_path_factory.mktemp("deployed") / "workspace"
    workspace = tiny_workspace.make(root)
    for package in ("flows", "pipeline", "services", "monitoring"):
        shutil.copytree(
            ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__", "weights")
        )
    shutil.copy(ROOT / "prefect.yaml", root)
    return workspace


@pytest.fixture(scope="module")
def deployed(workspace: Workspace, prefect_server: PrefectServer) -> Iterator[PrefectServer]:
    """After README's commands; what may be repeated, twice."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.automation import connect, prepare

    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        with pytest.raises(
            StateError, match=r"no deployment retrain/retrain: run .prefect --no-prompt deploy --all"
        ):
            connect()
        assert prepare() == ["work pool local", "work pool gpu", "concurrency limit gpu: 1"]
        assert prepare() == []
        done = subprocess.run(
            [BIN / "prefect", "--no-prompt", "deploy", "--all"], cwd=workspace.root, env=prefect_server.environment,
            capture_output=True, text=True, timeout=SECONDS, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert connect().startswith("made")
        assert connect().startswith("brought")
        yield prefect_server


@pytest.fixture(scope="module")
def worker(deployed: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A worker that was started somewhere else; stopped before the server, which the session fixture stops."""
    folder = tmp_path_factory.mktemp("worker")
    log = folder / "worker.log"
    process = deployed.start("prefect", "worker", "start", "--pool", "local", cwd=folder, log=log)
    try:
        yield log
    finally:
        stop(process, 60)


def run_of(server: PrefectServer, deployment: str, count: int = 1) -> dict[str, object]:
    """The ``count``-th run of a deployment that was not scheduled by the clock, once it has ended."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        runs = [
            run
            for run in server.post(
                "flow_runs/filter", deployments={"name": {"any_": [deployment]}}, sort="START_TIME_ASC"
            )
            if run["start_time"] and not run["auto_scheduled"]
        ]
        if len(runs) >= count and runs[count - 1]["end_time"]:
            return runs[count - 1]
        time.sleep(0.5)
    raise AssertionError(f"{deployment}: {server.post('flow_runs/filter')}")


def messages(server: PrefectServer, run: dict[str, object]) -> str:
    state = run["state"]
    assert isinstance(state, dict)
    return str(state["message"])


def test_everything_is_registered_once(deployed: PrefectServer) -> None:
    deployments = {str(one["name"]): one for one in deployed.post("deployments/filter")}
    assert set(deployments) == {"retrain", "retrain-gpu", "watch", "release"}
    pools = {name: one["work_pool_name"] for name, one in deployments.items()}
    assert pools == {"retrain": "local", "retrain-gpu": "gpu", "watch": "local", "release": "local"}
    # The GPU's deployment is the other one elsewhere: what it needs there, `train.processes: auto` finds out.
    for key in ("entrypoint", "path", "job_variables"):
        assert deployments["retrain-gpu"][key] == deployments["retrain"][key], key
    shipped = Params.load(ROOT / "params.yaml").train
    assert (shipped.device, shipped.processes) == ("auto", "auto")
    crons = {
        name: [schedule["schedule"]["cron"] for schedule in one["schedules"]]  # type: ignore[index, attr-defined]
        for name, one in deployments.items()
    }
    assert crons == {"retrain": ["0 3 * * 0"], "watch": ["*/15 * * * *"], "retrain-gpu": [], "release": []}
    (automation,) = deployed.post("automations/filter")
    (action,) = automation["actions"]  # type: ignore[misc, attr-defined]
    assert action["deployment_id"] == deployments["retrain"]["id"]


def test_watch_runs_on_a_worker(deployed: PrefectServer, worker: Path, workspace: Workspace) -> None:
    from prefect.deployments import run_deployment

    run_deployment("watch/watch", timeout=0, as_subflow=False)
    run = run_of(deployed, "watch")
    assert run["state_name"] == "Completed", worker.read_text()
    assert "no_champion" in messages(deployed, run)
    with Journal(workspace.journal) as journal:  # in the workspace, though the worker runs elsewhere
        assert journal.steps()[-1].decision == "no_champion"


def test_an_event_starts_one_retrain_however_often_it_comes(
    deployed: PrefectServer, worker: Path, workspace: Workspace
) -> None:
    from prefect.events import emit_event
    from prefect.events.worker import EventsWorker

    from flows.automation import RETRAIN_REQUESTED

    tiny_workspace.new_challenger(workspace, decision="REJECT")
    episode = Episode(
        id=EPISODE, version=1, state="awaiting_labels", champion="c" * 64, reference="r", window="w",
        since=NOW, opened=NOW, changed=NOW, why="darker",
    )  # fmt: skip
    with Journal(workspace.journal) as journal:
        journal.begin(episode)
    payload = {"episode": EPISODE, "reason": "60 labels are back <b>now</b>"}
    for _ in range(2):
        sent = emit_event(
            RETRAIN_REQUESTED, {"prefect.resource.id": f"visionloop.champion.{'c' * 64}"}, payload=payload
        )
        assert sent is not None
    EventsWorker.drain_all(timeout=30)

    first, second = run_of(deployed, "retrain", 1), run_of(deployed, "retrain", 2)
    assert {first["state_name"], second["state_name"]} == {"Completed"}, worker.read_text()
    assert first["parameters"] == second["parameters"]
    parameters = first["parameters"]
    assert isinstance(parameters, dict)
    assert parameters["reason"] == payload["reason"]
    said = sorted([messages(deployed, first), messages(deployed, second)])
    assert said[0].startswith("REJECT")
    assert "does not wait for a retrain" in said[1]
    with Journal(workspace.journal) as journal:
        assert journal.episode(EPISODE).state == "rejected"
        assert [step.decision for step in journal.steps()].count("training") == 1
