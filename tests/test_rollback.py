"""Rolling back: what the target has to show before the pointer moves, and what the live service is asked after."""

import http.server
import json
import socket
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from flows.listening import listening
from pipeline.artifacts import Workspace
from pipeline.errors import IntegrityError
from pipeline.registry import Registry
from pipeline.registry_command import main
from pipeline.serving import address
from tests import tiny_bundle
from tests.live_service import LiveService, free_port


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Two champions, one after the other, and a port in params.yaml on which nobody listens."""
    monkeypatch.chdir(tmp_path)
    for name in ("VISIONLOOP_HOME", "VISIONLOOP_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "params.yaml").write_text(f"serve: {{port: {free_port()}}}\n")
    workspace = Workspace(tmp_path, tmp_path / "var")
    registry = Registry(workspace.registry)
    for gain in (2.0, 3.0):
        tiny_bundle.make(tmp_path / f"bundle-{gain}", gain=gain)
        registry.promote(registry.add(tmp_path / f"bundle-{gain}"), by="ada", why=f"gain {gain}")
    return workspace


@pytest.fixture
def digests(workspace: Workspace) -> list[str]:
    """Of both champions, the first one first."""
    return [move["digest"] for move in Registry(workspace.registry).history()]


def standing(workspace: Workspace) -> str:
    champion = Registry(workspace.registry).champion()
    assert champion is not None
    return champion.digest


class Reply(http.server.BaseHTTPRequestHandler):
    """Gives ``status`` and ``body`` to whoever shows ``token``."""

    status = 200
    body = b""
    token: str | None = None

    def do_GET(self) -> None:
        allowed = self.token is None or self.headers.get("Authorization") == f"Bearer {self.token}"
        self.send_response(self.status if allowed else 401)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


def service(digest: str | None = None, **attributes: Any) -> AbstractContextManager[str]:
    """Something that listens; gives its address."""
    body = {"body": json.dumps({"digest": digest}).encode()}
    return listening(type("Handler", (Reply,), body | attributes))


def test_with_nobody_listening_the_pointer_moves_and_that_is_said(
    workspace: Workspace, digests: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollback", "--why", "worse"]) == 0
    assert "Nobody listens at http://127.0.0.1:" in capsys.readouterr().out
    assert standing(workspace) == digests[0]


def test_a_service_that_has_the_target_already_is_named(
    workspace: Workspace, digests: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with service(digests[0]) as url:
        assert main(["rollback", "--service", url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["digest"], told["service"]) == (digests[0], f"The service at {url} answers with it")


def test_a_service_still_on_the_old_bundle_is_an_error_and_the_pointer_stays_moved(
    workspace: Workspace, digests: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with service(digests[1]) as url:
        assert main(["rollback", "--service", url]) == 1
        said = capsys.readouterr().err
        assert f"still answers with {digests[1][:12]}, the champion is {digests[0][:12]}" in said
        assert "bentoml serve" in said
        assert standing(workspace) == digests[0]
        assert main(["show", "--service", url]) == 0, "what is shown is no order"
        assert "still answers with" in capsys.readouterr().out


def test_the_port_of_params_yaml_is_the_one_that_is_asked(
    workspace: Workspace, digests: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with service(digests[1]) as url:
        workspace.params.write_text(f"serve: {{host: 0.0.0.0, port: {url.rsplit(':', 1)[1]}}}\n")
        assert main(["rollback"]) == 1
    assert f"the service at {url} still answers" in capsys.readouterr().err


def test_the_token_goes_with_the_question(
    workspace: Workspace,
    digests: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with service(digests[0], token="secret") as url:
        assert main(["rollback", "--service", url]) == 1
        assert "set VISIONLOOP_TOKEN" in capsys.readouterr().err
        monkeypatch.setenv("VISIONLOOP_TOKEN", "secret")
        assert main(["rollback", "--to", digests[0], "--service", url]) == 0


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"status": 503}, "gives 503"),
        ({"status": 404, "body": b"<html>another program"}, "gives 404 '<html>another"),
        ({"body": b"[]"}, "gives 200"),
        ({"body": b'{"digest": "\\u001b[2J"}'}, "gives 200"),
    ],
)
def test_what_does_not_say_its_bundle_is_an_error(
    workspace: Workspace,
    digests: list[str],
    attributes: dict[str, Any],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with service(**attributes) as url:
        assert main(["rollback", "--service", url]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "unknown whom the service" in said
    assert "\x1b" not in said
    assert standing(workspace) == digests[0]


def test_a_port_that_never_answers_is_an_error(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.serving.SECONDS", 0.2)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        assert main(["rollback", "--service", f"http://127.0.0.1:{deaf.getsockname()[1]}"]) == 1
    assert "timed out" in capsys.readouterr().err


def test_a_name_nobody_knows_is_not_taken_for_nobody_listening(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollback", "--service", "http://no-such-host.invalid:3000"]) == 1
    assert "it is unknown whom" in capsys.readouterr().err


def test_before_anything_moves_the_command_is_read_whole(
    workspace: Workspace, digests: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["rollback", "--service", "localhost:3000"])
    assert "does not begin with http" in capsys.readouterr().err
    workspace.params.write_text("serve: {prot: 3000}\n")
    assert main(["rollback"]) == 1
    assert "did you mean 'port'" in capsys.readouterr().err
    assert standing(workspace) == digests[1]


def test_the_target_must_hold_the_network_that_the_service_answers_with(
    workspace: Workspace, digests: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.params.write_text("serve: {format: int8}\n")
    assert main(["rollback"]) == 1
    assert "holds no int8 network" in capsys.readouterr().err
    assert standing(workspace) == digests[1]


def test_the_answers_of_every_network_are_recorded_and_compared(workspace: Workspace) -> None:
    folder = workspace.root / "two-networks"
    digest = tiny_bundle.make(folder, gain=5.0, int8=True)
    registry = Registry(workspace.registry)
    assert registry.add(folder) == digest
    recorded = registry.folder / "answers" / f"{digest}.json"
    answers = json.loads(recorded.read_text())
    assert set(answers) == {"onnx", "int8"}
    answers["int8"][2][0] += 0.01
    recorded.write_text(json.dumps(answers))
    with pytest.raises(IntegrityError, match="its int8 network answers the probe images otherwise"):
        registry.rollback(by="bob", why="?", to=digest, form="onnx")


def test_history_says_who_served_from_when_to_when_and_why(
    workspace: Workspace, digests: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollback", "--by", "bob", "--why", "blurred images"]) == 0
    capsys.readouterr()
    assert main(["history", "--json"]) == 0
    moves = json.loads(capsys.readouterr().out)
    assert [move["digest"] for move in moves] == [*digests, digests[0]]
    assert [move["until"] for move in moves] == [moves[1]["since"], moves[2]["since"], None]
    assert main(["history"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.split()[1:] == ["now", "rollback", digests[0][:12], "bob", "blurred", "images"]


def test_the_address_is_one_that_can_be_reached() -> None:
    from pipeline.params import Serve

    assert address(Serve(host="0.0.0.0", port=3001)) == "http://127.0.0.1:3001"  # noqa: S104
    assert address(Serve(host="::1")) == "http://[::1]:3000"
    assert address(Serve(host="line-a.example")) == "http://line-a.example:3000"


@pytest.mark.slow
def test_a_real_service_is_caught_on_the_old_bundle_and_content_after_its_restart(
    workspace: Workspace, digests: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    home = str(workspace.home)
    with LiveService(workspace.root, VISIONLOOP_HOME=home) as running:
        url = f"http://127.0.0.1:{running.port}"
        assert main(["show", "--service", url]) == 0
        assert f"The service at {url} answers with it" in capsys.readouterr().out
        assert main(["rollback", "--service", url]) == 1
        assert f"still answers with {digests[1][:12]}" in capsys.readouterr().err
    with LiveService(workspace.root, port=running.port, VISIONLOOP_HOME=home):
        assert main(["rollback", "--to", digests[0], "--service", url]) == 0
    assert "answers with it" in capsys.readouterr().out
