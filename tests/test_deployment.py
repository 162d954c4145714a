"""Scheduled and event-driven: a real server, real deployments, a real worker, from a copy of the workspace."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import pytest

from flows.listening import listening
from monitoring.episodes import advance, approve, ask_human, mark_failed, mark_rejected, mark_retrain_started
from monitoring.journal import Episode, Journal
from monitoring.leases import give_back
from pipeline.artifacts import Workspace, read_json
from pipeline.clock import now
from pipeline.errors import StateError
from pipeline.params import Params, Release
from pipeline.registry import Registry
from tests import monitored, tiny_workspace
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
        stop(process, 10)


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
    pools = {name: one["work_pool_name"] for name, one in deployments.items()}
    local = dict.fromkeys(("retrain", "watch", "release", "compact"), "local")
    assert pools == local | {"retrain-gpu": "gpu"}
    # The GPU's deployment is the other one elsewhere: what it needs there, `train.processes: auto` finds out.
    for key in ("entrypoint", "path", "job_variables"):
        assert deployments["retrain-gpu"][key] == deployments["retrain"][key], key
    shipped = Params.load(ROOT / "params.yaml").train
    assert (shipped.device, shipped.processes) == ("auto", "auto")
    crons = {
        name: [schedule["schedule"]["cron"] for schedule in one["schedules"]]  # type: ignore[index, attr-defined]
        for name, one in deployments.items()
    }
    assert crons == {
        "retrain": ["0 3 * * 0"], "watch": ["*/15 * * * *"], "compact": ["30 1 * * *"], "retrain-gpu": [], "release": [],
    }  # fmt: skip
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


def test_events_start_one_retrain_however_many_come(
    deployed: PrefectServer, worker: Path, workspace: Workspace
) -> None:
    from prefect.deployments import run_deployment
    from prefect.events import emit_event
    from prefect.events.worker import EventsWorker

    from flows.automation import RETRAIN_REQUESTED

    tiny_workspace.new_challenger(workspace, decision="INSUFFICIENT_EVIDENCE")
    episode = Episode(
        id=EPISODE, version=1, state="awaiting_labels", champion="c" * 64, reference="r", window="w",
        since=NOW, opened=NOW, changed=NOW, why="darker",
    )  # fmt: skip
    with Journal(workspace.journal) as journal:
        journal.begin(episode)
    payload = {"episode": EPISODE, "reason": "60 labels are back <b>now</b>"}
    for _ in range(3):
        sent = emit_event(
            RETRAIN_REQUESTED, {"prefect.resource.id": f"visionloop.champion.{'c' * 64}"}, payload=payload
        )
        assert sent is not None
    EventsWorker.drain_all(timeout=30)

    first = run_of(deployed, "retrain")
    assert first["state_name"] == "Completed", worker.read_text()
    parameters = first["parameters"]
    assert isinstance(parameters, dict)
    assert parameters["reason"] == payload["reason"]
    assert "waits for the answer" in messages(deployed, first)
    # One that gets through all the same, by hand or after the automation's pause, finds nothing to do.
    run_deployment("retrain/retrain", parameters=parameters, timeout=0, as_subflow=False)
    second = run_of(deployed, "retrain", 2)  # the second: the automation has started no other
    assert "does not wait for a retrain" in messages(deployed, second)
    with Journal(workspace.journal) as journal:
        assert journal.episode(EPISODE).state == "needs_human"
        assert [step.decision for step in journal.steps()].count("dataset_frozen") == 1


def waiting(server: PrefectServer, others: set[str]) -> dict[str, object]:
    """The release that waits for an answer, once there is one that is not among ``others``."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for run in server.post("flow_runs/filter", deployments={"name": {"any_": ["release"]}}):
            if run["state_name"] == "Suspended" and run["id"] not in others:
                return run
        time.sleep(0.5)
    raise AssertionError(f"no release waits: {server.post('flow_runs/filter')}")


def answer(server: PrefectServer, run: dict[str, object], **given: str) -> str:
    """Send the form as Prefect's UI does; whether the server takes it."""
    deadline = time.monotonic() + SECONDS
    while True:
        found: object = server.post(f"flow_runs/{run['id']}/resume", run_input=given)
        assert isinstance(found, dict)
        # A moment after the pause, the form comes too.
        if "schema not found" not in str(found["details"]) or time.monotonic() > deadline:
            return str(found["status"])
        time.sleep(0.5)


def decisions(workspace: Workspace) -> list[str]:
    with Journal(workspace.journal) as journal:
        return [step.decision for step in journal.steps()]


def test_a_release_that_is_not_sure_waits_for_a_person(
    deployed: PrefectServer, worker: Path, workspace: Workspace
) -> None:
    """What the retrain before has begun: nobody answers in time; of the next release somebody says yes."""
    from prefect.deployments import run_deployment

    from flows.approval import expire, given

    registry = Registry(workspace.registry)
    first = waiting(deployed, set())
    assert registry.champion() is None
    assert decisions(workspace).count("approval_asked") == 1
    hours = Release(approval_timeout_hours=48)
    assert expire(workspace, Params(release=hours), now=datetime.now(UTC)) == []
    late = datetime.now(UTC) + timedelta(hours=49)
    while not (names := expire(workspace, Params(release=hours), now=late)):
        time.sleep(0.5)
    assert names == [first["name"]]
    ended = run_of(deployed, "release")
    assert ended["state_name"] == "Completed", worker.read_text()
    assert messages(deployed, ended).startswith("not approved by nobody: no answer within 48 h")
    assert decisions(workspace)[-1] == "release_not_approved"
    assert registry.champion() is None

    run_deployment("release/release", timeout=0, as_subflow=False)
    second = waiting(deployed, {str(first["id"])})
    assert answer(deployed, second, name="ann", decision="approve") == "REJECT", "without a reason"
    yes = {"name": "ann", "why": "seen on the line <b>now</b>", "decision": "approve"}
    assert answer(deployed, second, **yes) == "ACCEPT"
    assert run_of(deployed, "release", 2)["state_name"] == "Completed", worker.read_text()
    champion = registry.champion()
    assert champion is not None
    assert champion.why == yes["why"]
    record = read_json(workspace.registry / f"releases/{champion.digest}.json")
    assert record["approved"]["why"] == yes["why"]
    assert record["approved"]["by"].startswith("ann, at the form of ")
    told = [one for one in decisions(workspace) if one.startswith(("approval_", "release_"))]
    assert told == ["approval_asked", "release_not_approved", "approval_asked", "release_approved"]
    again = given(workspace, read_json(workspace.verdict))
    assert again is not None, "a release that is gone on with is not asked again"
    assert again.why == yes["why"]
    assert given(workspace, read_json(workspace.verdict) | {"champion": "e" * 64}) is None
    with Journal(workspace.journal) as journal:
        assert journal.episode(EPISODE).state == "promoted"


class Receiver(BaseHTTPRequestHandler):
    """A webhook of somebody's own: keeps what it gets."""

    got: ClassVar[list[dict[str, str]]] = []
    status: ClassVar[int] = 200

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.status == 200:
            self.got.append(body)
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_each_news_is_one_message_and_a_receiver_that_is_down_costs_none(
    deployed: PrefectServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    from flows.compact import compact
    from flows.watch import watch

    workspace, world = monitored.workspace_at(tmp_path), monitored.World()
    digest = monitored.promote(workspace, [world.shot() for _ in range(120)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VISIONLOOP_HOME", raising=False)
    workspace.params.write_text(
        "watch: {window: 50, min_window: 20, permutations: 99}\nlabel: {budget: 20}\n"
    )
    dark = [world.shot(dark=0.5) for _ in range(60)]
    monitored.answer(workspace, digest, dark, start=monitored.START + timedelta(hours=1))

    def subjects() -> list[str]:
        return [message["title"] for message in Receiver.got]

    # The server is shared with other tests' flows, which would go on telling a receiver that is gone.
    request.addfinalizer(lambda: CustomWebhookNotificationBlock.delete("visionloop"))

    assert watch(draw=False, return_state=True).is_completed(), "without a block nothing is sent"
    with listening(Receiver) as url:
        block = CustomWebhookNotificationBlock(
            name="test", url=url, json_data={"title": "{{subject}}", "text": "{{body}}"}
        )
        block.save("visionloop")
        monkeypatch.setattr(Receiver, "status", 503)
        assert watch(draw=False, return_state=True).is_completed()
        assert watch(draw=False, return_state=True).is_completed()
        assert decisions(workspace).count("notify_failed") == 1
        monkeypatch.setattr(Receiver, "status", 200)
        assert watch(draw=False, return_state=True).is_completed()
        assert subjects() == ["visionloop: drift: labels are asked"]
        assert "the alarm is at 10^" in Receiver.got[0]["text"]
        pictures = deployed.post("artifacts/filter", artifacts={"key": {"any_": ["contact-sheet"]}})
        assert str(pictures[-1]["data"]).startswith("data:image/png;base64,")
        with Journal(workspace.journal) as journal:
            (episode,) = journal.episodes()

        def looks(*news: str) -> None:
            """Two wake-ups tell what came since, once, after what was told before."""
            before = len(Receiver.got)
            assert all(watch(draw=False, return_state=True).is_completed() for _ in range(2))
            assert subjects()[before:] == [f"visionloop: {one}" for one in news]

        def retrained(end: str) -> None:
            """A retrain of the episode that a person has let go on, up to its ``end``."""
            with Journal(workspace.journal) as journal:
                approve(journal, episode.id, by="ann", why="go on", now=now())
                lease = mark_retrain_started(journal, episode.id, now=now(), labels=9)
                assert lease is not None
                advance(journal, lease, "training", now=now(), why="stage train begins")
                if end == "failed":
                    mark_failed(journal, episode.id, why="no disk", now=now(), lease=lease)
                else:
                    advance(journal, lease, "evaluating", now=now(), why="stage evaluate begins")
                if end == "rejected":
                    mark_rejected(journal, episode.id, challenger="c" * 64, why="<!channel> 0.61", now=now())
                if end == "needs_human":
                    ask_human(journal, episode.id, asks="verdict", why="too few images", now=now())
                give_back(journal, lease)

        with Journal(workspace.journal) as journal:
            ask_human(journal, episode.id, asks="labels", why="no label came", now=now())
        looks("a person is needed")
        retrained("needs_human")
        with Journal(workspace.journal) as journal:  # not its release: another retrain
            journal.move(journal.episode(episode.id), "awaiting_labels", now=now())
        retrained("failed")
        retrained("rejected")
        looks(
            "a person is needed", "a retrain broke", "the challenger was not promoted", "a person is needed"
        )
        retrained("rejected")
        moves = [("promote", 2), ("rollback", 1)]
        lines = [
            {"digest": name * 64, "since": (now() - timedelta(minutes=minutes)).isoformat(), "by": "ann", "why": "tried", "action": action}
            for (action, minutes), name in zip(moves, "ef", strict=True)
        ]  # fmt: skip
        (workspace.registry / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        looks("the challenger was not promoted", "a person is needed", "a new champion", "rolled back")
    assert "<!channel>" not in json.dumps(Receiver.got), "what a chat acts on is text"
    assert decisions(workspace).count("notify_failed") == 1
    # The daily compaction, here because there is a log to compact.
    state = compact(return_state=True)
    assert state.is_completed(), state.message
    assert str(state.message).startswith("60 rows of 1 segments are in ")
    assert not list(workspace.log.glob("*/*.log"))
    assert len(list((workspace.log / "archive").rglob("*.parquet"))) == 1
    workspace.params.write_text("log: {archive: 'nowhere://bucket/log'}\n")
    state = compact(return_state=True)
    assert state.is_failed()
    assert "nowhere://bucket/log" in str(state.message)
