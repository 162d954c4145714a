"""A service that was not restarted: the champion's real Bento, behind a door that claims to be the challenger.

The worst case of a stale answer: its digest is right, its label mostly too. Only the probabilities tell.
"""

import contextlib
import http.server
from collections.abc import Iterator

import httpx

from flows.listening import listening
from flows.sandbox import ask, golden_images, sandbox
from pipeline.artifacts import Workspace
from pipeline.bundle import verify
from pipeline.params import Params
from pipeline.registry import Registry

__all__ = ["ask_stale_service"]


def ask_stale_service(workspace: Workspace, params: Params) -> None:
    """Put the challenger's golden images to the champion's service.

    Raises:
        IntegrityError: it was noticed.
    """
    from services.bento import build

    registry = Registry(workspace.registry)
    champion = registry.champion()
    assert champion is not None  # noqa: S101  (the drill has made one)
    digest = verify(workspace.bundle)
    bento = build(registry.bundle_path(champion.digest), workspace, params)
    seconds = params.release.sandbox_timeout_seconds
    with (
        sandbox(bento, workspace.home / "bentoml", seconds=seconds, scratch=workspace.home) as stale,
        _claiming(stale, digest) as url,
    ):
        ask(url, golden_images(workspace, params), digest=digest, limit=params.release.max_golden_error)


@contextlib.contextmanager
def _claiming(url: str, digest: str) -> Iterator[str]:
    """A door before ``url`` that says ``digest`` wherever the service says its own."""
    with httpx.Client(base_url=url, timeout=30) as client:
        own = str(client.get("/v1/model").json()["digest"])

        class Door(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._pass(client.get(self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._pass(client.post(self.path, content=body))

            def _pass(self, answer: httpx.Response) -> None:
                body = answer.content.replace(own.encode(), digest.encode())
                self.send_response(answer.status_code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        with listening(Door) as door:
            yield door
