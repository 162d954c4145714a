"""The routes: one image in, one answer out, and every refusal as {"error", "detail"} with its status."""

import hmac
import logging
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.errors import ImageError, StateError, VisionloopError
from pipeline.registry import Registry
from services import metrics
from services.body import Refusal, image_bytes
from services.engine import Engine
from services.settings import token

SOURCE_LENGTH = 100
# What `pipeline.images.decode` refuses, by reason; anything else is 400: a broken image.
STATUS = {
    "empty": 422,
    "too_many_bytes": 413,
    "too_many_pixels": 413,
    "unknown_format": 415,
    "unsupported_mode": 415,
}
OPEN = ("/livez", "/readyz", "/healthz")
_NOT_READY = "the bundle is being verified and warmed up: wait for /readyz"

logger = logging.getLogger("bentoml.visionloop")


class Answer(BaseModel):
    """One image's prediction; ``probabilities`` are calibrated, the top k, largest first."""

    request_id: str
    label: str
    probabilities: dict[str, float]
    abstain: bool
    model: str


class Problem(BaseModel):
    """Why there is no prediction: a stable word and a sentence."""

    error: str
    detail: str


class Model(BaseModel):
    """The bundle that answers; ``champion`` is whom the registry names now, ``since`` when it was moved there."""

    digest: str
    classes: list[str]
    strategy: str
    backbone: str
    preprocessing: dict[str, Any]
    fingerprint: str
    format: str
    champion: str | None
    since: str | None
    abstain_below: float
    log_mode: str


_IMAGE = {"type": "string", "format": "binary"}
_BODY = {
    "required": True,
    "content": {
        **{name: {"schema": _IMAGE} for name in ("image/jpeg", "image/png", "application/octet-stream")},
        "multipart/form-data": {
            "schema": {"type": "object", "required": ["image"], "properties": {"image": _IMAGE}}
        },
    },
}
_TAG = {"required": False, "schema": {"type": "string", "maxLength": SOURCE_LENGTH}}
_PARAMETERS = [
    {"name": "source", "in": "query", "description": "a tag for the log: which camera, which line", **_TAG},
    {"name": "X-Source", "in": "header", "description": "the same as a header, which wins", **_TAG},
]
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "a broken or truncated image"},
    401: {"model": Problem, "description": "no or another bearer token (only where one is set)"},
    413: {"model": Problem, "description": "too many bytes or pixels"},
    415: {"model": Problem, "description": "neither JPEG, PNG, WebP, BMP nor TIFF by its content"},
    422: {"model": Problem, "description": "no image in the request, or an unusable tag"},
    429: {"model": Problem, "description": "too many requests at once; Retry-After says when"},
    503: {"model": Problem, "description": "not ready yet, or the prediction log can't be written"},
}

app = FastAPI(
    title="visionloop classifier",
    description="Answers with the champion. Formats by content: JPEG, PNG, WebP, BMP, TIFF.",
    docs_url=None,  # its page loads scripts from elsewhere; BentoML's own, at /, does not
    redoc_url=None,
)
app.state.in_flight = 0


@app.post(
    "/v1/predict",
    response_model=Answer,
    responses=_REFUSALS,
    openapi_extra={"requestBody": _BODY, "parameters": _PARAMETERS},
)
async def predict(request: Request) -> Response:
    """Classify one image: its bytes as the body, or as the multipart field `image`."""
    started = time.perf_counter()
    status = 500
    try:
        response = await _predict(request)
        status = response.status_code
    except Refusal as refusal:
        status = refusal.status
        raise
    except ClientDisconnect:
        status = 499  # nobody is there to read it; the word is nginx's
        return Response(status_code=400)
    finally:
        metrics.REQUESTS.labels(status).inc()
        metrics.SECONDS.observe(time.perf_counter() - started)
    return response


async def _predict(request: Request) -> Response:
    engine: Engine = request.app.state.engine
    serve = engine.params.serve
    if request.app.state.in_flight >= serve.max_in_flight:
        raise Refusal(
            429,
            "too_many_requests",
            f"{serve.max_in_flight} requests are in flight (serve.max_in_flight)",
            {"Retry-After": "1"},
        )
    request.app.state.in_flight += 1
    try:
        if not await engine.until_ready():
            raise _unavailable("not_ready", _NOT_READY)
        source = _source(request)
        data = await image_bytes(request, serve.max_body_bytes)
        return JSONResponse(await engine.answer(data, source))
    except ImageError as error:
        raise Refusal(STATUS.get(error.reason, 400), error.reason, str(error)) from error
    except StateError as error:
        raise _unavailable(
            "log_unavailable" if engine.ready else "not_ready", f"{error}; no answer is given"
        ) from error
    finally:
        request.app.state.in_flight -= 1


@app.get("/v1/model", response_model=Model, responses={503: _REFUSALS[503]})
async def model(request: Request) -> Response:
    """Which bundle answers, and whether it still is the champion."""
    engine: Engine = request.app.state.engine
    if not await engine.until_ready():
        raise _unavailable("not_ready", _NOT_READY)
    return JSONResponse(await run_in_threadpool(_described, engine))


def _described(engine: Engine) -> dict[str, Any]:
    try:
        bundle = engine.loaded.bundle
    except StateError as error:
        raise _unavailable("not_ready", str(error)) from error
    try:
        champion = Registry(engine.place.registry).champion()
    except VisionloopError:
        champion = None  # a damaged pointer is release's and rollback's business
    same = champion is not None and champion.digest == bundle.digest
    return {
        "digest": bundle.digest,
        "classes": bundle.classes,
        "strategy": str(bundle.info.get("strategy", "")),
        "backbone": str(bundle.info.get("backbone", "")),
        "preprocessing": bundle.preprocessing.to_dict(),
        "fingerprint": bundle.info["fingerprint"],
        "format": bundle.form,
        "champion": champion.digest if champion else None,
        "since": champion.since if champion and same else None,
        "abstain_below": engine.params.serve.abstain_below,
        "log_mode": engine.params.log.mode,
    }


@app.get("/docs.json", include_in_schema=False)
def docs() -> Response:
    """Where BentoML's page at / looks for the description."""
    return JSONResponse(app.openapi())


def _source(request: Request) -> str | None:
    source = request.headers.get("x-source") or request.query_params.get("source")
    if source is not None and (len(source) > SOURCE_LENGTH or not source.isprintable()):
        raise Refusal(
            422, "unusable_source", f"the tag `source` must be printable, at most {SOURCE_LENGTH} characters"
        )
    return source or None


def _unavailable(error: str, detail: str) -> Refusal:
    return Refusal(503, error, detail, {"Retry-After": "5"})


def _problem(status: int, error: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": error, "detail": detail}, status_code=status, headers=headers)


@app.exception_handler(Refusal)
async def _refused(request: Request, refusal: Refusal) -> Response:
    return _problem(refusal.status, refusal.error, refusal.detail, refusal.headers)


@app.exception_handler(HTTPException)
async def _http(request: Request, error: HTTPException) -> Response:
    return _problem(error.status_code, "http", str(error.detail), dict(error.headers or {}))


@app.exception_handler(RequestValidationError)
async def _invalid(request: Request, error: RequestValidationError) -> Response:
    return _problem(422, "invalid_request", str(error))


@app.exception_handler(Exception)
async def _defect(request: Request, error: Exception) -> Response:
    return _problem(500, "internal", "an unexpected error: the server's log has it")


class TokenGuard:
    """ASGI middleware: where VISIONLOOP_TOKEN is set, everything but the probes asks for it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        secret = token()
        self._expected = f"Bearer {secret}".encode() if secret else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._expected is None or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if hmac.compare_digest(given, self._expected):
            await self._app(scope, receive, send)
            return
        answer = _problem(
            401, "unauthorized", "send `Authorization: Bearer <token>`", {"WWW-Authenticate": "Bearer"}
        )
        await answer(scope, receive, send)
