"""What a bundle answers to three fixed images: kept beside it, asked again before anybody goes back to it.

Digests prove that the bytes are the same; the answers prove that this machine, with the libraries it
has today, still makes the same of them.
"""

import json
from pathlib import Path

import numpy as np

from pipeline.bundle import NETWORKS, Bundle, Form, verify
from pipeline.errors import IntegrityError

MAX_ERROR = 1e-3  # of a probability: other CPUs round otherwise by far less, another network differs by more


def answers(path: Path) -> dict[str, list[list[float]]]:
    """What each network of the bundle in ``path`` says of black, a gradient and noise.

    Returns:
        ``serve.format`` → probabilities, [3 images][classes].

    Raises:
        IntegrityError: the bundle is damaged, or a network answers with NaN.
    """
    verify(path)
    held = json.loads((path / "bundle.json").read_text(encoding="utf-8"))["files"]
    return {
        form: _ask(Bundle.load(path, threads=1, form=form)) for form in NETWORKS if NETWORKS[form] in held
    }


def _ask(bundle: Bundle) -> list[list[float]]:
    size = bundle.preprocessing.image_size
    views = np.zeros((3, size, size, 3), dtype=np.uint8)
    views[1] = np.linspace(0, 255, size, dtype=np.uint8)[:, None, None]
    views[2] = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    probabilities = bundle.predict(views).probabilities.astype(float)
    if not np.isfinite(probabilities).all():
        raise IntegrityError(
            f"{bundle.path}: the {bundle.form} network answers the probe images with NaN or infinity"
        )
    return [[round(value, 7) for value in row] for row in probabilities.tolist()]


def compare(path: Path, recorded: Path, form: Form) -> None:
    """Ask the bundle in ``path`` again, and compare with the JSON file of its earlier answers.

    Args:
        form: ``serve.format``: the network that the service would answer with.

    Raises:
        IntegrityError: the answers differ by more than MAX_ERROR, there are none to compare with, or the
            bundle has no network of this form.
    """
    try:
        before = json.loads(recorded.read_text(encoding="utf-8"))
        before = (
            {"onnx": before} if isinstance(before, list) else before
        )  # written when there was no int8 yet
        before = {name: np.asarray(rows, dtype=float) for name, rows in before.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{recorded} can't be read ({error}): unknown what {path} should answer"
        ) from error
    now = {name: np.asarray(rows) for name, rows in answers(path).items()}
    if form not in now:
        raise IntegrityError(
            f"{path} holds no {form} network, which the service answers with. The pointer stays: set serve.format to "
            "onnx, or go to another bundle"
        )
    for name, rows in now.items():
        _require_alike(path, name, before.get(name), rows)


def _require_alike(path: Path, form: str, before: np.ndarray | None, now: np.ndarray) -> None:
    worst = np.inf if before is None or before.shape != now.shape else float(np.abs(before - now).max())
    if worst > MAX_ERROR:
        raise IntegrityError(
            f"{path}: its {form} network answers the probe images otherwise than when it came in: by {worst:.2g}, the "
            f"limit is {MAX_ERROR}. The pointer stays: install requirements.lock, or go to another bundle"
        )
