"""What DVC stored, by dvc.lock and the .dvc files, and whether the bytes on disk still are that.

DVC itself trusts: an object of its cache that is read-only is never hashed again, nor a file whose inode, size
and time are as they were. A flipped byte passes both. So each stage hashes what it reads before it reads it; of a
source's images, which may be many, those that are not as they were when they were last hashed (unchanged.py).
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.artifacts import Workspace, digest_json
from pipeline.errors import IntegrityError
from pipeline.params import Params

Md5s = Callable[[Sequence[str]], list[str]]  # of files, by path

DIR = ".dir"  # how the md5 of a folder's listing ends


@dataclass(frozen=True)
class Out:
    """One output of a stage, or what `dvc add` stored: its path, md5, and the stage or .dvc file that names it."""

    path: str
    md5: str
    owner: str

    @property
    def again(self) -> str:
        """How to get it where no whole copy is left."""
        if self.owner.endswith(".dvc"):
            return f"put the originals into {self.path} and run `dvc add {self.path}`"
        return f"make it again with `dvc repro --force {self.owner}`"


def outs(root: Path) -> list[Out]:
    """All of them, in the order of dvc.lock, then of the .dvc files."""
    found = []
    lock = root / "dvc.lock"
    stages = (
        (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {}) if lock.exists() else {}
    )
    for name, stage in stages.items():
        found += [Out(out["path"], out["md5"], name) for out in stage.get("outs", []) if "md5" in out]
    for path in dvc_files(root):
        for out in (yaml.safe_load((root / path).read_text(encoding="utf-8")) or {}).get("outs", []):
            if "md5" in out:
                found.append(Out((Path(path).parent / out["path"]).as_posix(), out["md5"], path))
    return found


def dvc_files(root: Path) -> list[str]:
    """What `dvc add` wrote, in ``root`` and the folders in it."""
    found = [path for pattern in ("*.dvc", "*/*.dvc") for path in root.glob(pattern) if path.is_file()]
    return sorted(path.relative_to(root).as_posix() for path in found)


def require_whole(workspace: Workspace, verb: str, params: Params, domain: str | None = None) -> None:
    """Hash what the stage ``verb`` reads of other stages' outputs, in full, before it is read.

    A scan, of the source of ``domain``, hashes only the files that are new or changed since they were last hashed.

    Raises:
        IntegrityError: one of them is not what DVC stored.
    """
    needs = _needs(workspace, verb, params, domain)
    named: dict[Path, list[Out]] = {}  # by several, where dvc.lock still knows a stage that is gone
    for out in outs(workspace.root):
        named.setdefault(Path(out.path), []).append(out)
    for path, candidates in named.items():
        if not any(path.is_relative_to(need) or need.is_relative_to(path) for need in needs):
            continue
        place = workspace.root / path
        md5s: Md5s = _all
        if verb == "scan" and place.is_dir():
            md5s = _unknown(workspace, path, f"scan {domain}")
        found = md5_of(place, md5s) if place.exists() else None
        if found is not None and found not in [out.md5 for out in candidates]:
            out = candidates[0]
            raise IntegrityError(
                f"{out.path} is not what `{out.owner}` stored (md5 {out.md5[:8]}…): bytes have changed on disk or in DVC's cache, "
                "and no model is made of them. `python -m pipeline cache` finds the damage and mends what it can"
            )


def _needs(workspace: Workspace, verb: str, params: Params, domain: str | None) -> list[Path]:
    """The dependencies of dvc.yaml, a scan's being its source."""
    pipeline = yaml.safe_load((workspace.root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    stage = pipeline.get(verb, {})
    named = [dep for dep in stage.get("do", stage).get("deps", []) if "$" not in dep]
    named += [source.path for source in params.data.sources if verb == "scan" and source.domain == domain]
    return [Path(dep) for dep in named if not Path(dep).is_absolute()]


def _unknown(workspace: Workspace, path: Path, title: str) -> Md5s:
    """Hashes the files of the folder ``path`` that no earlier look knows as they are; says how many."""
    from pipeline.hashed import hashed

    def md5s(files: Sequence[str]) -> list[str]:
        # An experiment has copies of the files, in a folder of its own.
        key = digest_json([str(workspace.root), path.as_posix()])[:16]
        found, read = hashed(files, workspace.cache / "hashed" / f"{key}.parquet")
        print(f"{title}: {read:,} of {len(files):,} files hashed, to be what DVC stored as {path.as_posix()}")
        return found

    return md5s


def _all(files: Sequence[str]) -> list[str]:
    return [md5_of(Path(file)) for file in files]


def md5_of(path: Path, md5s: Md5s = _all) -> str:
    """As DVC has it: of a file's bytes; of a folder, of the listing of its files' md5, which ``md5s`` finds."""
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    files = _files(path)
    names = [file[len(os.path.join(path, "")) :].replace(os.sep, "/") for file in files]  # noqa: PTH118
    entries = [{"md5": md5, "relpath": name} for md5, name in zip(md5s(files), names, strict=True)]
    text = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + DIR


def _files(folder: Path) -> list[str]:
    """All below it but what .dvcignore names."""
    return [
        f"{place}{os.sep}{name}"
        for place, _, names in os.walk(folder, followlinks=True)
        if "__pycache__" not in Path(place).parts
        for name in names
    ]
