"""Fine-tuning from the probe's head (LP-FT, Kumar et al. 2022), so that no random head tears at the features."""

from pipeline.transfer.freeze import freeze
from pipeline.transfer.task import Candidate, Task
from pipeline.transfer.tuning import Settings, epochs, tune

__all__ = ["finetune", "side"]

LEARNING_RATE = 7e-4  # of the head and the top layer
UNFROZEN = 0.5  # of a pretrained backbone's layers, from the top


def side(task: Task) -> tuple[int, int, int]:
    """Shape of one standardised image."""
    size = task.backbone.preprocessing.image_size
    return 3, size, size


def finetune(task: Task, probe: Candidate) -> Candidate:
    """Train the upper layers on augmented images; without pretraining, all of them."""
    pretrained = task.backbone.pretrained
    unfrozen = task.train.unfreeze or UNFROZEN
    classifier = task.network(probe.head)
    freeze(classifier, 1 - unfrozen if pretrained else 0.0, keep_statistics=pretrained)
    forced = task.train.strategy == "finetune"
    count = epochs(task, classifier, side(task), forced=forced, name="fine-tuning")
    return tune(task, probe, classifier, Settings(name="finetune", learning_rate=LEARNING_RATE, epochs=count))
