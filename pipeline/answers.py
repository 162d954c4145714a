"""What a bundle answers to three fixed images: kept beside it, asked again before anybody goes back to it.

Digests prove that the bytes are the same; the answers prove that this machine, with the libraries it
has today, still makes the same of them.
"""

import json
from pathlib import Path

import numpy as np

from pipeline.bundle import Bundle
from pipeline.errors import IntegrityError

MAX_ERROR = 1e-3  # of a probability: other CPUs round otherwise by far less, another network differs by more


def answers(path: Path) -> list[list[float]]:
    """The probabilities, [3 images][classes], of the bundle in ``path`` for black, a gradient and noise.

    Raises:
        IntegrityError: the bundle is damaged, or the network answers with NaN.
    """
    bundle = Bundle.load(path, threads=1)
    size = bundle.preprocessing.image_size
    views = np.zeros((3, size, size, 3), dtype=np.uint8)
    views[1] = np.linspace(0, 255, size, dtype=np.uint8)[:, None, None]
    views[2] = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    probabilities = bundle.predict(views).probabilities.astype(float)
    if not np.isfinite(probabilities).all():
        raise IntegrityError(f"{path}: the network answers the probe images with NaN or infinity")
    return [[round(value, 7) for value in row] for row in probabilities.tolist()]


def compare(path: Path, recorded: Path) -> None:
    """Ask the bundle in ``path`` again, and compare with the JSON file of its earlier answers.

    Raises:
        IntegrityError: the answers differ by more than MAX_ERROR, or there are none to compare with.
    """
    try:
        before = np.asarray(json.loads(recorded.read_text(encoding="utf-8")), dtype=float)
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"{recorded} can't be read ({error}): unknown what {path} should answer"
        ) from error
    now = np.asarray(answers(path))
    worst = float(np.abs(before - now).max()) if before.shape == now.shape else float("inf")
    if worst > MAX_ERROR:
        raise IntegrityError(
            f"{path} answers the probe images otherwise than when it came in: by {worst:.2g}, the limit is "
            f"{MAX_ERROR}. The pointer stays: install requirements.lock, or go to another bundle"
        )
