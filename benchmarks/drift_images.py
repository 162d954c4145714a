"""What a network says of real images, clean and corrupted: measured once, drawn from for ever after.

For each set a linear probe is trained by the product's own stages, without one of its classes (the class that
will be new), and its bundle answers as production would: bytes decoded, statistics of the decoded image, the
bundle's own preprocessing, ONNX Runtime on one thread, embeddings rounded as the log rounds them. One image a
group, so that near-alike shots are in no two draws.
"""

import csv
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageEnhance

from benchmarks.errors import CommandError
from benchmarks.sets import ROOT, WEIGHTS, change_params, real_data, unpack
from flows.demo_workspace import copy_checkout
from pipeline.artifacts import STATISTICS
from pipeline.bundle import Bundle
from pipeline.corruptions import corrupt
from pipeline.images import decode, statistics
from pipeline.sample import COUNTS, generate

KINDS = ("gaussian_noise", "defocus", "brightness", "contrast", "jpeg", "pixelate")
LEVELS = (1, 2, 3, 4, 5)
OTHERS = ("colour_cast", "turned", "small")
"""Of one strength: what only the triage is asked about."""
MOST = 460
"""Clean held-out images of a set; ``CHANGED`` of them are corrupted, too."""
CHANGED = 220
IMAGE_SIZE = 128
SIDE = 192
"""px that the longer side of an image has at most, before it is corrupted: a camera of that size."""


@dataclass(frozen=True)
class WatchedSet:
    """Where a set's images come from, and what may happen to it."""

    name: str
    archive: str | None
    domains: tuple[str, ...]  # folders inside the archive: classes below
    group: str | None
    new_class: str
    other: tuple[str, str]  # another domain: archive and folder
    official: str | None = None


SETS = (
    WatchedSet("grocery20", "grocery20", ("grocery20",), None, "Banana", ("pacs3", "pacs3/art_painting"),
               r"/(train|val|test)_"),
    WatchedSet("pacs3", "pacs3", ("pacs3/photo", "pacs3/art_painting"), None, "guitar", ("pacs3", "pacs3/sketch")),
    WatchedSet("deeppcb_cls", "deeppcb_cls", ("deeppcb_cls",), r"/(\d+)_", "spur", ("magnetic_tile", "magnetic_tile/images")),
    WatchedSet("sample", None, ("line-a",), r"(part-\d+)", "inclusion", ("", "line-b")),
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """n images as the watch sees them. ``label`` is -1 where it is no class of the network."""

    embeddings: np.ndarray  # (n, d) float16
    statistics: np.ndarray  # (n, 4) float32
    probabilities: np.ndarray  # (n, classes) float32
    sizes: np.ndarray  # (n, 2) px
    labels: np.ndarray  # (n,) int

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Measured":
        return Measured(**{name: getattr(self, name)[indices] for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class Watched:
    """A set's measurements: ``clean`` held-out images, the first ``CHANGED`` of them also under every change."""

    name: str
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    parts: dict[str, Measured]  # clean, new_class, other_domain, gaussian_noise-1, …, turned-3


def measured(watched: WatchedSet, work: Path) -> Watched:
    """The set's measurements, from ``work/<set>.npz`` where they were made before."""
    target = work / f"{watched.name}.npz"
    if not target.exists():
        _measure(watched, work, target)
    with np.load(target) as stored:
        parts: dict[str, dict[str, np.ndarray]] = {}
        for key in stored.files:
            part, _, column = key.partition("/")
            if column:
                parts.setdefault(part, {})[column] = stored[key]
        return Watched(
            watched.name,
            tuple(stored["classes"].tolist()),
            tuple(stored["domains"].tolist()),
            {name: Measured(**{k: v for k, v in c.items() if k != "looks"}) for name, c in parts.items()},
        )


def _measure(watched: WatchedSet, work: Path, target: Path) -> None:
    place = workspace(watched, work)
    bundle = _trained(watched, place)
    rng = np.random.default_rng(0)
    held, domains = held_out(watched, place, rng)
    pictures = [decoded(path) for path, _ in held]
    index = {name: number for number, name in enumerate(bundle.classes)}
    labels = [index.get(label, -1) for _, label in held]
    columns: dict[str, np.ndarray] = {"classes": np.array(bundle.classes), "domains": np.array(domains)}
    columns |= _said("clean", bundle, pictures, labels)
    few = pictures[:CHANGED]
    for kind in KINDS:
        for level in LEVELS:
            columns |= _said(f"{kind}-{level}", bundle, _all_changed(few, kind, level), labels[:CHANGED])
    for kind in OTHERS:
        columns |= _said(f"{kind}-3", bundle, _all_changed(few, kind, 3), labels[:CHANGED])
    for name in ("new_class", "other_domain"):
        paths = strange(watched, work, name)
        chosen = [paths[at] for at in rng.permutation(len(paths))[:CHANGED]]
        columns |= _said(name, bundle, (decoded(path) for path in chosen), [-1] * len(chosen))
    draft = target.with_suffix(".part.npz")
    np.savez(draft, **columns)  # type: ignore[arg-type]
    draft.rename(target)


def _all_changed(pictures: Sequence[Image.Image], kind: str, level: int) -> Iterator[Image.Image]:
    return (changed(picture, kind, level, seed) for seed, picture in enumerate(pictures))


def changed(picture: Image.Image, kind: str, level: int, seed: int) -> Image.Image:
    """The picture corrupted; or of a warmer lamp, of a camera turned by 90 degrees, or of a third of the resolution."""
    if kind in KINDS:
        return Image.fromarray(corrupt(np.asarray(picture), kind, level, seed))
    if kind == "turned":
        return picture.transpose(Image.Transpose.ROTATE_90)
    if kind == "small":
        return picture.reduce(3)
    red, green, blue = ImageEnhance.Brightness(picture).enhance(1.0).split()
    return Image.merge("RGB", (red.point(lambda v: min(255, v * 1.2)), green, blue.point(lambda v: v * 0.75)))


def _said(
    name: str, bundle: Bundle, pictures: Iterator[Image.Image] | Sequence[Image.Image], labels: Sequence[int]
) -> dict[str, np.ndarray]:
    numbers, views, sizes = [], [], []
    for picture in pictures:
        numbers.append([statistics(picture)[key] for key in STATISTICS])
        views.append(bundle.preprocessing.view(picture))
        sizes.append(picture.size)
    prediction = bundle.predict(np.stack(views))
    return {
        f"{name}/embeddings": prediction.embedding.astype(np.float16),
        f"{name}/statistics": np.array(numbers, dtype=np.float32),
        f"{name}/probabilities": prediction.probabilities,
        f"{name}/sizes": np.array(sizes),
        f"{name}/labels": np.array(labels),
    }


def decoded(path: Path) -> Image.Image:
    picture = decode(path.read_bytes()).image
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    return picture


def _trained(watched: WatchedSet, place: Path) -> Bundle:
    """A linear probe on the set's images without the new class, trained and bundled as a user would."""
    if not (place / "artifacts/bundle/bundle.json").exists():
        copy_checkout(ROOT, place)
        sources = _sources(watched, place)
        model: dict[str, object] = {"image_size": IMAGE_SIZE}
        if watched.archive:
            model |= {"backbone": "auto", "weights": str(real_data() / WEIGHTS)}
        change_params(
            place,
            {
                "data": {"sources": sources, "group_pattern": watched.group},
                "split": {"pattern": watched.official, "validation": 0.2, "test": 0.4},
                "model": model,
                "train": {"strategy": "probe"},
            },
        )
        verbs = [
            *(f"scan {source['domain']}" for source in sources),
            "ingest",
            "split",
            "balance",
            "train",
            "bundle",
        ]
        for verb in verbs:
            _run(place, *verb.split())
    return Bundle.load(place / "artifacts/bundle", threads=1)


def _run(place: Path, *verb: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *verb], cwd=place, check=False, text=True,
        env=os.environ | {"VISIONLOOP_HOME": str(place / "var"), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        raise CommandError(f"`python -m pipeline {' '.join(verb)}` in {place} failed:\n{done.stdout[-3000:]}")


def _sources(watched: WatchedSet, place: Path) -> list[dict[str, str]]:
    """Lists of the images of every class but the new one, a domain each."""
    root = place / "images"
    if watched.archive:
        unpack(watched.archive, root)
    else:
        generate(root, seed=0, workers=1)
    found = []
    for folder in watched.domains:
        images = [
            path for path in sorted((root / folder).glob("*/*")) if path.parent.name != watched.new_class
        ]
        listing = root / f"{Path(folder).name}.csv"
        with listing.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("path", "label"))
            writer.writerows((path.relative_to(root).as_posix(), path.parent.name) for path in images)
        found.append({"path": str(listing), "domain": Path(folder).name})
    return found


def strange(watched: WatchedSet, work: Path, part: str) -> list[Path]:
    """Images of the new class, or of the other domain; to be unpacked or made first where they are not there yet."""
    return _new_class(watched, workspace(watched, work)) if part == "new_class" else _other(watched, work)


def workspace(watched: WatchedSet, work: Path) -> Path:
    return work / f"{watched.name}-workspace"


def held_out(
    watched: WatchedSet, place: Path, rng: np.random.Generator
) -> tuple[list[tuple[Path, str]], list[str]]:
    """One image a group that the network has not seen, shuffled, with its label; and its domain."""
    if watched.archive is None:
        root = place / "fresh"
        counts = {
            "line-a": {name: 3 * n // 2 for name, n in COUNTS["line-a"].items() if name != watched.new_class}
        }
        if not root.exists():
            generate(root, seed=1, workers=1, counts=counts)
        paths = sorted(root.glob("line-a/*/*_1.jpg"))
        chosen = [paths[at] for at in rng.permutation(len(paths))[:MOST]]
        return [(path, path.parent.name) for path in chosen], ["line-a"] * len(chosen)
    rows = pq.read_table(place / "artifacts/split.parquet").to_pylist()
    first: dict[str, dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: row["image_id"]):
        if row["split"] in ("validation", "test"):
            first.setdefault(row["group"] or row["image_id"], row)
    groups = list(first.values())
    kept = [groups[at] for at in rng.permutation(len(groups))[:MOST]]
    return [(place / row["path"], row["label"]) for row in kept], [row["domain"] for row in kept]


def _new_class(watched: WatchedSet, place: Path) -> list[Path]:
    if watched.archive:
        return [
            p for d in watched.domains for p in sorted((place / "images" / d / watched.new_class).iterdir())
        ]
    root = place / "new"
    if not root.exists():
        generate(root, seed=2, workers=1, counts={"line-a": {watched.new_class: 3 * CHANGED}})
    return sorted(root.glob("line-a/*/*_1.jpg"))


def _other(watched: WatchedSet, work: Path) -> list[Path]:
    archive, folder = watched.other
    root = work / f"{watched.name}-other"
    if archive:
        if not root.exists():
            unpack(archive, root)
        return sorted((root / folder).glob("*/*"))
    counts = {"line-b": {k: 2 * v for k, v in COUNTS["line-b"].items() if k != watched.new_class}}
    if not root.exists():
        generate(root, seed=3, workers=1, counts=counts)
    return sorted(root.glob("line-b/*/*_1.jpg"))
