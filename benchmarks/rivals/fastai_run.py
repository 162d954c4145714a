"""fastai's fine_tune as its documentation shows it, around timm's network; runs in the rivals' environment.

    python -m benchmarks.rivals.fastai_run --tree TREE --weights DIR --out OUT --epochs 10

``fine_tune(10)`` is one epoch with the body frozen, then ten with all of it, at fastai's own learning rates.
Writes OUT/report.json and, with ``--views``, OUT/last.npy: what the network says of the test images.
"""

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from fastai.callback.channelslast import ChannelsLast  # noqa: E402
from fastai.callback.core import Callback  # noqa: E402
from fastai.callback.progress import ProgressCallback  # noqa: E402
from fastai.torch_core import set_seed  # noqa: E402
from fastai.vision.all import (  # noqa: E402
    FlipItem,
    ImageDataLoaders,
    Learner,
    RandomResizedCrop,
    accuracy,
    vision_learner,
)

from benchmarks.rivals.answering import answer, loaded_share  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals.fastai_run")
    parser.add_argument("--tree", type=Path, required=True, help="train/ and validation/, folders of classes")
    parser.add_argument("--weights", type=Path, required=True, help="a timm local-dir")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--views", type=Path, help="uint8 test views (.npy) to answer afterwards")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="float32")
    return parser.parse_args()


class Bfloat16(Callback):
    """Autocast on the CPU: fastai's own ``to_bf16`` asks for CUDA's autocast, which does nothing there."""

    order = 10  # where fastai's own stands

    def before_batch(self) -> None:
        self.autocast = torch.autocast("cpu", dtype=torch.bfloat16)
        self.autocast.__enter__()

    def after_pred(self) -> None:
        self.learn.pred = self.pred.float()

    def after_loss(self) -> None:
        self.autocast.__exit__(None, None, None)


class Stopwatch(Callback):
    """Seconds of each epoch's training and validation, and since ``fine_tune`` was about to be called."""

    order = 90  # after all that belongs to the epoch

    def __init__(self, began: float) -> None:
        self.began = began
        self.epochs: list[dict[str, Any]] = []

    def before_train(self) -> None:
        self.images, self.started = 0, time.perf_counter()

    def after_batch(self) -> None:
        if self.training:
            self.images += len(self.xb[0])

    def after_train(self) -> None:
        self.trained = time.perf_counter()
        self.epochs.append({"images": self.images, "seconds": self.trained - self.started})

    def after_validate(self) -> None:
        now = time.perf_counter()
        self.epochs[-1] |= {
            "validation_seconds": now - self.trained,
            "validation_accuracy": float(self.recorder.metrics[0].value),
            "elapsed": now - self.began,
        }


def learner(asked: argparse.Namespace, clock: Stopwatch) -> Learner:
    loaders = ImageDataLoaders.from_folder(
        asked.tree, train="train", valid="validation", bs=asked.batch_size, num_workers=asked.workers,
        persistent_workers=asked.workers > 0, device=torch.device(DEVICE),
        item_tfms=[RandomResizedCrop(asked.image_size, min_scale=0.5), FlipItem(0.5)],
    )  # fmt: skip
    precision = [Bfloat16()] if asked.precision == "bfloat16" and DEVICE == "cpu" else []
    learn = vision_learner(
        loaders, f"local-dir:{asked.weights}", metrics=accuracy, path=asked.out,
        cbs=[ChannelsLast(), *precision, clock],
    )  # fmt: skip
    learn.remove_cb(ProgressCallback)  # draws bars: time that is not the rival's
    return learn.to_bf16() if asked.precision == "bfloat16" and DEVICE == "cuda" else learn


def main() -> int:
    imported = time.perf_counter()
    asked = options()
    asked.out.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", category=UserWarning)
    set_seed(asked.seed)
    clock = Stopwatch(time.perf_counter())
    learn = learner(asked, clock)
    loaded = loaded_share(learn.model[0].model, asked.weights)
    learn.fine_tune(asked.epochs)
    learn.save("last")  # as its users do; train.py writes a checkpoint, too
    worked = time.perf_counter()
    if asked.views:
        np.save(asked.out / "last.npy", answer(learn.model, np.load(asked.views), asked.weights))
    report = {
        "seconds": {
            "imports": imported - STARTED,
            "work": worked - imported,
            "train": sum(epoch["seconds"] for epoch in clock.epochs),
            "answering": time.perf_counter() - worked,
        },
        "epochs": clock.epochs,
        "weights_loaded": loaded,
        "flags": sys.argv[1:],
        "classes": list(learn.dls.vocab),
    }
    (asked.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
