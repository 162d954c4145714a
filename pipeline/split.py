"""Train, validation or test, by hash of the group, for good.

    python -m pipeline split

An image once assigned never moves: ``data/assignments.csv`` remembers it. A newcomer goes where its group
or a near-duplicate already is; one that is near to two splits is left out and reported. What is new
altogether goes, in the order of its hash, to the split that lacks most of its class and domain. An official
split is honoured; where it has no validation or no test part, that part is carved out of its train part.
"""

import base64
from collections import Counter, defaultdict

import pyarrow as pa

from pipeline import artifacts, assignments
from pipeline.artifacts import Workspace
from pipeline.assign import EXCLUDED, Division, assign
from pipeline.assignments import SPLITS, Kept
from pipeline.duplicates import near_pairs
from pipeline.params import Params
from pipeline.placement import Image

CLASSES_SHOWN = 40
NAMED = 5  # images named in a report
LARGE_SHARE, LARGE = 0.25, 20  # a joined group of that share and number of its class's images is suspicious


def run(workspace: Workspace, params: Params) -> int:
    """Manifest → ``artifacts/split.parquet`` and ``data/assignments.csv``."""
    if assignments.missing_although_recorded(workspace.assignments, workspace.root / "dvc.lock"):
        print(
            "WARNING: dvc.lock records an earlier split, but data/assignments.csv is not here. Images may move between "
            "splits, and a champion be judged on images that it was trained on. To keep the earlier split, stop here "
            "and run `dvc pull data/assignments.csv` first."
        )
    manifest = artifacts.read_table(workspace.manifest, artifacts.MANIFEST)
    kept = assignments.load(workspace.assignments)
    images = _images(manifest)
    looks = _looks(manifest, kept)
    near: list[tuple[str, str]] = []
    if looks and params.split.near_duplicates == "join":
        names, hashes, thumbnails = list(looks), *zip(*looks.values(), strict=True)
        pairs = near_pairs(hashes, params.validate.near_duplicate_bits, thumbnails)
        near = [(names[first], names[second]) for first, second in pairs]
    division = assign(images, kept, params.split, params.seed, near)
    artifacts.write_table(workspace.split, _table(images, division))
    assignments.save(workspace.assignments, _remember(images, division, kept, looks))
    print(report(images, division))
    return 0


def report(images: list[Image], division: Division) -> str:
    """Images by class and split, what was left out and why, and what a person should look at."""
    counts = Counter(zip((image.label for image in images), division.splits, strict=True))
    classes = sorted({image.label for image in images})
    columns = (*SPLITS, EXCLUDED)
    width = max((len(name) for name in classes), default=5) + 2
    lines = [f"{'class':<{width}}" + "".join(f"{column:>12}" for column in columns)]
    shown = sorted(classes, key=lambda name: (counts[name, "train"], name))[:CLASSES_SHOWN]
    lines += [
        f"{name:<{width}}" + "".join(f"{counts[name, column]:>12,}" for column in columns)
        for name in (shown if len(classes) > CLASSES_SHOWN else classes)
    ]
    if len(classes) > CLASSES_SHOWN:
        lines.append(f"the {CLASSES_SHOWN} smallest of {len(classes)} classes")
    totals = Counter(division.splits)
    lines.append(f"{'all':<{width}}" + "".join(f"{totals[column]:>12,}" for column in columns))
    return "\n".join(lines + _left_out(images, division) + _large_groups(images, division))


def _left_out(images: list[Image], division: Division) -> list[str]:
    rows: dict[str, list[str]] = defaultdict(list)
    for image, split, reason in zip(images, division.splits, division.reasons, strict=True):
        if split == EXCLUDED:
            rows[reason].append(image.path)
    meaning = {
        "undecodable": "could not be decoded",
        "duplicate": "copies of an image that is in",
        "conflict": "the same bytes under two labels, or near to images of two splits",
    }
    return [
        f"left out, {reason} ({meaning[reason]}): {len(paths):,}, e.g. {', '.join(sorted(paths)[:NAMED])}"
        for reason, paths in sorted(rows.items())
    ]


def _large_groups(images: list[Image], division: Division) -> list[str]:
    """A warning where near-duplicates have chained a good part of a class into one group."""
    per_class = Counter(image.label for image in images)
    raw: dict[str, set[str]] = defaultdict(set)
    sizes: Counter[tuple[str, str]] = Counter()
    for image, group, split in zip(images, division.groups, division.splits, strict=True):
        if split != EXCLUDED:
            raw[group].add(image.group)
            sizes[group, image.label] += 1
    return [
        f"WARNING: {count:,} of {per_class[label]:,} images of {label!r} are near-duplicates of one another and share "
        "one split. If they are different objects, lower validate.near_duplicate_bits or set "
        "split.near_duplicates: ignore"
        for (group, label), count in sizes.most_common()
        if len(raw[group]) > 1 and count >= LARGE and count > LARGE_SHARE * per_class[label]
    ]


def _images(manifest: pa.Table) -> list[Image]:
    names = ("image_id", "path", "label", "domain", "group", "split", "error")
    columns = (manifest[name].to_pylist() for name in names)
    return [
        Image(image_id, path, label, domain, group, official, error is None)
        for image_id, path, label, domain, group, official, error in zip(*columns, strict=True)
    ]


def _looks(manifest: pa.Table, kept: list[Kept]) -> dict[str, tuple[str, bytes | None]]:
    """image id → perceptual hash and thumbnail, of the images that are here and of those that once were."""
    looks = {entry.image_id: (entry.dhash, entry.look()) for entry in kept}
    columns = (manifest[name].to_pylist() for name in ("image_id", "dhash", "thumbnail", "error"))
    rows = zip(*columns, strict=True)
    looks.update({image_id: (dhash, look) for image_id, dhash, look, error in rows if error is None})
    return looks


def _table(images: list[Image], division: Division) -> pa.Table:
    columns = {
        "image_id": [image.image_id for image in images],
        "path": [image.path for image in images],
        "label": [image.label for image in images],
        "domain": [image.domain for image in images],
        "group": division.groups,
        "split": division.splits,
        "reason": division.reasons,
    }
    return pa.table(columns, schema=artifacts.SPLIT)


def _remember(
    images: list[Image], division: Division, kept: list[Kept], looks: dict[str, tuple[str, bytes | None]]
) -> list[Kept]:
    """What was kept, and what is new; an image that is left out has no place to keep."""
    places = {entry.image_id: entry for entry in kept}
    for image, split in zip(images, division.splits, strict=True):
        if split != EXCLUDED:
            dhash, look = looks[image.image_id]
            thumbnail = base64.b64encode(look or b"").decode("ascii")
            places[image.image_id] = Kept(image.image_id, image.group, split, dhash, thumbnail)
    return list(places.values())
