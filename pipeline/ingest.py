"""Labelled images to one manifest: every file read, hashed and decoded once, on all cores.

    python -m pipeline scan line-a      # one source → artifacts/sources/line-a.parquet
    python -m pipeline ingest           # all sources + data/labels.csv → artifacts/manifest.parquet

A file that is as it was at the last scan is not read again (unchanged.py).

A file that can't be decoded becomes a row with its error; it stops nothing here, `validate` judges it.

Groups: an id found by ``data.group_pattern``, or a table's ``group`` column, is prefixed with the domain
(``line-a/part-0012``), since numbering usually starts anew with each source: part 12 of one line is not
part 12 of another. Labels that came back count to their domain in the same way. Images without such an
id are a group of their own, named by image_id, so identical files share it wherever they lie.
"""

import difflib
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.artifacts import MANIFEST, Workspace, digest_json, read_table, write_table
from pipeline.errors import DataError, IntegrityError
from pipeline.examine import examine
from pipeline.examined import EXAMINED, version
from pipeline.params import Data, Params, Source
from pipeline.sources import Listing, list_source, read_rows
from pipeline.unchanged import recall, remember, stamp_of

__all__ = ["labelled", "run", "scan", "scan_stage"]

SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
LABEL_COLUMNS = ("image_id", "path", "label", "domain", "group", "split", "labelled_by", "time")


def scan_stage(workspace: Workspace, params: Params, domain: str) -> int:
    """Scan the source of ``domain`` and write its table; 0."""
    known = {source.domain: source for source in params.data.sources}
    if domain not in known:
        near = difflib.get_close_matches(domain, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
        raise DataError(f"params.yaml has no source of the domain {domain!r} under data.sources; {hint}")
    write_table(_source_table(workspace, domain), scan(workspace, params, known[domain]))
    return 0


def run(workspace: Workspace, params: Params) -> int:
    """Join the scanned sources, scanning those that are not, and the labels that came back; 0."""
    tables = []
    for source in params.data.sources:
        if not _source_table(workspace, source.domain).exists():
            scan_stage(workspace, params, source.domain)
        tables.append(read_table(_source_table(workspace, source.domain), MANIFEST))
    tables.append(labelled(workspace, params.data))
    manifest = pa.concat_tables(tables).sort_by("path")
    _check_once(manifest)
    write_table(workspace.manifest, manifest)
    broken = manifest.num_rows - manifest["error"].null_count
    official = manifest.num_rows - manifest["split"].null_count
    print(
        f"ingest: {manifest.num_rows:,} images of {len(manifest['label'].unique())} classes in "
        f"{len(manifest['domain'].unique())} domains, {len(manifest['group'].unique()):,} groups, "
        f"{official:,} with an official split, {tables[-1].num_rows:,} labelled in production, "
        f"{broken:,} not decodable"
    )
    return 0


def _source_table(workspace: Workspace, domain: str) -> Path:
    return workspace.sources / f"{domain}.parquet"


def scan(workspace: Workspace, params: Params, source: Source) -> pa.Table:
    """One source as a table of the MANIFEST schema, sorted by path.

    Raises:
        DataError: the source is missing, empty or not laid out as one (see ``sources.list_source``), or a
            split has another name than train, val, validation or test.
    """
    listing = list_source(workspace.root / source.path)
    groups = _groups(listing, params.data.group_pattern)
    splits = _splits(listing, params.split.pattern)
    files = [f"{listing.root}/{entry.relative}" for entry in listing.entries]
    measured = _examine(workspace, files, params.data, title=f"scan {source.domain}")
    prefix = "" if (place := workspace.relative(listing.root)) == "." else f"{place}/"
    ids = measured["image_id"].to_pylist()
    table = _manifest(
        measured,
        path=[f"{prefix}{entry.relative}" for entry in listing.entries],
        label=[entry.label for entry in listing.entries],
        domain=[source.domain] * len(ids),
        group=[
            _group_id(source.domain, group, image_id) for group, image_id in zip(groups, ids, strict=True)
        ],
        split=splits,
    )
    _report(source, listing, table, groups, params)
    return table


def _manifest(measured: pa.Table, **columns: list[Any]) -> pa.Table:
    """The MANIFEST of EXAMINED rows and the other columns; column by column, since rows may be many."""
    arrays = {
        name: pa.chunked_array([pa.array(values, MANIFEST.field(name).type)])
        for name, values in columns.items()
    }
    return pa.table([arrays[n] if n in arrays else measured[n] for n in MANIFEST.names], schema=MANIFEST)


def _examine(workspace: Workspace, files: list[str], data: Data, *, title: str) -> pa.Table:
    """EXAMINED of each file; reads only those that are not as they were when they were last examined."""
    checkout = digest_json(str(workspace.root))[
        :12
    ]  # an experiment has copies of the files, in a folder of its own
    place = workspace.cache / "examined" / f"{title.replace(' ', '-')}-{checkout}.parquet"
    memory, started = recall(place, EXAMINED, version(data)), time.time_ns()
    stamps = [stamp_of(file) for file in files]
    known = [memory.known(file, found) for file, found in zip(files, stamps, strict=True)]
    fresh = [file for file, row in zip(files, known, strict=True) if row is None]
    parts = [pa.Table.from_pylist(part, schema=EXAMINED) for part in examine(fresh, data, title=title)]
    table = memory.joined(known, pa.concat_tables([EXAMINED.empty_table(), *parts]))
    if len(fresh) < len(files):
        print(f"{title}: {len(fresh):,} of {len(files):,} files are new or changed")
    if fresh or len(files) != len(memory.places):
        # A file that had another size when it was read changed meanwhile.
        same = [
            found if found is not None and found[0] == size else None
            for found, size in zip(stamps, table["bytes"].to_pylist(), strict=True)
        ]
        remember(place, files, same, table, version(data), started)
    return table


def _groups(listing: Listing, pattern: str | None) -> list[str | None]:
    """Each entry's group: the table's, else the pattern's first group in the path, else None."""
    search = re.compile(pattern).search if pattern else lambda _: None
    found = []
    for entry in listing.entries:
        match = search(entry.relative)
        found.append(entry.group or (match[1] if match else None))
    return found


def _splits(listing: Listing, pattern: str | None) -> list[str | None]:
    """Each entry's official split: the table's, else the pattern's first group in the path, else None."""
    search = re.compile(pattern).search if pattern else lambda _: None
    found = []
    for entry in listing.entries:
        match = search(entry.relative)
        word = entry.split or (match[1] if match else None)
        if word and word not in SPLITS:
            raise DataError(
                f"{listing.root}: the split of {entry.relative!r} is {word!r}; it must be one of {', '.join(SPLITS)}: "
                "mend the table, or split.pattern in params.yaml"
            )
        found.append(SPLITS[word] if word else None)
    return found


def _group_id(domain: str, group: str | None, image_id: str) -> str:
    if not group or group == image_id:
        return image_id
    return group if group.startswith(f"{domain}/") else f"{domain}/{group}"


def _report(
    source: Source, listing: Listing, table: pa.Table, groups: list[str | None], params: Params
) -> None:
    broken = Counter(error.split(":")[0] for error in table["error"].to_pylist() if error)
    print(
        f"scan {source.domain}: {table.num_rows:,} images of {len(table['label'].unique())} classes in "
        f"{len(table['group'].unique()):,} groups"
    )
    for what, counts in (("passed over", listing.ignored), ("not decodable", broken)):
        if counts:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
            print(f"scan {source.domain}: {sum(counts.values()):,} files {what}: {kinds}")
    if params.data.group_pattern and not any(groups):
        print(
            f"scan {source.domain}: data.group_pattern {params.data.group_pattern!r} matches no path, for example "
            f"{listing.entries[0].relative!r}; each image is its own group",
            file=sys.stderr,
        )


def labelled(workspace: Workspace, data: Data) -> pa.Table:
    """The images of data/labels.csv as a table of the MANIFEST schema; empty where there is no such file.

    Raises:
        DataError: a row is not well formed or its image is missing.
        IntegrityError: an image is not the one that was labelled.
    """
    if not workspace.labels.exists():
        return MANIFEST.empty_table()
    rows = list(_label_rows(workspace))
    missing = [row["path"] for row in rows if not (workspace.root / row["path"]).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(rows)} images of {workspace.relative(workspace.labels)} are missing, the first "
            f"{missing[0]}: run `dvc pull data/labelled.dvc`"
        )
    measured = _examine(
        workspace, [str(workspace.root / row["path"]) for row in rows], data, title="labelled"
    )
    for row, image_id in zip(rows, measured["image_id"].to_pylist(), strict=True):
        if image_id != row["image_id"]:
            raise IntegrityError(
                f"{row['path']} is not the image that was labelled: its sha256 is {image_id[:12]}…, "
                f"data/labels.csv says {row['image_id'][:12]}…; run `dvc checkout data/labelled.dvc`"
            )
    return _manifest(
        measured,
        **{name: [row[name] for row in rows] for name in ("path", "label", "domain")},
        group=[_group_id(row["domain"], row["group"], row["image_id"]) for row in rows],
        split=[row["split"] or None for row in rows],
    )


def _label_rows(workspace: Workspace) -> Iterator[dict[str, str]]:
    lines: dict[str, int] = {}
    folder = workspace.labelled.resolve()
    for line, row in read_rows(workspace.labels, LABEL_COLUMNS):
        where = f"{workspace.relative(workspace.labels)}: row {line}"
        if row["image_id"] in lines:
            raise DataError(
                f"{where} labels the image of row {lines[row['image_id']]} again: keep one of them"
            )
        lines[row["image_id"]] = line
        if "\0" in row["path"] or not (workspace.root / row["path"]).resolve().is_relative_to(folder):
            raise DataError(
                f"{where}: the path {row['path']!r} leaves {workspace.relative(workspace.labelled)}"
            )
        if row["split"] not in ("", "train", "validation", "test"):
            raise DataError(f"{where}: the split {row['split']!r} must be train, validation, test or empty")
        yield row


def _check_once(manifest: pa.Table) -> None:
    """``manifest``, sorted by path, names no file twice: sources must not overlap."""
    paths = manifest["path"].to_pylist()
    for index in range(1, len(paths)):
        if paths[index] == paths[index - 1]:
            one, other = manifest["domain"][index - 1].as_py(), manifest["domain"][index].as_py()
            raise DataError(
                f"{paths[index]!r} belongs to two sources, {one} and {other}: let the paths under data.sources not overlap"
            )
