"""A real Prefect server (SQLite, loopback, its own PREFECT_HOME), started once for all tests that need one."""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 240.0
# Prefect reads it when it is imported; the tests of the flows import it, and must not touch this checkout's.
_HOME = tempfile.mkdtemp(prefix="visionloop-tests-prefect-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ["PREFECT_HOME"] = _HOME


def environment(home: Path, url: str) -> dict[str, str]:
    """For Prefect's own commands: this server, nothing of the caller's, and no waiting about."""
    kept = {
        n: v for n, v in os.environ.items() if not n.startswith(("PREFECT_", "VISIONLOOP_", "PYTHONPATH"))
    }
    return kept | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "PREFECT_WORKER_QUERY_SECONDS": "0.5",
        "PREFECT_LOGGING_COLORS": "false",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
    }


class PrefectServer:
    """Where it is, and what it has seen; ``stop`` ends a process that was started with its environment."""

    def __init__(self, home: Path, url: str) -> None:
        self.home, self.url = home, url
        self.environment = environment(home, url)
        self.log = home / "server.log"

    def post(self, path: str, **body: object) -> list[dict[str, object]]:
        """Ask the server; on a busy machine it may take its time, so a question may be asked again."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = httpx.post(f"{self.url}/{path}", json=body, timeout=60, trust_env=False)
                answer.raise_for_status()
                break
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                # A SQLite that is locked for long answers 503; anything else that is wrong stays wrong.
                wrong = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500
                if wrong or time.monotonic() > deadline:
                    raise
                time.sleep(1.0)
        found: list[dict[str, object]] = answer.json()
        return found

    def start(self, *command: str, cwd: Path, log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [BIN / command[0], *command[1:]], cwd=cwd, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip


def stop(process: subprocess.Popen[bytes], seconds: float = 20) -> None:
    """TERM, and KILL to what is left of its group after ``seconds``."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def serving(home: Path) -> Iterator[PrefectServer]:
    """A server whose state lies in ``home``, until the context ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    server = PrefectServer(home, f"http://127.0.0.1:{port}/api")
    process = server.start(
        "prefect", "server", "start", "--host", "127.0.0.1", "--port", port, "--no-ui", cwd=home, log=server.log
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while not _healthy(server.url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the Prefect server does not answer:\n{server.log.read_text()}")
            time.sleep(0.1)
        yield server
    finally:
        stop(process)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with serving(tmp_path_factory.mktemp("prefect")) as server:
        yield server
        if "prefect.logging.handlers" in sys.modules:  # flows were called in this process: their last lines
            sys.modules["prefect.logging.handlers"].APILogWorker.drain_all(timeout=10)


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
