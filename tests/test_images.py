"""Any bytes in: an upright RGB image, or an ImageError with a stable reason; never a crash, never a bomb."""

import io
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.artifacts import STATISTICS
from pipeline.edges import border, corners
from pipeline.errors import DataError, ImageError
from pipeline.images import EXTENSIONS, Decoded, decode, describe, dhash, statistics, thumbnail

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")


def picture(width: int = 120, height: int = 90, seed: int = 0) -> Image.Image:
    """Blurred coloured blobs: structure that survives JPEG."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, name: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


def reason(data: bytes, **limits: int) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **limits)
    assert isinstance(caught.value, DataError)
    assert str(caught.value).isprintable()
    return caught.value.reason


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and carries one byte of it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_read_by_its_content(name: str) -> None:
    decoded = decode(encode(picture(), name))
    assert (decoded.format, decoded.mode, decoded.width, decoded.height) == (name, "RGB", 120, 90)
    assert decoded.image.mode == "RGB"
    assert decoded.image.size == (120, 90)
    assert np.abs(np.asarray(decoded.image, int) - np.asarray(picture(), int)).mean() < 6
    assert name in EXTENSIONS


@pytest.mark.parametrize(
    "data",
    [
        b"just some text\n" * 20,
        b"GIF89a" + bytes(40),
        b"%PDF-1.7",
        b"<svg xmlns='x'/>",
        b"\x00",
        b"8BPS" + bytes(30),
    ],
)
def test_other_content_is_refused_whatever_its_name(data: bytes) -> None:
    assert reason(data) == "unknown_format"


def test_empty_and_oversized_files_are_refused() -> None:
    data = encode(picture(), "PNG")
    assert reason(b"") == "empty"
    assert reason(data, max_bytes=len(data) - 1) == "too_many_bytes"
    assert decode(data, max_bytes=len(data)).width == 120


@pytest.mark.parametrize("name", FORMATS)
def test_pixel_limit_holds_for_each_format(name: str) -> None:
    data = encode(picture(), name)
    assert reason(data, max_pixels=120 * 90 - 1) == "too_many_pixels"
    assert decode(data, max_pixels=120 * 90).height == 90


def test_a_decompression_bomb_is_refused_without_memory_or_pillows_own_warning() -> None:
    bomb = png_of_size(50_000, 50_000)
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason(bomb) == "too_many_pixels"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_webp_bomb_is_refused_before_its_canvas_is_allocated() -> None:
    size = (16_000 - 1).to_bytes(3, "little") * 2
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size
    assert reason(b"RIFF" + struct.pack("<I", len(body)) + body) == "too_many_pixels"


def test_a_limit_above_pillows_own_is_honoured() -> None:
    """100 megapixels: Pillow's Image.open would warn here."""
    data = encode(Image.new("1", (10_000, 10_000)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason(data) == "too_many_pixels"
        assert decode(data, max_pixels=100_000_000).width == 10_000


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_truncated_image_is_an_error(name: str, share: float) -> None:
    data = encode(picture(300, 200), name)
    assert reason(data[: int(len(data) * share)]) in ("truncated", "broken_header", "unknown_format")


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP"])
def test_an_image_cut_in_the_middle_is_called_truncated(name: str) -> None:
    data = encode(picture(300, 200), name)
    assert reason(data[: len(data) * 2 // 3]) == "truncated"


@pytest.mark.parametrize("name", FORMATS)
def test_flipped_bytes_never_crash(name: str) -> None:
    """Fuzz: every outcome is an image or an ImageError, and nothing warns."""
    data = encode(picture(40, 30), name)
    rng = np.random.default_rng(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for _ in range(150):
            broken = bytearray(data)
            for place in rng.integers(0, min(len(data), 400), 3):
                broken[place] = int(rng.integers(0, 256))
            try:
                assert decode(bytes(broken), max_pixels=1_000_000).image.mode == "RGB"
            except ImageError as error:
                assert error.reason  # noqa: PT017  either outcome is right


def test_zero_sized_image_is_an_error() -> None:
    assert reason(png_of_size(0, 10)) == "broken_header"


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(name: str, orientation: int) -> None:
    """The stored pixels are turned so that the tag undoes it: every case shows the same picture."""
    undo: dict[int, Callable[[Image.Image], Image.Image]] = {
        1: lambda i: i,
        2: lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda i: i.transpose(Image.Transpose.ROTATE_180),
        4: lambda i: i.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda i: i.transpose(Image.Transpose.TRANSPOSE),
        6: lambda i: i.transpose(Image.Transpose.ROTATE_90),
        7: lambda i: i.transpose(Image.Transpose.TRANSVERSE),
        8: lambda i: i.transpose(Image.Transpose.ROTATE_270),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = picture(96, 64)
    options: dict[str, Any] = {"tiffinfo": {0x0112: orientation}} if name == "TIFF" else {"exif": exif}
    decoded = decode(encode(undo[orientation](upright), name, **options))
    assert (decoded.width, decoded.height) == decoded.image.size == (96, 64)
    assert np.abs(np.asarray(decoded.image, int) - np.asarray(upright, int)).mean() < 6


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # in a program the module's own filter holds
def test_damaged_exif_counts_as_upright() -> None:
    data = encode(picture(96, 64), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    assert decode(data).image.size == (96, 64)


def test_alpha_is_composited_on_white() -> None:
    layer = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    layer.putpixel((0, 0), (200, 0, 0, 255))
    layer.putpixel((1, 0), (200, 0, 0, 128))
    decoded = decode(encode(layer, "PNG"))
    assert decoded.mode == "RGBA"
    assert decoded.image.getpixel((0, 0)) == (200, 0, 0)
    assert decoded.image.getpixel((3, 3)) == (255, 255, 255)
    red, green, _ = decoded.image.getpixel((1, 0))  # type: ignore[misc]
    assert abs(red - 227) <= 1
    assert abs(green - 127) <= 1


def test_palette_and_gray_transparency_are_composited_on_white() -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 0, 200, 0])
    palette.putpixel((1, 1), 1)
    decoded = decode(encode(palette, "PNG", transparency=0))
    assert decoded.mode == "P"
    assert decoded.image.getpixel((0, 0)) == (255, 255, 255)
    assert decoded.image.getpixel((1, 1)) == (0, 200, 0)
    gray = decode(encode(Image.new("LA", (2, 2), (0, 0)), "PNG"))
    assert gray.image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["PNG", "TIFF"])
def test_sixteen_bit_gray_is_scaled_not_clipped(name: str) -> None:
    ramp = np.linspace(0, 65_535, 256).astype(np.uint16).reshape(16, 16)
    decoded = decode(encode(Image.fromarray(ramp), name))
    assert decoded.mode.startswith("I;16")
    assert np.array_equal(np.asarray(decoded.image)[..., 0], ramp >> 8)


def test_pixels_without_a_fixed_white_are_refused() -> None:
    assert reason(encode(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")) == "unsupported_mode"
    assert reason(encode(Image.fromarray(np.zeros((4, 4), np.int32)), "TIFF")) == "unsupported_mode"


@pytest.mark.parametrize(
    ("mode", "name"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("L", "JPEG"), ("1", "PNG"), ("1", "TIFF")]
)
def test_other_modes_become_rgb(mode: str, name: str) -> None:
    original = picture().convert(mode)
    decoded = decode(encode(original, name))
    assert decoded.mode == mode
    assert np.abs(np.asarray(decoded.image, int) - np.asarray(original.convert("RGB"), int)).mean() < 8


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_counts(name: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options: dict[str, Any] = {"lossless": True} if name == "WEBP" else {}
    decoded = decode(encode(frames[0], name, save_all=True, append_images=frames[1:], **options))
    assert decoded.image.getpixel((4, 4)) == (255, 0, 0)


def test_statistics_of_known_images() -> None:
    black, white, red = (statistics(Image.new("RGB", (64, 48), c)) for c in ("black", "white", "red"))
    assert tuple(black) == STATISTICS
    assert black == {"brightness": 0, "contrast": 0, "sharpness": 0, "saturation": 0}
    assert (white["brightness"], white["saturation"]) == (1, 0)
    assert red["saturation"] == 1
    assert red["brightness"] == pytest.approx(0.298, abs=0.002)  # 76 of 255: the share of red in luma
    half = Image.new("RGB", (64, 64))
    half.paste("white", (0, 0, 32, 64))
    assert statistics(half)["contrast"] == pytest.approx(0.5)
    assert statistics(half)["brightness"] == pytest.approx(0.5)


def test_blur_lowers_sharpness_and_nothing_else() -> None:
    sharp = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))
    soft = sharp.resize((32, 32), Image.Resampling.BOX).resize((128, 128), Image.Resampling.BICUBIC)
    one, other = statistics(sharp), statistics(soft)
    assert other["sharpness"] < one["sharpness"] - 1
    assert other["brightness"] == pytest.approx(one["brightness"], abs=0.01)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 1), (1, 3000), (5000, 1), (17, 16), (511, 257)])
def test_every_size_has_statistics_and_a_hash(size: tuple[int, int]) -> None:
    image = picture(*size)
    numbers, code, look, colours = describe(Decoded(image, *size, "RGB", "PNG"))
    assert max(colours.size) <= 64
    assert (len(border(np.asarray(colours))), len(corners(np.asarray(colours)))) == (192, 192)
    assert all(np.isfinite(value) for value in numbers.values())
    assert len(code) == 64
    assert len(look) == 256
    assert (numbers, code, look) == (statistics(image), dhash(image), thumbnail(image))


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def test_hash_survives_resizing_and_encoding_and_tells_images_apart() -> None:
    image = picture(400, 300)
    small = decode(encode(image.resize((200, 150)), "JPEG", quality=60)).image
    assert distance(dhash(image), dhash(small)) <= 16
    assert distance(dhash(image), dhash(picture(400, 300, seed=1))) > 60


@pytest.mark.parametrize("size", [(512, 384), (700, 500), (769, 1100)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_shrunken_jpeg_gives_the_numbers_of_the_whole_one(size: tuple[int, int], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(*size), "JPEG", quality=90, exif=exif)
    whole, shrunk = decode(data), decode(data, whole=False)
    assert max(shrunk.image.size) < max(whole.image.size)
    assert (shrunk.width, shrunk.height, shrunk.orientation) == (whole.width, whole.height, orientation)
    (numbers, code, look, _), (others, other, second, _) = describe(whole), describe(shrunk)
    assert others == pytest.approx(numbers, abs=0.15)  # in log10 units of sharpness, of a smooth image
    assert distance(code, other) <= 12
    assert np.abs(np.frombuffer(look, np.uint8).astype(int) - np.frombuffer(second, np.uint8)).max() <= 3


def test_a_cut_jpeg_is_refused_also_when_it_is_shrunken() -> None:
    data = encode(picture(900, 700), "JPEG", quality=90)
    with pytest.raises(ImageError, match="ends too early"):
        decode(data[: len(data) // 2], whole=False)


@pytest.mark.parametrize(
    ("mode", "kind", "bits"),
    [("1", "PNG", 1), ("L", "PNG", 8), ("I;16", "PNG", 16), ("RGB", "JPEG", 8), ("1", "TIFF", 1), ("I;16", "TIFF", 16),
     ("RGB", "TIFF", 8), ("RGB", "BMP", 8), ("RGB", "WEBP", 8)],
)  # fmt: skip
def test_bits_are_those_of_the_file(mode: str, kind: str, bits: int) -> None:
    image = (
        Image.fromarray(np.full((20, 20), 4000, np.uint16))
        if mode == "I;16"
        else picture(20, 20).convert(mode)
    )
    assert decode(encode(image, kind)).bits == bits
