"""Each fault of a sensor is called by its name, from images as a camera would send them."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monitoring.drift import yardstick
from monitoring.evidence import Yardstick
from monitoring.faults import MARKS, fault, looks_of
from monitoring.reference import Reference
from monitoring.triage import Explanation, explain
from monitoring.window import Row, Window
from pipeline.artifacts import STATISTICS
from pipeline.corruptions import corrupt
from pipeline.images import LOOKS, decode, look, statistics
from tests.monitored import START

SIDE = 96
CLASSES = ("a", "b")


def scene(seed: int) -> Image.Image:
    """A picture with soft shades, edges that run down more than across, a bright upper half, and some grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.normal(0, 0.12, (7, 13)).astype(np.float32))
    shade = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    slope = np.linspace(0.12, -0.12, SIDE)[:, None] + rng.normal(0.5, 0.03)
    gray = slope + shade + rng.normal(0, 0.012, (SIDE, SIDE))
    colours = gray[:, :, None] * np.array([1.0, 0.95, 0.85]) * rng.normal(1, 0.02, 3)
    return Image.fromarray((np.clip(colours, 0, 1) * 255).astype(np.uint8))


def columns(pictures: list[Image.Image]) -> dict[str, np.ndarray]:
    """As the service and the bundle would measure them; embeddings are drawn, so that only the look can tell."""
    rng = np.random.default_rng(len(pictures))
    chances = rng.dirichlet((3.0, 3.0), len(pictures)).astype(np.float32)
    return {
        "embeddings": rng.normal(size=(len(pictures), 8)).astype(np.float32),
        "statistics": np.array([[statistics(p)[name] for name in STATISTICS] for p in pictures], np.float32),
        "probabilities": chances,
        "sizes": np.array([p.size for p in pictures]),
    }


@pytest.fixture(scope="module")
def measure() -> Yardstick:
    pictures = [scene(seed) for seed in range(80)]
    ids = tuple(f"{index:064d}" for index in range(len(pictures)))
    held = columns(pictures)
    predicted = tuple(CLASSES[index] for index in held["probabilities"].argmax(axis=1))
    reference = Reference(
        champion="c", digest="d", classes=CLASSES, image_ids=ids, predicted=predicted, groups=ids,
        domains=("line-a",) * len(ids), thumbnails=(b"",) * len(ids), labels=predicted,
        looks=np.array([[look(p)[name] for name in LOOKS] for p in pictures], np.float32), **held,
    )  # fmt: skip
    return yardstick(reference, 0.01)


def explained(
    measure: Yardstick, folder: Path, change: Callable[[Image.Image, int], Image.Image]
) -> Explanation:
    """What the triage says of 40 images that were changed, kept and logged."""
    pictures = [change(scene(1000 + seed), seed) for seed in range(40)]
    sent = columns(pictures)
    rows = []
    for index, picture in enumerate(pictures):
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        name = hashlib.sha256(stream.getvalue()).hexdigest()
        target = folder / name[:2] / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(stream.getvalue())
        assert decode(stream.getvalue()).image.size == picture.size
        rows.append(
            Row(
                request_id=str(index), time=START + timedelta(seconds=index), image_id=name,
                label=CLASSES[int(sent["probabilities"][index].argmax())], source="line-a",
                kept=f"{name[:2]}/{name}.png", probabilities=sent["probabilities"][index],
                embedding=sent["embeddings"][index], statistics=sent["statistics"][index],
                size=(picture.width, picture.height),
            )
        )  # fmt: skip
    window = Window(tuple(rows), CLASSES)
    return explain(measure, window, looks_of(window, folder))


def corrupted(kind: str, level: int) -> Callable[[Image.Image, int], Image.Image]:
    return lambda picture, seed: Image.fromarray(corrupt(np.asarray(picture), kind, level, seed))


def warm(picture: Image.Image, _: int) -> Image.Image:
    red, green, blue = picture.split()
    return Image.merge("RGB", (red.point(lambda v: min(255, v * 1.2)), green, blue.point(lambda v: v * 0.75)))


@pytest.mark.parametrize(
    ("name", "change", "advice"),
    [
        ("noise", corrupted("gaussian_noise", 2), "gain"),
        ("blur", corrupted("defocus", 2), "lens"),
        ("blur", corrupted("motion_blur", 3), "lens"),
        ("exposure", corrupted("brightness", 2), "lamp"),
        ("exposure", corrupted("contrast", 3), "lamp"),
        ("compression", corrupted("jpeg", 3), "quality"),
        ("resolution", corrupted("pixelate", 2), "camera's mode"),
        ("resolution", lambda picture, _: picture.reduce(2), "camera's mode"),
        ("colour cast", warm, "white balance"),
        ("orientation", lambda picture, _: picture.transpose(Image.Transpose.ROTATE_90), "mounting"),
        ("orientation", lambda picture, _: picture.transpose(Image.Transpose.ROTATE_180), "mounting"),
    ],
)
def test_a_fault_is_named_and_the_advice_is_its_own(
    measure: Yardstick,
    tmp_path: Path,
    name: str,
    change: Callable[[Image.Image, int], Image.Image],
    advice: str,
) -> None:
    found = explained(measure, tmp_path, change)
    assert (found.kind, found.fault) == ("sensor", name), found.text
    assert advice in found.text
    assert found.since["request_id"] == "0"
    assert found.changes[0].p <= 0.01


def test_unchanged_images_have_no_fault(measure: Yardstick, tmp_path: Path) -> None:
    found = explained(measure, tmp_path, lambda picture, _: picture)
    assert (found.kind, found.fault, found.changes) == ("unclear", None, ())


def test_without_kept_images_the_faults_that_the_log_can_tell_are_told(
    measure: Yardstick, tmp_path: Path
) -> None:
    without = replace(measure.reference, looks=None)
    found = explained(Yardstick(without, 0.005), tmp_path, corrupted("defocus", 3))
    assert found.fault == "blur"


def test_one_mark_goes_before_another() -> None:
    assert fault({}) is None
    assert fault({"noise": 3.0, "contrast": 1.0}) == "noise"
    assert fault({"edges": -2.0, "blocks": 2.0}) == "compression"
    assert fault({"noise": -3.0}) is None
    assert fault({"brightness": -2.0, "warmth": 1.5, "edges": -1.5, "blocks": 2.0}) == "camera"
    assert fault({"brightness": -2.0, "warmth": 0.5, "edges": -1.5}) == "blur", "no colour moved by as much"
    assert {name for name, _ in MARKS} == {
        "resolution", "noise", "compression", "blur", "exposure", "colour cast", "orientation",
    }  # fmt: skip
