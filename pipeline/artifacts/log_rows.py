"""The prediction log's rows: written by the service and read by monitoring, which share nothing else.

``log/<UTC date>/<writer>-<sequence>.log``; one row a line. A line is ``crc32-hex SPACE json``: a torn tail is
recognised and dropped. Times are UTC, ISO 8601; the embedding is float16, little endian, base64.
"""

import base64
import json
import zlib
from typing import Any

import numpy as np

LOG_FIELDS = (
    "request_id",
    "time",
    "model",
    "image_id",  # sha256 of the bytes as received
    "label",
    "abstain",
    "probabilities",
    "embedding",
    "statistics",  # brightness, contrast, sharpness, saturation, width, height
    "source",
    "kept",  # <xx>/<sha256 of the kept bytes>.<ext> under log/images/, which carry no metadata; null: not kept
    "seconds",
)


def encode_log_row(row: dict[str, Any]) -> bytes:
    """One line of the prediction log, newline included."""
    body = json.dumps(
        {name: row[name] for name in LOG_FIELDS}, separators=(",", ":"), ensure_ascii=True
    ).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def decode_log_line(line: bytes) -> dict[str, Any] | None:
    """The row of one line, or None where the line is torn or damaged."""
    if len(line) < 11 or not line.endswith(b"\n") or line[8:9] != b" ":
        return None
    body = line[9:-1]
    try:
        if int(line[:8], 16) != zlib.crc32(body):
            return None
        row = json.loads(body)
    except ValueError:
        return None
    return row if isinstance(row, dict) and row.keys() >= set(LOG_FIELDS) else None


def encode_embedding(embedding: np.ndarray) -> str:
    """(d,) floats as base64 of little-endian float16."""
    return base64.b64encode(np.asarray(embedding, dtype="<f2").tobytes()).decode("ascii")


def decode_embedding(text: str) -> np.ndarray:
    """Back to (d,) float32."""
    return np.frombuffer(base64.b64decode(text), dtype="<f2").astype(np.float32)
