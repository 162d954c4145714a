"""What may be compared: names of architectures, and folders or files of weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.params import Model

__all__ = ["Candidate", "candidates"]


@dataclass(frozen=True)
class Candidate:
    """A network to try, and what it is called in the table and the picture."""

    label: str
    model: Model


def candidates(texts: Sequence[str], weights: str, current: Model, root: Path) -> list[Candidate]:
    """The networks that ``texts`` name, each once, in their order; the current model where there is no text.

    A text is an architecture's name (its weights are ``weights``: hub or none), a path below ``root`` (a folder,
    or a safetensors file with its config.json), ``name=path`` for a file that has none, or ``bundled``.
    All see images of ``current.image_size``; null leaves each the size of its own weights.
    """
    if not texts:
        return [Candidate(_label(current), current)]
    found = [_candidate(text, weights, current.image_size, root) for text in dict.fromkeys(texts)]
    labels = [candidate.label for candidate in found]
    return [
        candidate if labels.count(candidate.label) == 1 else Candidate(text, candidate.model)
        for text, candidate in zip(dict.fromkeys(texts), found, strict=True)
    ]


def _candidate(text: str, weights: str, image_size: int | None, root: Path) -> Candidate:
    name, _, path = text.rpartition("=")
    if name:
        model = Model(backbone=name, weights=path, image_size=image_size)
    elif text == "bundled" or "/" in text or text.endswith(".safetensors") or (root / text).exists():
        model = Model(weights=text, image_size=image_size)
    else:
        model = Model(backbone=text, weights=weights, image_size=image_size)
    return Candidate(_label(model), model)


def _label(model: Model) -> str:
    if model.weights == "bundled":
        return "bundled"
    if model.weights in ("hub", "none"):
        return model.backbone + (", random" if model.weights == "none" else "")
    path = Path(model.weights)
    own = path.parent if path.name == "model.safetensors" else path
    return own.name.removesuffix(".safetensors") or model.weights
