"""What an S3 store does of its protocol that the archive needs, in one process on the loopback.

Objects, listings with a delimiter, ranges, uploads in parts. Signatures are not looked at.
"""

import email.utils
import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import BinaryIO, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from flows.listening import listening

__all__ = ["store"]


class Handler(BaseHTTPRequestHandler):
    """``objects``: "bucket/key" -> bytes; ``uploads``: those in parts, by id. Each store has a subclass of its own."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[dict[str, bytes]]
    uploads: ClassVar[dict[str, dict[int, bytes]]]
    lock: threading.Lock

    def _arrived(self) -> tuple[str, dict[str, str], bytes]:
        """The object's name, the query, the body."""
        parts = urlsplit(self.path)
        given = parse_qs(parts.query, keep_blank_values=True)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = _chunks(self.rfile)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            body = _chunks(io.BytesIO(body))
        return unquote(parts.path)[1:], {key: values[0] for key, values in given.items()}, body

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        sent = {"Content-Length": str(len(body))} | {
            key.replace("_", "-"): value for key, value in headers.items()
        }
        for key, value in sent.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self) -> None:
        self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>")

    def do_HEAD(self) -> None:
        name, _, _ = self._arrived()
        data = self.objects.get(name)
        if "/" not in name:
            self._answer(200)
        elif data is None:
            self._missing()
        else:
            self._answer(200, **_about(data) | {"Content_Length": str(len(data))})

    def do_GET(self) -> None:
        name, query, _ = self._arrived()
        if "list-type" in query:
            self._answer(200, self._listed(name, query), Content_Type="application/xml")
            return
        data = self.objects.get(name)
        if data is None:
            self._missing()
            return
        span = self.headers.get("Range")
        if span is None:
            self._answer(200, data, **_about(data))
            return
        first, last = span.removeprefix("bytes=").split("-")
        start, end = int(first), min(int(last), len(data) - 1)
        self._answer(
            206, data[start : end + 1], **_about(data), Content_Range=f"bytes {start}-{end}/{len(data)}"
        )

    def do_PUT(self) -> None:
        name, query, body = self._arrived()
        if "partNumber" in query:
            self.uploads[query["uploadId"]][int(query["partNumber"])] = body
        else:
            self.objects[name] = body
        self._answer(200, ETag=_about(body)["ETag"])

    def do_POST(self) -> None:
        name, query, _ = self._arrived()
        if "uploads" in query:
            with self.lock:
                upload = str(len(self.uploads))
                self.uploads[upload] = {}
            said = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
        else:
            parts = self.uploads[query["uploadId"]]
            self.objects[name] = b"".join(parts[number] for number in sorted(parts))
            said = f"<CompleteMultipartUploadResult><Key>{escape(name)}</Key></CompleteMultipartUploadResult>"
        self._answer(200, said.encode(), Content_Type="application/xml")

    def do_DELETE(self) -> None:
        name, _, _ = self._arrived()
        self.objects.pop(name, None)
        self._answer(204)

    def _listed(self, bucket: str, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        keys = [name.removeprefix(f"{bucket}/") for name in sorted(self.objects)]
        below = [key for key in keys if key.startswith(prefix)]
        folders = {
            prefix + key[len(prefix) :].split(delimiter)[0] + delimiter
            for key in below
            if delimiter and delimiter in key[len(prefix) :]
        }
        files = [key for key in below if not delimiter or delimiter not in key[len(prefix) :]]
        found = [
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.objects[f'{bucket}/{key}'])}</Size>"
            "<LastModified>2026-03-01T00:00:00.000Z</LastModified></Contents>"
            for key in files
        ]
        found += [
            f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders)
        ]
        count = f"<KeyCount>{len(found)}</KeyCount><IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult>{count}{''.join(found)}</ListBucketResult>".encode()

    def log_message(self, *_: object) -> None:
        pass


def _about(data: bytes) -> dict[str, str]:
    etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return {"ETag": f'"{etag}"', "Last_Modified": email.utils.formatdate(usegmt=True)}


def _chunks(stream: BinaryIO) -> bytes:
    """The data of a body in chunks, HTTP's or those of S3 within; trailers and signatures are not looked at."""
    found = []
    while size := int(stream.readline().split(b";")[0], 16):
        found.append(stream.read(size))
        stream.readline()
    while stream.readline().strip():
        pass
    return b"".join(found)


@contextmanager
def store() -> Iterator[tuple[str, type[Handler]]]:
    """``host:port`` of a store that is empty, and its state."""

    class Own(Handler):
        objects: ClassVar[dict[str, bytes]] = {}
        uploads: ClassVar[dict[str, dict[int, bytes]]] = {}
        lock = threading.Lock()

    with listening(Own) as url:
        yield url.removeprefix("http://"), Own
