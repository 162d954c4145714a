"""How files are written and read. Writes are atomic: a temporary file in the same folder, fsync, rename, fsync of the
folder. A reader sees the old file or the new one.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target`` that replaces it when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
        temporary.chmod(mode)
        temporary.replace(target)
        sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(target: Path, text: str) -> None:
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def safe_cell(text: str) -> str:
    """A cell of a CSV that people open: no spreadsheet must run a name; a leading apostrophe keeps it text."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def write_json(target: Path, value: Any) -> None:
    """Keys keep their order; NaN is refused, since JSON has none."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(source: Path) -> Any:
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{source} is missing: run `dvc repro` (or `dvc pull`) first") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{source} is not JSON ({error}): remove it and run `dvc repro`") from error


def write_table(target: Path, table: pa.Table) -> None:
    with atomic_path(target) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_table(source: Path, schema: pa.Schema) -> pa.Table:
    """The Parquet table at ``source``, its columns checked against ``schema``.

    Raises:
        DataError: the file is missing, damaged or of another shape.
    """
    try:
        table = pq.ParquetFile(source).read()  # read_table first imports pyarrow.dataset: .3 s and more
    except FileNotFoundError as error:
        raise DataError(f"{source} is missing: run `dvc repro` (or `dvc pull`) first") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{source} is damaged ({error}): remove it and run `dvc repro`") from error
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise DataError(f"{source} lacks the columns {missing}: it is of another version, run `dvc repro -f`")
    return table.select(schema.names).cast(schema)


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """sha256 of a value's canonical JSON, hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
