"""The challenger in shadow: unseen by the client, reported with figures, and the pointer moves only after it."""

import io
import json
import logging
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from PIL import Image

from flows.challenger import Challenger
from flows.listening import listening
from monitoring import leases, shadow
from monitoring.episodes import approve, ask_human
from monitoring.journal import Episode, Journal
from pipeline.artifacts import Workspace, read_json, write_json
from pipeline.params import Params, Release, Serve
from pipeline.registry import Registry
from services.shadow import WAITING, Asked, Shadow
from tests import tiny_bundle, tiny_workspace
from tests.live_service import LiveService, free_port
from tests.prefect_server import PrefectServer

NOW = datetime.now(UTC)


def picture(colour: str, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 60, (40, 48, 3), dtype=np.uint8)
    pixels[:, :, tiny_bundle.CLASSES.index(colour)] += 150
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def asked(colour: str = "red", label: str = "red") -> Asked:
    return Asked(f"request-{colour}", picture(colour), "c" * 64, label, 0.002)


def rows_of(workspace: Workspace, digest: str, least: int, seconds: float = 60) -> list[dict[str, Any]]:
    """The rows of the challenger, once there are so many."""
    deadline = time.monotonic() + seconds
    while True:
        files = sorted((workspace.shadow / digest).glob("*.jsonl"))
        rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
        if len(rows) >= least:
            return rows
        assert time.monotonic() < deadline, f"{len(rows)} rows"
        time.sleep(0.05)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path / "var")


def challenger(workspace: Workspace) -> str:
    tiny_bundle.make(workspace.root / "challenger", gain=3.0)
    return Registry(workspace.registry).add(workspace.root / "challenger")


def started(workspace: Workspace) -> Shadow:
    """A worker's shadow that has seen what is asked for."""
    running = Shadow(workspace, Serve())
    deadline = time.monotonic() + 30
    while not running._wanted:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return running


@pytest.mark.slow
def test_it_answers_what_is_asked_for_and_stops_at_the_number(workspace: Workspace) -> None:
    digest = challenger(workspace)
    shadow.begin(workspace, digest, 2, NOW)
    running = started(workspace)
    for one in (asked("red"), asked("green", label="blue")):
        running.offer(one)
    rows = rows_of(workspace, digest, 2)
    running.offer(asked("blue"))
    running.close()
    assert [(row["label"], row["champion_label"]) for row in rows] == [("red", "red"), ("green", "blue")]
    assert all(row["digest"] == digest and 0 < row["confidence"] <= 1 and row["seconds"] > 0 for row in rows)
    assert len(rows_of(workspace, digest, 2)) == 2, "no more than so many"
    seen = shadow.shadowed(workspace, digest, 2, 0.0)
    assert seen.images == 2
    assert "1 of 2 (0.50, 95 %: 0.09 to 0.91)" in seen.words
    assert "times)" in seen.words
    assert seen.against is None


@pytest.mark.slow
def test_a_challenger_that_can_not_answer_is_an_error_in_the_report_and_nowhere_else(
    workspace: Workspace,
) -> None:
    digest = challenger(workspace)
    model = Registry(workspace.registry).bundle_path(digest) / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    shadow.begin(workspace, digest, 5, NOW)
    running = started(workspace)
    running.offer(asked())
    (row,) = rows_of(workspace, digest, 1)
    running.close()
    assert "model.onnx has changed" in row["error"]
    assert "failed on 1 images" in str(shadow.shadowed(workspace, digest, 1, 0.0).against)


def test_under_load_requests_are_left_out_and_counted(workspace: Workspace) -> None:
    running = Shadow(workspace, Serve())
    running.close()  # nobody takes anything from the queue any more
    running._wanted = True
    for _ in range(WAITING + 3):
        running.offer(asked())
    assert running._dropped == 3


def test_too_little_agreement_speaks_against_it_only_beyond_the_interval(workspace: Workspace) -> None:
    folder = workspace.shadow / ("d" * 64)
    folder.mkdir(parents=True)
    lines = [
        {"label": "red", "champion_label": "red" if number < 10 else "blue", "seconds": 0.02,
         "champion_seconds": 0.01, "dropped": 4}
        for number in range(20)
    ]  # fmt: skip
    (folder / "w.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"torn')
    assert shadow.shadowed(workspace, "d" * 64, 20, 0.6).against is None
    low = shadow.shadowed(workspace, "d" * 64, 20, 0.9)
    assert "below release.min_shadow_agreement 0.9" in str(low.against)
    assert "20.0 ms against 10.0 ms (2.00 times), 0 errors, 4 left out" in low.words


@pytest.mark.slow
def test_where_no_service_answers_with_the_champion_there_is_nothing_to_shadow(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import shadow as beside_the_champion

    monkeypatch.setattr(beside_the_champion, "get_run_logger", lambda: logging.getLogger("test"))
    champion, digest = "c" * 64, "d" * 64
    record = workspace.registry / f"releases/{digest}.json"
    challenger = Challenger(digest, {}, champion, None)

    class Door(BaseHTTPRequestHandler):
        answers: ClassVar[str] = "e" * 64

        def do_GET(self) -> None:
            body = json.dumps({"digest": self.answers}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    def release(port: int, images: int | Literal["auto"] = "auto") -> tuple[str | None, str]:
        """How far the shadow is, None where the pointer may move; and what the journal said last."""
        write_json(record, {})
        params = Params(release=Release(shadow_images=images), serve=Serve(port=port))
        said = beside_the_champion.beside(workspace, params, challenger, None, None)
        with Journal(workspace.journal) as journal:
            last = journal.steps(1)
        return said, last[0].reason if last else ""

    silent = free_port()
    told = f"no service answers at http://127.0.0.1:{silent}: nothing to shadow"
    assert release(silent) == (None, "")
    assert release(silent) == (None, told), "the journal says so, where there is one"
    assert read_json(record) == {"shadow": told}
    assert release(silent, 0) == (None, told)
    assert not workspace.shadow_request.exists()
    with listening(Door) as url:
        port = int(url.rpartition(":")[2])
        said, told = release(port)
        assert said is None
        assert "answers with eeeeeeeeeeee, not with the champion cccccccccccc: nothing to shadow" in told
        Door.answers = champion
        assert "has answered 0 of 50 images" in str(release(port)[0])
    assert shadow.requested(workspace) == digest
    shadow.end(workspace)
    assert "has answered 0 of 7 images" in str(release(silent, 7)[0]), "a number waits for a service"


def test_a_shadow_without_images_ends_by_a_person_s_word(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import shadow as beside_the_champion

    monkeypatch.setattr(beside_the_champion, "get_run_logger", lambda: logging.getLogger("test"))
    digest = "d" * 64
    challenger = Challenger(digest, {}, "c" * 64, None)
    record = workspace.registry / f"releases/{digest}.json"
    write_json(record, {})
    params = Params(release=Release(shadow_images=7))
    episode = Episode(
        id="0123456789abcdef", version=1, state="infra_validating", champion="c" * 64, reference="r", window="w",
        since=NOW, opened=NOW, changed=NOW, why="darker", challenger=digest, approved="the verdict, by A",
    )  # fmt: skip
    with Journal(workspace.journal) as journal:
        journal.begin(episode)
        lease = leases.take(journal, episode.id)
        assert lease is not None

        def beside(approve: str | None) -> str | None:
            return beside_the_champion.beside(workspace, params, challenger, lease, approve)

        assert "has answered 0 of 7" in str(beside("the verdict, by A")), (
            "a word on the verdict is none on this"
        )
        assert journal.episode(episode.id).state == "shadow"
        assert "has answered 0 of 7" in str(beside("the verdict, by A"))
        assert ask_human(journal, episode.id, asks="shadow", why="no images", now=NOW)
        approve(journal, episode.id, by="B", why="no traffic at night", now=NOW)
        said = journal.episode(episode.id).approved
        assert beside(said) is None
    assert read_json(record) == {
        "shadow": f"it has answered 0 of 7 images only; approved all the same: {said}"
    }


@pytest.mark.slow
@pytest.mark.timeout(800)
def test_a_release_waits_for_the_shadow_and_the_client_sees_nothing_of_it(
    tmp_path: Path, prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.release import release
    from flows.retrain import retrain

    workspace = tiny_workspace.make(tmp_path / "workspace")
    monkeypatch.chdir(workspace.root)
    monkeypatch.delenv("VISIONLOOP_HOME", raising=False)
    monkeypatch.setattr(shadow, "AUTO", 6)
    port = free_port()
    workspace.params.write_text(f"release: {{golden_images: 4}}\nserve: {{port: {port}}}\n")
    registry = Registry(workspace.registry)
    tiny_bundle.make(tmp_path / "first", gain=2.0)
    first = registry.add(tmp_path / "first")
    registry.promote(first, by="test", why="first")
    digest = tiny_workspace.new_challenger(workspace, gain=4.0, champion=first)
    tiny_workspace.reproduced(workspace)
    episode = Episode(
        id="0123456789abcdef", version=1, state="needs_human", asks="release", champion=first, reference="r",
        window="w", since=NOW, opened=NOW, changed=NOW, why="darker", challenger=digest,
    )  # fmt: skip
    with Journal(workspace.journal) as journal:
        journal.begin(episode)
    images = [picture(colour, seed) for seed in range(2) for colour in tiny_bundle.CLASSES]
    with (
        temporary_settings({PREFECT_API_URL: prefect_server.url}),
        LiveService(workspace.root, port=port, VISIONLOOP_HOME=str(workspace.home)) as service,
    ):
        before = [_seen(service, image) for image in images]
        state = release(return_state=True)
        assert state.is_completed(), state.message
        assert "has answered 0 of 6" in str(state.message)
        assert _state(workspace) == "shadow"
        deadline = time.monotonic() + 60
        while not list((workspace.shadow / digest).glob("*.jsonl")):  # the service has taken notice
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert [_seen(service, image) for image in images] == before
        assert len(rows_of(workspace, digest, 6)) == 6
        champion = registry.champion()
        assert champion is not None
        assert champion.digest == first, "nothing has moved"
        # What the watch starts where it decides `release`.
        state = retrain("the shadow is over", episode.id, release=True, return_state=True)
        assert state.is_completed(), state.message
        assert [_seen(service, image) for image in images] == before, (
            "it keeps the bundle that it started with"
        )
        assert service.metric('visionloop_shadow_total{outcome="answered"}') == 6
    champion = registry.champion()
    assert champion is not None
    assert champion.digest == digest
    assert _state(workspace) == "promoted"
    assert not workspace.shadow_request.exists()
    record = read_json(workspace.registry / f"releases/{digest}.json")
    assert "agreed with the champion on 6 of 6" in record["shadow"]
    with Journal(workspace.journal) as journal:
        assert [step.decision for step in journal.steps()] == ["infra_validating", "shadow", "promoted"]


def _seen(service: LiveService, image: bytes) -> dict[str, Any]:
    """What the client sees, but for the request's own id."""
    status, answer = service.predict(image)
    assert status == 200
    del answer["request_id"]
    return answer


def _state(workspace: Workspace) -> str:
    with Journal(workspace.journal) as journal:
        return journal.episode("0123456789abcdef").state
