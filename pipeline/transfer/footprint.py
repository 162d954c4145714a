"""What an ONNX network costs where it runs: megabytes on disk, as such and compressed, and milliseconds an image."""

import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["compressed_megabytes", "megabytes", "milliseconds"]

RUNS = 30
WARM_UPS = 3


def megabytes(file: Path) -> float:
    """Size in 10^6 bytes."""
    return round(file.stat().st_size / 1e6, 3)


def compressed_megabytes(file: Path) -> float:
    """Size after DEFLATE, as a download or a container's layer is compressed; in 10^6 bytes."""
    return round(len(zlib.compress(file.read_bytes(), 6)) / 1e6, 3)


def milliseconds(session: Any, image: np.ndarray) -> float:
    """Median time of a one-threaded ONNX Runtime ``session`` for a standardised image, float32 [1, 3, H, W].

    CPU time, which is that of a machine with nothing else to do: what else runs must not decide which is faster.
    """
    taken = []
    for _ in range(WARM_UPS + RUNS):
        started = time.process_time()
        session.run(None, {"images": image})
        taken.append(time.process_time() - started)
    return round(float(np.median(taken[WARM_UPS:])) * 1e3, 3)
