"""With a second domain to judge by: WiSE-FT and a soup of a training's last epochs (see soup.py)."""

import numpy as np
import torch
from torch import nn

from pipeline.transfer import soup
from pipeline.transfer.calibration import calibrated_losses
from pipeline.transfer.choice import clustered_error
from pipeline.transfer.classifier import Classifier, logits_of
from pipeline.transfer.course import Tuned
from pipeline.transfer.steps import Labelled
from pipeline.transfer.task import Task

__all__ = ["SOUP", "blended", "domains"]

SOUP = 5  # last epochs that a soup is made of


def domains(task: Task) -> int:
    """How many there are to judge by."""
    return len({task.data.domains[row] for row in task.data.validation})


def blended(
    task: Task,
    classifier: Classifier,
    network: nn.Module,
    data: Labelled,
    tuned: Tuned,
    before: dict[str, torch.Tensor],
) -> str:
    """The best of what was trained, its way back to ``before`` and a soup stays in ``classifier``; which, in words."""
    labels = data.labels[data.validation]
    groups = [task.data.groups[row] for row in data.validation]
    _, domain, sizes = np.unique(
        [task.data.domains[row] for row in data.validation], return_inverse=True, return_counts=True
    )
    weights = len(labels) / len(sizes) / sizes[domain]  # each domain counts the same

    def answer(tensors: dict[str, torch.Tensor]) -> np.ndarray:
        classifier.load_state_dict(tensors, strict=False)
        return logits_of(network, data.feed, data.validation)

    def losses(logits: np.ndarray) -> np.ndarray:
        weighted: np.ndarray = weights * calibrated_losses(logits, labels)
        return weighted

    classifier.to(task.device)
    network.to(task.device)
    chosen = soup.blend(
        before, tuned.tensors, tuned.snapshots, answer, losses, lambda values: clustered_error(values, groups)
    )
    tuned.tensors, tuned.logits = chosen.tensors, chosen.logits
    classifier.load_state_dict(chosen.tensors, strict=False)
    classifier.to("cpu")
    return chosen.report
