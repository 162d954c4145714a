"""What class names alone say: a CLIP text tower's embedding of each, as the start of the probe's head.

    python -m pipeline.transfer.prior ViT-B-16 openai prior.json scratch dent "missing screw"

``model.prior`` in params.yaml names the file. With a handful of images a class it says more than they do: the
probe's penalty then pulls towards the zero-shot head instead of towards zero. The embeddings lie in the space
of the image tower's pooled features, so the backbone must be the tower of the same model. The text tower
comes from open_clip, which is in the optional extra ``clip``: .venv/bin/uv pip install '.[clip]'.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipeline.artifacts import write_json
from pipeline.errors import ParamsError
from pipeline.transfer.calibration import fit_temperature

__all__ = ["class_embeddings", "read_prior", "scaled", "write_prior"]

# A few of the sentences that CLIP's authors average over (Radford et al. 2021).
TEMPLATES = (
    "a photo of a {}.",
    "a close-up photo of a {}.",
    "a cropped photo of a {}.",
    "a bad photo of a {}.",
)
AGAIN = "write it again with python -m pipeline.transfer.prior"


def class_embeddings(
    names: Sequence[str], encode: Callable[[list[str]], np.ndarray], projection: np.ndarray
) -> np.ndarray:
    """[classes, width] where an image tower's pooled features [width] point for each class.

    Args:
        encode: sentences to embeddings [n, d] of the space that text and images share.
        projection: [width, d] of the image tower, from pooled features into that space.
    """
    rows = []
    for name in names:
        texts = encode([template.format(name.replace("_", " ")) for template in TEMPLATES])
        mean = (texts / np.linalg.norm(texts, axis=1, keepdims=True)).mean(axis=0)
        rows.append(projection @ (mean / np.linalg.norm(mean)))
    return np.stack(rows)


def write_prior(path: Path, names: Sequence[str], embeddings: np.ndarray) -> None:
    """One list of numbers for each class name."""
    write_json(path, {"classes": dict(zip(names, embeddings.astype(float).round(6).tolist(), strict=True))})


def read_prior(path: Path, classes: Sequence[str], width: int) -> np.ndarray:
    """float32 [classes, width] of the file that ``model.prior`` names.

    Raises:
        ParamsError: it is missing or damaged, lacks a class, or is of another backbone.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["classes"]
        missing = [name for name in classes if name not in found]
        if missing:
            raise ParamsError(f"model.prior {path} has no class {', '.join(missing[:8])}: {AGAIN}")
        rows = np.array([found[name] for name in classes], dtype=np.float32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParamsError(f"model.prior {path} can't be read ({error!r}): {AGAIN}") from error
    if rows.shape != (len(classes), width) or not np.isfinite(rows).all():
        raise ParamsError(
            f"model.prior {path} has embeddings of shape {rows.shape}, the backbone's features have {width} numbers: "
            f"{AGAIN}, for the text tower that belongs to the backbone"
        )
    return rows


def scaled(prior: np.ndarray, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The zero-shot head [classes, width] whose logits are as sure of ``features`` [n, width] as they are right.

    A single number is fitted; CLIP's own is for normalised embeddings, and too sure on images of another kind.
    """
    scores = features @ prior.T
    unit = max(float((scores - scores.mean(axis=1, keepdims=True)).std()), 1e-12)
    head: np.ndarray = prior / (unit * fit_temperature(scores / unit, labels))
    return head


def main(arguments: Sequence[str]) -> int:
    """Write the prior of an open_clip model: its name, its weights' tag, the file, the class names."""
    if len(arguments) < 5:
        print("usage: python -m pipeline.transfer.prior MODEL TAG FILE CLASS CLASS ...", file=sys.stderr)
        return 2
    model, tag, file, *names = arguments
    try:
        import open_clip
    except ImportError:
        print("error: open_clip is not installed: .venv/bin/uv pip install '.[clip]'", file=sys.stderr)
        return 1
    import torch

    tower, _, _ = open_clip.create_model_and_transforms(model, pretrained=tag)
    tokens = open_clip.get_tokenizer(model)

    @torch.inference_mode()
    def encode(texts: list[str]) -> np.ndarray:
        answer: np.ndarray = tower.eval().encode_text(tokens(texts)).float().numpy()
        return answer

    projection = tower.visual.proj.detach().float().numpy()
    write_prior(Path(file), names, class_embeddings(names, encode, projection))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
