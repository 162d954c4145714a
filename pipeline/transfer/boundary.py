"""What is kept at the freeze boundary of partial fine-tuning: activations of all images, in K views.

All below the boundary is frozen and in eval mode, so it is computed once. The probe's features are then
read off the same activations: where partial fine-tuning follows, no image passes the lower layers twice.
"""

from dataclasses import dataclass

import numpy as np
from torch import fx

from pipeline.errors import ParamsError
from pipeline.transfer import cost
from pipeline.transfer.choice import planned
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.cut import Upper, cut
from pipeline.transfer.features import activation_shape, affordable, cached_activations, kinds
from pipeline.transfer.finetune import side
from pipeline.transfer.freeze import freeze, lowest_trained
from pipeline.transfer.task import Task
from pipeline.transfer.tuning import SkippedError, epochs

__all__ = ["Halves", "activations", "divide", "planned_halves"]

UNFROZEN = 0.5  # of the layers, from the top
VIEWS = 4  # stored of each training image, where params.yaml asks for no other number


@dataclass(frozen=True)
class Halves:
    """A network cut at the freeze boundary."""

    lower: fx.GraphModule
    upper: Upper
    place: str  # where it is cut
    shape: tuple[int, ...]  # of one image's activations there
    views: int  # stored of each training image
    epochs: int  # of the upper half that the budget allows
    longer: int  # where it soon beats the probe


def planned_halves(task: Task) -> Halves | None:
    """The halves that partial fine-tuning of this task will train on; None where it won't come to that."""
    if "partial" not in planned(task)[0]:
        return None
    nothing = (
        np.zeros((len(task.data.classes), task.backbone.width), np.float32),
        np.zeros(len(task.data.classes), np.float32),
    )
    try:
        return divide(task, task.network(nothing))
    except (ParamsError, SkippedError):  # said by the strategy itself, when its turn comes
        return None


def divide(task: Task, classifier: Classifier) -> Halves:
    """Freeze the lower layers of ``classifier`` and cut it there; both halves share its modules.

    Raises:
        ParamsError: the network can't be cut there, or the disk is too small for even one view.
        SkippedError: the budget allows no epoch, and params.yaml does not ask for one by name.
    """
    share = 1 - (task.train.unfreeze or UNFROZEN)
    freeze(classifier, share, keep_statistics=True)
    lower, upper, place = cut(classifier, lowest_trained(classifier.backbone, share))
    shape = activation_shape(lower, task.backbone.preprocessing.image_size)
    first, images = task.data.trained, len(task.data.labels)
    views = affordable(task.workspace, shape, images, task.train.views or VIEWS)
    if views == 0:
        raise ParamsError(
            f"the activations at {place} ({'x'.join(map(str, shape))} floats an image) of {images} images take more than a "
            "fifth of the free disk: set train.strategy to finetune, a smaller train.unfreeze, or move VISIONLOOP_HOME"
        )
    before = cost.frozen(lower, side(task), task.device) * (images + (views - 1) * first)
    forced = task.train.strategy == "partial"
    count, longer = epochs(task, upper, shape, forced=forced, name="partial fine-tuning", before=before)
    return Halves(lower, upper, place, shape, views, count, longer)


def activations(task: Task, halves: Halves, views: int) -> list[np.ndarray]:
    """``views`` arrays of activations: of all images as they are, then of the training images varied."""
    ids, first = task.data.image_ids, task.data.trained
    return [
        cached_activations(
            task.workspace, task.backbone, halves.lower, halves.place,
            task.pixels if view == "plain" else task.pixels[:first],
            ids if view == "plain" else ids[:first],
            view=view, device=task.device,
        )
        for view in kinds(views)
    ]  # fmt: skip
