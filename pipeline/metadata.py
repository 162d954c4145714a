"""An image's bytes without what they tell beside the picture: EXIF with its GPS, XMP, comments, colour profiles,
previews, maker's notes, whatever follows the picture.

    data, extension = stripped(received, decode(received))

JPEG, PNG and still WebP lose blocks, never a pixel: what is known to be needed stays, the rest goes. Of EXIF
only the orientation stays, and only where it turns the picture. All others (BMP, TIFF, animations, files whose
blocks do not follow their format) become a PNG of the picture as ``decode`` gives it: upright, 8 bits a channel,
the first frame. A file without such blocks stays as it is, byte by byte; so does one that was stripped before.
"""

import io
import re
import struct
import zlib

from pipeline.images import EXTENSIONS, Decoded

__all__ = ["stripped"]

_PNG = b"\x89PNG\r\n\x1a\n"
# Beside the pixels: transparency, and how numbers become light. None of them holds text or a place.
_PNG_KEPT = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"cICP", b"pHYs", b"bKGD"}  # fmt: skip
_WEBP_KEPT = {b"VP8 ", b"VP8L", b"ALPH"}
_WEBP_ALPHA, _WEBP_EXIF, _WEBP_ANIMATED = 0x10, 0x08, 0x02  # flags of VP8X (RFC 9649)

_SOI, _EOI, _SOS, _APP0, _APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xEE
# ITU-T T.81, table B.1: frames, tables and scans. APPn, COM and what is reserved go.
_JPEG_KEPT = {*range(0xC0, 0xD0), _SOS, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF}
_BARE = {0x00, 0x01, *range(0xD0, 0xD9)}  # without a length: none may stand between segments
# In a scan FF is followed by 00 or a restart marker, and may be repeated as filling.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


class _OddError(Exception):
    """The blocks do not follow the format; the decoder may have been more forgiving."""


def stripped(data: bytes, decoded: Decoded) -> tuple[bytes, str]:
    """The bytes to keep of an image, and the extension of their format, ``.jpg``, ``.png`` or ``.webp``.

    Args:
        data: as received. decoded: what ``decode(data)`` gave; decoding the result gives the same pixels.
    """
    orientation = decoded.orientation if 2 <= decoded.orientation <= 8 else 1
    strip = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp}.get(decoded.format)
    if strip is not None:
        try:
            return strip(data, orientation), EXTENSIONS[decoded.format]
        except (_OddError, struct.error, IndexError):
            pass
    return _as_png(decoded), EXTENSIONS["PNG"]


def _as_png(decoded: Decoded) -> bytes:
    stream = io.BytesIO()
    image = decoded.image.convert("L") if decoded.mode in ("1", "L") else decoded.image
    image.info = {}  # Pillow would write back what the file said
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _exif(orientation: int) -> bytes:
    """An EXIF block (TIFF, big endian) that says nothing but the orientation."""
    return struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def _jpeg(data: bytes, orientation: int) -> bytes:
    first: list[bytes] = []  # what must lead: JFIF and Adobe say how the channels become colours
    rest: list[bytes] = []
    position, scanned = 2, False
    while position < len(data):
        if data[position] != 0xFF:
            raise _OddError
        while data[position] == 0xFF:
            position += 1
        marker = data[position]
        position += 1
        if marker == _EOI:
            break
        if marker in _BARE or (scanned and marker not in _JPEG_KEPT):
            raise _OddError
        (length,) = struct.unpack_from(">H", data, position)
        body = data[position + 2 : position + length]
        if length < 2 or len(body) != length - 2:
            raise _OddError
        position += length
        if marker in (_APP0, _APP14):
            first += _colours(marker, body)
        elif marker in _JPEG_KEPT:
            rest.append(_segment(marker, body))
        if marker == _SOS:
            found = _NEXT_MARKER.search(data, position)
            end = found.start() if found else len(data)
            rest.append(data[position:end])
            position, scanned = end, True
    if orientation != 1:
        first.append(_segment(0xE1, b"Exif\0\0" + _exif(orientation)))
    return b"".join([bytes((0xFF, _SOI)), *first, *rest, bytes((0xFF, _EOI))])


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _colours(marker: int, body: bytes) -> list[bytes]:
    """A JFIF header without its preview, or Adobe's colour transform; nothing of any other block."""
    if marker == _APP0 and body.startswith(b"JFIF\0") and len(body) >= 14:
        return [_segment(marker, body[:12] + b"\0\0")]
    if marker == _APP14 and body.startswith(b"Adobe") and len(body) >= 12:
        return [_segment(marker, body[:12])]
    return []


def _png(data: bytes, orientation: int) -> bytes:
    kept = [_PNG]
    position, turned = len(_PNG), orientation == 1
    while True:
        (length,) = struct.unpack_from(">I", data, position)
        name = data[position + 4 : position + 8]
        chunk = data[position : position + 12 + length]
        if len(chunk) != 12 + length or name == b"acTL":
            raise _OddError
        if name == b"IDAT" and not turned:
            body = b"eXIf" + _exif(orientation)
            kept.append(struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)))
            turned = True
        if name in _PNG_KEPT:
            kept.append(chunk)
        if name == b"IEND":
            return b"".join(kept)
        position += len(chunk)


def _webp(data: bytes, orientation: int) -> bytes:
    kept: list[bytes] = []
    end = min(len(data), 8 + struct.unpack_from("<I", data, 4)[0])
    position = 12
    while position + 8 <= end:
        name = data[position : position + 4]
        (length,) = struct.unpack_from("<I", data, position + 4)
        body = data[position + 8 : position + 8 + length]
        if len(body) != length:
            raise _OddError
        if name == b"VP8X":
            if length < 10 or body[0] & _WEBP_ANIMATED:
                raise _OddError
            flags = body[0] & _WEBP_ALPHA | (_WEBP_EXIF if orientation != 1 else 0)
            kept.append(_chunk(name, bytes((flags,)) + body[1:10]))
        elif name in _WEBP_KEPT:
            kept.append(_chunk(name, body))
        position += 8 + length + length % 2
    if not any(chunk.startswith((b"VP8 ", b"VP8L")) for chunk in kept):
        raise _OddError
    if orientation != 1:
        kept.append(_chunk(b"EXIF", _exif(orientation)))
    content = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
