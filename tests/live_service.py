"""`bentoml serve` as a real process on a free port, in a workspace of its own."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from pipeline.artifacts import Workspace
from pipeline.registry import Registry
from tests import tiny_bundle

ROOT = Path(__file__).resolve().parent.parent
BENTOML = Path(sys.executable).parent / "bentoml"
DEVELOPMENT = "services.classifier:Classifier"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(store: Path, **extra: str) -> dict[str, str]:
    """This process's environment with a BentoML store of its own, and the project's code importable."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("VISIONLOOP_", "BENTOML_"))
    }
    own = {
        "BENTOML_HOME": str(store),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    return kept | own | extra


def make_workspace(place: Path, **serve: Any) -> Workspace:
    """A folder with params.yaml and a champion."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "params.yaml").write_text(yaml.safe_dump({"serve": serve}))
    workspace = Workspace(place, place / "var")
    digest = tiny_bundle.make(place / "bundle")
    registry = Registry(workspace.registry)
    registry.add(place / "bundle")
    registry.promote(digest, by="test", why="first")
    return workspace


class LiveService:
    """Use as a context: it is ready inside, and every process is gone after."""

    def __init__(
        self, folder: Path, target: str = DEVELOPMENT, *, port: int | None = None, **extra: str
    ) -> None:
        self.folder, self.target, self.port = folder, target, port or free_port()
        self.environment = environment(folder / "bentoml", **extra)
        self.output = folder / f"service-{self.port}.txt"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "LiveService":
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [BENTOML, "serve", self.target, "--port", str(self.port)],
                cwd=self.folder, env=self.environment, stdout=output, stderr=output,
            )  # fmt: skip
        return self

    def __enter__(self) -> "LiveService":
        try:
            if self.process is None:
                self.start()
            self.wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def wait_until_ready(self, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, f"the service ended:\n{self.printed()}"
            try:
                if self.request("GET", "/readyz", timeout=2)[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"not ready after {seconds} s:\n{self.printed()}")

    def printed(self) -> str:
        return self.output.read_text(errors="replace")

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        timeout: float = 30,
    ) -> tuple[int, bytes]:
        """One request on a connection of its own; a generator as ``body`` is sent in chunks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            chunked = body is not None and not isinstance(body, bytes)
            connection.request(method, path, body, headers or {}, encode_chunked=chunked)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def predict(self, image: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
        status, body = self.request("POST", "/v1/predict", image, headers)
        return status, json.loads(body)

    def metric(self, name: str) -> float:
        """One sample of /metrics, by its name with labels; 0 where it is not there yet."""
        for line in self.request("GET", "/metrics")[1].decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def stop(self) -> int:
        """Ask it to end, as a person would, and return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """kill -9, to the supervisor and to its workers, which have sessions of their own."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [
                psutil.Process(self.process.pid),
                *psutil.Process(self.process.pid).children(True),
            ]:
                process.kill()
        self.process.wait(10)
