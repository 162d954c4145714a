"""Pretrain the small backbone that comes with the project, on procedural textures and shapes.

    python -m pipeline.pretrain                   # 35 minutes of one core -> pipeline/weights/bundled
    python -m pipeline.pretrain --measure-only    # only the figures in card.json, on data/sample

Each picture is a texture with a shape drawn over it (`pipeline.pretraining`), lit, tinted, blurred and
made noisy at random; the network names the texture and the shape, and says where the shape lies. No downloaded image or weight is
used. The result is a timm local-dir, `timm.create_model("local-dir:pipeline/weights/bundled",
pretrained=True, num_classes=0)`, with `card.json` beside it: how it was made and what it is worth.

The same arguments on the same machine give the same weights, as long as `--threads` is the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pipeline.pretraining.pictures import Pictures
from pipeline.pretraining.shapes import SHAPES
from pipeline.pretraining.start import settle_statistics, start
from pipeline.pretraining.textures import TEXTURES
from pipeline.pretraining.worth import measure

MEAN = STD = (0.5, 0.5, 0.5)
"""Normalisation of the network's input, per channel, for pixels in 0..1."""
MODEL_ARGS: dict[str, Any] = {
    "stem_type": "",
    "channels": [64, 64, 96, 128],
    "avg_down": False,
    "output_stride": 8,
    "global_pool": "catavgmax",
}
"""A plain 7 x 7 stem and narrow stages that keep a fine grid; beside the average, the strongest response anywhere
in the image. A defect of a few pixels vanishes where a network averages."""
DESCRIPTION = {
    "what": "features of procedural textures and shapes, for the embedded sample and as a small starting point",
    "licence": "Apache-2.0; made by this project, from no downloaded image or weight",
    "source_domain": f"{len(TEXTURES)} textures and {len(SHAPES)} shapes of pipeline/pretraining/; none of the sample's code",
    "start": "the stem is a fixed bank of 64 designed filters (ridges, edges, spots, colour contrasts), the blocks hand it "
    "on; training changes all but the stem. 'filters_untrained' under 'measured' is this start without any training",
}
BUNDLED = Path(__file__).parent / "weights" / "bundled"


def create(options: argparse.Namespace, classes: int) -> nn.Module:
    """The architecture with random weights from torch's current seed."""
    return timm.create_model(options.architecture, num_classes=classes, **options.model_args)


def train(options: argparse.Namespace) -> tuple[nn.Module, dict[str, Any]]:
    """Pretrain; the network with its classifier (textures first, then shapes) and what happened."""
    torch.manual_seed(options.seed)
    pictures = Pictures(options.seed, options.textures_each, options.shapes_each)
    network = create(options, len(TEXTURES) + len(SHAPES))
    start(network)
    network = network.to(memory_format=torch.channels_last).train()
    locate = nn.Conv2d(options.model_args["channels"][-1], 1, 1)  # where a mark lies; not part of the result
    learned = [p for p in [*network.parameters(), *locate.parameters()] if p.requires_grad]
    decayed = [p for p in learned if p.ndim > 1]
    rest = [p for p in learned if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, options.steps, pct_start=0.15
    )
    record: dict[str, Any] = {"steps": options.steps, "pictures": options.steps * options.batch}
    started = time.perf_counter()
    for step, loss, right in steps(network, locate, pictures, options):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 2.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == options.steps - 1:
            record["last"] = {"loss": round(loss.item(), 3), "texture": right[0], "shape": right[1]}
            print(f"step {step:5d}  {time.perf_counter() - started:6.0f} s  {record['last']}", flush=True)
    settle_statistics(network, pictures, options.image_size)
    record["seconds"] = round(time.perf_counter() - started)
    return network.eval(), record


def steps(
    network: nn.Module, locate: nn.Module, pictures: Pictures, options: argparse.Namespace
) -> Iterator[tuple[int, Tensor, tuple[float, float]]]:
    """For each step its number, its loss and the shares of textures and shapes named rightly."""
    for step in range(options.steps):
        # Small pictures first, for speed; the last steps see the final size, and so do the BN statistics.
        side = (
            options.image_size
            if step >= options.steps * (1 - options.full_size_share)
            else options.small_size
        )
        if step % 2 == 0:
            images, textures, shapes, marks = pictures.batch(options.batch, side, hard=step / options.steps)
        else:
            # Composing a picture costs as much as learning from it: each is used twice, the second time
            # mirrored and with its colours exchanged.
            images, marks = images.flip(3).roll(1, 1), marks.flip(3)
        grid = network.forward_features(images.to(memory_format=torch.channels_last))
        by_texture, by_shape = network.forward_head(grid).split([len(TEXTURES), len(SHAPES)], dim=1)
        # One answer an image says little about where to look; one a cell teaches to tell a mark from its ground.
        marked = F.adaptive_max_pool2d(marks, grid.shape[2:])
        loss = (
            0.4 * F.cross_entropy(by_texture, textures)
            + F.cross_entropy(by_shape, shapes)
            + F.binary_cross_entropy_with_logits(locate(grid), marked)
        )
        texture_right = (by_texture.argmax(1) == textures).float().mean().item()
        shape_right = (by_shape.argmax(1) == shapes).float().mean().item()
        yield step, loss, (round(texture_right, 3), round(shape_right, 3))


def export(network: nn.Module, options: argparse.Namespace, folder: Path) -> None:
    """Write `model.safetensors` and `config.json` as a timm local-dir."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architecture": options.architecture,
        "num_classes": len(TEXTURES) + len(SHAPES),
        "num_features": network.num_features,
        "model_args": options.model_args,
        "pretrained_cfg": {
            "tag": "visionloop_procedural",
            "input_size": [3, options.image_size, options.image_size],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": MEAN,
            "std": STD,
            "num_classes": len(TEXTURES) + len(SHAPES),
            "pool_size": [-(-options.image_size // 32)] * 2,
            "first_conv": network.pretrained_cfg["first_conv"],
            "classifier": network.pretrained_cfg["classifier"],
            "license": "apache-2.0",
            "label_names": [make.__name__ for make in TEXTURES] + [name for name, _, _ in SHAPES],
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def beside(options: argparse.Namespace) -> dict[str, nn.Module]:
    """The bundled weights, the same architecture with random ones, and with the filters but no training."""
    torch.manual_seed(options.seed)
    drawn = create(options, 0)
    filtered = create(options, 1)
    start(filtered)
    settle_statistics(filtered, Pictures(options.seed, 6, 6), options.image_size)
    filtered.reset_classifier(0)
    trained = timm.create_model(f"local-dir:{options.output}", pretrained=True, num_classes=0)
    return {"bundled": trained.eval(), "random_weights": drawn.eval(), "filters_untrained": filtered.eval()}


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.pretrain", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--output", type=Path, default=BUNDLED, help="the timm local-dir to write (default: %(default)s)")
    add("--architecture", default="resnet10t", help="a timm ResNet (default: %(default)s)")
    add(
        "--model-args",
        type=json.loads,
        default=MODEL_ARGS,
        help="its arguments, as JSON (default: %(default)s)",
    )
    add(
        "--seed", type=int, default=0, help="decides weights, pictures and their order (default: %(default)s)"
    )
    add("--steps", type=int, default=4000, help="optimizer steps (default: %(default)s)")
    add("--batch", type=int, default=64, help="pictures per step (default: %(default)s)")
    add(
        "--learning-rate",
        type=float,
        default=2e-3,
        help="peak of the one-cycle schedule (default: %(default)s)",
    )
    add("--weight-decay", type=float, default=0.02, help="AdamW's, on matrices only (default: %(default)s)")
    add(
        "--image-size",
        type=int,
        default=160,
        help="final side in pixels, the bundle's own (default: %(default)s)",
    )
    add("--small-size", type=int, default=64, help="side in pixels of most steps (default: %(default)s)")
    add(
        "--full-size-share",
        type=float,
        default=0.04,
        help="last share of steps at full size (default: %(default)s)",
    )
    add("--textures-each", type=int, default=50, help="stored textures per family (default: %(default)s)")
    add("--shapes-each", type=int, default=70, help="stored masks per shape (default: %(default)s)")
    add("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    add(
        "--sample",
        type=Path,
        nargs="+",
        default=[Path("data/sample")],
        help="samples to measure on, of one or more seeds (default: data/sample)",
    )
    add("--real-images", type=Path, help="also measure on this folder of <class>/<train|val|test>*.jpg")
    add("--measure-only", action="store_true", help="don't train; measure what lies in --output again")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Pretrain (unless told to measure only), measure, and write the local-dir with its card."""
    options = arguments(given)
    torch.set_num_threads(options.threads)
    card_path = options.output / "card.json"
    if options.measure_only:
        card = json.loads(card_path.read_text())
    else:
        network, record = train(options)
        export(network, options, options.output)
        choices = {key: value for key, value in vars(options).items() if isinstance(value, int | float | str)}
        del choices["measure_only"]
        card = {
            "command": " ".join(["python -m pipeline.pretrain", *(sys.argv[1:] if given is None else given)]),
            "choices": choices,
            "training": record,
            "versions": {"torch": torch.__version__, "timm": timm.__version__, "numpy": np.__version__},
        }
    card = DESCRIPTION | {name: value for name, value in card.items() if name not in DESCRIPTION}
    card_path.write_text(json.dumps(card, indent=2) + "\n")
    if all(sample.exists() for sample in options.sample):
        card["measured"] = measure(beside(options), options.sample, options.real_images, options.image_size)
        card_path.write_text(json.dumps(card, indent=2) + "\n")
        print(json.dumps(card["measured"], indent=2))
    else:
        print(
            "a sample to measure on is not there: run `python -m pipeline sample`, then this with --measure-only"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
