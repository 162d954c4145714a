"""Hash every object of DVC's cache that this workspace needs, and mend what is damaged.

    python -m pipeline cache

A damaged object is taken out of the cache, so that nothing is ever made from it, and put back from the workspace
or from the default remote, whichever still has it whole. A damaged file that was checked out of it goes too.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import Workspace, atomic_path
from pipeline.errors import IntegrityError
from pipeline.params import Params
from pipeline.stored import DIR, Out, md5_of, outs

READ_ONLY = 0o444  # DVC's own mode for its objects
NAMED = 5  # files in a message


@dataclass(frozen=True)
class Stored:
    """One object: its md5, the file of the workspace that it is, and the output that it belongs to."""

    md5: str
    path: str
    out: Out


def run(workspace: Workspace, params: Params) -> int:
    """0 where every object is whole, or could be mended; says what was.

    Raises:
        IntegrityError: no whole copy is left of something, which stays out of the cache; or a file of the
            workspace is not what is stored, which may be somebody's work and is left alone.
    """
    cache = _cache(workspace)
    mended: list[Stored] = []
    removed: list[Stored] = []
    # Twice: the files of a folder are known once its listing is whole.
    while damaged := {
        entry: found for entry in _objects(workspace, cache) if (found := _damage(cache, entry))
    }:
        removed += [entry for entry, found in damaged.items() if _take_out(workspace, cache, entry, found)]
        _fetch(workspace, [entry for entry in damaged if not _place(cache, entry.md5).exists()])
        _require_back(cache, list(damaged))
        mended += damaged
    for entry in removed:
        with atomic_path(workspace.root / entry.path) as temporary:
            shutil.copyfile(_place(cache, entry.md5), temporary)
    _require_as_stored(workspace, cache)
    count = len({entry.md5 for entry in _objects(workspace, cache)})
    names = ", ".join(entry.path for entry in mended[:NAMED])
    told = f"{len({entry.md5 for entry in mended})} damaged and mended: {names}" if mended else "all whole"
    print(f"cache: {count} objects in {cache} hashed, {told}", flush=True)
    return 0


def _require_back(cache: Path, damaged: list[Stored]) -> None:
    lost = [entry for entry in damaged if not _whole(cache, entry.md5)]
    for entry in lost:
        _place(cache, entry.md5).unlink(missing_ok=True)  # damaged in the remote, too
    if lost:
        names = ", ".join(entry.path for entry in lost[:NAMED]) + (", …" if len(lost) > NAMED else "")
        again = "; ".join(dict.fromkeys(entry.out.again for entry in lost))
        raise IntegrityError(
            f"{len(lost)} objects of DVC's cache are damaged, and neither the workspace nor the remote has them whole: "
            f"{names}. They are out of the cache, so that nothing is made from them. Bring a remote that has them "
            f"(`dvc remote list`) and run this again, or {again}"
        )


def _require_as_stored(workspace: Workspace, cache: Path) -> None:
    """DVC goes by a file's time: one that it takes for unchanged, but that is not, gets a new time."""
    stored: dict[str, list[Stored]] = {}
    for entry in _objects(workspace, cache):
        stored.setdefault(entry.path, []).append(entry)
    strange = []
    for path, entries in stored.items():
        file = workspace.root / path
        if file.is_file() and md5_of(file) not in [entry.md5 for entry in entries]:
            os.utime(file)
            strange.append(entries[0])
    if strange:
        names = ", ".join(entry.path for entry in strange[:NAMED]) + (", …" if len(strange) > NAMED else "")
        targets = " ".join(dict.fromkeys(entry.out.path for entry in strange))
        raise IntegrityError(
            f"the cache is whole, but {len(strange)} files of the workspace are not what it holds: {names}. "
            f"`dvc checkout --force {targets}` brings the stored ones back; where they are your work, `dvc repro` takes them"
        )


def _objects(workspace: Workspace, cache: Path) -> Iterator[Stored]:
    """What is in the cache of what dvc.lock and the .dvc files name; a folder's listing before its files."""
    for out in outs(workspace.root):
        place = _place(cache, out.md5)
        if not place.exists():
            continue
        yield Stored(out.md5, out.path, out)
        if out.md5.endswith(DIR) and _whole(cache, out.md5):
            for entry in json.loads(place.read_text(encoding="utf-8")):
                if _place(cache, entry["md5"]).exists():
                    yield Stored(entry["md5"], f"{out.path}/{entry['relpath']}", out)


def _damage(cache: Path, entry: Stored) -> str | None:
    """The md5 of a damaged object's bytes, None for a whole one."""
    found = md5_of(_place(cache, entry.md5))
    return None if found == entry.md5.removesuffix(DIR) else found


def _whole(cache: Path, md5: str) -> bool:
    place = _place(cache, md5)
    return place.exists() and md5_of(place) == md5.removesuffix(DIR)


def _take_out(workspace: Workspace, cache: Path, entry: Stored, found: str) -> bool:
    """Remove a damaged object, or put it back where the file is whole; whether an equally damaged file went, too."""
    place, file = _place(cache, entry.md5), workspace.root / entry.path
    if not _whole(cache, entry.md5):  # it is, where the same bytes have another name and were whole there
        place.unlink(missing_ok=True)
    if not file.is_file():
        return False
    md5 = md5_of(file)
    if md5 == entry.md5:
        with atomic_path(place) as temporary:
            shutil.copyfile(file, temporary)
        place.chmod(READ_ONLY)
    elif md5 == found:  # the very same damage; anything else is somebody's work
        file.unlink()
        return True
    return False


def _fetch(workspace: Workspace, lost: list[Stored]) -> None:
    """From the default remote; what is not there stays lost."""
    for target in dict.fromkeys(entry.out.path for entry in lost):
        _dvc(workspace, "fetch", target)


def _cache(workspace: Workspace) -> Path:
    """Where DVC's cache lies, by DVC's own configuration."""
    done = _dvc(workspace, "cache", "dir")
    return (workspace.root / done.stdout.strip()).resolve() / "files/md5"


def _place(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]


def _dvc(workspace: Workspace, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=workspace.root, capture_output=True, text=True, check=False)
