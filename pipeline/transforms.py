"""The one preprocessing: from a decoded image to what the network sees. Pillow and numpy only.

Training, evaluation, the service and monitoring all run this code, with the parameters that the
backbone's own weights ask for (timm's data config, see backbone.py). Its fingerprint is the digest of
those parameters and of what running it on a probe image gives, so a changed Pillow resampling, a
swapped channel order or another mean is noticed before it costs accuracy in silence.

    preprocessing = Preprocessing(image_size=224, resize=256, interpolation="bicubic",
                                  mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    pixels = preprocessing.normalise(preprocessing.view(image)[None])     # float32 [1, 3, 224, 224]
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from pipeline.errors import IntegrityError

__all__ = ["Preprocessing"]

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize the shorter side, crop the centre square, scale to 0..1, standardise by channel (RGB)."""

    image_size: int  # px, side of the square that the network takes
    resize: int  # px, the shorter side before the centre crop; at least image_size
    interpolation: Literal["bicubic", "bilinear"]
    mean: tuple[float, float, float]  # by channel, of values in 0..1
    std: tuple[float, float, float]
    crop_mode: Literal["center", "squash"] = "center"  # squash: both sides to resize, whatever the aspect

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= self.resize:
            raise IntegrityError(
                f"preprocessing: resize {self.resize} px is below image_size {self.image_size} px"
            )
        if self.interpolation not in _RESAMPLING:
            raise IntegrityError(
                f"preprocessing: interpolation {self.interpolation!r} is not one of {', '.join(_RESAMPLING)}"
            )
        if self.crop_mode not in ("center", "squash"):
            raise IntegrityError(f"preprocessing: crop_mode {self.crop_mode!r} is neither center nor squash")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise IntegrityError(
                f"preprocessing: mean {self.mean} and std {self.std} must be three numbers each"
            )

    def view(self, image: Image.Image) -> np.ndarray:
        """The uint8 [image_size, image_size, 3] crop that the network sees of an RGB image.

        Same geometry as torchvision's Resize (shorter side) and CenterCrop, but only the crop is
        computed: a 16 x 100,000 px image costs no more memory than a square one.
        """
        if image.mode != "RGB":
            image = image.convert("RGB")
        width, height = image.size
        if self.crop_mode == "squash":
            scaled_width = scaled_height = self.resize
        elif width <= height:
            scaled_width, scaled_height = self.resize, max(self.resize, int(self.resize * height / width))
        else:
            scaled_width, scaled_height = max(self.resize, int(self.resize * width / height)), self.resize
        left = round((scaled_width - self.image_size) / 2)
        top = round((scaled_height - self.image_size) / 2)
        across, down = width / scaled_width, height / scaled_height
        box = (
            left * across,
            top * down,
            min(width, (left + self.image_size) * across),
            min(height, (top + self.image_size) * down),
        )
        size = (self.image_size, self.image_size)
        return np.asarray(image.resize(size, _RESAMPLING[self.interpolation], box=box), dtype=np.uint8)

    def normalise(self, views: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 3] views as standardised float32 [n, 3, H, W], contiguous."""
        pixels = np.ascontiguousarray(views.transpose(0, 3, 1, 2)).astype(np.float32)
        pixels -= np.asarray(self.mean, dtype=np.float32)[:, None, None] * np.float32(255)
        pixels /= np.asarray(self.std, dtype=np.float32)[:, None, None] * np.float32(255)
        return pixels

    def view_key(self) -> str:
        """32 hex digits that name the view part alone (size, resampling, and what Pillow makes of it)."""
        parameters = [self.image_size, self.resize, self.interpolation, self.crop_mode]
        return hashlib.sha256(json.dumps(parameters).encode() + self.view(_probe()).tobytes()).hexdigest()[
            :32
        ]

    def fingerprint(self) -> str:
        """sha256 hex over the parameters and over the result of running them on a probe image.

        The uint8 view counts exactly (Pillow resamples 8-bit images in fixed point, the same on every
        machine); the standardised values count to 3 decimals.
        """
        view = self.view(_probe())
        thousandths = np.rint(self.normalise(view[None]).astype(np.float64) * 1000).astype("<i4")
        digest = hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode())
        digest.update(view.tobytes())
        digest.update(thousandths.tobytes())
        return digest.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Preprocessing":
        """Back from ``to_dict``'s form.

        Raises:
            IntegrityError: a key is missing or unknown, or a value is impossible.
        """
        try:
            return cls(**{**value, "mean": _triple(value["mean"]), "std": _triple(value["std"])})
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"preprocessing {value!r} can't be read: {error!r}") from error


def _triple(values: Any) -> tuple[float, float, float]:
    first, second, third = values
    return float(first), float(second), float(third)


def _probe() -> Image.Image:
    """A fixed 419 x 317 px image: gradients that tell the channels and axes apart, and hashed noise.

    Integer arithmetic only, so that no library's random stream decides what the fingerprint is.
    """
    y, x = np.mgrid[0:317, 0:419].astype(np.uint32)
    noise = (x * np.uint32(2654435761) ^ y * np.uint32(40503)) * np.uint32(2246822519) >> np.uint32(26)
    channels = [x * 255 // 418, y * 255 // 316, (x // 16 + y // 16) % 2 * 160]
    return Image.fromarray(np.stack([np.minimum(c + noise, 255) for c in channels], axis=-1).astype(np.uint8))
