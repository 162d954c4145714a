"""From an image's bytes to an answer whose row is in the log: decode, predict, write down, in threads.

The event loop only carries bytes; as many images are worked on at once as there are cores for this worker.
"""

import asyncio
import hashlib
import logging
import os
import threading
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from pipeline.artifacts import Workspace, encode_embedding
from pipeline.bundle import Bundle
from pipeline.errors import IntegrityError, StateError, VisionloopError
from pipeline.images import Decoded, decode, statistics
from pipeline.metadata import stripped
from pipeline.params import Params
from services import metrics
from services.prediction_log import PredictionLog, keeps, kept_name
from services.settings import bundle_path, open_bundle
from services.shadow import Asked, Shadow

MOST_THREADS = 8
WARM_UPS = 3
PATIENCE_SECONDS = 10.0

logger = logging.getLogger("bentoml.visionloop")


class Loaded(NamedTuple):
    """What an engine answers with."""

    bundle: Bundle
    log: PredictionLog
    shadow: Shadow


class Answered(NamedTuple):
    """One answer, and what goes with it."""

    reply: dict[str, Any]
    numbers: dict[str, float | int]  # statistics of the image
    written: "Future[None]"  # done once the row is in the log
    seconds: float  # from the decoded image to its probabilities


class Engine:
    """One worker's bundle, threads and log. Ready once the bundle is verified and has predicted."""

    def __init__(self, params: Params, place: Workspace) -> None:
        self.params, self.place = params, place
        cores = max(1, len(os.sched_getaffinity(0)) // params.serve.workers)
        threads = min(cores, MOST_THREADS)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="predict")
        self._network_threads = max(1, cores // threads)
        self._loaded: Loaded | None = None
        self._stopped = threading.Event()
        threading.Thread(target=self._prepare, name="prepare", daemon=True).start()

    @property
    def ready(self) -> bool:
        return self._loaded is not None and not self._stopped.is_set()

    async def until_ready(self) -> bool:
        """Wait for the warm-up, within bounds; whether it is ready.

        With several workers, the one that answers /readyz need not be the one that gets the next request.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.ready and not self._stopped.is_set() and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return self.ready

    @property
    def loaded(self) -> Loaded:
        """
        Raises:
            StateError: the bundle is still being verified, or the service is stopping.
        """
        if self._loaded is None or self._stopped.is_set():
            raise StateError("the bundle is being verified and warmed up: ask /readyz, then try again")
        return self._loaded

    def _prepare(self) -> None:
        try:
            bundle = open_bundle(bundle_path(self.place), self._network_threads, self.params.serve.format)
            size = bundle.preprocessing.image_size
            for _ in range(WARM_UPS):
                bundle.predict(np.zeros((1, size, size, 3), dtype=np.uint8))
            log = PredictionLog(self.place.log, self.params.log, metrics.count_rows)
        except Exception as error:  # whatever it is, a worker that never gets ready must not linger
            known = isinstance(error, VisionloopError | OSError)
            logger.critical("the service can't start: %s", error, exc_info=not known)
            logging.shutdown()
            os._exit(1)  # from a thread, nothing else ends the worker; its supervisor sees the exit code
        metrics.MODEL.labels(bundle.digest).set(1)
        metrics.LOSSY.set(self.params.log.mode == "lossy")
        self._loaded = Loaded(bundle, log, Shadow(self.place, self.params.serve))
        logger.info(
            "ready: bundle %s, log in %s (%s)", bundle.digest[:12], self.place.log, self.params.log.mode
        )

    async def answer(self, data: bytes, source: str | None) -> dict[str, Any]:
        """The answer to one image, its row on disk (``log.mode: durable``) or on its way (``lossy``).

        Raises:
            ImageError: the bytes are no image that can be used.
            IntegrityError: the network answers with NaN.
            StateError: not ready, or the log can't be written.
        """
        loaded = self.loaded
        loop = asyncio.get_running_loop()
        answered = await loop.run_in_executor(self._pool, self._work, loaded, data, source)
        reply, numbers = answered.reply, answered.numbers
        await asyncio.wrap_future(answered.written)
        asked = Asked(reply["request_id"], data, reply["model"], reply["label"], answered.seconds)
        loop.call_soon(loaded.shadow.offer, asked)  # not before this answer is on its way
        metrics.count_answer(reply["label"], abstained=reply["abstain"], statistics=numbers)
        return reply

    def _work(self, loaded: Loaded, data: bytes, source: str | None) -> Answered:
        started = time.perf_counter()
        serve, bundle = self.params.serve, loaded.bundle
        decoded = decode(data, max_pixels=serve.max_pixels, max_bytes=serve.max_body_bytes)
        read = time.perf_counter()
        prediction = bundle.predict(bundle.preprocessing.view(decoded.image)[None])
        seconds = time.perf_counter() - read
        if not np.isfinite(prediction.probabilities).all():
            raise IntegrityError("the network answers this image with NaN or infinity")
        shares = prediction.probabilities[0]
        order = np.argsort(-shares, kind="stable")  # a tie goes to the first class, as argmax has it
        probabilities = {bundle.classes[i]: round(float(shares[i]), 6) for i in order}
        best = list(probabilities)[: serve.top_k]
        reply = {
            "request_id": uuid.uuid4().hex,
            "label": best[0],
            "probabilities": {name: probabilities[name] for name in best},
            "abstain": probabilities[best[0]] < serve.abstain_below,
            "model": bundle.digest,
        }
        image_id = hashlib.sha256(data).hexdigest()
        kept, image = None, b""
        if keeps(image_id, self.params.log.keep_images):
            image, extension = stripped(data, decoded)
            kept = kept_name(hashlib.sha256(image).hexdigest(), extension)
        numbers = _numbers(decoded)
        row = reply | {
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            "image_id": image_id,
            "probabilities": probabilities,
            "embedding": encode_embedding(prediction.embedding[0]),
            "statistics": numbers,
            "source": source,
            "kept": kept,
            "seconds": round(time.perf_counter() - started, 6),
        }
        return Answered(reply, numbers, loaded.log.append(row, image), seconds)

    def close(self) -> None:
        """Finish what is under way, write it down, and stop."""
        self._stopped.set()
        self._pool.shutdown(wait=True)
        if self._loaded is not None:
            self._loaded.shadow.close()
            self._loaded.log.close()


def _numbers(decoded: Decoded) -> dict[str, float | int]:
    found: dict[str, float | int] = {
        name: round(value, 6) for name, value in statistics(decoded.image).items()
    }
    return found | {"width": decoded.width, "height": decoded.height}
