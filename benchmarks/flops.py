"""Which share of the arithmetic that the device can do our training loop keeps.

    python -m benchmarks.flops                         # vit_base_patch16_224 and resnet50, on the GPU where there is one

The FLOP/s of the loop as the product trains (stored views augmented, standardised, loss, clipping, step, moving average)
over those of one large matrix product of the same precision, measured in turn. FLOPs are counted by torch's own counter
on a forward and backward pass of one batch, so what only moves memory (normalisation, augmentation) counts for nothing.
Random weights and made-up views: neither changes how long a step takes. BatchNorm statistics stay, as those of a
pretrained network do.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.errors import ended
from benchmarks.interleave import interleave, ratio_of_medians
from benchmarks.record import RESULTS, Row, measuring, of_device
from pipeline.allocation import keep_memory
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.device import deterministic, pick_device
from pipeline.transfer.feeds import PixelFeed
from pipeline.transfer.freeze import freeze
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.merging import merged
from pipeline.transfer.recipe import Flags, Recipe
from pipeline.transfer.speed import words
from pipeline.transfer.steps import Labelled, Steps
from pipeline.transforms import Preprocessing

WHAT = "FLOP/s of the training loop beside those of one large matrix product of the same precision, on the same device."
MODELS = ("vit_base_patch16_224", "resnet50")
CLASSES = 20
MATRIX = {"cuda": 8192, "cpu": 2048}
BATCH = {"cuda": 128, "cpu": 8}
SECONDS = 1.0  # of a window of matrix products
TOGETHER = 10  # products, then waited for: waiting for each one leaves a GPU idle between them


def product(side: int, device: str, dtype: torch.dtype) -> Callable[[], float]:
    """FLOP/s of products of two square matrices."""
    first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def window() -> float:
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < SECONDS:
            for _ in range(TOGETHER):
                first @ second
            _finish(device)
            count += TOGETHER
        return 2 * side**3 * count / (time.perf_counter() - started)

    return window


def loop(
    steps: Steps, per_image: float, batches: int, device: str, speeds: list[float]
) -> Callable[[], float]:
    """FLOP/s of ``batches`` optimizer steps; images a second go into ``speeds``."""
    rows, batch = len(steps.data.train), steps.recipe.batch_size

    def window() -> float:
        order = np.random.default_rng(0).permutation(rows)
        started = time.perf_counter()
        for number in range(batches):
            steps.step(order[number * batch : (number + 1) * batch], 0, number)
        _finish(device)
        speeds.append(batches * batch / (time.perf_counter() - started))
        return speeds[-1] * per_image

    return window


def training(name: str, side: int, batch: int, batches: int, device: str, flags: Flags) -> Steps:
    """The product's optimizer steps of the whole network ``name`` on made-up views of ``side`` px."""
    backbone = timm.create_model(name, pretrained=False, num_classes=0)
    classifier = Classifier(backbone, backbone.num_features, CLASSES)
    freeze(classifier, 0.0, keep_statistics=True)
    network = merged(classifier, classifier)
    classifier.train()
    rng, count = np.random.default_rng(0), batch * batches
    labels = rng.integers(CLASSES, size=count)
    preprocessing = Preprocessing(
        image_size=side, resize=side, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    views = rng.integers(256, size=(count, side, side, 3), dtype=np.uint8)
    ones, rows = np.ones(count), np.arange(count)
    data = Labelled(
        PixelFeed(views, preprocessing, seed=0, device=device), labels, [str(row) for row in rows], rows, rows[:1],
        Plan("none", ones, ones, np.zeros(CLASSES), None),
    )  # fmt: skip
    recipe = Recipe(
        epochs=1000,
        seed=0,
        learning_rate=1e-6,
        batch_size=batch,
        average=0.95,
        device=device,
        flags=flags,
    )
    return Steps(classifier, network, data, recipe)


def flops(steps: Steps) -> float:
    """Of a forward and backward pass of one image, as counted."""
    inputs = steps.data.feed.plain(steps.data.train[:2])
    with FlopCounterMode(display=False) as counted:
        steps.classifier(inputs)[0].sum().backward()
    steps.optimizer.zero_grad(set_to_none=True)
    return counted.get_total_flops() / len(inputs)


def _finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.flops", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default: %(default)s)")
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="MODEL", help="timm's names")
    parser.add_argument("--image-size", type=int, default=224, help="px (default: %(default)s)")
    parser.add_argument("--batch", type=int, help="images a step (default: 128 on a GPU, 8 on a CPU)")
    parser.add_argument("--batches", type=int, default=8, help="steps of a window (default: %(default)s)")
    parser.add_argument(
        "--matrix", type=int, help="rows of the matrices (default: 8192 on a GPU, 2048 on a CPU)"
    )
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile's network, too")
    parser.add_argument("--force", action="store_true", help="measure on a busy machine all the same")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_memory()
    deterministic(0)
    device = pick_device(options.device)
    kind = "cuda" if device.startswith("cuda") else "cpu"
    half = kind == "cuda"
    dtype = torch.bfloat16 if half else torch.float32
    batch, side = options.batch or BATCH[kind], options.matrix or MATRIX[kind]
    with measuring(
        of_device("flops"), what=WHAT, state="warm", force=options.force, results=options.results
    ) as result:
        for name, compiled in itertools.product(options.models, (False, True)[: 1 + options.compile]):
            flags = Flags(bfloat16=half, compiled=compiled)
            steps = training(name, options.image_size, batch, options.batches, device, flags)
            per_image, speeds = flops(steps), list[float]()
            contenders = {
                "visionloop": loop(steps, per_image, options.batches, device, speeds),
                "matrix product": product(side, device, dtype),
            }
            figures = interleave(contenders, state="warm", windows=options.windows)
            ours, most = figures["visionloop"], figures["matrix product"]
            ratio = ratio_of_medians(ours, most)
            result.rows.append(
                Row(
                    case=f"{name}, {options.image_size} px, batches of {batch}, {device}",
                    measure=f"training, {words(flags)}", unit="TFLOP/s", better="higher",
                    ours="visionloop", rival=f"a matrix product of {side:,} rows", ours_value=median(ours) / 1e12,
                    rival_value=median(most) / 1e12, ratio=ratio.value, ratio_ci95=(ratio.low, ratio.high),
                    windows=options.windows, headline=True,
                )
            )  # fmt: skip
            result.details[f"{name}, {words(flags)}"] = {
                "images_per_second": median(speeds[1:]),
                "gflops_an_image": per_image / 1e9,
            }
            print(
                f"{name}, {words(flags)}: {median(speeds[1:]):.1f} images/s, {ratio.value:.0%} of the matrix product's FLOP/s"
            )
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
