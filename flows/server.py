"""``python -m flows.<flow>`` without a Prefect server: one of its own, on loopback, while the command runs.

Prefect's own temporary server does the same, but the client then imports the whole server too, the two
start one after the other, and the last task states are lost with a traceback when it is stopped. Runs go
into the database below PREFECT_HOME, so that ``prefect server start`` shows them later.

What any process started from here needs is here as well: :func:`free_port`, :func:`answers`, :func:`end`.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from pipeline.errors import StateError, VisionloopError

START_SECONDS = 300.0  # 12 s where nothing else runs; one that broke is noticed at once
# Prefect's own switches for a temporary server: no schedules, no web pages; what was sent is stored soon. The recorder
# takes whole seconds alone: a fraction becomes 0, and its loop then keeps a core busy.
TEMPORARY = {
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_UI_ENABLED": "0",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.2",
}
SETTLE_SECONDS = 1.3  # the recorder's second, and a little


def command(run: Callable[[], int]) -> int:
    """Run one command with an API to report to; returns its exit code.

    SIGTERM ends it in order, so that what it has started is stopped too. An error that a person can mend
    is printed without a traceback, with exit code 1.
    """
    signal.signal(signal.SIGTERM, _leave)
    try:
        with api():
            return run()
    except VisionloopError as error:
        print(f"{error}", file=sys.stderr)
        return 1


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextmanager
def api() -> Iterator[None]:
    """The configured Prefect API, or a temporary server until the block ends.

    Raises:
        StateError: the temporary server did not come up.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_UI_URL, temporary_settings

    if PREFECT_API_URL.value():
        yield
        return
    with ExitStack() as stack:
        url = stack.enter_context(_temporary_server(Path(PREFECT_HOME.value()) / "temporary-server.log"))
        # No link to a page that will be gone: "" keeps Prefect from guessing one.
        stack.enter_context(temporary_settings({PREFECT_API_URL: f"{url}/api", PREFECT_UI_URL: ""}))
        stack.callback(_send_what_is_left)
        yield


def _send_what_is_left() -> None:
    """Logs and events are sent by threads in the background: let them finish while there is a server."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=5)
    EventsWorker.drain_all(timeout=5)
    time.sleep(SETTLE_SECONDS)


@contextmanager
def _temporary_server(log: Path) -> Iterator[str]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.server"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True,
            env=os.environ | TEMPORARY, start_new_session=True,
        )  # fmt: skip
    try:
        yield _wait_until_healthy(process, log)
    finally:
        end(process)


def _wait_until_healthy(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None  # noqa: S101  (asked for above)
    url = process.stdout.readline().strip()
    if url and answers(f"{url}/api/health", process, START_SECONDS):
        return url
    tail = log.read_text(errors="replace")[-2000:]
    raise StateError(
        f"the temporary Prefect server ended, or was not ready within {START_SECONDS:.0f} s; {log} ends:\n{tail}\n"
        "Start one with `prefect server start` and set PREFECT_API_URL=http://127.0.0.1:4200/api"
    )


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str, process: subprocess.Popen[Any], seconds: float) -> bool:
    """Wait until ``url`` answers 200; False where ``process`` ends before it, or ``seconds`` pass."""
    deadline = time.monotonic() + seconds
    # One client for all attempts: each new one would read the certificates again, for nothing.
    with httpx.Client(trust_env=False, timeout=5) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if client.get(url).status_code == 200:
                    return True
            except httpx.TransportError:
                pass
            time.sleep(0.1)
    return False


def end(process: subprocess.Popen[Any], seconds: float = 10.0) -> None:
    """Terminate a process that was started in a session of its own, with all that it has started.

    Returns once the whole group is gone. What is left ``seconds`` after SIGTERM is killed: a server's
    workers may outlive it, and finish what they are at. First its standard input is closed, where it has
    one of us: then pipeline/guard.py ends what has left the group, too.
    """
    if _signalled(process, signal.SIGTERM) and not _gone(process, seconds):
        if process.stdin is not None:
            process.stdin.close()
            _gone(process, seconds)
        if _signalled(process, signal.SIGKILL):
            _gone(process, seconds)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _signalled(process: subprocess.Popen[Any], number: int) -> bool:
    """Send a signal to the group that ``process`` leads; 0 only asks. False where nobody is left in it."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def _gone(process: subprocess.Popen[Any], seconds: float) -> bool:
    """Is the whole group gone within ``seconds``?"""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        process.poll()  # a leader that has ended counts as there until somebody asks for its code
        if not _signalled(process, 0):
            return True
        time.sleep(0.02)
    return False


def main() -> None:
    """The child: bind a free port, say which, serve until the parent is gone."""
    argparse.ArgumentParser(
        prog="python -m flows.server", description=(__doc__ or "").split("\n")[0]
    ).parse_args()
    import uvicorn

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    config = uvicorn.Config(
        "prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on"
    )
    uvicorn.Server(config).run(sockets=[listener])


def _end_with_parent() -> None:
    """The pipe on standard input closes when the parent ends, also when it is killed."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
