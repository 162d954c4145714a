"""The one preprocessing: its geometry, its memory, and what its fingerprint notices."""

import dataclasses
import resource
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import IntegrityError
from pipeline.transforms import Preprocessing

USUAL = Preprocessing(
    image_size=64, resize=72, interpolation="bicubic", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards, blue is flat."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack(
        [x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), np.full_like(x, 80)], axis=-1
    )
    return Image.fromarray(pixels.astype(np.uint8))


def test_the_fingerprint_is_the_one_that_was_recorded() -> None:
    """A Pillow that resamples otherwise, or an edit to this code, makes older bundles unusable: on purpose only."""
    assert USUAL.fingerprint() == "f9b304793819669b03bfa65851ecbd24bb0a384b194ce4231aea7315b36fa26a"


@pytest.mark.parametrize(
    "change",
    [
        {"mean": (0.485, 0.456, 0.41)},
        {"std": (0.229, 0.224, 0.23)},
        {"interpolation": "bilinear"},
        {"resize": 73},
        {"image_size": 62},
        {"crop_mode": "squash"},
    ],
)
def test_the_fingerprint_notices_every_parameter(change: dict[str, object]) -> None:
    assert dataclasses.replace(USUAL, **change).fingerprint() != USUAL.fingerprint()


def test_the_fingerprint_notices_changed_code() -> None:
    class SwappedChannels(Preprocessing):
        def view(self, image: Image.Image) -> np.ndarray:
            return super().view(image)[..., ::-1]

    class OtherScale(Preprocessing):
        def normalise(self, views: np.ndarray) -> np.ndarray:
            return super().normalise(views) * np.float32(1.01)

    for kind in (SwappedChannels, OtherScale):
        assert kind(**USUAL.to_dict()).fingerprint() != USUAL.fingerprint()


@pytest.mark.parametrize("size", [(100, 80), (80, 100), (64, 64), (64, 300), (1, 1), (2, 9), (500, 3)])
def test_the_view_is_the_middle_of_the_image(size: tuple[int, int]) -> None:
    view = USUAL.view(gradient(*size))
    assert view.shape == (64, 64, 3)
    assert view.dtype == np.uint8
    assert abs(float(view[..., 2].mean()) - 80) < 1
    if min(size) > 2:
        assert abs(float(view[..., 0].mean()) - 127) < 6
        assert abs(float(view[..., 1].mean()) - 127) < 6


def test_squash_keeps_what_a_centre_crop_cuts_off() -> None:
    squash = dataclasses.replace(USUAL, crop_mode="squash", resize=64)
    wide = gradient(400, 100)
    assert int(USUAL.view(wide)[0, 0, 0]) > 90
    assert int(squash.view(wide)[0, 0, 0]) < 5


def test_gray_and_palette_images_become_rgb() -> None:
    assert np.ptp(USUAL.view(gradient(80, 80).convert("L")), axis=2).max() == 0
    assert USUAL.view(gradient(80, 80).convert("P")).shape == (64, 64, 3)


def test_an_extremely_long_image_costs_no_more_memory_than_a_square_one() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = Image.new("RGB", (3, 2_000_000), (10, 20, 30))
    assert (USUAL.view(image) == (10, 20, 30)).all()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 100e6  # 72 px wide it would be 72 x 48,000,000 px


def test_normalise_is_the_textbook_formula() -> None:
    views = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    pixels = USUAL.normalise(views)
    expected = ((views / 255 - np.array(USUAL.mean)) / np.array(USUAL.std)).transpose(0, 3, 1, 2)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    np.testing.assert_allclose(pixels, expected, atol=1e-5)


def test_it_comes_back_from_its_dict_and_damage_is_refused() -> None:
    assert Preprocessing.from_dict(USUAL.to_dict()) == USUAL
    for damage in (
        {"mean": [0.5]},
        {"mean": None},
        {"extra": 1},
        {"std": [0, 1, 1]},
        {"resize": 10},
        {"interpolation": "nearest"},
        {"crop_mode": "border"},
    ):
        with pytest.raises(IntegrityError):
            Preprocessing.from_dict(USUAL.to_dict() | damage)


def test_it_needs_no_torch() -> None:
    code = (
        "import sys, pipeline.transforms, pipeline.views, pipeline.bundle; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
