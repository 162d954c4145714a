"""Averages of weights, for when there is a second domain to judge by.

WiSE-FT (Wortsman et al. 2022a) interpolates between the weights before and after fine-tuning: what the
fine-tuning took from robustness comes back. A greedy soup (Wortsman et al. 2022b) averages checkpoints,
each taken in only where it helps. Both are judged on validation images, each domain counting the same; the
best of several is lucky, so it replaces the network as it was trained only where it gains more than its noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

__all__ = ["Blend", "blend", "interpolated"]

Tensors = dict[str, torch.Tensor]
SHARES = (0.2, 0.4, 0.6, 0.8)  # of the fine-tuned weights


@dataclass(frozen=True)
class Blend:
    """The weights that are kept, what they answer, and why, in words."""

    tensors: Tensors
    logits: np.ndarray
    loss: float
    report: str


def interpolated(first: Tensors, second: Tensors, share: float) -> Tensors:
    """``first`` x (1 - share) + ``second`` x share, for the names in ``second``; integers are the second's."""
    return {
        name: torch.lerp(first[name].to(value), value, share) if value.is_floating_point() else value
        for name, value in second.items()
    }


def blend(
    before: Tensors,
    after: Tensors,
    snapshots: Sequence[Tensors],
    answer: Callable[[Tensors], np.ndarray],
    losses: Callable[[np.ndarray], np.ndarray],
    error: Callable[[np.ndarray], float],
) -> Blend:
    """The best of the fine-tuned weights, their interpolations towards ``before``, and a soup of ``snapshots``.

    Args:
        answer: logits [n, classes] of the validation images under some weights.
        losses: [n] of such logits, each image weighted as it counts; the lower their mean, the better.
        error: standard error of the mean of [n] differences of losses.
    """

    def loss(logits: np.ndarray) -> float:
        return float(losses(logits).mean())

    logits = answer(after)
    plain = Blend(after, logits, loss(logits), "The last domain's weights stay as they were trained.")
    tried = [plain]
    for share in SHARES:
        tensors = interpolated(before, after, share)
        logits = answer(tensors)
        tried.append(Blend(tensors, logits, loss(logits), f"WiSE-FT at {share:g} of the way"))
    tried.append(_soup(after, snapshots, answer, loss, plain))
    best = min(tried, key=lambda one: one.loss)
    noise = error(losses(plain.logits) - losses(best.logits))
    if best is plain or plain.loss - best.loss <= noise:
        text = (
            f"Neither WiSE-FT nor a soup of {len(snapshots)} epochs was better over all domains by more than a standard "
            f"error (log loss {plain.loss:.3f}, the best of them {best.loss:.3f} ± {noise:.3f})."
        )
        return replace(plain, report=text)
    text = (
        f"{best.report} is better over all domains: log loss {plain.loss:.3f} → {best.loss:.3f}, with a standard error of "
        f"{noise:.3f}."
    )
    return replace(best, report=text)


def _soup(
    after: Tensors,
    snapshots: Sequence[Tensors],
    answer: Callable[[Tensors], np.ndarray],
    loss: Callable[[np.ndarray], float],
    plain: Blend,
) -> Blend:
    """From the best checkpoint on, each further one is averaged in where the loss gets no worse."""
    ranked = sorted(snapshots, key=lambda tensors: loss(answer(tensors)))
    best, members = plain, 1
    for tensors in ranked:
        if all(torch.equal(tensors[name], after[name]) for name in after):
            continue
        mixed = interpolated(best.tensors, tensors, 1 / (members + 1))
        logits = answer(mixed)
        value = loss(logits)
        if value <= best.loss:
            best, members = Blend(mixed, logits, value, ""), members + 1
    return Blend(best.tensors, best.logits, best.loss, f"A soup of {members} epochs")
