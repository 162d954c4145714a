"""Fine-tuning from the probe's head (LP-FT, Kumar et al. 2022), so that no random head tears at the features.

AdamW with timm's layer-decayed learning rates: its groups carry ``lr_scale``, which timm's scheduler
applies at every step. Warm-up, then a cosine to zero over a number of epochs that is fixed beforehand.
Every random draw follows from (seed, epoch, row), so a run that was killed and resumed ends bit for bit
where an undisturbed one does.
"""

import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from timm.optim import param_groups_layer_decay
from timm.scheduler import CosineLRScheduler
from torch.nn import functional
from tqdm import tqdm

from pipeline.errors import DataError, StateError
from pipeline.transfer.augment import augmented
from pipeline.transfer.calibration import calibrated_losses
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.freeze import trained
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.resume import State, pack_optimizer, unpack_optimizer
from pipeline.transforms import Preprocessing

__all__ = ["DivergedError", "Images", "Recipe", "Tuned", "finetune", "predict"]

LEARNING_RATE = 1.5e-4  # of the head and the top layer
LAYER_DECAY = 0.8  # learning rate of a layer over that of the layer above
WEIGHT_DECAY = 0.02
WARM_UP = 0.1  # of all steps
PATIENCE = 3  # epochs without a better validation loss
CLIP = 1.0  # norm of the gradient
NAMED = 8  # images named when the loss is no number


class DivergedError(DataError):
    """The loss was NaN or infinite."""


@dataclass(frozen=True)
class Images:
    """Views and labels of all images, and which of them train and which validate."""

    views: np.ndarray  # uint8 [n, H, W, 3]
    labels: np.ndarray  # [n] codes
    paths: Sequence[str]  # [n], to name an image in an error
    train: np.ndarray  # rows
    validation: np.ndarray  # rows


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train; two runs with the same recipe on the same machine give the same bits."""

    epochs: int
    seed: int
    batch_size: int = 32
    learning_rate: float = LEARNING_RATE
    device: str = "cpu"
    bfloat16: bool = False


@dataclass
class Tuned:
    """The best epoch's tensors, and how training went."""

    tensors: dict[str, torch.Tensor]  # what ``trained`` names, on the CPU
    logits: np.ndarray  # [validation, classes] of the best epoch
    epoch: int  # the best one, from 1
    history: list[dict[str, float]] = field(default_factory=list)  # step, loss of training and validation
    images: int = 0  # shown in this process, for the speed
    seconds: float = 0.0  # in this process


def finetune(
    classifier: Classifier,
    images: Images,
    plan: Plan,
    preprocessing: Preprocessing,
    recipe: Recipe,
    state: State | None = None,
) -> Tuned:
    """Train what is not frozen in ``classifier``, keep the epoch with the lowest validation loss.

    Raises:
        DivergedError: the loss is no number any more; names the images of the batch.
        StateError: not even a single image fits into memory.
    """
    run = _Run(classifier, images, plan, preprocessing, recipe)
    tuned = Tuned({}, np.empty(0), 0)
    first = 0
    kept = state.load() if state else None
    if kept is not None:
        first, tensors, facts = kept
        run.restore(tensors)
        tuned.tensors = {name[5:]: value for name, value in tensors.items() if name.startswith("best.")}
        tuned.logits, tuned.epoch, tuned.history = tensors["logits"].numpy(), facts["best"], facts["history"]
        print(f"train: resumed after epoch {first} of {recipe.epochs}", flush=True)
    total = recipe.epochs * len(images.train)
    bar = tqdm(total=total, initial=first * len(images.train), desc="fine-tune", unit="img")
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for epoch in range(first, recipe.epochs):
            if epoch - tuned.epoch >= PATIENCE and tuned.epoch:
                break
            started = time.perf_counter()
            loss = run.epoch(epoch, pool, bar)
            tuned.seconds += time.perf_counter() - started
            tuned.images += len(images.train)
            logits = run.validate()
            validation = float(calibrated_losses(logits, images.labels[images.validation]).mean())
            best = min((entry["validation"] for entry in tuned.history), default=math.inf)
            step = (epoch + 1) * run.steps
            tuned.history.append({"step": step, "train": round(loss, 6), "validation": round(validation, 6)})
            if validation < best:
                tuned.tensors = {
                    name: value.detach().cpu().clone() for name, value in trained(classifier).items()
                }
                tuned.logits, tuned.epoch = logits, epoch + 1
            bar.set_postfix(loss=f"{loss:.3f}", validation=f"{validation:.3f}")
            if state:
                kept_tensors = {f"best.{name}": value for name, value in tuned.tensors.items()}
                kept_tensors |= {"logits": torch.from_numpy(tuned.logits)} | run.pack()
                state.save(epoch + 1, kept_tensors, {"best": tuned.epoch, "history": tuned.history})
    classifier.load_state_dict(tuned.tensors, strict=False)
    return tuned


@torch.inference_mode()
def predict(
    classifier: Classifier,
    views: np.ndarray,
    rows: np.ndarray,
    preprocessing: Preprocessing,
    device: str,
    batch_size: int = 32,
) -> np.ndarray:
    """float32 [len(rows), classes] logits of the named rows of uint8 [n, H, W, 3] views, in eval mode."""
    classifier.eval()
    parts = []
    for start in range(0, len(rows), batch_size):
        pixels = torch.from_numpy(preprocessing.normalise(views[rows[start : start + batch_size]]))
        logits, _ = classifier(pixels.to(device, memory_format=torch.channels_last))
        parts.append(logits.float().cpu().numpy())
    return np.concatenate(parts)


class _Run:
    """Network, optimizer and schedule of one training."""

    def __init__(
        self, classifier: Classifier, images: Images, plan: Plan, preprocessing: Preprocessing, recipe: Recipe
    ) -> None:
        self.classifier = classifier.to(recipe.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.images, self.plan, self.preprocessing, self.recipe = images, plan, preprocessing, recipe
        self.steps = math.ceil(len(images.train) / recipe.batch_size)
        self.micro = recipe.batch_size
        self.optimizer = torch.optim.AdamW(_groups(classifier), lr=recipe.learning_rate)
        self.schedule = CosineLRScheduler(
            self.optimizer,
            t_initial=recipe.epochs * self.steps,
            warmup_t=max(1, round(WARM_UP * recipe.epochs * self.steps)),
            warmup_prefix=False,
            t_in_epochs=False,
        )
        self.names = {id(parameter): name for name, parameter in classifier.named_parameters()}
        self.weights = torch.from_numpy(plan.loss_weights.astype(np.float32))
        self.prior = torch.from_numpy(plan.log_prior.astype(np.float32)).to(recipe.device)

    def epoch(self, epoch: int, pool: ThreadPoolExecutor, bar: tqdm) -> float:
        """One pass; the mean training loss."""
        recipe = self.recipe
        self.classifier.train()
        order = self.plan.order(np.random.default_rng([recipe.seed, 1, epoch]))
        losses = 0.0
        for number in range(self.steps):
            batch = order[number * recipe.batch_size : (number + 1) * recipe.batch_size]
            step = epoch * self.steps + number
            self.schedule.step_update(step)
            torch.manual_seed(recipe.seed * 1_000_003 + step)  # dropout, the same after a resume
            losses += self._step(batch, epoch, pool) * len(batch)
            bar.update(len(batch))
        return losses / len(order)

    def _step(self, batch: np.ndarray, epoch: int, pool: ThreadPoolExecutor) -> float:
        rows = self.images.train[batch]
        views = augmented(self.images.views, rows, self.recipe.seed, epoch, pool)
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss = self._gradients(batch, rows, self.preprocessing.normalise(views))
                break
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if self.micro == 1:
                    raise StateError(
                        "a single image does not fit into memory: lower model.image_size, or train on another device"
                    ) from error
                self.micro = (self.micro + 1) // 2
                print(f"train: out of memory; batches now run in parts of {self.micro} images", flush=True)
        if not math.isfinite(loss):
            named = [self.images.paths[row] for row in rows[:NAMED]]
            more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
            raise DivergedError(
                f"the training loss became {loss} in epoch {epoch + 1}, on a batch of {', '.join(named)}{more}: "
                "look at these images, or lower train.learning_rate"
            )
        torch.nn.utils.clip_grad_norm_(self.classifier.parameters(), CLIP)
        self.optimizer.step()
        return loss

    def _gradients(self, batch: np.ndarray, rows: np.ndarray, pixels: np.ndarray) -> float:
        """Gradients of the batch's weighted mean loss, summed up over parts that fit into memory."""
        recipe = self.recipe
        weights, labels = self.weights[batch], torch.from_numpy(self.images.labels[rows])
        total, loss = weights.sum(), 0.0
        for start in range(0, len(rows), self.micro):
            part = slice(start, start + self.micro)
            inputs = torch.from_numpy(pixels[part]).to(recipe.device, memory_format=torch.channels_last)
            with torch.autocast(recipe.device.split(":")[0], torch.bfloat16, enabled=recipe.bfloat16):
                logits, _ = self.classifier(inputs)
            losses = functional.cross_entropy(
                logits.float() + self.prior, labels[part].to(recipe.device), reduction="none"
            )
            share = (losses * (weights[part] / total).to(recipe.device)).sum()
            share.backward()
            loss += float(share.detach())
        return loss

    def validate(self) -> np.ndarray:
        images = self.images
        return predict(
            self.classifier,
            images.views,
            images.validation,
            self.preprocessing,
            self.recipe.device,
            self.micro,
        )

    def pack(self) -> dict[str, torch.Tensor]:
        model = {f"model.{name}": value for name, value in trained(self.classifier).items()}
        return model | pack_optimizer(self.optimizer, self.names)

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        model = {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
        self.classifier.load_state_dict(model, strict=False)
        unpack_optimizer(self.optimizer, self.names, tensors)


def _groups(classifier: Classifier) -> list[dict[str, object]]:
    """timm's layer-decayed groups of the backbone, and the head at the full rate."""
    head = list(classifier.head.parameters())
    groups: list[dict[str, object]] = [{"params": head, "weight_decay": 0.0, "lr_scale": 1.0}]
    if any(parameter.requires_grad for parameter in classifier.backbone.parameters()):
        groups += param_groups_layer_decay(
            classifier.backbone, weight_decay=WEIGHT_DECAY, layer_decay=LAYER_DECAY
        )
    return groups


def _out_of_memory(error: Exception) -> bool:
    words = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in words
        or "can't allocate memory" in words
    )
