"""Bytes to an RGB image, safely, and what can be said about it in numbers. Pillow and numpy only.

One decode serves everything: ingest, the service and monitoring take pixels, statistics and the
perceptual hash from the same ``Decoded``, so their numbers agree.

    decoded = decode(path.read_bytes())           # ImageError names what is wrong
    statistics(decoded.image), dhash(decoded.image)

What an input becomes: JPEG, PNG, WebP, BMP and TIFF, recognised by content, never by name. The limits
hold before anything is decoded or allocated. EXIF orientation is applied (a damaged EXIF block counts
as upright); alpha, also a palette's, is composited on white; 16-bit gray is divided by 256; CMYK and
YCbCr become RGB, colour profiles are ignored; of an animation or a multi-page file the first frame
counts. 32-bit and float TIFFs have no fixed white, so they are refused instead of guessed.
"""

import io
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import (
    BmpImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from pipeline.errors import ImageError
from pipeline.image_statistics import described, dhash, reduction, statistics, thumbnail
from pipeline.look import LOOKS, look

__all__ = [
    "EXTENSIONS",
    "LOOKS",
    "Decoded",
    "decode",
    "describe",
    "dhash",
    "look",
    "statistics",
    "thumbnail",
]

EXTENSIONS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}

# What Pillow mutters about odd metadata (a tag too long, a wrong APNG header) is no defect of the pixels.
warnings.filterwarnings("ignore", module=r"PIL\.")

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class Decoded:
    """One image, ready for the preprocessing, and what its file said."""

    image: Image.Image  # RGB, upright, opaque, 8 bits a channel
    width: int  # px, after orientation
    height: int
    mode: str  # as stored: L, RGB, RGBA, P, CMYK, I;16, ...
    format: str  # JPEG, PNG, WEBP, BMP or TIFF
    orientation: int = 1  # EXIF's, 1 to 8; the image here is upright
    bits: int = 8  # a channel or palette index, as stored
    scale: int = 1  # the image here is that many times smaller than the stored one


def decode(
    data: bytes, *, max_pixels: int = 50_000_000, max_bytes: int = 52_428_800, whole: bool = True
) -> Decoded:
    """The image in ``data``.

    Args:
        whole: False takes a large JPEG at 1/2, 1/4 or 1/8 of its size, which costs half the time or less: all that
            describe() needs. Its numbers are those of the whole image but for rounding: on photographs and circuit
            boards brightness within .001, contrast .004, sharpness .02 (.1 where hardly any), thumbnails 1 of 255 levels.

    Raises:
        ImageError: with ``reason`` empty, too_many_bytes, unknown_format, broken_header,
            too_many_pixels, unsupported_mode, truncated or damaged.
    """
    if not data:
        raise ImageError("empty", "the file is empty (0 bytes)")
    if len(data) > max_bytes:
        raise ImageError("too_many_bytes", f"{len(data):,} bytes, over the limit of {max_bytes:,} bytes")
    stored = _open(data, max_pixels)
    if stored.mode in ("I", "F"):
        raise ImageError(
            "unsupported_mode",
            f"{stored.format} with 32-bit {stored.mode} pixels: save it with 8 or 16 bits a channel",
        )
    orientation = _orientation(stored)
    mode, name, (width, height) = stored.mode, stored.format or "", stored.size
    bits = _bits(stored, data)
    scale = 1 if whole else _draft(stored)
    try:
        stored.load()
        image = _rgb(stored)
    except Exception as error:  # each plugin raises its own kinds
        raise _error(data, name, error, "damaged") from error
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    if scale == 1:
        width, height = image.size  # a TIFF is turned by Pillow
    elif orientation >= 5:
        width, height = height, width
    return Decoded(image, width, height, mode, name, orientation, bits, scale)


def _draft(stored: ImageFile.ImageFile) -> int:
    """Let a JPEG's decoder shrink it, at most to the copy that all numbers come from; by how much."""
    scale = next(scale for scale in (8, 4, 2, 1) if scale <= reduction(stored.size))
    if scale > 1 and isinstance(stored, JpegImagePlugin.JpegImageFile):
        wanted = (-(-stored.width // scale), -(-stored.height // scale))
        width = stored.width
        drafted = stored.draft(None, wanted)  # type: ignore[arg-type]  # None keeps the mode
        return round(width / drafted[1][2]) if drafted else 1
    return 1


def _bits(stored: ImageFile.ImageFile, data: bytes) -> int:
    """Bits a channel (or palette index) as the header gives them: Pillow reads 16-bit colour as 8-bit."""
    if isinstance(stored, PngImagePlugin.PngImageFile):
        return data[24]
    if isinstance(stored, TiffImagePlugin.TiffImageFile):
        found = stored.tag_v2.get(258, (1,))
        return int(max(found)) if isinstance(found, tuple) else int(found)
    return 1 if stored.mode == "1" else 8


def _open(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """The header read and its size checked; no pixel is decoded.

    The plugins are called directly: ``Image.open`` would add Pillow's own limit, with its own warning.
    """
    if data[:3] == b"\xff\xd8\xff":
        plugin: type[ImageFile.ImageFile] = JpegImagePlugin.JpegImageFile
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        plugin = PngImagePlugin.PngImageFile
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        plugin = WebPImagePlugin.WebPImageFile
        _check_pixels(*_webp_size(data), max_pixels)  # its decoder allocates the canvas when it is opened
    elif data[:2] == b"BM":
        plugin = BmpImagePlugin.BmpImageFile
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        plugin = TiffImagePlugin.TiffImageFile
    else:
        raise ImageError("unknown_format", "neither JPEG, PNG, WebP, BMP nor TIFF by its content")
    try:
        stored = plugin(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", f"over the limit of {max_pixels:,} pixels ({error})") from error
    except Exception as error:  # each plugin raises its own kinds
        raise _error(data, plugin.format or "", error, "broken_header") from error
    _check_pixels(*stored.size, max_pixels)
    return stored


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"{width:,} x {height:,} px, over the limit of {max_pixels:,} pixels (data.max_pixels)",
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Canvas width and height in px from the first chunk's header (RFC 9649); 0, 0 where it can't be read."""
    chunk = data[12:16]
    if len(data) < 30:
        return 0, 0
    if chunk == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return struct.unpack("<H", data[26:28])[0] & 0x3FFF, struct.unpack("<H", data[28:30])[0] & 0x3FFF


def _orientation(stored: ImageFile.ImageFile) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it can't be read.

    Read here, not with ``getexif``, which parses the whole block and warns about or dies of its defects.
    """
    if isinstance(stored, TiffImagePlugin.TiffImageFile):
        return 1  # Pillow turns a TIFF itself when it is loaded
    block = stored.info.get("exif", b"")
    if not isinstance(block, bytes):
        return 1
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", block, start + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return int(value) if kind == 3 else 1
    except struct.error:
        pass
    return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        # Pillow's own conversion clips at 255: everything but the darkest 1/256 would turn white.
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _error(data: bytes, name: str, error: Exception, otherwise: str) -> ImageError:
    """``truncated`` where the data end too early, else ``otherwise``."""
    cut = "truncated" in str(error).lower() or isinstance(error, EOFError)
    if name == "WEBP":
        cut = len(data) < int.from_bytes(data[4:8], "little") + 8
    elif name == "PNG":
        cut = cut or b"IEND" not in data[-16:]
    what = (
        "ends too early"
        if cut
        else "has a header that can't be read"
        if otherwise == "broken_header"
        else "is damaged"
    )
    return ImageError(
        "truncated" if cut else otherwise, f"{name} of {len(data):,} bytes {what} ({_words(error)})"
    )


def _words(error: Exception) -> str:
    """The error in one printable line: it may quote bytes of the file."""
    text = f"{type(error).__name__}: {error}".encode("unicode_escape").decode("ascii")
    return text if len(text) <= 200 else text[:197] + "..."


def describe(decoded: Decoded) -> tuple[dict[str, float], str, bytes, Image.Image]:
    """``statistics``, ``dhash`` and ``thumbnail`` of a decoded image, and its colours in at most 64 x 64 px."""
    return described(decoded.image, decoded.scale, decoded.width, decoded.height)
