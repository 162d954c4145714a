"""What the balance stage's plan means for training: weights in the loss, a prior on the logits, a sampler.

- class_weights: each image's loss counts with its class's weight (effective number, Cui et al. 2019).
- sampler: the same weights as probabilities of being drawn; a probe, which draws nothing, weighs instead.
- logit_adjustment: the log prior is added to the logits in the loss only, so that the plain logits
  answer as if the classes were equally likely (Menon et al. 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.errors import DataError

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """How the n training images count."""

    name: str
    loss_weights: np.ndarray  # [n] of the gradient-trained network's loss, mean 1
    probe_weights: np.ndarray  # [n] of the probe's loss, mean 1
    log_prior: np.ndarray  # [classes], added to the logits in the loss; zeros where the plan has none
    draw: np.ndarray | None  # [n] probability of each image to be drawn; None: a permutation an epoch
    class_weights: np.ndarray | None = None  # [classes] of the balance stage; None: there was none

    @classmethod
    def of(cls, balance: dict[str, Any], labels: np.ndarray, classes: Sequence[str]) -> "Plan":
        """The plan in ``balance`` (artifacts/balance.json) for training ``labels`` [n], codes of ``classes``.

        Raises:
            DataError: balance.json knows another set of classes.
        """
        name = balance["plan"]
        known = balance["classes"]
        missing = [label for label in classes if label not in known]
        if missing:
            raise DataError(f"artifacts/balance.json lacks the classes {missing}: run `dvc repro balance`")
        by_class = np.array([float(known[label]["weight"]) for label in classes])
        weights = by_class[labels]
        weights = weights / weights.mean()
        ones = np.ones(len(labels))
        prior = np.zeros(len(classes))
        if name == "logit_adjustment":
            prior = np.log(np.bincount(labels, minlength=len(classes)) / len(labels))
        return cls(
            name=name,
            loss_weights=weights if name == "class_weights" else ones,
            probe_weights=weights if name in ("class_weights", "sampler") else ones,
            log_prior=prior,
            draw=weights / weights.sum() if name == "sampler" else None,
            class_weights=by_class,
        )

    def again(self, labels: np.ndarray, classes: Sequence[str]) -> "Plan":
        """This plan for other training ``labels`` [n], before domains are weighed."""
        known = np.ones(len(classes)) if self.class_weights is None else self.class_weights
        weights = {label: {"weight": float(weight)} for label, weight in zip(classes, known, strict=True)}
        return Plan.of({"plan": self.name, "classes": weights}, labels, classes)

    def by_domain(self, domains: Sequence[str], balance: float) -> "Plan":
        """Each image also counts with its domain's size to the power of -``balance`` (0: all the same).

        At 1 a few labelled images of a new domain weigh as much as all the old ones that are replayed
        beside them.
        """
        if balance == 0 or len(set(domains)) < 2:
            return self
        codes = np.unique(np.asarray(domains, dtype=object).astype(str), return_inverse=True)[1]
        factor = (np.bincount(codes) / len(codes))[codes] ** -balance

        def scaled(weights: np.ndarray) -> np.ndarray:
            product = weights * factor
            return product / product.mean()

        draw = None if self.draw is None else self.draw * factor / (self.draw * factor).sum()
        return replace(
            self,
            loss_weights=self.loss_weights if draw is not None else scaled(self.loss_weights),
            probe_weights=scaled(self.probe_weights),
            draw=draw,
        )

    def order(self, generator: np.random.Generator) -> np.ndarray:
        """[n] rows of one epoch, in the order in which they are shown."""
        count = len(self.loss_weights)
        if self.draw is None:
            return generator.permutation(count)
        return generator.choice(count, size=count, p=self.draw)
