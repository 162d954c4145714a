"""The service of the soaked year, without its network: a process of its own that answers by the real prediction log.

    python -m flows.soak_writer <pools> <bundle> <log>      # started, killed and started again by flows.soak

Requests are JSON lines on standard input, ``{"id", "time", "station", "regime", "index"}``. What the bundle says of the
image was recorded; the row is the service's, and its reply leaves when ``services.prediction_log`` has it on disk:
``{"id", "refused": null}``, or why it was refused. ``{"full": true}`` lets no file grow any more, false ends that.
A challenger that ``var/shadow.json`` asks for answers the same images by its own network, through the service's shadow.
"""

import contextlib
import json
import os
import resource
import sys
import threading
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.soak_pool import Pools
from pipeline.artifacts import Workspace
from pipeline.params import Log, Serve
from services.prediction_log import PredictionLog, kept_name
from services.shadow import Asked, Shadow

__all__: list[str] = []


class _Beside(Shadow):
    """The service's shadow at the pace of the simulated clock: it answers each request at once, not when there is time."""

    def _run(self) -> None:
        """No thread."""

    def offer(self, asked: Asked) -> None:
        with contextlib.suppress(OSError):  # the full disk
            self._look()
            if self._wanted:
                self._answer(asked)


def _row(request: dict[str, Any], image: dict[str, Any], answer: Any, digest: str) -> dict[str, Any]:
    """The row that ``services.engine`` would write."""
    return {
        "request_id": request["id"],
        "time": datetime.fromisoformat(request["time"]).isoformat(timespec="microseconds"),
        "model": digest,
        "image_id": image["image_id"],
        "label": answer.label,
        "abstain": False,
        "probabilities": answer.probabilities,
        "embedding": answer.embedding,
        "statistics": image["statistics"],
        "source": request["station"],
        "kept": kept_name(image["image_id"], ".jpg"),
        "seconds": 0.0,
    }


def main(arguments: list[str]) -> int:
    pools, bundle, folder = (Path(argument) for argument in arguments)
    recorded, log = Pools(pools, 0, 0), PredictionLog(folder, Log())
    shadow = _Beside(Workspace(Path.cwd(), folder.parent), Serve())
    door = threading.Lock()

    def reply(number: str, done: "Future[None]") -> None:
        error = done.exception()
        with door:
            print(json.dumps({"id": number, "refused": error and str(error)}), flush=True)

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "full" in request:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (0 if request["full"] else hard, hard))
            continue
        os.environ["VISIONLOOP_NOW"] = request["time"]
        image = recorded.images(request["regime"])[request["index"]]
        answer = recorded.answers(bundle, request["regime"])[request["index"]]
        done = log.append(_row(request, image, answer, bundle.name), image["data"])
        done.add_done_callback(lambda future, number=request["id"]: reply(number, future))  # type: ignore[misc]
        shadow.offer(Asked(request["id"], image["data"], bundle.name, answer.label, answer.seconds))
    log.close()
    shadow.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
