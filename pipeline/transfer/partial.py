"""Partial fine-tuning: the top of the network, on activations that are computed once at the freeze boundary.

All below is frozen and in eval mode, so what is stored is what would be computed again. The price is that
the random views are fixed beforehand: each image is stored in K of them, and an epoch draws one.
"""

import time

from pipeline.transfer.boundary import activations, divide
from pipeline.transfer.feeds import ActivationFeed
from pipeline.transfer.task import Candidate, Task
from pipeline.transfer.tuning import Settings, tune

__all__ = ["partial"]

LEARNING_RATE = 1e-3  # of the top layer's narrow weights
SMOOTHING = 0.1  # of the labels: with K fixed views the loss falls to nothing, and AdamW then follows noise


def partial(task: Task, probe: Candidate) -> Candidate:
    """Train the top layers on cached activations.

    Raises:
        ParamsError: the network can't be cut there, or the disk is too small for even one view.
    """
    classifier = task.network(probe.head)
    halves = divide(task, classifier)
    started = time.perf_counter()
    stores = activations(task, halves, halves.views)
    seconds = time.perf_counter() - started
    feed = ActivationFeed(stores, seed=task.seed, device=task.device)
    settings = Settings(
        name="partial", learning_rate=LEARNING_RATE, smoothing=SMOOTHING,
        epochs=halves.epochs, longer=halves.longer, mix=False,
    )  # fmt: skip
    found = tune(task, probe, classifier, settings, network=halves.upper, feed=feed)
    found.seconds["activations"] = seconds
    found.report += (
        f" Below {halves.place} everything is frozen and was computed once, in {halves.views} views."
    )
    return found
