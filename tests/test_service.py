"""The service as its users run it: `bentoml serve`, from the code and as a built Bento, over HTTP."""

import io
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.artifacts import Workspace, decode_log_line
from pipeline.params import Params
from pipeline.registry import Registry
from services.bento import build, folder
from tests.live_service import BENTOML, DEVELOPMENT, LiveService, environment, free_port, make_workspace

pytestmark = pytest.mark.slow


def jpeg(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(stream, "JPEG")
    return stream.getvalue()


def logged(workspace: Workspace) -> Counter[str]:
    lines = [line for path in workspace.log.glob("*/*.log") for line in path.read_bytes().splitlines(True)]
    rows = [decode_log_line(line) for line in lines]
    return Counter(row["request_id"] for row in rows if row is not None)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("workspace"), workers=2, max_body_bytes=1_000_000)


@pytest.fixture(scope="module")
def service(workspace: Workspace) -> Iterator[LiveService]:
    with LiveService(workspace.root) as made:
        yield made


def test_it_answers_with_the_champion(service: LiveService, workspace: Workspace) -> None:
    champion = Registry(workspace.registry).champion()
    assert champion is not None
    status, body = service.predict(jpeg((200, 30, 40)))
    assert (status, body["label"], body["model"]) == (200, "red", champion.digest)
    assert set(body) == {"request_id", "label", "probabilities", "abstain", "model"}
    model = json.loads(service.request("GET", "/v1/model")[1])
    assert (model["digest"], model["champion"], model["since"]) == (
        champion.digest,
        champion.digest,
        champion.since,
    )


def test_probes_metrics_and_description(service: LiveService) -> None:
    service.predict(jpeg((200, 30, 40)))
    service.predict(b"no image")
    assert [service.request("GET", path)[0] for path in ("/livez", "/readyz", "/metrics", "/")] == [200] * 4
    assert service.metric('visionloop_requests_total{status="200"}') >= 1
    assert service.metric('visionloop_requests_total{status="415"}') >= 1
    assert service.metric('visionloop_log_rows_total{outcome="written"}') >= 1
    assert service.metric("visionloop_log_lossy") == 0
    paths = json.loads(service.request("GET", "/docs.json")[1])["paths"]
    assert {"/v1/predict", "/v1/model"} <= set(paths)


def test_sixteen_clients_at_once_and_every_row_is_in_the_log(
    service: LiveService, workspace: Workspace
) -> None:
    answers: list[tuple[int, dict[str, Any]]] = []
    wanted = {"red": jpeg((200, 30, 40)), "green": jpeg((30, 200, 40)), "blue": jpeg((30, 40, 200))}

    def client(number: int) -> None:
        label = list(wanted)[number % 3]
        for _ in range(6):
            status, body = service.predict(wanted[label])
            answers.append((status, body | {"right": body.get("label") == label}))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(16)]
    deadline = time.monotonic() + 120
    while len(list(workspace.log.glob("*/*.log"))) < 2 and time.monotonic() < deadline:
        service.predict(wanted["red"])  # until the second worker has joined in, with a segment of its own
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status for status, _ in answers] == [200] * 96
    assert all(body["right"] for _, body in answers), "nobody got a neighbour's answer"
    rows = logged(workspace)
    assert {rows[body["request_id"]] for _, body in answers} == {1}
    assert len(list(workspace.log.glob("*/*.log"))) == 2, "a segment for each of the two workers"


def test_too_large_is_413_declared_or_in_chunks_and_the_client_can_read_it(service: LiveService) -> None:
    large = b"\xff\xd8\xff" + b"x" * 3_000_000
    for body in (large, (large[start : start + 65_536] for start in range(0, len(large), 65_536))):
        status, answer = service.request("POST", "/v1/predict", body)
        assert status == 413
        assert json.loads(answer)["error"] == "too_many_bytes"


def test_it_listens_on_loopback_alone(service: LiveService) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", service.port), timeout=5)


def test_a_port_in_use_is_one_clear_sentence(service: LiveService, workspace: Workspace) -> None:
    done = subprocess.run(
        [BENTOML, "serve", DEVELOPMENT, "--port", str(service.port)],
        cwd=workspace.root, env=service.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"port {service.port} on 127.0.0.1 can't be had (Address already in use)" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_503_and_heals_and_a_token_is_asked_for(tmp_path: Path, small_disk: Path) -> None:
    workspace = make_workspace(tmp_path / "w")
    secret = {"Authorization": "Bearer s3cret"}
    extra = {"VISIONLOOP_HOME": str(small_disk), "VISIONLOOP_BUNDLE": "bundle", "VISIONLOOP_TOKEN": "s3cret"}
    image = jpeg((200, 30, 40))
    with LiveService(workspace.root, **extra) as service:
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "s3cret"}):
            status, body = service.predict(image, **headers)
            assert (status, body["error"]) == (401, "unauthorized")
            assert service.request("GET", "/metrics", headers=headers)[0] == 401
        assert [service.request("GET", path)[0] for path in ("/livez", "/readyz")] == [200, 200]
        assert service.predict(image, **secret)[0] == 200

        (small_disk / "ballast").write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * 4096))
        statuses = []
        while len(statuses) < 200 and statuses[-3:] != [503] * 3:
            status, body = service.predict(image, **secret)
            statuses.append(status)
        assert statuses[-3:] == [503] * 3, "what fits in the segment's last page is still answered"
        assert body["error"] == "log_unavailable"
        assert "No space left on device" in body["detail"]
        (small_disk / "ballast").unlink()
        assert service.predict(image, **secret)[0] == 200
        text = service.request("GET", "/metrics", headers=secret)[1].decode()
        assert 'visionloop_log_rows_total{outcome="failed"} 3' in text
    assert "s3cret" not in service.printed()
    rows = logged(Workspace(workspace.root, small_disk))
    assert sum(rows.values()) == statuses.count(200) + 2


def test_it_does_not_start_on_what_it_cannot_trust(tmp_path: Path) -> None:
    """Exit code 1 and a sentence; the processes run side by side, since each takes seconds."""
    flipped, mistyped = make_workspace(tmp_path / "flipped"), make_workspace(tmp_path / "mistyped")
    [model] = flipped.registry.glob("bundles/*/model.onnx")
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    mistyped.params.write_text("serve: {prot: 3000}")
    cases = {"model.onnx has changed since the bundle was made": flipped, "did you mean 'port'?": mistyped}
    running = {
        sentence: subprocess.Popen(
            [BENTOML, "serve", DEVELOPMENT, "--port", str(free_port())],
            cwd=workspace.root, env=environment(workspace.root / "bentoml"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for sentence, workspace in cases.items()
    }  # fmt: skip
    for sentence, process in running.items():
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1, errors
        assert sentence in errors
        assert "Traceback" not in errors


BLOCKER = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "timm", "sklearn", "scipy", "pandas", "onnx", "matplotlib",
                                  "prefect", "evidently", "dvc", "great_expectations", "flows", "monitoring", "tqdm"}:
            raise ImportError(f"{name} is not installed where the Bento runs")
sys.meta_path.insert(0, Blocked())
"""


def test_a_built_bento_serves_from_the_store_and_as_a_folder(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "w", top_k=2)
    tag = build(workspace.root / "bundle", workspace, Params.load(workspace.params))
    assert build(workspace.root / "bundle", workspace, Params.load(workspace.params)) == tag, "built once"
    built = folder(workspace, tag)
    shutil.copytree(built, tmp_path / "elsewhere")
    before = sorted(path for path in built.rglob("*") if path.is_file())
    dockerfile = (built / "env/docker/Dockerfile").read_text()
    assert "USER bentoml" in dockerfile
    assert "ARG VISIONLOOP_HOME=/home/bentoml/visionloop" in dockerfile
    assert "torch" not in (built / "env/python/requirements.txt").read_text()

    for name in (
        "pipeline",
        "services",
    ):  # of the folder that it is started in, which it must not take for its own
        (tmp_path / f"cwd/{name}").mkdir(parents=True)
        (tmp_path / f"cwd/{name}/__init__.py").write_text("raise ImportError('not the code of the Bento')")
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(BLOCKER)
    extra = {"PYTHONPATH": str(tmp_path / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
    stored = LiveService(tmp_path / "cwd", tag, **extra, VISIONLOOP_HOME="state")
    stored.environment["BENTOML_HOME"] = str(workspace.home / "bentoml")
    moved = LiveService(
        tmp_path / "cwd", str(tmp_path / "elsewhere"), **extra, VISIONLOOP_HOME=str(tmp_path / "home")
    )
    with stored.start(), moved.start():
        for service, home in ((stored, tmp_path / "cwd/state"), (moved, tmp_path / "home")):
            service.wait_until_ready()
            status, body = service.predict(jpeg((30, 200, 40)))
            assert (status, body["label"], len(body["probabilities"])) == (200, "green", 2)
            assert tag.split(":")[1].startswith(body["model"][:12])
            assert logged(Workspace(tmp_path, home))[body["request_id"]] == 1
    assert sorted(path for path in built.rglob("*") if path.is_file()) == before, (
        "the stored Bento is as built"
    )
