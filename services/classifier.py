"""The service: ONNX Runtime, the champion's bundle, and a log that is written before the answer leaves.

    bentoml serve services.classifier:Classifier        # or `make serve`; a built Bento by tag or folder

    curl --data-binary @photo.jpg http://127.0.0.1:3000/v1/predict
    curl -F image=@photo.jpg -H 'X-Source: line-a' http://127.0.0.1:3000/v1/predict
    curl http://127.0.0.1:3000/v1/model

A running service keeps the bundle that it started with: after a release or a rollback, restart it.
``services/settings.py`` says where params, bundle and log come from.
"""

import atexit
import os
import shutil
import socket
import tempfile
from typing import Any

import bentoml
import click

from pipeline.errors import StateError, VisionloopError
from services.engine import Engine
from services.http import TokenGuard, app
from services.settings import Settings, bundle_path, open_bundle, token, workspace
from services.watched import exposition

__all__ = ["Classifier"]

SETTINGS = Settings.load()


@bentoml.service(
    name="Classifier",
    workers=SETTINGS.params.serve.workers,
    http={"host": SETTINGS.params.serve.host, "port": SETTINGS.params.serve.port},
    traffic={"timeout": 60},
)
@bentoml.asgi_app(app, path="/")
class Classifier:
    """Answers with the champion at /v1/predict; /v1/model says which bundle that is."""

    def __init__(self) -> None:
        self.engine = app.state.engine = Engine(SETTINGS.params, workspace())

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Once, before any worker: a service that can't answer does not start, and says why."""
        try:
            _check()
        except (VisionloopError, OSError) as error:
            raise SystemExit(f"classifier: {error}") from error

    def __is_ready__(self) -> bool:
        return self.engine.ready

    def __metrics__(self, counted: str) -> str:
        """BentoML's hook: what /metrics says, given what the workers have counted."""
        return counted + exposition(self.engine.place.gauges)

    @bentoml.on_shutdown
    def close(self) -> None:
        """Every answer under way is written down first."""
        self.engine.close()


Classifier.add_asgi_middleware(TokenGuard)  # type: ignore[attr-defined]  # the decorator made it a Service


def _check() -> None:
    """Verify everything, and pin it for the workers: they start in another folder, and must all agree."""
    if SETTINGS.problem:
        raise StateError(SETTINGS.problem)
    token()
    place = workspace()
    path = bundle_path(place)
    open_bundle(path, threads=1, form=SETTINGS.params.serve.format)
    place.log.mkdir(parents=True, exist_ok=True)
    if not os.access(place.log, os.W_OK):
        raise StateError(f"{place.log} is not writable: set VISIONLOOP_HOME to a folder that is")
    _check_port()
    counters = tempfile.mkdtemp(prefix="visionloop-metrics-")
    atexit.register(shutil.rmtree, counters, ignore_errors=True)
    os.environ |= {
        "VISIONLOOP_HOME": str(place.home),
        "VISIONLOOP_BUNDLE": str(path),
        "VISIONLOOP_METRICS": counters,
    }


def _check_port() -> None:
    """The port in use is otherwise a page of BentoML's traceback."""
    context = click.get_current_context(silent=True)
    given: dict[str, Any] = context.params if context else {}
    host = given.get("host") or SETTINGS.params.serve.host
    port = given.get("port") or SETTINGS.params.serve.port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StateError(
                f"port {port} on {host} can't be had ({error.strerror}): stop what uses it, or choose another "
                "with --port (or serve.port in params.yaml)"
            ) from error
