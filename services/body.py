"""One image's bytes out of a request: the body itself or a multipart field, within a limit either way."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

ENVELOPE_BYTES = 65_536  # of a multipart body around the image: boundaries, headers, small fields
DRAIN_SECONDS = 2.0
DRAIN_BYTES = 67_108_864


class Refusal(Exception):  # noqa: N818  (an answer to the client, not a defect)
    """A request that gets no prediction: HTTP status, a stable word, a sentence."""

    def __init__(self, status: int, error: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.error, self.detail, self.headers = status, error, detail, headers or {}


async def image_bytes(request: Request, limit: int) -> bytes:
    """The image that the request carries.

    Raises:
        Refusal: 413 over ``limit`` bytes, declared or found; 422 where nothing is there; 400 for a
            multipart body that can't be read.
        ClientDisconnect: the client left before it had sent everything.
    """
    multipart = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    body = await _read(request, limit + ENVELOPE_BYTES if multipart else limit, limit)
    if not body:
        raise Refusal(
            422, "empty_body", "the body is empty: send one image's bytes, or multipart with a field `image`"
        )
    if not multipart:
        return body
    image = await _field(request, body)
    if len(image) > limit:
        raise _too_large(limit)
    if not image:
        raise Refusal(422, "empty_body", "the field `image` is empty: send one image's bytes in it")
    return image


async def _read(request: Request, most: int, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        if "expect" not in request.headers:  # a client that asks first has sent nothing yet
            await _drain(request)
        raise _too_large(limit)
    body = bytearray()
    stream = request.stream()
    async for chunk in stream:
        body += chunk
        if len(body) > most:  # chunked, or more than was declared
            del body
            await _drain(request, stream)
            raise _too_large(limit)
    return bytes(body)


async def _drain(request: Request, stream: AsyncGenerator[bytes, None] | None = None) -> None:
    """Let a client that is still sending finish, within bounds: only then does it read the answer."""
    read = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for chunk in stream or request.stream():
                read += len(chunk)
                if read > DRAIN_BYTES:
                    return


async def _field(request: Request, body: bytes) -> bytes:
    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, once(), max_files=1, max_fields=8, max_part_size=ENVELOPE_BYTES)
    parser.spool_max_size = len(body) + 1  # it is in memory already: no temporary file
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refusal(
            400, "broken_multipart", f"the multipart body can't be read: {error.message}"
        ) from error
    try:
        found = form.get("image")
        if not isinstance(found, UploadFile):
            raise Refusal(
                422, "missing_field", "multipart needs a file in the field `image`: curl -F image=@photo.jpg"
            )
        return await found.read()
    finally:
        await form.close()


def _too_large(limit: int) -> Refusal:
    return Refusal(
        413,
        "too_many_bytes",
        f"the image is over the limit of {limit:,} bytes (serve.max_body_bytes)",
        {"Connection": "close"},
    )
