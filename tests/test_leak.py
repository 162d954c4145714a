"""Copies of training images among the test images: each kind planted and found, none seen where there is none."""

import base64
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageEnhance

from pipeline import artifacts, assignments, leak
from pipeline.artifacts import Workspace, digest_file
from pipeline.assignments import Kept
from pipeline.bundle import verify
from pipeline.errors import DataError
from pipeline.images import decode, dhash, thumbnail
from pipeline.params import Params
from pipeline.past_images import past_checks
from tests import tiny_bundle

PARAMS = Params()
Change = Callable[[Image.Image], Image.Image]


def picture(seed: int) -> Image.Image:
    """A 96 px image of blobs and grain of its own, in a colour of its own."""
    generator = np.random.default_rng(seed)
    colour = generator.uniform(60, 190, 3)
    blobs = generator.normal(0, 35, (9, 9, 3)) + colour
    image = Image.fromarray(np.clip(blobs, 0, 255).astype(np.uint8)).resize(
        (96, 96), Image.Resampling.BICUBIC
    )
    grain = np.asarray(Image.fromarray(generator.integers(0, 255, (40, 40), dtype=np.uint8)).resize((96, 96)))
    return Image.fromarray(
        np.clip(np.asarray(image) + (grain[..., None] / 255 - 0.5) * 50, 0, 255).astype(np.uint8)
    )


def save(
    workspace: Workspace, split: str, name: str, image: Image.Image, kind: str = "PNG", **how: int
) -> dict[str, str]:
    path = workspace.root / f"data/{split}/{name}.{kind.lower()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, kind, **how)
    row = dict.fromkeys(artifacts.SPLIT.names, name)
    return row | {
        "image_id": digest_file(path),
        "path": workspace.relative(path),
        "split": split,
        "reason": "official",
    }


def divided(workspace: Workspace, rows: list[dict[str, str]]) -> pa.Table:
    """Split and manifest of ``rows``, as the stages write them."""
    artifacts.write_table(workspace.split, pa.Table.from_pylist(rows, schema=artifacts.SPLIT))
    looks = []
    for row in rows:
        image = decode((workspace.root / row["path"]).read_bytes()).image
        look = {"image_id": row["image_id"], "dhash": dhash(image), "thumbnail": thumbnail(image)}
        looks.append(dict.fromkeys(artifacts.MANIFEST.names) | look)
    artifacts.write_table(workspace.manifest, pa.Table.from_pylist(looks, schema=artifacts.MANIFEST))
    return artifacts.read_table(workspace.split, artifacts.SPLIT)


def checked(workspace: Workspace) -> dict[str, Any]:
    assert leak.run(workspace, PARAMS) == 0
    return dict(artifacts.read_json(workspace.leak))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path, tmp_path / "var")
    tiny_bundle.make(workspace.bundle)
    return workspace


@pytest.fixture
def clean(workspace: Workspace) -> list[dict[str, str]]:
    """24 training and 10 test images, all different."""
    rows = [save(workspace, "train", f"seen-{n}", picture(n)) for n in range(24)]
    return rows + [save(workspace, "test", f"new-{n}", picture(100 + n)) for n in range(10)]


def recompressed(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=60)
    return Image.open(io.BytesIO(stream.getvalue())).convert("RGB")


def test_a_clean_set_is_not_accused(workspace: Workspace, clean: list[dict[str, str]]) -> None:
    split = divided(workspace, clean)
    result = checked(workspace)
    assert result["pairs"] == []
    assert result["compared"] == {"test": 10, "train": 24, "past": 0, "past_embedded": 0}
    assert leak.fault(result, split, verify(workspace.bundle)) is None


PLANTED: dict[str, tuple[str, Change]] = {
    "the same bytes": ("exact", lambda image: image),
    "half the size": ("perceptual", lambda image: image.resize((48, 48))),
    "saved as JPEG": ("perceptual", recompressed),
    "recoloured": ("embedding", lambda image: ImageEnhance.Brightness(image).enhance(1.1)),
    "mirrored": ("perceptual", lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "cropped by a tenth": ("embedding", lambda image: image.crop((8, 0, 96, 88))),
    "cropped and mirrored": (
        "embedding",
        lambda image: image.crop((0, 4, 86, 90)).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    ),
}


@pytest.mark.parametrize("how", PLANTED)
def test_a_copy_is_found_and_named(workspace: Workspace, clean: list[dict[str, str]], how: str) -> None:
    kind, change = PLANTED[how]
    planted = save(workspace, "test", "planted", change(picture(7)))
    split = divided(workspace, [*clean, planted])
    result = checked(workspace)
    [pair] = result["pairs"]
    assert (pair["kind"], pair["test"], pair["train"]) == (kind, planted["path"], "data/train/seen-7.png")
    assert pair["mirrored"] == ("mirrored" in how)
    fault = leak.fault(result, split, verify(workspace.bundle))
    assert fault is not None
    assert (
        f"1 of 11 test images are copies of images trained on, e.g. {planted['path']} of data/train/seen-7.png"
        in fault
    )


@pytest.mark.parametrize("mirror", [False, True])
def test_a_copy_of_an_image_trained_on_in_an_earlier_version_is_found(
    workspace: Workspace, clean: list[dict[str, str]], mirror: bool
) -> None:
    gone = picture(500)
    look = base64.b64encode(thumbnail(gone)).decode()
    tested = picture(600)
    kept = [
        Kept("f" * 64, "old", "train", dhash(gone), look),
        Kept("e" * 64, "old-test", "test", dhash(tested), base64.b64encode(thumbnail(tested)).decode()),
    ]
    assignments.save(workspace.assignments, kept)
    copy = gone.resize((80, 80))
    copy = copy.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else copy
    rows = [save(workspace, "test", "copy", copy), save(workspace, "test", "again", tested)]
    split = divided(workspace, [*clean, *rows])
    result = checked(workspace)
    assert result["compared"] == {"test": 12, "train": 24, "past": 1, "past_embedded": 0}
    [pair] = result["pairs"]
    assert (pair["test"], pair["train"], pair["past"], pair["kind"]) == (
        rows[0]["path"],
        None,
        True,
        "perceptual",
    )
    assert "an image that has left the data" in str(leak.fault(result, split, verify(workspace.bundle)))


def test_the_same_bytes_trained_on_before_are_found(
    workspace: Workspace, clean: list[dict[str, str]]
) -> None:
    entry = Kept(clean[-1]["image_id"], "old", "train", dhash(picture(109)), "")
    assignments.save(workspace.assignments, [entry])
    divided(workspace, clean)
    [pair] = checked(workspace)["pairs"]
    assert (pair["kind"], pair["past"]) == ("exact", True)


def test_an_image_that_has_left_the_data_is_shown_to_the_network_while_its_view_is_kept(
    workspace: Workspace, clean: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A cropped copy of it, which no hash finds; without the view, the verdict says what was not looked at."""
    gone = save(workspace, "train", "gone", picture(7))
    divided(workspace, [*clean, gone])
    checked(workspace)  # an earlier version of the data: its view is decoded
    (workspace.root / gone["path"]).unlink()
    look = base64.b64encode(thumbnail(picture(7))).decode()
    kept = Kept(gone["image_id"], "old", "train", dhash(picture(7)), look)
    assignments.save(workspace.assignments, [kept])
    fewer = [row for row in clean if row["path"] != "data/train/seen-7.png"]
    planted = save(workspace, "test", "planted", picture(7).crop((8, 0, 96, 88)))
    divided(workspace, [*fewer, planted])
    result = checked(workspace)
    [pair] = result["pairs"]
    assert (pair["kind"], pair["test"], pair["train"], pair["past"]) == (
        "embedding",
        planted["path"],
        None,
        True,
    )
    assert past_checks(leak.past_counts(result)) == []
    shutil.rmtree(workspace.cache / "views")
    result = checked(workspace)
    assert (result["pairs"], result["compared"]["past_embedded"]) == ([], 0)
    assert "1 of earlier versions by hash and thumbnail alone" in capsys.readouterr().out
    [line] = past_checks(leak.past_counts(result))
    assert (line.outcome, line.decides, line.detail[:6]) == ("unknown", False, "1 of 1")


def test_a_stale_or_edited_result_is_refused(workspace: Workspace, clean: list[dict[str, str]]) -> None:
    planted = save(workspace, "test", "planted", picture(3).resize((48, 48)))
    split = divided(workspace, [*clean, planted])
    digest = verify(workspace.bundle)
    result = checked(workspace)
    edited = json.loads(json.dumps(result)) | {"pairs": []}
    for broken in (edited, {}, [], {"pairs": []}):
        assert "not as it was written" in str(leak.fault(broken, split, digest))  # type: ignore[arg-type]
    assert "the challenger is 000000000000" in str(leak.fault(result, split, "0" * 64))
    fewer = split.slice(0, split.num_rows - 1)
    assert "another split" in str(leak.fault(result, fewer, digest))
    assert "another split" not in str(
        leak.fault(result, split.take(list(range(split.num_rows))[::-1]), digest)
    )


def test_the_result_is_the_same_again(workspace: Workspace, clean: list[dict[str, str]]) -> None:
    divided(workspace, [*clean, save(workspace, "test", "planted", picture(7).crop((8, 0, 96, 88)))])
    checked(workspace)
    before = workspace.leak.read_bytes()
    checked(workspace)
    assert workspace.leak.read_bytes() == before


def test_without_test_images_there_is_nothing_to_check(
    workspace: Workspace, clean: list[dict[str, str]]
) -> None:
    divided(workspace, clean[:24])
    with pytest.raises(DataError, match="0 test and 24 training images"):
        leak.run(workspace, PARAMS)
    assert not workspace.leak.exists()
