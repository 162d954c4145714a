"""What is kept of an image shows the same picture and tells nothing else."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from pipeline.errors import ImageError
from pipeline.images import decode
from pipeline.metadata import stripped

SECRET = b"48.8584N 2.2945E"
PICTURE = Image.fromarray(
    np.kron(np.random.default_rng(0).integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
)


def exif(orientation: int | None = None) -> Image.Exif:
    """With a place, a camera, a comment and a preview, as phones write them."""
    block = Image.Exif()
    if orientation:
        block[ExifTags.Base.Orientation] = orientation
    block[ExifTags.Base.Make] = "Camera"
    block[ExifTags.Base.ImageDescription] = SECRET.decode()
    block.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (48.0, 51.0, 30.24)
    return block


# What Pillow reports of a file's own format, beside text, places and profiles.
HARMLESS = {
    "exif", "icc_profile", "jfif", "jfif_version", "jfif_unit", "jfif_density", "adobe", "adobe_transform", "dpi", "gamma",
    "chromaticity", "srgb", "transparency", "progressive", "progression", "loop", "background", "timestamp", "duration",
}  # fmt: skip
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def saved(form: str, image: Image.Image = PICTURE, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def checked(data: bytes) -> bytes:
    """The kept bytes, after: the same pixels, nothing left to strip, no metadata that Pillow can find."""
    before = decode(data)
    kept, extension = stripped(data, before)
    after = decode(kept)
    assert np.array_equal(np.asarray(after.image), np.asarray(before.image))
    assert stripped(kept, after) == (kept, extension)
    assert SECRET not in kept
    assert b"Camera" not in kept
    with Image.open(io.BytesIO(kept)) as image:
        assert set(image.getexif()) <= {ExifTags.Base.Orientation}
        assert not image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
        assert not image.info.get("icc_profile")
        said = set(image.info) - HARMLESS
        assert not said, said
        assert getattr(image, "n_frames", 1) == 1
    return kept


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [None, 1, 2, 3, 4, 5, 6, 7, 8])
def test_place_camera_and_profile_go_and_the_picture_stays_upright(
    form: str, orientation: int | None
) -> None:
    data = saved(form, exif=exif(orientation), icc_profile=PROFILE, comment=SECRET)
    assert SECRET in data
    kept = checked(data)
    assert len(kept) < len(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_file_that_tells_nothing_stays_byte_by_byte(form: str) -> None:
    data = saved(form)
    assert checked(data) == data


def pnginfo() -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", SECRET.decode())
    text.add_text("Long", SECRET.decode() * 50, zip=True)
    text.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    text.add(b"tIME", struct.pack(">HBBBBB", 2026, 3, 1, 8, 0, 0))
    text.add(b"prVt", SECRET)
    return text


@pytest.mark.parametrize(
    "image",
    [
        PICTURE.convert("L"), PICTURE.convert("RGBA"), PICTURE.convert("P"), PICTURE.convert("1"),
        Image.fromarray((np.arange(48 * 64).reshape(48, 64) * 21).astype(np.uint16)),
    ],
    ids=["gray", "alpha", "palette", "bits", "16-bit"],
)  # fmt: skip
def test_png_text_time_and_private_chunks_go(image: Image.Image) -> None:
    kept = checked(saved("PNG", image, pnginfo=pnginfo(), exif=exif(6)))
    assert b"prVt" not in kept
    assert b"tIME" not in kept


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_kind_of_jpeg_keeps_its_pixels(mode: str, options: dict[str, object]) -> None:
    checked(saved("JPEG", PICTURE.convert(mode), exif=exif(8), comment=SECRET, **options))


def test_an_rgb_jpeg_of_adobe_keeps_its_colours() -> None:
    """Without the marker that says "no transform" it would be read as YCbCr."""
    data = saved("JPEG", keep_rgb=True, comment=SECRET)
    assert b"Adobe" in data
    assert b"Adobe" in checked(data)


def test_a_preview_in_the_jfif_header_and_what_follows_the_picture_go() -> None:
    data = saved("JPEG")
    assert data[2:4] == b"\xff\xe0"
    preview = b"JFIF\0" + data[11:18] + bytes((1, 1)) + b"abc"
    body = b"\xff\xd8\xff\xe0" + struct.pack(">H", 2 + len(preview)) + preview + data[20:]
    video = b"\0\0\0\x18ftypmp42" + SECRET
    assert checked(body + video) == data


def test_animations_keep_the_frame_that_was_seen() -> None:
    frames = [PICTURE.rotate(90 * turn, expand=False) for turn in range(1, 3)]
    for form in ("PNG", "WEBP"):
        data = saved(form, save_all=True, append_images=frames, exif=exif(6))
        assert checked(data).startswith(b"\x89PNG")


def test_bmp_becomes_a_png() -> None:
    assert checked(saved("BMP") + SECRET).startswith(b"\x89PNG")


def test_a_webp_with_alpha_keeps_it() -> None:
    for lossless in (True, False):
        kept = checked(saved("WEBP", PICTURE.convert("RGBA"), lossless=lossless, exif=exif(5), xmp=SECRET))
        assert kept.startswith(b"RIFF")


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


SEEDS = [
    saved("JPEG", exif=exif(6), comment=SECRET, icc_profile=PROFILE),
    saved("JPEG", PICTURE.convert("CMYK"), exif=exif(3)),
    saved("JPEG", progressive=True, comment=SECRET),
    saved("PNG", PICTURE.convert("P"), pnginfo=pnginfo(), exif=exif(8)),
    saved("PNG", save_all=True, append_images=[PICTURE.rotate(90)]),
    saved("WEBP", PICTURE.convert("RGBA"), exif=exif(5), icc_profile=PROFILE),
    saved("TIFF", exif=exif(2)),
    saved("BMP"),
]


@settings(max_examples=400, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=4),
    cut=st.one_of(st.none(), st.integers(0, 2**16)),
    behind=st.binary(max_size=20),
)
def test_whatever_decodes_keeps_its_pixels(
    seed: bytes, changes: list[tuple[int, int]], cut: int | None, behind: bytes
) -> None:
    data = bytearray(seed)
    for place, value in changes:
        data[place % len(data)] = value
    data = data[: cut % len(data)] if cut is not None else data
    try:
        before = decode(bytes(data + behind), max_pixels=1_000_000)
    except ImageError:
        return
    kept, _ = stripped(bytes(data + behind), before)
    assert np.array_equal(np.asarray(decode(kept).image), np.asarray(before.image))


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("name", ["grocery20", "magnetic_tile", "deeppcb_cls", "pacs3"])
def test_real_images_keep_their_pixels(real_data: Callable[[str], Path], name: str) -> None:
    files = [path for path in sorted(real_data(name).rglob("*")) if path.suffix in {".jpg", ".png"}]
    assert len(files) > 100
    for path in files[:: max(1, len(files) // 60)]:
        data = path.read_bytes()
        checked(data)
        if data[:2] == b"\xff\xd8":  # and as a phone would have sent it
            block = exif(6).tobytes()
            block = block if block.startswith(b"Exif") else b"Exif\0\0" + block
            checked(data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:])
