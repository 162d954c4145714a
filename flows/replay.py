"""The logged requests once more, through champion and challenger: ``python -m flows.replay``.

    python -m flows.replay                       # the champion beside artifacts/bundle
    python -m flows.replay --challenger <digest> # or beside a bundle of the registry

What production sent is no test set, nobody knows the true labels: it shows what a promotion would change, as
``reports/replay.html``, a contact sheet of the changed answers, the largest change first, and ``replay.json``.
Images that the log did not keep (log.keep_images, log.keep_days) can't be asked again; they are counted.
"""

import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from flows.replay_page import page
from monitoring.archive import every_row
from monitoring.window import kept_path
from pipeline.artifacts import Workspace, write_json, write_text
from pipeline.bundle import BATCH, NETWORKS, Bundle
from pipeline.errors import ImageError, StateError, VisionloopError
from pipeline.images import decode
from pipeline.params import Params, Serve
from pipeline.registry import Registry

ROUNDING = 1e-5  # the log has probabilities with six digits


@dataclass(frozen=True)
class Request:
    """One image that production sent, with how often, and what was answered the last time."""

    image_id: str
    path: Path
    source: str
    times: int
    model: str
    answered: dict[str, float]


def replay(workspace: Workspace, params: Params, challenger: str | None = None) -> dict[str, Any]:
    """Ask both bundles every image that was kept, write the two reports; what replay.json holds.

    Raises:
        StateError: there is no champion, no such challenger, or no image to ask.
        IntegrityError: a bundle is damaged.
    """
    old, new = _bundles(workspace, params.serve, challenger)
    requests, counts = _requests(workspace, params.log.archive)
    if not requests:
        raise StateError(
            f"{workspace.log} holds no image that could be asked again ({counts['requests']} requests are logged): set "
            "log.keep_images above 0, then wait for requests"
        )
    rows = []
    with tqdm(total=len(requests), desc="replay", unit="img", disable=len(requests) < BATCH) as bar:
        for start in range(0, len(requests), BATCH):
            chunk = requests[start : start + BATCH]
            rows += list(_asked(chunk, old, new, params.serve))
            bar.update(len(chunk))
    changed: list[dict[str, Any]] = []
    same: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (-row["change"], row["image_id"])):
        (same if row["champion"]["label"] == row["challenger"]["label"] else changed).append(row)
    report = {
        "champion": old.digest,
        "challenger": new.digest,
        **counts,
        "unreadable": len(requests) - len(rows),
        "asked": len(rows),
        "changed_answers": len(changed),
        "changed_by_labels": _by_labels(changed),
        "largest_change_of_the_others": max(
            (row["change"] for row in rows if row not in changed), default=0.0
        ),
        "champion_answers_otherwise_than_logged": sum(row["drifted"] for row in rows),
        "changed": changed,
    }
    write_json(workspace.replay, report)
    write_text(
        workspace.replay.with_suffix(".html"),
        page(report, sentence(report), workspace.log / "images", params.serve),
    )
    return report


def sentence(report: dict[str, Any]) -> str:
    """How many of how many changed, and what could not be asked."""
    said = (
        f"{report['changed_answers']} of {report['asked']} images get another answer from {report['challenger'][:12]} than "
        f"from the champion {report['champion'][:12]}; {report['images_not_kept']} images were not kept"
    )
    if report["unreadable"]:
        said += f", {report['unreadable']} can't be read any more"
    if report["champion_answers_otherwise_than_logged"]:
        said += (
            f". The champion itself answers {report['champion_answers_otherwise_than_logged']} of them otherwise than it did "
            "when they were logged: other libraries or another machine"
        )
    return said + "."


def _bundles(workspace: Workspace, serve: Serve, challenger: str | None) -> tuple[Bundle, Bundle]:
    registry = Registry(workspace.registry)
    champion = registry.champion()
    if champion is None:
        raise StateError(
            "no champion yet, so nothing to compare with: python -m flows.release promotes the first"
        )
    path = workspace.bundle
    if challenger is not None:
        found = [digest for digest in registry.digests() if digest.startswith(challenger.lower())]
        if len(found) != 1:
            known = ", ".join(digest[:12] for digest in found or registry.digests())
            raise StateError(f"{challenger!r} names {len(found)} bundles of the registry, one of: {known}")
        path = registry.bundle_path(found[0])
    old, new = (_as_served(folder, serve) for folder in (registry.bundle_path(champion.digest), path))
    if old.digest == new.digest:
        raise StateError(
            f"{path} is the champion itself, {old.digest[:12]}: run `dvc repro` for another, or name one with --challenger"
        )
    return old, new


def _as_served(path: Path, serve: Serve) -> Bundle:
    return Bundle.load(path, form=serve.format if (path / NETWORKS[serve.format]).exists() else "onnx")


def _requests(workspace: Workspace, archive: str | None) -> tuple[list[Request], dict[str, int]]:
    """Every kept image once, in the order of the last request for it; and what the log holds in all."""
    last: dict[str, dict[str, Any]] = {}
    times: Counter[str] = Counter()
    damaged = 0
    for row in every_row(workspace.log, archive):
        if row is None:
            damaged += 1
            continue
        image_id = str(row["image_id"])
        times[image_id] += 1
        before = last.get(image_id)
        if before is None or str(row["time"]) >= str(before["time"]):
            last[image_id] = row
    requests = [
        Request(
            image_id,
            path,
            str(row["source"] or ""),
            times[image_id],
            str(row["model"]),
            dict(row["probabilities"]),
        )
        for image_id, row in sorted(last.items(), key=lambda item: str(item[1]["time"]))
        if (path := kept_path(workspace.log / "images", row["kept"])) is not None
    ]
    counts = {"requests": times.total(), "images": len(last), "images_not_kept": len(last) - len(requests), "damaged_lines": damaged}  # fmt: skip
    return requests, counts


def _asked(chunk: Sequence[Request], old: Bundle, new: Bundle, serve: Serve) -> Iterator[dict[str, Any]]:
    """What both say of the images of ``chunk`` that still are what was sent."""
    read = [(request, image) for request in chunk if (image := _image(request, serve)) is not None]
    if not read:
        return
    answers = [_probabilities(bundle, [image for _, image in read]) for bundle in (old, new)]
    for (request, _), before, now in zip(read, *answers, strict=True):
        gap = max(abs(before.get(name, 0.0) - now.get(name, 0.0)) for name in {*before, *now})
        logged = request.answered if request.model == old.digest else before
        yield {
            "image_id": request.image_id,
            "kept": request.path.name,
            "source": request.source,
            "requests": request.times,
            "champion": _best(before),
            "challenger": _best(now),
            "change": round(gap, 6),
            "drifted": max(abs(value - before.get(name, 0.0)) for name, value in logged.items()) > ROUNDING,
        }


def _image(request: Request, serve: Serve) -> Image.Image | None:
    try:
        data = request.path.read_bytes()
        if hashlib.sha256(data).hexdigest() != request.path.stem:
            return None
        return decode(data, max_pixels=serve.max_pixels, max_bytes=serve.max_body_bytes).image
    except (ImageError, OSError):
        return None


def _probabilities(bundle: Bundle, images: Sequence[Image.Image]) -> list[dict[str, float]]:
    views = np.stack([bundle.preprocessing.view(image) for image in images])
    shares = bundle.predict(views).probabilities
    return [dict(zip(bundle.classes, map(float, row), strict=True)) for row in shares]


def _best(probabilities: dict[str, float]) -> dict[str, Any]:
    label = max(probabilities, key=lambda name: probabilities[name])
    return {"label": label, "probability": round(probabilities[label], 6)}


def _by_labels(changed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """From which label to which, how many; the most frequent first."""
    pairs = Counter((row["champion"]["label"], row["challenger"]["label"]) for row in changed)
    return [{"from": one, "to": other, "images": count} for (one, other), count in pairs.most_common()]


def main(arguments: list[str] | None = None) -> int:
    """0 with the reports written, 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.replay", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--challenger", metavar="DIGEST", help="of the registry (default: artifacts/bundle)")
    options = parser.parse_args(arguments)
    workspace = Workspace.here()
    try:
        report = replay(workspace, Params.load(workspace.params), options.challenger)
    except VisionloopError as error:
        print(f"replay: {error}", file=sys.stderr)
        return 1
    print(f"{sentence(report)}\nLook at {workspace.replay.with_suffix('.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
