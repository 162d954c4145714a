"""Whom the running service answers with, asked of the service itself: the pointer only says who should."""

import os
import re
from dataclasses import dataclass
from typing import Any

from pipeline.errors import StateError
from pipeline.params import Serve

SECONDS = 5.0  # a service that is alive says which bundle it has at once


@dataclass(frozen=True)
class Answering:
    """Who answers at ``url``: a bundle's digest, or None where nobody listens."""

    url: str
    digest: str | None

    def against(self, digest: str) -> str:
        """In words, how this fits the champion ``digest``.

        Raises:
            StateError: the service answers with another bundle; says which, and how to restart it.
        """
        if self.digest is None:
            return f"Nobody listens at {self.url}: the next service that starts answers with it"
        if self.digest != digest:
            raise StateError(
                f"the service at {self.url} still answers with {self.digest[:12]}, the champion is {digest[:12]}: a running "
                "service keeps the bundle that it started with. Stop it and start it again (`bentoml serve "
                "services.classifier:Classifier`), then see `python -m pipeline.registry show`"
            )
        return f"The service at {self.url} answers with it"


def address(serve: Serve) -> str:
    """Where ``bentoml serve`` listens by these settings, as one on this machine reaches it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(serve.host, serve.host)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{serve.port}"


def answering(url: str) -> Answering:
    """Ask ``GET /v1/model``, with the bearer token of VISIONLOOP_TOKEN where it is set.

    Raises:
        StateError: something listens there that does not say which bundle it answers with.
    """
    import httpx

    token = os.environ.get("VISIONLOOP_TOKEN", "").strip()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    unknown = f"it is unknown whom the service at {url} answers with"
    try:
        reply = httpx.get(f"{url.rstrip('/')}/v1/model", headers=headers, timeout=SECONDS, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        if _refused(error):
            return Answering(url, None)
        raise StateError(
            f"{unknown}: {error or type(error).__name__} (asked for {SECONDS:g} s); restart it, or name another "
            "with --service"
        ) from error
    if reply.status_code == 401:
        raise StateError(
            f"{unknown}: it wants a token, set VISIONLOOP_TOKEN to the one that it was started with"
        )
    digest = _digest(reply)
    if digest is None:
        raise StateError(
            f"{unknown}: GET /v1/model gives {reply.status_code} {reply.text[:80]!r}. Where that is another program, name "
            "the service with --service (or serve.port in params.yaml); where it is starting, ask again"
        )
    return Answering(url, digest)


def _refused(error: BaseException | None) -> bool:
    """Nobody listens on that port; a name that is not known, say, tells nothing."""
    while error is not None and not isinstance(error, ConnectionRefusedError):
        error = error.__cause__ or error.__context__
    return error is not None


def _digest(reply: Any) -> str | None:
    try:
        digest = reply.json()["digest"]
    except (ValueError, KeyError, TypeError):
        return None
    known = isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest)
    return digest if known and reply.status_code == 200 else None
