"""Partial fine-tuning: the top of the network, on activations that are computed once at the freeze boundary.

All below is frozen and in eval mode, so what is stored is exactly what would be computed again. The price
is that the random views are fixed beforehand: each image is stored in K of them, and an epoch draws one.
"""

import time

from pipeline.errors import ParamsError
from pipeline.transfer import cost
from pipeline.transfer.cut import cut
from pipeline.transfer.features import activation_shape, affordable, cached_activations, kinds
from pipeline.transfer.feeds import ActivationFeed
from pipeline.transfer.finetune import side
from pipeline.transfer.freeze import freeze, lowest_trained
from pipeline.transfer.task import Candidate, Task
from pipeline.transfer.tuning import Settings, epochs, tune

__all__ = ["partial"]

LEARNING_RATE = 2e-4
UNFROZEN = 0.25  # of the layers, from the top
VIEWS = 4  # stored of each training image, where params.yaml asks for no other number


def partial(task: Task, probe: Candidate) -> Candidate:
    """Train the top layers on cached activations.

    Raises:
        ParamsError: the network can't be cut there, or the disk is too small for even one view.
    """
    share = 1 - (task.train.unfreeze or UNFROZEN)
    classifier = task.network(probe.head)
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
    before = cost.measure(lower, side(task), task.device).forward * (images + (views - 1) * first)
    forced = task.train.strategy == "partial"
    count = epochs(task, upper, shape, forced=forced, name="partial fine-tuning", before=before)
    started = time.perf_counter()
    ids = task.data.image_ids
    stores = [
        cached_activations(
            task.workspace, task.backbone, lower, place,
            task.pixels if view == "plain" else task.pixels[:first],
            ids if view == "plain" else ids[:first],
            view=view, device=task.device,
        )
        for view in kinds(views)
    ]  # fmt: skip
    seconds = time.perf_counter() - started
    feed = ActivationFeed(stores, seed=task.seed, device=task.device)
    settings = Settings(name="partial", learning_rate=LEARNING_RATE, epochs=count, mix=False)
    found = tune(task, probe, classifier, settings, network=upper, feed=feed)
    found.seconds["activations"] = seconds
    found.report += f" Below {place} everything is frozen and was computed once, in {views} views."
    return found
