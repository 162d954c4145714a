"""What a source holds: the images below a folder per class, or the rows of a CSV or Parquet table.

Nothing is decoded here. Names are carried as inert text: a class called ``../x`` or ``=cmd()`` is a
string in a column, never a path and never a formula. What would read outside the source is refused: a
symbolic link that leaves it, a table's path that climbs out by ``..``.
"""

import csv
import difflib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError

__all__ = ["SUFFIXES", "Entry", "Listing", "list_source", "read_rows"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_TABLES = (".csv", ".parquet")
_NAMED = 5  # offenders named in a message


@dataclass(frozen=True, slots=True)
class Entry:
    """One labelled file; ``relative`` is its path below the source's root, with forward slashes."""

    relative: str
    label: str
    group: str | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A source's root, its entries sorted by path, and how many files were passed over, by kind."""

    root: Path
    entries: list[Entry]
    ignored: Counter[str] = field(default_factory=Counter)


def list_source(path: Path) -> Listing:
    """The labelled files of a source.

    Raises:
        DataError: the source does not exist, is empty or not laid out as one; a class has no image; a
            link or a path leaves the source; a table lacks a column or names a path twice.
    """
    if path.is_dir():
        listing = _list_folder(path)
    elif not path.exists():
        raise DataError(
            f"the source {path} does not exist: put the images there, or change data.sources in params.yaml"
        )
    elif path.suffix.lower() in _TABLES:
        listing = _list_table(path)
    else:
        raise DataError(
            f"the source {path} is neither a folder of classes nor a {' or '.join(_TABLES)} table"
        )
    for entry in listing.entries:
        if not _encodable(entry.relative):
            raise DataError(f"{listing.root}: the file name {entry.relative!r} is not UTF-8; rename it")
    listing.entries.sort(key=lambda entry: entry.relative)
    return listing


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _list_folder(root: Path) -> Listing:
    ignored: Counter[str] = Counter()
    found: dict[str, list[Entry]] = {}
    loose: list[str] = []
    for item in _scan(root):
        if item.name.startswith("."):
            ignored["hidden"] += 1
        elif _inside(item, root) and item.is_dir():
            if item.is_symlink():
                ignored["link to a folder"] += 1
                continue
            found[item.name] = [Entry(relative, item.name) for relative in _images(item.path, root, ignored)]
        elif item.name.lower().endswith(SUFFIXES):
            loose.append(item.name)
        else:
            ignored["not an image by name"] += 1
    if loose:
        raise DataError(
            f"{root}: {len(loose)} images lie in the source's root ({_some(loose)}), where they have no label: "
            "move each into its class's folder"
        )
    if not found:
        raise DataError(
            f"the source {root} is empty: it holds no folder of a class; expected {root}/<class>/<image>"
        )
    empty = sorted(label for label, entries in found.items() if not entries)
    if empty:
        raise DataError(
            f"{root}: {len(empty)} of {len(found)} classes have no image ({_some(empty)}): add images "
            f"({', '.join(SUFFIXES)}) or remove the folder"
        )
    return Listing(root, [entry for entries in found.values() for entry in entries], ignored)


def _scan(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as items:
            return list(items)
    except OSError as error:
        raise DataError(f"the folder {folder} can't be read: {error.strerror}") from error


def _images(folder: str, root: Path, ignored: Counter[str]) -> Iterator[str]:
    """Paths below ``root`` of the images in ``folder``, which was found there, and the folders in it."""
    pending, below = [folder], len(os.path.join(root, ""))  # noqa: PTH118
    while pending:
        for item in _scan(pending.pop()):
            if item.name.startswith("."):
                ignored["hidden"] += 1
            elif not _inside(item, root):
                continue
            elif item.is_dir():
                if item.is_symlink():  # it may lead round in a circle
                    ignored["link to a folder"] += 1
                else:
                    pending.append(item.path)
            elif not item.name.lower().endswith(SUFFIXES):
                ignored["not an image by name"] += 1
            elif item.is_symlink() or item.is_file():
                yield item.path[below:]
            else:  # a pipe or a device, which could keep a reader waiting for ever
                ignored["not a regular file"] += 1


def _inside(item: os.DirEntry[str], root: Path) -> bool:
    """True; a link that leaves the source raises."""
    if item.is_symlink():
        target = Path(item.path).resolve()
        if not target.is_relative_to(root.resolve()):
            raise DataError(
                f"the symbolic link {item.path} leaves the source {root} (it leads to {target}): "
                "copy the file into the source, or name its folder as a source of its own"
            )
    return True


def _some(names: list[str]) -> str:
    """Up to five names, quoted so that control characters and quotes stay visible."""
    shown = ", ".join(repr(name) for name in sorted(names)[:_NAMED])
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _list_table(path: Path) -> Listing:
    root = path.parent
    entries: list[Entry] = []
    lines: dict[str, int] = {}
    for line, row in read_rows(path, ("path", "label")):
        relative = _contained(path, line, row["path"])
        if relative in lines:
            raise DataError(
                f"{path}: row {line} names {relative!r} again, after row {lines[relative]}: keep one of them"
            )
        lines[relative] = line
        entries.append(Entry(relative, row["label"], row.get("group") or None, row.get("split") or None))
    if not entries:
        raise DataError(f"the source {path} is empty: it has no rows")
    if not any((root / entry.relative).exists() for entry in entries):
        raise DataError(
            f"{path}: none of its {len(entries)} paths exists below {root} (the first: {entries[0].relative!r}); "
            "paths are relative to the table's folder"
        )
    return Listing(root, entries)


def _contained(table: Path, line: int, text: str) -> str:
    """The path of a row, normalised, which must stay below the table's folder, links included."""
    root = table.parent
    try:
        real = (root / text).resolve()
    except (OSError, ValueError) as error:  # a NUL, a name too long, a circle of links
        raise DataError(f"{table}: row {line}: {text!r} is not a path ({error})") from error
    if not text or not real.is_relative_to(root.resolve()):
        raise DataError(
            f"{table}: row {line}: the path {text!r} leaves the table's folder {root}: move the table above its images"
        )
    plain = Path(os.path.normpath(root / text))
    return PurePosixPath(os.path.relpath(plain, root)).as_posix()


def read_rows(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(row number, columns as text) of a CSV or Parquet table; a null is an empty text.

    Raises:
        DataError: the file can't be read as such a table, or a required column is missing.
    """
    rows = _parquet_rows(path, required) if path.suffix.lower() == ".parquet" else _csv_rows(path, required)
    for line, row in rows:
        yield line, {name: "" if value is None else str(value) for name, value in row.items()}


def _parquet_rows(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a Parquet table: {error}") from error
    _check_columns(path, table.column_names, required)
    yield from enumerate(table.to_pylist(), start=1)


def _csv_rows(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row numbers are the file's line numbers, the header's is 1."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            names = reader.fieldnames
            if names is None:
                raise DataError(f"{path} is empty: expected a header with {', '.join(required)}")
            _check_columns(path, list(names), required)
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(
                        f"{path}: row {reader.line_num} has not the {len(names)} columns of the header"
                    )
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV in UTF-8: {error}") from error


def _check_columns(path: Path, names: list[str], required: tuple[str, ...]) -> None:
    for name in required:
        if name not in names:
            near = difflib.get_close_matches(name, [str(n) for n in names], n=1)
            hint = f"; did you mean {near[0]!r} to be {name!r}?" if near else ""
            raise DataError(f"{path} lacks the column {name!r}; it has {', '.join(map(repr, names))}{hint}")
