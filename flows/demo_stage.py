"""What the demo's story needs to run real processes: commands, servers, a client, timing, an orderly end."""

import concurrent.futures
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from flows.server import answers, end, free_port
from pipeline.errors import StateError

BIN = Path(sys.prefix) / "bin"


class Stage:
    """Processes of one demo run: started here, logged under ``logs``, all stopped by :meth:`close`."""

    def __init__(self, workspace: Path, logs: Path) -> None:
        self.workspace = workspace
        self.logs = logs
        self.seconds: dict[str, float] = {}
        self.servers: dict[str, subprocess.Popen[Any]] = {}
        self.environment = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "VISIONLOOP_HOME": str(workspace / "var"),
            "BENTOML_HOME": str(workspace / "var/bentoml"),
            "PREFECT_HOME": str(workspace / "var/prefect"),
            "PYTHONUNBUFFERED": "1",
            "GIT_CEILING_DIRECTORIES": str(workspace.parent),
        }
        logs.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        """Time one step of the story under ``name`` and say what happens."""
        print(f"\n▸ {title}", flush=True)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 1)
        print(f"  {self.seconds[name]:.1f} s", flush=True)

    def run(self, *command: str, show: bool = True, accept: tuple[int, ...] = (0,)) -> str:
        """Run a command in the workspace, its output shown as it comes; returns the output.

        Raises:
            StateError: the command ended with a code that is not in ``accept``.
        """
        shown = " ".join(command)
        print(f"  $ {shown}", flush=True)
        process = subprocess.Popen(
            [str(BIN / command[0]) if (BIN / command[0]).exists() else command[0], *command[1:]],
            cwd=self.workspace, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.servers["command"] = process
        lines = []
        assert process.stdout is not None  # noqa: S101  (asked for above)
        for line in process.stdout:
            lines.append(line)
            if show:
                print(f"    {line.rstrip()}", flush=True)
        code = process.wait()
        del self.servers["command"]
        if code not in accept:
            tail = "" if show else "".join(lines[-30:])
            raise StateError(f"`{shown}` ended with code {code} in {self.workspace}\n{tail}")
        return "".join(lines)

    def start_prefect(self) -> None:
        """Start a Prefect server in the background; it comes up while the first model trains."""
        port = free_port()
        Path(self.environment["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
        self.environment["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        self.launch("prefect", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))

    def wait_prefect(self) -> None:
        self.wait("prefect", f"{self.environment['PREFECT_API_URL']}/health")

    def serve(self, name: str, *command: str, ready: str, timeout: float = 90.0) -> None:
        """Start a server in a process group of its own and wait until ``ready`` answers 200."""
        print(f"  $ {' '.join(command)} &", flush=True)
        self.launch(name, *command)
        self.wait(name, ready, timeout)

    def launch(self, name: str, *command: str) -> None:
        with (self.logs / f"{name}.log").open("ab") as log:
            self.servers[name] = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                cwd=self.workspace, env=self.environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def wait(self, name: str, ready: str, timeout: float = 90.0) -> None:
        """Wait until a server that was launched answers 200 at ``ready``.

        Raises:
            StateError: it ended, or did not within ``timeout`` seconds.
        """
        if answers(ready, self.servers[name], timeout):
            return
        tail = (self.logs / f"{name}.log").read_text(errors="replace")[-2000:]
        raise StateError(f"{name} did not answer at {ready} within {timeout:.0f} s; its log ends:\n{tail}")

    def stop(self, name: str) -> None:
        """End a server with all that it has started; nothing where it is not running."""
        process = self.servers.pop(name, None)
        if process is not None:
            end(process)

    def close(self) -> None:
        for name in list(self.servers):
            self.stop(name)


def send(
    url: str, images: list[tuple[Path, str]], source: str, a_second: int | None = None, clients: int = 4
) -> list[tuple[str, str]]:
    """Post images to the service; returns (true class, answered class) in the order of ``images``.

    At most ``a_second`` images a second: dashboards draw by the second, and windows that share one lie on each other.
    """
    with httpx.Client(base_url=url, timeout=30) as client:

        def ask(entry: tuple[Path, str]) -> tuple[str, str]:
            path, label = entry
            answer = client.post("/v1/predict", content=path.read_bytes(), headers={"X-Source": source})
            answer.raise_for_status()
            return label, str(answer.json()["label"])

        answers: list[tuple[str, str]] = []
        step = a_second or len(images)
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            for start in range(0, len(images), max(1, step)):
                began = time.monotonic()
                answers += pool.map(ask, images[start : start + step])
                if a_second:
                    time.sleep(max(0.0, began + 1 - time.monotonic()))
        return answers


def accuracy(answers: list[tuple[str, str]]) -> float:
    return sum(label == answered for label, answered in answers) / max(1, len(answers))
