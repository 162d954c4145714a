"""One candidate's trial: loaded, scored on frozen features, exported; and its time, measured beside the others'."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import Workspace
from pipeline.backbone import load
from pipeline.errors import IntegrityError, ParamsError, WeightsError
from pipeline.params import Params
from pipeline.selection.candidates import Candidate
from pipeline.selection.latency import ROUNDS, milliseconds
from pipeline.selection.recommendation import Measured
from pipeline.selection.scoring import Images, Score, score
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.exporter import write_onnx
from pipeline.transfer.features import cached_features
from pipeline.views import views

__all__ = ["Failure", "Trial", "attempt", "time_in_turns"]


@dataclass(frozen=True)
class Failure:
    """A candidate that can't be had or does not survive the export, and why."""

    candidate: Candidate
    reason: str


@dataclass
class Trial:
    """A candidate's figures."""

    candidate: Candidate
    architecture: str
    image_size: int  # px
    weights: dict[str, Any]  # name, digest, licence, source
    score: Score
    parameters: int  # with the head
    folder: Path  # where its model.onnx lies while it is measured
    onnx_bytes: int
    info: dict[str, Any]  # classes and embedding_size, as in bundle.json
    pixels: np.ndarray  # float32 [1, 3, H, W], a real image
    times: list[float] = field(default_factory=list)  # ms of each run

    @property
    def milliseconds(self) -> float:
        return float(np.median(self.times))

    @property
    def measured(self) -> Measured:
        return Measured(self.score.accuracy, self.score.standard_error, self.milliseconds)


def attempt(
    workspace: Workspace, params: Params, candidate: Candidate, images: Images, device: str, folder: Path
) -> Trial | Failure:
    """Everything but the time; ``folder`` takes the exported network.

    Raises:
        DataError: an image is missing or no longer decodes, which is no candidate's fault.
    """
    try:
        backbone = load(candidate.model, root=workspace.root, seed=params.seed)
        pixels = views(
            workspace,
            images.paths,
            images.image_ids,
            backbone.preprocessing,
            max_pixels=params.data.max_pixels,
            max_bytes=params.data.max_bytes,
        )
        features = cached_features(workspace, backbone, pixels, images.image_ids, device=device)
        worth = score(np.asarray(features), images, params.seed)
        classifier = Classifier(backbone.module.cpu(), backbone.width, len(images.classes)).eval()
        folder.mkdir(parents=True)
        write_onnx(classifier, backbone.preprocessing.image_size, folder / "model.onnx")
    except (ParamsError, WeightsError, IntegrityError, RuntimeError, MemoryError) as error:
        # RuntimeError: torch's for an image that does not fit into memory
        return Failure(candidate, str(error).splitlines()[0] if str(error) else type(error).__name__)
    return Trial(
        candidate=candidate,
        architecture=backbone.name,
        image_size=backbone.preprocessing.image_size,
        weights=backbone.weights,
        score=worth,
        parameters=sum(parameter.numel() for parameter in classifier.parameters()),
        folder=folder,
        onnx_bytes=(folder / "model.onnx").stat().st_size,
        info={"classes": images.classes, "embedding_size": backbone.width},
        pixels=backbone.preprocessing.normalise(pixels[:1]),
    )


def time_in_turns(trials: Sequence[Trial]) -> None:
    """Measure all in several rounds, so that what else the machine does meets each of them alike."""
    for _ in range(ROUNDS):
        for trial in trials:
            trial.times += milliseconds(trial.folder, trial.info, trial.pixels)
