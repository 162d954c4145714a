"""Where everything lies on disk, in which shape, and how it is written.

A stage is a function between values; this module owns the places. Writes are atomic: a temporary
file in the same folder, fsync, rename, fsync of the folder. A reader sees the old file or the new one.
"""

import base64
import contextlib
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError

MANIFEST = pa.schema(
    [
        ("image_id", pa.string()),  # sha256 of the file's bytes, hex
        ("path", pa.string()),  # relative to the workspace where it lies inside it, else absolute
        ("label", pa.string()),
        ("domain", pa.string()),
        ("group", pa.string()),  # never null: the image's own id where no pattern gives one
        ("split", pa.string()),  # the official split (train | validation | test), null where there is none
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),
        ("format", pa.string()),
        ("orientation", pa.int8()),  # EXIF's, 1 to 8; 1 where there is none
        ("bits", pa.int8()),  # a channel or palette index, as stored
        ("bytes", pa.int64()),
        ("dhash", pa.string()),  # 256-bit difference hash, 64 hex digits
        ("thumbnail", pa.binary()),  # 16 x 16 luma, row by row: confirms what near hashes suggest
        ("border", pa.binary()),  # 4 x 16 RGB cells around the outermost edge: edges.py
        ("corners", pa.binary()),  # 4 x 4 x 4 RGB cells: edges.py
        ("brightness", pa.float32()),  # mean luma, 0 to 1
        ("contrast", pa.float32()),  # standard deviation of luma, 0 to 1
        ("sharpness", pa.float32()),  # log10 of 1 + variance of the Laplacian of luma in 0..255
        ("saturation", pa.float32()),  # mean of (max - min) / max over the channels, 0 to 1
        ("error", pa.string()),  # null where the image decoded
    ]
)
SPLIT = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("label", pa.string()),
        ("domain", pa.string()),
        ("group", pa.string()),  # after near-duplicates have joined one group
        ("split", pa.string()),  # train | validation | test | excluded
        ("reason", pa.string()),  # official | kept | assigned | joined | conflict | undecodable | duplicate
    ]
)
PREDICTIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("label", pa.string()),
        ("domain", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("predicted", pa.string()),
        ("confidence", pa.float32()),
        ("correct", pa.bool_()),
        ("probabilities", pa.list_(pa.float32())),  # calibrated, in the order of the bundle's classes
    ]
)
STRESS = pa.schema(
    [
        ("bundle", pa.string()),  # digest
        ("image_id", pa.string()),  # null for an image that was made
        ("kind", pa.string()),  # corruption | foreign
        ("name", pa.string()),  # of the corruption, clean, or the kind of foreign image
        ("severity", pa.int8()),  # 0 where there is none
        ("predicted", pa.string()),
        ("confidence", pa.float32()),
        ("correct", pa.bool_()),  # null where there is no right class
    ]
)
REFERENCE = pa.schema(
    [
        ("image_id", pa.string()),
        ("domain", pa.string()),
        ("group", pa.string()),  # as in the split: near-alike shots count once in a drift test
        ("label", pa.string()),
        ("predicted", pa.string()),
        ("probabilities", pa.list_(pa.float32())),
        ("embedding", pa.list_(pa.float32())),
        ("brightness", pa.float32()),
        ("contrast", pa.float32()),
        ("sharpness", pa.float32()),
        ("saturation", pa.float32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        (
            "look",
            pa.list_(pa.float32()),
        ),  # pipeline.look's LOOKS; null where not measured: of many images, a few hundred are
        ("thumbnail", pa.binary()),  # JPEG, 96 px, for contact sheets beside production images
    ]
)
STRESS_TABLE = "artifacts/stress.parquet"  # below the workspace, and in a recipe
# The file of that shape in a bundle, by serve.format: each network has embeddings of its own.
REFERENCES = {"onnx": "reference.parquet", "int8": "reference.int8.parquet"}
STATISTICS = ("brightness", "contrast", "sharpness", "saturation")


@dataclass(frozen=True)
class Workspace:
    """Every path that visionloop reads or writes, below ``root`` (derived) and ``home`` (state)."""

    root: Path
    home: Path

    @classmethod
    def here(cls) -> "Workspace":
        """The current folder, with state under ``VISIONLOOP_HOME`` (default: ``var/``).

        A queued experiment runs in a copy of the checkout, but with the checkout's own state: the caches
        of views and features, and the champion that the copy's champion-pin.json names.
        """
        root = Path.cwd()
        return cls(root, _checkout(root) / (os.environ.get("VISIONLOOP_HOME") or "var"))

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def sources(self) -> Path:
        return self.root / "artifacts/sources"

    @property
    def labels(self) -> Path:
        return self.root / "data/labels.csv"

    @property
    def labelled(self) -> Path:
        return self.root / "data/labelled"

    @property
    def assignments(self) -> Path:
        return self.root / "data/assignments.csv"

    @property
    def expectations(self) -> Path:
        return self.root / "data/expectations.json"

    @property
    def class_statistics(self) -> Path:
        return self.root / "reports/class_statistics.csv"

    @property
    def manifest(self) -> Path:
        return self.root / "artifacts/manifest.parquet"

    @property
    def validation(self) -> Path:
        return self.root / "reports/validation.json"

    @property
    def data_docs(self) -> Path:
        return self.root / "reports/data_docs"

    @property
    def split(self) -> Path:
        return self.root / "artifacts/split.parquet"

    @property
    def balance(self) -> Path:
        return self.root / "artifacts/balance.json"

    @property
    def checkpoint(self) -> Path:
        return self.root / "artifacts/checkpoint"

    @property
    def unfinished(self) -> Path:
        """What a training that was killed goes on from: not in ``home``, which experiments share."""
        return self.root / "artifacts/unfinished"

    @property
    def bundle(self) -> Path:
        return self.root / "artifacts/bundle"

    @property
    def leak(self) -> Path:
        return self.root / "artifacts/leak.json"

    @property
    def predictions(self) -> Path:
        return self.root / "artifacts/predictions.parquet"

    @property
    def champion_predictions(self) -> Path:
        return self.root / "artifacts/champion_predictions.parquet"

    @property
    def stress(self) -> Path:
        return self.root / STRESS_TABLE

    @property
    def performance(self) -> Path:
        return self.root / "reports/performance.json"

    @property
    def peeks(self) -> Path:
        return self.home / "peeks.json"

    @property
    def metrics(self) -> Path:
        return self.root / "reports/metrics.json"

    @property
    def curves(self) -> Path:
        return self.root / "reports/dvclive"

    @property
    def training(self) -> Path:
        return self.root / "reports/training.json"

    @property
    def plots(self) -> Path:
        return self.root / "reports/plots"

    @property
    def selection(self) -> Path:
        return self.root / "reports/select.json"

    @property
    def suspects(self) -> Path:
        return self.root / "reports/suspects.csv"

    @property
    def suspects_page(self) -> Path:
        return self.root / "reports/suspects.html"

    @property
    def compression(self) -> Path:
        return self.root / "reports/compression.csv"

    @property
    def replay(self) -> Path:
        return self.root / "reports/replay.json"

    @property
    def verdict(self) -> Path:
        return self.root / "reports/verdict.json"

    @property
    def verdict_page(self) -> Path:
        return self.root / "reports/verdict.html"

    @property
    def champion_pin(self) -> Path:
        return self.root / "champion-pin.json"

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def registry(self) -> Path:
        return self.home / "registry"

    @property
    def log(self) -> Path:
        return self.home / "log"

    @property
    def journal(self) -> Path:
        return self.home / "journal.sqlite"

    @property
    def queue(self) -> Path:
        return self.home / "queue"

    @property
    def shadow_request(self) -> Path:
        return self.home / "shadow.json"

    @property
    def shadow(self) -> Path:
        return self.home / "shadow"

    @property
    def evidently(self) -> Path:
        return self.home / "evidently"

    @property
    def monitoring(self) -> Path:
        """index.html, and a folder of evidence for each episode."""
        return self.home / "monitoring"

    @property
    def gauges(self) -> Path:
        """What the watch last saw, for the service's /metrics: see ``GAUGES``."""
        return self.monitoring / "metrics.json"

    def relative(self, path: Path) -> str:
        """``path`` as a table names it: relative where it lies in the workspace, else absolute."""
        try:
            return path.absolute().relative_to(self.root.absolute()).as_posix()
        except ValueError:
            return path.absolute().as_posix()


def _checkout(root: Path) -> Path:
    """Where ``root`` was copied from, if DVC made it for an experiment; else ``root``.

    DVC_ROOT is DVC's name, for a stage, of the checkout that the experiment belongs to.
    """
    origin = Path(os.environ.get("DVC_ROOT") or root).resolve()
    return origin if root.is_relative_to(origin / ".dvc/tmp/exps") else root


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


# What the watch writes for the service's /metrics, which share nothing else: ``monitoring/metrics.json``.
# Every key is there; what is not known is null. An interval is {"value", "low", "high"}, 95 %.
GAUGES = (
    "time",  # of the wake-up, UTC, ISO 8601
    "champion",  # digest
    "decision",  # of the wake-up
    "log10_e",  # evidence after the last window, log10 of the e-value
    "log10_threshold",  # where the alarm is raised
    "mmd2",  # squared kernel MMD of the last window
    "images",  # in the last window
    "counts",  # label -> answers in the last window
    "abstained",  # answers of the last window
    "means",  # image statistic -> mean of the last window
    "seconds",  # {"p50", "p99"} of the last window
    "estimated",  # accuracy, an interval
    "labelled",  # accuracy on labelled images that were drawn at random, an interval
    "labels",  # behind it
    "episode",  # {"id", "state"} of the open one
)


# The prediction log: ``log/<UTC date>/<writer>-<sequence>.log``; one row a line, written by the service
# and read by monitoring, which share nothing else. A line is ``crc32-hex SPACE json``: a torn tail is
# recognised and dropped. Times are UTC, ISO 8601; the embedding is float16, little endian, base64.
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
