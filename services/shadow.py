"""The challenger beside the champion: it answers the same requests after the client has its answer, unseen by it.

``var/shadow.json`` names the bundle and how many images; it is looked for every second, so that a running service
takes part without a restart, and lets go when the file is gone. One thread of low priority a worker, a short queue:
under load requests are left out and counted, an answer to a client never waits and never fails for it. Rows go to
``var/shadow/<digest>/<writer>.jsonl``; ``monitoring/shadow.py`` reads them.
"""

import contextlib
import json
import logging
import os
import queue
import secrets
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from pipeline.artifacts import Workspace, read_json
from pipeline.bundle import Bundle
from pipeline.errors import VisionloopError
from pipeline.images import decode
from pipeline.params import Serve
from pipeline.registry import Registry
from services import metrics
from services.settings import open_bundle

LOOK_SECONDS = 1.0
WAITING = 16  # images as received, so at most that many times serve.max_body_bytes
NICE = 10

logger = logging.getLogger("bentoml.visionloop")


class Asked(NamedTuple):
    """A request that the champion has answered. ``seconds`` from its decoded image to probabilities."""

    request_id: str
    image: bytes
    champion: str
    label: str
    seconds: float


@dataclass
class _Challenger:
    """What var/shadow.json asks for now; ``bundle`` is None where it can't be loaded, ``error`` says why."""

    digest: str
    left: int
    bundle: Bundle | None
    error: str | None
    rows: Any


class Shadow:
    """One worker's share in the shadow; it costs a glance at a file every second while none is asked for."""

    def __init__(self, place: Workspace, serve: Serve) -> None:
        self._place, self._serve = place, serve
        self._waiting: queue.Queue[Asked] = queue.Queue(WAITING)
        self._wanted = False
        self._dropped = 0
        self._seen: tuple[int, int] | None = None
        self._challenger: _Challenger | None = None
        self._stopped = threading.Event()
        self._writer = f"{os.getpid()}-{int(time.time())}-{secrets.token_hex(4)}"
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, asked: Asked) -> None:
        """Hand over an answered request; it is left out where the challenger is not done with those before it."""
        if not self._wanted:
            return
        try:
            self._waiting.put_nowait(asked)
        except queue.Full:
            self._dropped += 1
            metrics.SHADOWED.labels("left out").inc()

    def close(self) -> None:
        """What waits is left out: the service is stopping."""
        self._stopped.set()
        self._thread.join(LOOK_SECONDS * 5)

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # of this thread alone, on Linux
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        looked = 0.0
        while not self._stopped.is_set():
            try:
                if time.monotonic() - looked >= LOOK_SECONDS:
                    looked = time.monotonic()
                    self._look()
                self._answer(self._waiting.get(timeout=LOOK_SECONDS))
            except queue.Empty:
                continue
            except Exception:  # the champion's service goes on, whatever this is
                logger.exception("the shadow stumbled")
        self._drop()

    def _look(self) -> None:
        """Load the challenger that is asked for, or let it go."""
        try:
            found = self._place.shadow_request.stat()
        except FileNotFoundError:
            self._seen = None
            self._drop()
            return
        mark = (found.st_mtime_ns, found.st_ino)
        if mark == self._seen:
            return
        self._seen = mark
        self._drop()
        request = read_json(self._place.shadow_request)
        digest = str(request["digest"])
        path = Registry(self._place.registry).bundle_path(digest)
        bundle, error = None, None
        try:
            bundle = open_bundle(path, 1, self._serve.format)
        except (VisionloopError, OSError) as problem:
            error = f"{type(problem).__name__}: {problem}"
            logger.error("the challenger %s can't answer in shadow: %s", digest[:12], problem)
        folder = self._place.shadow / digest
        folder.mkdir(parents=True, exist_ok=True)
        rows = (folder / f"{self._writer}.jsonl").open("a", encoding="utf-8")
        self._challenger = _Challenger(digest, int(request["images"]), bundle, error, rows)
        self._wanted = True
        logger.info("the challenger %s answers in shadow", digest[:12])

    def _drop(self) -> None:
        self._wanted = False
        if self._challenger is not None:
            self._challenger.rows.close()
            self._challenger = None
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()

    def _answer(self, asked: Asked) -> None:
        challenger = self._challenger
        if challenger is None:
            return
        row: dict[str, Any] = {
            "request_id": asked.request_id,
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            "digest": challenger.digest,
            "champion": asked.champion,
            "champion_label": asked.label,
            "champion_seconds": round(asked.seconds, 6),
        }
        try:
            row |= self._prediction(challenger, asked)
        except Exception as error:
            row |= {"label": None, "error": f"{type(error).__name__}: {error}"}
        challenger.left -= 1
        self._wanted = challenger.left > 0
        challenger.rows.write(json.dumps(row | {"dropped": self._dropped}) + "\n")
        challenger.rows.flush()
        metrics.SHADOWED.labels("failed" if "error" in row else "answered").inc()

    def _prediction(self, challenger: _Challenger, asked: Asked) -> dict[str, Any]:
        if challenger.bundle is None:
            raise RuntimeError(challenger.error)
        image = decode(
            asked.image, max_pixels=self._serve.max_pixels, max_bytes=self._serve.max_body_bytes
        ).image
        started = time.perf_counter()
        bundle = challenger.bundle
        shares = bundle.predict(bundle.preprocessing.view(image)[None]).probabilities[0]
        if not np.isfinite(shares).all():
            raise RuntimeError("NaN or infinity")
        best = int(np.argmax(shares))
        return {
            "label": bundle.classes[best],
            "confidence": round(float(shares[best]), 6),
            "seconds": round(time.perf_counter() - started, 6),
        }
