"""timm's own train.py, unchanged, with a stopwatch around its epochs; runs in the rivals' environment.

    python -m benchmarks.rivals.timm_run --script train.py --tree TREE --weights DIR --classes 20 --out OUT

Writes OUT/report.json (seconds, images per second by epoch, validation accuracy by epoch), and with
``--views`` what the last and the best checkpoint (by validation) say of the test images, once training is over.
"""

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()
# The best on the validation parts of magnetic_tile and art_painting among learning rates of 2e-4 to 2e-3, layer-wise
# decay, batches of 16 and SGD. The scale is worth most: timm draws this classifier so large that the loss begins at 8.
RECIPE = [
    "--head-init-scale", "0.01",
    "--opt", "adamw", "--weight-decay", "0.05", "--sched", "cosine", "--sched-on-updates",
    "--warmup-epochs", "1", "--warmup-lr", "1e-5", "--min-lr", "1e-6", "--smoothing", "0.1",
]  # fmt: skip
# The augmentation that all contenders share: half the area at least, mirrored, no colours, nothing erased.
AUGMENTATION = [
    "--scale", "0.5", "1.0", "--hflip", "0.5", "--color-jitter", "0", "--reprob", "0",
    "--train-interpolation", "bicubic",
]  # fmt: skip
BFLOAT16 = ["--amp", "--amp-dtype", "bfloat16"]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals.timm_run")
    parser.add_argument("--script", type=Path, required=True, help="timm's train.py")
    parser.add_argument(
        "--tree", type=Path, required=True, help="train/, validation/ and test/, folders of classes"
    )
    parser.add_argument("--weights", type=Path, required=True, help="a timm local-dir")
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--views", type=Path, help="uint8 test views (.npy) to answer afterwards")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("extra", nargs="*", help="more flags for train.py, after --")
    return parser.parse_args()


def flags(asked: argparse.Namespace) -> list[str]:
    """The command line of train.py."""
    classes = asked.out / "classes.txt"  # our order of the classes, not the script's natural sort
    classes.write_text(
        "".join(f"{p.name}\n" for p in sorted((asked.tree / "train").iterdir())), encoding="utf-8"
    )
    return [
        "--data-dir", str(asked.tree), "--class-map", str(classes), "--num-classes", str(asked.classes),
        "--model", f"local-dir:{asked.weights}", "--pretrained", "--img-size", str(asked.image_size),
        *_device(), "--channels-last", *(BFLOAT16 if asked.precision == "bfloat16" else []),
        "--epochs", str(asked.epochs), "--batch-size", str(asked.batch_size), "--lr", str(asked.lr),
        "--seed", str(asked.seed), "--workers", str(asked.workers), "--log-interval", "1000",
        "--checkpoint-hist", "1", "--output", str(asked.out), "--experiment", "run",
        *RECIPE, *AUGMENTATION, *asked.extra,
    ]  # fmt: skip


def _device() -> list[str]:
    import torch

    return ["--device", "cuda", "--pin-mem"] if torch.cuda.is_available() else ["--device", "cpu"]


class Stopwatch:
    """Seconds of each epoch's training and validation, and since the script's main() began."""

    def __init__(self, script: Any, weights: Path, batch_size: int) -> None:
        self.epochs: list[dict[str, Any]] = []
        self.loaded = 0.0
        self._weights, self._batch_size = weights, batch_size
        self._train, self._validate, self._create = (
            script.train_one_epoch,
            script.validate,
            script.create_model,
        )
        script.train_one_epoch, script.validate, script.create_model = self.train, self.validate, self.create
        self.began = time.perf_counter()

    def create(self, *arguments: Any, **named: Any) -> Any:
        from benchmarks.rivals.answering import loaded_share

        model = self._create(*arguments, **named)
        self.loaded = loaded_share(model, self._weights)
        return model

    def train(self, epoch: int, model: Any, loader: Any, *arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        result = self._train(epoch, model, loader, *arguments, **named)
        seconds = time.perf_counter() - started
        images = len(loader) * self._batch_size  # its loader drops the last, incomplete batch
        self.epochs.append({"images": images, "seconds": seconds, "loss": float(result["loss"])})
        return result

    def validate(self, *arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        result = self._validate(*arguments, **named)
        now = time.perf_counter()
        self.epochs[-1] |= {
            "validation_seconds": now - started,
            "validation_accuracy": float(result["top1"]) / 100,
            "elapsed": now - self.began,
        }
        return result


def script_module(path: Path) -> Any:
    """train.py as a module; its main() does not run."""
    spec = importlib.util.spec_from_file_location("timm_train", path)
    if spec is None or spec.loader is None:
        sys.exit(f"{path} is no Python script")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers(asked: argparse.Namespace) -> None:
    """OUT/last.npy and OUT/best.npy: logits of the test views."""
    import numpy as np
    import timm

    from benchmarks.rivals.answering import answer

    views = np.load(asked.views)
    for name, file in (("last", "last.pth.tar"), ("best", "model_best.pth.tar")):
        model = timm.create_model(f"local-dir:{asked.weights}", pretrained=False, num_classes=asked.classes)
        timm.models.load_checkpoint(model, str(asked.out / "run" / file))
        np.save(asked.out / f"{name}.npy", answer(model, views, asked.weights))


def main() -> int:
    asked = options()
    asked.out.mkdir(parents=True, exist_ok=True)
    script = script_module(asked.script)
    imported = time.perf_counter()
    clock = Stopwatch(script, asked.weights, asked.batch_size)
    sys.argv = [str(asked.script), *flags(asked)]
    script.main()
    worked = time.perf_counter()
    if asked.views:
        answers(asked)
    report = {
        "seconds": {
            "imports": imported - STARTED,
            "work": worked - imported,
            "train": sum(epoch["seconds"] for epoch in clock.epochs),
            "answering": time.perf_counter() - worked,
        },
        "epochs": clock.epochs,
        "weights_loaded": clock.loaded,
        "flags": sys.argv[1:],
    }
    (asked.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
