"""The stations of the soaked year: they send what the world gives to the writer, and know what was acknowledged."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from flows.soak_world import Request
from pipeline.artifacts import Workspace
from pipeline.errors import StateError
from pipeline.registry import Registry

__all__ = ["Traffic"]


@dataclass
class Traffic:
    """One writer at a time, its requests, and what became of them.

    Attributes:
        acknowledged: by request id, what was sent and the bundle that answered.
        refused: ids that were told that the log can't be written, with what they were told.
        unanswered: requests that a kill left without an answer; the station sent each again.
    """

    workspace: Workspace
    pools: Path
    seed: int
    acknowledged: dict[str, tuple[Request, str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    starts: int = 0
    kills: int = 0

    def __post_init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._rng = np.random.default_rng([self.seed, 13])
        self.bundle = Path()

    def start(self) -> None:
        """A writer that answers with the champion; one that runs ends in order first."""
        self.stop()
        registry = Registry(self.workspace.registry)
        champion = registry.champion()
        if champion is None:
            raise StateError("there is no champion to answer with: the soak's first release failed")
        self.bundle = registry.bundle_path(champion.digest)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.soak_writer", str(self.pools), str(self.bundle), str(self.workspace.log)],
            cwd=Path(__file__).resolve().parent.parent, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=os.environ | {"VISIONLOOP_HOME": str(self.workspace.home)},
        )  # fmt: skip
        if self._read() is None:
            raise StateError(f"the soak's writer did not start: is {self.workspace.log} writable?")
        self.starts += 1

    def stop(self) -> None:
        """Let the writer finish what it has, and end."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def full(self, full: bool) -> None:
        """Where no disk can be filled: no file of the writer's may grow, until this ends."""
        self._write({"full": full})

    def send(self, requests: Sequence[Request], *, kill: bool = False) -> None:
        """Send ``requests`` and wait for the answers; with ``kill``, kill -9 the writer in the middle of them."""
        for request in requests:
            self._write(asdict(request) | {"time": request.time.isoformat()})
        waiting = {request.id: request for request in requests}
        before_kill = int(self._rng.integers(0, len(requests))) if kill and requests else len(requests)
        while len(waiting) > len(requests) - before_kill and self._take(waiting):
            pass
        if kill:
            self._kill(waiting)
        elif waiting:
            raise StateError(
                f"the soak's writer ended by itself, and left {len(waiting)} requests unanswered"
            )

    def _kill(self, waiting: dict[str, Request]) -> None:
        assert self._process is not None  # noqa: S101  (send wrote to it)
        self._process.kill()
        self.kills += 1
        while self._take(waiting):  # what it had said before it died
            pass
        self.start()
        self.unanswered += waiting
        later = timedelta(milliseconds=1)
        again = [
            replace(request, id=f"{request.id}-again", time=request.time + later)
            for request in waiting.values()
        ]
        if again:
            self.send(again)

    def _take(self, waiting: dict[str, Request]) -> bool:
        reply = self._read()
        if reply is None:
            return False
        request = waiting.pop(reply["id"])
        if reply["refused"] is None:
            self.acknowledged[request.id] = (request, self.bundle.name)
        else:
            self.refused[request.id] = reply["refused"]
        return True

    def _write(self, message: dict[str, Any]) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _read(self) -> dict[str, Any] | None:
        """The next reply; None where the writer has ended."""
        if self._process is None or self._process.stdout is None:
            return None
        line = self._process.stdout.readline()
        return dict(json.loads(line)) if line.endswith("\n") else None
