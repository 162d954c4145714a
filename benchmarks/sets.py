"""The images that every contender sees: unpacked, divided once, laid out for each in its own way.

    VISIONLOOP_REAL_DATA=... python -m benchmarks.sets --work /tmp/bench --sets grocery20 --seed 0

    <work>/<set>-<seed>/tree/<train|validation|test>/<class>/<file>    what the rivals read
    <work>/<set>-<seed>/tree/images.csv                                what visionloop reads: the same files
    <work>/<set>-<seed>/workspace/                                     this checkout, prepared up to `balance`

The project's own rule divides a set (65/15/20 by class; near-duplicates and shots of one object stay
together), except where the set comes with an official split. The tree holds what that left in.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from benchmarks.errors import SetError, ended
from flows.demo_workspace import copy_checkout

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("train", "validation", "test")
WEIGHTS = "weights/mobilenetv2_100_tf2ptq"
DIVIDING = ("ingest", "split")  # after a scan


@dataclass(frozen=True)
class RealSet:
    """A folder of classes inside an archive, and how its images belong together."""

    archive: str
    folder: str
    official: str | None = None  # split.pattern
    group: str | None = None  # data.group_pattern


SETS = {
    "grocery20": RealSet("grocery20", "grocery20", official=r"/(train|val|test)_"),
    "deeppcb_cls": RealSet("deeppcb_cls", "deeppcb_cls", group=r"/(\d+)_"),  # crops of one board
    "magnetic_tile": RealSet("magnetic_tile", "magnetic_tile/images"),
    "pacs3_photo": RealSet("pacs3", "pacs3/photo"),
    "pacs3_art_painting": RealSet("pacs3", "pacs3/art_painting"),
}


@dataclass(frozen=True)
class Shown:
    """One image of the tree, as images.csv names it."""

    path: Path
    label: str
    group: str
    split: str


@dataclass(frozen=True)
class Prepared:
    """A set, divided and laid out for all contenders."""

    name: str
    seed: int
    image_size: int
    tree: Path
    workspace: Path
    weights: Path  # a timm local-dir

    @property
    def classes(self) -> list[str]:
        """In the order of every contender's logits: sorted by code point."""
        return sorted(folder.name for folder in (self.tree / "train").iterdir())

    def images(self, split: str) -> list[Shown]:
        """The images of one part, sorted by path."""
        with (self.tree / "images.csv").open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if row["split"] == split]
        return [Shown(self.tree / row["path"], row["label"], row["group"], split) for row in rows]

    def counts(self) -> dict[str, int]:
        return {part: len(self.images(part)) for part in PARTS}


def real_data() -> Path:
    """The folder that VISIONLOOP_REAL_DATA names.

    Raises:
        SetError: it is not set, or names no folder.
    """
    place = os.environ.get("VISIONLOOP_REAL_DATA", "")
    if not place or not Path(place).is_dir():
        raise SetError(
            f"VISIONLOOP_REAL_DATA is {place!r}: set it to the folder with the archives of real images "
            f"({', '.join(sorted({real.archive + '.tar' for real in SETS.values()}))}) and {WEIGHTS}/"
        )
    return Path(place).absolute()


def prepare(name: str, work: Path, *, seed: int = 0, image_size: int = 128) -> Prepared:
    """Divide the set and lay it out below ``work``; what an earlier call left there is replaced.

    Raises:
        SetError: the images are not there, or a stage of the preparation failed.
    """
    real, data = SETS[name], real_data()
    place = work.absolute() / f"{name}-{seed}"
    shutil.rmtree(place, ignore_errors=True)
    prepared = Prepared(name, seed, image_size, place / "tree", place / "workspace", data / WEIGHTS)
    unpack(real.archive, place / "raw", f"{real.folder}/")
    copy_checkout(ROOT, prepared.workspace)
    _params(
        prepared,
        data={
            "sources": [{"path": str(place / "raw" / real.folder), "domain": name}],
            "group_pattern": real.group,
        },
        split={"pattern": real.official, "near_duplicates": "join"},
    )
    stages(prepared, "scan", *DIVIDING)
    _lay_out(prepared)
    _forget_division(prepared)
    # The tree's division is final, and images.csv carries the groups that near-duplicates have joined.
    _params(
        prepared,
        data={
            "sources": [{"path": str(prepared.tree / "images.csv"), "domain": name}],
            "group_pattern": None,
        },
        split={"pattern": None, "near_duplicates": "ignore"},
    )
    stages(prepared, "scan", *DIVIDING, "balance")
    _prove_same(prepared)
    shutil.rmtree(place / "raw")
    return prepared


def unpack(archive: str, folder: Path, within: str = "") -> None:
    """What ``archive`` of the real images holds below ``within``, into ``folder``; nothing lands outside of it.

    Python 3.11.3 and before know no filter, and trust the archive.
    """
    with tarfile.open(real_data() / f"{archive}.tar") as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)
        packed.extractall(folder, members=[one for one in packed if one.name.startswith(within)])  # noqa: S202


def stages(prepared: Prepared, *verbs: str) -> None:
    """Run stages of the product in the set's workspace, as its user would."""
    for verb in verbs:
        command = [sys.executable, "-m", "pipeline", verb, *([prepared.name] if verb == "scan" else [])]
        done = subprocess.run(
            command, cwd=prepared.workspace, env=environment(prepared), check=False,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if done.returncode:
            raise SetError(f"{prepared.name}: `{' '.join(command[1:])}` failed:\n{done.stdout[-3000:]}")


def environment(prepared: Prepared) -> dict[str, str]:
    """For commands in the set's workspace: its own state, nobody else's."""
    return os.environ | {"VISIONLOOP_HOME": str(prepared.workspace / "var"), "HF_HUB_OFFLINE": "1"}


def change_params(workspace: Path, sections: dict[str, dict[str, Any]], **scalars: Any) -> None:
    """Merge ``sections`` (section → key → value) and ``scalars`` into the workspace's params.yaml."""
    path = workspace / "params.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) | scalars
    for section, values in sections.items():
        content[section] |= values
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


@contextmanager
def changed_params(workspace: Path, sections: dict[str, dict[str, Any]], **scalars: Any) -> Iterator[None]:
    """:func:`change_params` for a while: what one contender asks for is nothing to the next."""
    path = workspace / "params.yaml"
    before = path.read_bytes()
    change_params(workspace, sections, **scalars)
    try:
        yield
    finally:
        path.write_bytes(before)


def _params(prepared: Prepared, **sections: dict[str, Any]) -> None:
    model = {"backbone": "auto", "weights": str(prepared.weights), "image_size": prepared.image_size}
    change_params(prepared.workspace, sections | {"model": model}, seed=prepared.seed)


def _division(prepared: Prepared) -> list[dict[str, Any]]:
    """The rows of split.parquet that are in."""
    rows = pq.read_table(prepared.workspace / "artifacts/split.parquet").to_pylist()
    return sorted((row for row in rows if row["split"] in PARTS), key=lambda row: row["path"])


def _lay_out(prepared: Prepared) -> None:
    """split.parquet → the tree (hard links, or copies across file systems) and images.csv."""
    lines = []
    for row in _division(prepared):
        source = prepared.workspace / row["path"]
        target = prepared.tree / row["split"] / row["label"] / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise SetError(f"{prepared.name}: two images of {row['label']} are called {source.name}")
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
        lines.append((target.relative_to(prepared.tree).as_posix(), row["label"], row["group"], row["split"]))
    with (prepared.tree / "images.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "label", "group", "split"))
        writer.writerows(sorted(lines))


def _forget_division(prepared: Prepared) -> None:
    shutil.rmtree(prepared.workspace / "artifacts")
    (prepared.workspace / "data/assignments.csv").unlink()


def _prove_same(prepared: Prepared) -> None:
    """What visionloop will train on is what lies in the tree, part by part and class by class."""
    ours = Counter(f"{row['split']}/{row['label']}/{Path(row['path']).name}" for row in _division(prepared))
    tree = Counter(path.relative_to(prepared.tree).as_posix() for path in prepared.tree.glob("*/*/*"))
    if ours != tree:
        raise SetError(
            f"{prepared.name}: the tree and the workspace's split differ: {ours - tree} {tree - ours}"
        )


def main() -> int:
    """Prepare sets, and say how many images each part has."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sets", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--work", type=Path, default=ROOT / "var/bench", help="default: var/bench")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET")
    parser.add_argument("--seed", type=int, default=0, help="of the division, where none is official")
    parser.add_argument("--image-size", type=int, default=128, help="px (default: 128)")
    options = parser.parse_args()
    for name in options.sets:
        prepared = prepare(name, options.work, seed=options.seed, image_size=options.image_size)
        print(f"{name:<20}{len(prepared.classes):>3} classes", prepared.counts(), prepared.tree.parent)
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
