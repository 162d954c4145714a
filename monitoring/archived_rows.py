"""A row of the prediction log as a row of the archive's tables, and back, every field of it."""

import base64
import binascii
import io
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts import STATISTICS

NUMBERS = (*STATISTICS, "width", "height")
SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("time", pa.timestamp("us", "UTC")),
        ("image_id", pa.string()),
        ("label", pa.string()),
        ("abstain", pa.bool_()),
        ("probabilities", pa.map_(pa.string(), pa.float64())),
        ("embedding", pa.list_(pa.float16())),
        *((name, pa.float64()) for name in STATISTICS),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("source", pa.string()),
        ("kept", pa.string()),
        ("seconds", pa.float64()),
        ("offset", pa.int64()),  # of the row's line in its segment
        ("extra", pa.string()),  # JSON of what else the row held; null: nothing
    ]
)
COLUMNS = {*SCHEMA.names, "statistics", "model"} - {"offset", "extra", *NUMBERS}
"""Fields of a row that have columns, or a partition, of their own."""
_BROKEN = (KeyError, TypeError, ValueError, AttributeError, OverflowError, binascii.Error)


def typed(row: dict[str, Any], offset: int) -> dict[str, Any] | None:
    """A log row as the archive has it, or None where a field is not what the log's contract says."""
    try:
        time = datetime.fromisoformat(row["time"])
        statistics = dict(row["statistics"])
        extra = {name: value for name, value in row.items() if name not in COLUMNS}
        found = {
            "request_id": _text(str(row["request_id"])),
            "time": time if time.tzinfo else time.replace(tzinfo=UTC),
            "abstain": bool(row["abstain"]),
            "probabilities": [(_text(name), float(value)) for name, value in row["probabilities"].items()],
            "embedding": np.frombuffer(base64.b64decode(row["embedding"], validate=True), "<f2"),
            "seconds": float(row["seconds"]),
            "offset": offset,
            **{name: _text(row[name]) for name in ("image_id", "label", "source", "kept")},
            **{name: float(statistics.pop(name)) for name in STATISTICS if name in statistics},
            **{
                name: int(np.int32(statistics.pop(name)))
                for name in ("width", "height")
                if name in statistics
            },
        }
        extra |= {"statistics": statistics} if statistics else {}
        return found | {"extra": json.dumps(extra) if extra else None}
    except _BROKEN:
        return None


def _text(value: Any) -> str | None:
    """Raises UnicodeEncodeError where it is no text that a table could hold."""
    text = None if value is None else str(value)
    return text if text is None else text.encode().decode()


def parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    """A Parquet file of rows as ``typed`` gives them."""
    columns = {name: [row.get(name) for row in rows] for name in SCHEMA.names if name != "embedding"}
    sizes = np.cumsum([0, *(len(row["embedding"]) for row in rows)], dtype=np.int32)
    values = np.concatenate([row["embedding"] for row in rows]) if rows else np.zeros(0, np.float16)
    arrays = {name: pa.array(values, SCHEMA.field(name).type) for name, values in columns.items()}
    arrays["embedding"] = pa.ListArray.from_arrays(pa.array(sizes), pa.array(values.astype(np.float16)))
    return encoded(pa.table([arrays[name] for name in SCHEMA.names], schema=SCHEMA))


def encoded(table: pa.Table) -> bytes:
    """A Parquet file of the table."""
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def rows_of(table: pa.Table, model: str) -> Iterator[dict[str, Any]]:
    """The rows of ``model`` as the log had them, and ``offset``."""
    embeddings = table.column("embedding").combine_chunks()
    flat, ends = embeddings.values.to_numpy(zero_copy_only=False), embeddings.offsets.to_numpy()
    for index, entry in enumerate(table.drop_columns(["embedding"]).to_pylist()):
        extra = json.loads(entry.pop("extra") or "{}")
        numbers = {name: value for name in NUMBERS if (value := entry.pop(name)) is not None}
        vector = flat[ends[index] : ends[index + 1]].astype("<f2").tobytes()
        yield (
            entry
            | extra
            | {
                "model": model,
                "time": entry["time"].isoformat(timespec="microseconds"),
                "probabilities": dict(entry["probabilities"]),
                "embedding": base64.b64encode(vector).decode("ascii"),
                "statistics": numbers | extra.get("statistics", {}),
            }
        )
