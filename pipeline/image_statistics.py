"""An image in numbers: how bright, contrasty, sharp and colourful it is, and what makes near-duplicates of it known."""

import math

import numpy as np
from PIL import Image

__all__ = ["described", "dhash", "reduction", "statistics", "thumbnail"]


def described(
    image: Image.Image, scale: int, width: int, height: int
) -> tuple[dict[str, float], str, bytes, Image.Image]:
    """``statistics``, ``dhash`` and ``thumbnail`` of an image, and its colours in at most 64 x 64 px.

    Args:
        scale: how many times smaller than stored ``image`` already is.
        width, height: of the stored one.
    """
    small = _reduced(image, scale)
    luma, colours = small.convert("L"), _colours(small)
    factor = reduction((width, height))
    square = _square(luma, width / factor, height / factor)
    return _statistics(luma, colours), _dhash(square), _thumbnail(square), colours


def statistics(image: Image.Image) -> dict[str, float]:
    """Brightness, contrast, sharpness and saturation of an RGB image.

    All from a copy that is box-averaged by the whole factor that brings the longer side nearest to
    256 px; smaller images are taken as they are. Of luma (ITU-R 601-2): brightness is its mean in 0..1,
    contrast its standard deviation, sharpness log10 of 1 + the variance of the 4-neighbour Laplacian of
    luma in 0..255 (0 where a side is under 3 px). Of the colours, averaged once more to at most 64 px:
    saturation is the mean of (max - min) / max over the channels.
    """
    small = _reduced(image)
    return _statistics(small.convert("L"), _colours(small))


def dhash(image: Image.Image) -> str:
    """256-bit difference hash, 64 hex digits: is each of 16 x 16 cells darker than its right neighbour?

    After N. Krawetz, "Kind of Like That" (hackerfactor.com, 2013), from the luma that statistics() uses.
    """
    return _dhash(_whole_square(image))


def thumbnail(image: Image.Image) -> bytes:
    """16 x 16 luma values, row by row, 256 bytes: what confirms that two images with near hashes are alike."""
    return _thumbnail(_whole_square(image))


def reduction(size: tuple[int, int]) -> int:
    """By how much the copy that all numbers come from is smaller than an image of ``size`` (width, height in px)."""
    return max(1, round(max(size) / 256))


def _reduced(image: Image.Image, scale: int = 1) -> Image.Image:
    """The copy that all numbers come from; Pillow averages in whole numbers: the same on every machine.

    ``image`` is already ``scale`` times smaller than the stored one.
    """
    left = reduction((image.width * scale, image.height * scale)) / scale
    if left.is_integer():
        return image.reduce(int(left)) if left > 1 else image
    # The decoder took 2 of a factor of 3: what remains is no whole number.
    size = (-(-image.width // left), -(-image.height // left))
    return image.resize((int(size[0]), int(size[1])), Image.Resampling.BOX)


def _square(luma: Image.Image, width: float, height: float) -> Image.Image:
    """64 x 64 luma of the whole picture, ``width`` x ``height`` px of the reduced copy, for the hash and the thumbnail.

    Filters that weigh neighbours, since their cells hardly move when a copy was resized: of 256 bits 3 to
    6 at half size in 9 of 10 photos, with a box filter 10 to 14. The last row and column of the reduced
    copy may be partial, hence the fractional box.
    """
    box = (0, 0, min(width, luma.width), min(height, luma.height))
    return luma.resize((64, 64), Image.Resampling.BILINEAR, box=box)


def _whole_square(image: Image.Image) -> Image.Image:
    factor = reduction(image.size)
    return _square(_reduced(image).convert("L"), image.width / factor, image.height / factor)


def _colours(small: Image.Image) -> Image.Image:
    return small.reduce(-(-max(small.size) // 64))


def _statistics(luma: Image.Image, colours: Image.Image) -> dict[str, float]:
    """From whole numbers only, so that the order of summation can't change a digit."""
    brightness, contrast = _moments(luma.histogram())
    sharpness = 0.0
    if min(luma.size) >= 3:
        sharpness = math.log10(1 + _laplacian_variance(np.asarray(luma)))
    # HSV's saturation channel is (max - min) / max, in 255ths.
    saturation, _ = _moments(colours.convert("HSV").getchannel("S").histogram())
    return {
        "brightness": brightness / 255,
        "contrast": contrast / 255,
        "sharpness": sharpness,
        "saturation": saturation / 255,
    }


def _laplacian_variance(luma: np.ndarray) -> float:
    """Of the 4-neighbour Laplacian of (height, width) uint8, both at least 3.

    In whole numbers: exact in any order, and no BLAS, whose threads would wait for each other over so little. The rows lie
    one behind the other, so that each sum is over whole stretches of memory; what wraps around at the rims is cut off.
    A squared value is below 2**20, so a column of the reduced copy (under 2**10 px) can't overflow 32 bits.
    """
    width, gray = luma.shape[1], luma.astype(np.int16).ravel()
    inner = len(gray) - width
    edges = gray[: -2 * width] + gray[2 * width :]
    edges += gray[width - 1 : inner - 1]
    edges += gray[width + 1 : inner + 1]
    edges -= gray[width:inner] << 2
    values = edges.reshape(-1, width)[:, 1:-1].astype(np.int32)
    total = int(values.sum(axis=0, dtype=np.int32).sum(dtype=np.int64))
    values *= values
    squares = int(values.sum(axis=0, dtype=np.int32).sum(dtype=np.int64))
    return (squares - total * total / values.size) / values.size


_VALUES = np.arange(256)


def _moments(histogram: list[int]) -> tuple[float, float]:
    """Mean and standard deviation of the values that a 256-bin histogram counts."""
    counts = np.array(histogram)
    count = int(counts.sum())
    mean = int(counts @ _VALUES) / count
    square = int(counts @ (_VALUES * _VALUES)) / count
    return mean, math.sqrt(max(0.0, square - mean * mean))


def _dhash(square: Image.Image) -> str:
    cells = np.asarray(square.resize((17, 16), Image.Resampling.LANCZOS))
    return np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes().hex()


def _thumbnail(square: Image.Image) -> bytes:
    return square.resize((16, 16), Image.Resampling.LANCZOS).tobytes()
