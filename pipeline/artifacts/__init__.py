"""What is on disk: where everything lies, in which shape, and how it is written.

A stage is a function between values; this package owns the places. Its names are the contract between stages, service
and monitoring, and are imported from here.
"""

from pipeline.artifacts.files import (
    atomic_path,
    digest_file,
    digest_json,
    read_json,
    read_table,
    safe_cell,
    sync_folder,
    write_json,
    write_table,
    write_text,
)
from pipeline.artifacts.gauges import GAUGES
from pipeline.artifacts.log_rows import (
    LOG_FIELDS,
    decode_embedding,
    decode_log_line,
    encode_embedding,
    encode_log_row,
)
from pipeline.artifacts.schemas import (
    MANIFEST,
    PREDICTIONS,
    REFERENCE,
    REFERENCES,
    SPLIT,
    STATISTICS,
    STRESS,
    STRESS_TABLE,
)
from pipeline.artifacts.workspace import Workspace

__all__ = [
    "GAUGES",
    "LOG_FIELDS",
    "MANIFEST",
    "PREDICTIONS",
    "REFERENCE",
    "REFERENCES",
    "SPLIT",
    "STATISTICS",
    "STRESS",
    "STRESS_TABLE",
    "Workspace",
    "atomic_path",
    "decode_embedding",
    "decode_log_line",
    "digest_file",
    "digest_json",
    "encode_embedding",
    "encode_log_row",
    "read_json",
    "read_table",
    "safe_cell",
    "sync_folder",
    "write_json",
    "write_table",
    "write_text",
]
