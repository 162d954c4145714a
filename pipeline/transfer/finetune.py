"""Fine-tuning from the probe's head (LP-FT, Kumar et al. 2022), so that no random head tears at the features."""

from pipeline.transfer.choice import MIDDLING
from pipeline.transfer.freeze import freeze
from pipeline.transfer.rates import WIDE
from pipeline.transfer.task import Candidate, Task
from pipeline.transfer.tuning import Settings, SkippedError, epochs, tune

__all__ = ["finetune", "side"]

LEARNING_RATE = 1e-3  # of the top layer's narrow weights
UNFROZEN = 0.5  # of a pretrained backbone's layers, from the top, up to MIDDLING images


def side(task: Task) -> tuple[int, int, int]:
    """Shape of one standardised image."""
    size = task.backbone.preprocessing.image_size
    return 3, size, size


def finetune(task: Task, probe: Candidate) -> Candidate:
    """Train the network on augmented images: all of it, or the upper layers alone.

    Raises:
        SkippedError: the budget allows no epoch, and params.yaml does not ask for one by name.
    """
    pretrained = task.backbone.pretrained
    classifier = task.network(probe.head)
    shares, said = _shares(task), ""
    for share in shares:
        freeze(classifier, 1 - share, keep_statistics=pretrained)
        last = share == shares[-1]
        forced = task.train.strategy == "finetune" and last
        try:
            count, longer = epochs(task, classifier, side(task), forced=forced, name="fine-tuning")
            break
        except SkippedError:
            if last:
                raise
            said = " The upper half was trained, since one epoch of the whole network does not fit into the budget."
    settings = Settings(
        name="finetune",
        learning_rate=LEARNING_RATE,
        wide=WIDE if pretrained else 0,  # random features can't be torn apart
        epochs=count,
        longer=longer,
    )
    found = tune(task, probe, classifier, settings)
    if share == 1.0:
        said = " The whole network was trained, its lower layers more slowly."
    found.report += said
    return found


def _shares(task: Task) -> tuple[float, ...]:
    """The shares of the layers to train, from the top, of which the first that the budget allows is taken."""
    if not task.backbone.pretrained:
        return (1.0,)
    if task.train.unfreeze is not None:
        return (task.train.unfreeze,)
    return (1.0, UNFROZEN) if task.data.trained > MIDDLING else (UNFROZEN,)
