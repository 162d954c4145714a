"""One DVC for a whole retrain: ``python -m flows.repro_process`` is a child that reproduces stage by stage.

A `dvc repro` command pays 1.5 to 4 s for its start each time, and DVC hands its own standard output to
the stage, so that inside a flow's process nobody could tell a stage's lines from the flow's. Here DVC
lives in a process of its own, started once; what it and its stages print comes back line by line.

Requests are JSON lines on the child's standard input, replies on a pipe of their own. When the parent is
gone, also by kill -9, the child ends itself and the stage that is running.
"""

import argparse
import json
import logging
import os
import queue
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from flows.server import end
from pipeline.errors import StateError, VisionloopError
from pipeline.lock import alone

TAIL = 15
LEFTOVER_SECONDS = 30.0
OWN = "flows/repro_process.py"
PROGRESS_SECONDS = 5.0
KILLED = (
    128  # a shell reports a command that a signal ended as 128 + its number, DVC without a shell as -number
)


class StageError(VisionloopError):
    """A stage of dvc.yaml ended with an error; ``code`` is its exit code, None where DVC gave none."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code

    @property
    def killed(self) -> bool:
        """Ended by a signal (out of memory, a preempted machine) and not by its own decision."""
        return self.code is not None and (self.code < 0 or self.code > KILLED)


@dataclass(frozen=True)
class Outcome:
    """What reproducing one stage did. ``changed`` is False where nothing had to run."""

    stage: str
    changed: bool
    seconds: float


class Reproducer:
    """The child, as its parent sees it; ``on_line`` is told every line that DVC or a stage prints."""

    def __init__(self, process: subprocess.Popen[str], replies: IO[bytes]) -> None:
        self._process = process
        self._replies = replies

    def plan(self, target: str) -> list[str]:
        """All stages upstream of ``target`` and itself, in the order in which DVC runs them.

        Raises:
            StageError: dvc.yaml can't be read, or has no such stage.
        """
        reply = self._ask({"plan": target}, lambda line: None)
        if "error" in reply:
            raise StageError(f"DVC can't plan `dvc repro {target}`: {reply['error']}")
        return list(reply["stages"])

    def reproduce(self, stage: str, on_line: Callable[[str], None], *, force: bool = False) -> Outcome:
        """Bring one stage up to date, its dependencies taken as they are.

        Raises:
            StageError: the stage's command failed; the message ends with its last lines.
            StateError: another DVC command is at work in the workspace.
        """
        started = time.perf_counter()
        tail: deque[str] = deque(maxlen=TAIL)

        def keep(line: str) -> None:
            tail.append(line)
            on_line(line)

        until = time.monotonic() + LEFTOVER_SECONDS
        reply = self._ask({"stage": stage, "force": force}, keep)
        # We hold the retrain's own lock: another process of this module is a killed retrain's, which is ending.
        while reply.get("busy") and OWN in reply["error"] and time.monotonic() < until:
            time.sleep(0.2)
            reply = self._ask({"stage": stage, "force": force}, keep)
        if reply.get("busy"):
            raise StateError(
                f"another DVC command is at work in this workspace: wait for it, then try again. DVC says:\n{reply['error']}"
            )
        if "error" in reply:
            raise StageError(_failure(stage, reply, list(tail)), reply["code"])
        return Outcome(stage, bool(reply["changed"]), time.perf_counter() - started)

    def _ask(self, request: dict[str, Any], on_line: Callable[[str], None]) -> dict[str, Any]:
        assert self._process.stdin is not None  # noqa: S101  (asked for below)
        assert self._process.stdout is not None  # noqa: S101
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: the reply below is empty, its last lines say why
        lines = _Lines(on_line)
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            selector.register(self._replies, selectors.EVENT_READ)
            answered = False
            # Once the answer is here, all that was printed before it waits in the pipe.
            while events := selector.select(0 if answered else None):
                for key, _ in events:
                    if key.fileobj is self._replies:
                        reply = self._replies.readline()
                        selector.unregister(self._replies)
                        answered = True
                    elif not lines.feed(os.read(key.fd, 1 << 16)):
                        selector.unregister(key.fileobj)
        lines.close()
        if not reply:
            raise StageError(f"DVC ended unexpectedly while at {request}", self._process.wait(10))
        return dict(json.loads(reply))


def _failure(stage: str, reply: dict[str, Any], tail: list[str]) -> str:
    """The stage's own last words, else what DVC has to say."""
    said = [line for line in tail if not line.startswith(("> ", "Running stage "))]
    how = "" if reply["code"] is None else f" with exit code {reply['code']}"
    return f"stage {stage} failed{how}:\n" + ("\n".join(said) or str(reply["error"]))


class _Lines:
    """Bytes to lines. A progress bar redraws its line; of those states one every few seconds is told."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""
        self._told = time.monotonic()

    def feed(self, data: bytes) -> bool:
        *whole, self._rest = re.split(rb"(?<=[\r\n])", self._rest + data)
        for piece in whole:
            self._tell(piece)
        return bool(data)

    def close(self) -> None:
        self._tell(self._rest + b"\n")

    def _tell(self, piece: bytes) -> None:
        if piece.endswith(b"\r"):
            if time.monotonic() - self._told < PROGRESS_SECONDS:
                return
            self._told = time.monotonic()
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", piece.decode("utf-8", "replace")).strip()
        if text:
            self._on_line(text)


@contextmanager
def reproducer(root: Path) -> Iterator[Reproducer]:
    """DVC for the workspace ``root``, for this process alone.

    Raises:
        StateError: another retrain is at work in the workspace.
    """
    with _sole(root / ".dvc/tmp/retrain.lock"):
        read, write = os.pipe()
        environment = os.environ | {
            "PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(_HERE), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.repro_process", str(write)],
            cwd=root, env=environment, pass_fds=[write], start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        os.close(write)
        with os.fdopen(read, "rb") as replies:
            try:
                yield Reproducer(process, replies)
            finally:
                end(process)


_HERE = Path(__file__).resolve().parent.parent


@contextmanager
def _sole(path: Path) -> Iterator[None]:
    """One retrain at a time; the lock's text says who holds it."""
    try:
        holder = path.read_text(encoding="utf-8").strip()
    except OSError:
        holder = ""
    try:
        with alone(path, seconds=0):
            path.write_text(f"process {os.getpid()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n")
            yield
    except StateError as error:
        if str(path) not in str(error):
            raise
        raise StateError(
            f"another retrain is at work in {path.parents[2]} ({holder}): wait for it, or end it, then try again"
        ) from error


def main() -> None:
    """The child: answer requests until the parent is gone."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.repro_process", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "replies", type=int, help="file descriptor to reply on; flows.retrain starts this, not you"
    )
    replies = os.fdopen(parser.parse_args().replies, "w")
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    parent = os.fdopen(os.dup(0), "r")
    os.dup2(
        os.open(os.devnull, os.O_RDONLY), 0
    )  # a stage that reads its standard input must not eat requests
    threading.Thread(target=_listen, args=(parent, requests), daemon=True).start()

    from dvc.repo import Repo

    # On every stage: which files to `git add`. The retrain says it once, at its end.
    logging.getLogger("dvc.repo.scm_context").setLevel(logging.WARNING)
    with Repo(".") as repo:
        while True:
            request = json.loads(requests.get())
            reply = _answer(repo, request)
            sys.stdout.flush()
            print(json.dumps(reply), file=replies, flush=True)


def _listen(parent: IO[str], requests: "queue.SimpleQueue[str]") -> None:
    for line in parent:
        requests.put(line)
    os.killpg(0, signal.SIGKILL)  # the parent is gone; whatever stage is running goes too


def _answer(repo: Any, request: dict[str, Any]) -> dict[str, Any]:
    from dvc.exceptions import DvcException, ReproductionError
    from dvc.lock import LockError

    try:
        if "plan" in request:
            return {"stages": _plan(repo, request["plan"])}
        done = repo.reproduce(targets=[request["stage"]], single_item=True, force=request["force"])
        return {"changed": bool(done)}
    except DvcException as error:
        cause = error.__cause__ if isinstance(error, ReproductionError) and error.__cause__ else error
        code = re.search(r"exited with (-?\d+)$", str(cause))
        return {
            "error": str(cause),
            "code": int(code[1]) if code else None,
            "busy": isinstance(cause, LockError),
        }


def _plan(repo: Any, target: str) -> list[str]:
    from dvc.repo.reproduce import plan_repro

    return [stage.addressing for stage in plan_repro(repo.index.graph, repo.stage.collect(target))]


if __name__ == "__main__":
    main()
