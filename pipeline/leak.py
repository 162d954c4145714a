"""Test images that the network has seen: copies among the images trained on, now or in an earlier version of the data.

    python -m pipeline leak

Writes ``artifacts/leak.json``. A copy is found by its bytes; by perceptual hash and thumbnail, mirrored or not; or
by the bundle's own embedding, which suggests pairs, and by laying the two on one another, which decides: a network
finds any two tins alike. What was trained on once is remembered in ``data/assignments.csv`` by hash and thumbnail. An
image that has left the data is shown to the network where its decoded view is still in the cache; how many were
compared by hash and thumbnail alone is counted, and the verdict says it.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import alignment, artifacts, assignments
from pipeline.artifacts import Workspace, digest_json
from pipeline.bundle import Bundle
from pipeline.duplicates import near_pairs
from pipeline.errors import DataError
from pipeline.lookalikes import Seen, lookalikes
from pipeline.params import Params
from pipeline.views import stored, views

NAMED = 5  # pairs named in a report
MOST_ALIKE = 0.05  # share of the test images that may be set aside
KINDS = ("exact", "perceptual", "embedding")

Looks = dict[str, tuple[str, bytes | None]]  # image id → perceptual hash and thumbnail


def run(workspace: Workspace, params: Params) -> int:
    """Split, manifest, assignments and bundle → ``artifacts/leak.json``; 0 whatever was found.

    Raises:
        DataError: there is no test or no training image, or an image is missing.
    """
    split = artifacts.read_table(workspace.split, artifacts.SPLIT)
    manifest = artifacts.read_table(workspace.manifest, artifacts.MANIFEST)
    test, train = (split.filter(pc.equal(split["split"], part)) for part in ("test", "train"))
    if not test.num_rows or not train.num_rows:
        raise DataError(
            f"artifacts/split.parquet holds {test.num_rows} test and {train.num_rows} training images: see "
            "`python -m pipeline split` for where they went"
        )
    kept = [entry for entry in assignments.load(workspace.assignments) if entry.split == "train"]
    here = set(train["image_id"].to_pylist())
    past: Looks = {
        entry.image_id: (entry.dhash, entry.look()) for entry in kept if entry.image_id not in here
    }
    names = ("image_id", "dhash", "thumbnail")
    columns = (manifest[name].to_pylist() for name in names)
    looks: Looks = {image: (dhash, look) for image, dhash, look in zip(*columns, strict=True)}
    bundle = Bundle.load(workspace.bundle, form=params.serve.format)
    found = _exact(test, here | past.keys())
    found += _perceptual(test, train, looks, past, params.validate.near_duplicate_bits)
    known = {(pair["test_id"], pair["train_id"]) for pair in found}
    before = Seen(*stored(workspace, sorted(past), bundle.preprocessing))
    shown = [_shown(workspace, params, bundle, part) for part in (test, train)]
    embedded, least = lookalikes(bundle, shown[0], [shown[1], before], known, params.seed)
    pairs = _named(found + embedded, split, here)
    result = {
        "bundle": bundle.digest,
        "split": split_digest(split),
        "compared": {"test": test.num_rows, "train": train.num_rows}
        | {"past": len(past), "past_embedded": len(before.ids)},
        "thresholds": {
            "near_duplicate_bits": params.validate.near_duplicate_bits,
            "similarity": round(least, 6),
            "detail": alignment.DETAIL,
            "worst_block": alignment.WORST_BLOCK,
        },
        "counts": {kind: sum(pair["kind"] == kind for pair in pairs) for kind in KINDS}
        | {"test_images": len({pair["test_id"] for pair in pairs})},
        "pairs": pairs,
    }
    artifacts.write_json(workspace.leak, result | {"seal": digest_json(result)})
    print(report(result))
    return 0


def split_digest(split: pa.Table) -> str:
    """sha256 hex of which image stands where: ids, groups and splits, in any order of the rows."""
    columns = (split[name].to_pylist() for name in ("image_id", "path", "group", "split"))
    return digest_json(sorted(zip(*columns, strict=True)))


def fault(result: dict[str, Any], split: pa.Table, digest: str) -> str | None:
    """Why ``result`` (leak.json) speaks against the bundle ``digest`` tested on ``split``; None where nothing does.

    It must have been made by this bundle from this split, and be as it was written.
    """
    sealed = (
        {name: value for name, value in result.items() if name != "seal"} if isinstance(result, dict) else {}
    )
    if not sealed or result.get("seal") != digest_json(sealed):
        return "artifacts/leak.json is not as it was written: run `dvc repro -f leak`"
    if result["bundle"] != digest:
        return f"the check for copies was made with the bundle {result['bundle'][:12]}, the challenger is {digest[:12]}"
    if result["split"] != split_digest(split):
        return "the check for copies was made of another split: run `dvc repro leak`"
    certain = [pair for pair in result["pairs"] if not _guessed(pair)]
    tests = result["compared"]["test"]
    if not certain and len(alike(result)) <= MOST_ALIKE * tests:
        return None
    first = result["pairs"][0]
    count = len({pair["test_id"] for pair in result["pairs"]})
    return (
        f"{count} of {result['compared']['test']} test images are copies of images trained on, e.g. {first['test']} of "
        f"{first['train'] or 'an image that has left the data'} ({first['kind']})"
    )


def alike(result: dict[str, Any]) -> set[str]:
    """Paths of the test images that look copied to the network alone, or in a mirror: a verdict sets them aside.

    Another shot of one part, say, that came in production without the part's name. A few are no reason to refuse a
    challenger, and none to let them count; many say that the whole split is wrong.
    """
    return {pair["test"] for pair in result["pairs"] if _guessed(pair)}


def past_counts(result: dict[str, Any]) -> dict[str, int]:
    """Of the images trained on that have left the data: how many there are, how many the network was shown."""
    compared = result.get("compared", {})
    return {name: int(compared.get(name, 0)) for name in ("past", "past_embedded")}


def _guessed(pair: dict[str, Any]) -> bool:
    """Not what the split itself would have put into one group: found by the network, or in the mirror."""
    return bool(pair["kind"] == "embedding" or pair.get("mirrored"))


def report(result: dict[str, Any]) -> str:
    """What was compared, what was found, and what to do about it."""
    compared, counts, pairs = result["compared"], result["counts"], result["pairs"]
    text = (
        f"{compared['test']:,} test images against {compared['train']:,} trained on and {compared['past']:,} of earlier "
        f"versions: {counts['test_images']:,} have copies there"
    )
    unseen = compared["past"] - compared["past_embedded"]
    if unseen:
        text += (
            f"; {unseen:,} of earlier versions by hash and thumbnail alone, since their views are not kept"
        )
    if not pairs:
        return text
    lines = [text + " (" + ", ".join(f"{kind} {counts[kind]:,}" for kind in KINDS) + ")"]
    for pair in pairs[:NAMED]:
        other = pair["train"] or f"{pair['train_id'][:12]}, which has left the data"
        lines.append(f"  {pair['kind']}: {pair['test']} is {other}")
    return "\n".join(
        [
            *lines,
            "Give such shots one group (data.group_pattern), or remove the test images, then `dvc repro`",
        ]
    )


def _exact(test: pa.Table, trained: set[str]) -> list[dict[str, Any]]:
    return [
        {"kind": "exact", "test_id": image, "train_id": image, "mirrored": False}
        for image in test["image_id"].to_pylist()
        if image in trained
    ]


def _perceptual(
    test: pa.Table, train: pa.Table, looks: Looks, past: Looks, bits: int
) -> list[dict[str, Any]]:
    """Near hashes confirmed by thumbnails, of the test images as they are and mirrored."""
    tested, trained = test["image_id"].to_pylist(), [*train["image_id"].to_pylist(), *past]
    seen = looks | past
    every = [looks[image] for image in tested]
    every += [mirrored(*look) for look in every] + [seen[image] for image in trained]
    hashes, thumbnails = zip(*every, strict=True)
    found: dict[tuple[str, str], bool] = {}
    first = 2 * len(tested)
    for one, two in near_pairs(hashes, bits, thumbnails):
        if one < first <= two:
            pair = (tested[one % len(tested)], trained[two - first])
            found[pair] = found.get(pair, True) and one >= len(tested)
    return [
        {"kind": "perceptual", "test_id": one, "train_id": two, "mirrored": turned}
        for (one, two), turned in found.items()
        if one != two
    ]


def mirrored(dhash: str, thumbnail: bytes | None) -> tuple[str, bytes | None]:
    """Hash and thumbnail of the mirror image: each comparison of two neighbours is turned round."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(dhash), dtype=np.uint8)).reshape(16, 16)
    turned = np.packbits(1 - bits[:, ::-1]).tobytes().hex()
    if thumbnail is None:
        return turned, None
    return turned, np.frombuffer(thumbnail, dtype=np.uint8).reshape(16, 16)[:, ::-1].tobytes()


def _shown(workspace: Workspace, params: Params, bundle: Bundle, part: pa.Table) -> Seen:
    """Ids and views of ``part`` of the split."""
    ids = part["image_id"].to_pylist()
    pixels = views(
        workspace, part["path"].to_pylist(), ids, bundle.preprocessing,
        max_pixels=params.data.max_pixels, max_bytes=params.data.max_bytes,
    )  # fmt: skip
    return Seen(ids, pixels)


def _named(found: list[dict[str, Any]], split: pa.Table, here: set[str]) -> list[dict[str, Any]]:
    """Each pair once, by the plainest kind, with paths; ``train`` is null for an image that has left the data."""
    columns = (split[name].to_pylist() for name in ("image_id", "path", "split"))
    paths: dict[tuple[str, bool], str] = {}
    for image, path, part in zip(*columns, strict=True):
        if part in ("train", "test"):
            paths[image, part == "test"] = path
    once: dict[tuple[str, str], dict[str, Any]] = {}
    for pair in found:
        once.setdefault((pair["test_id"], pair["train_id"]), pair)
    named = [
        pair
        | {
            "test": paths[pair["test_id"], True],
            "train": paths.get((pair["train_id"], False)),
            "past": pair["train_id"] not in here,
        }
        for pair in once.values()
    ]
    return sorted(named, key=lambda pair: (KINDS.index(pair["kind"]), pair["test"], pair["train_id"]))
