"""Pretrain the small backbone that comes with the project, on procedural textures and shapes.

    python -m pipeline.pretrain                   # 35 minutes of one core -> pipeline/weights/bundled
    python -m pipeline.pretrain --measure-only    # only the figures in card.json

Each picture is a texture with a shape drawn over it (`pipeline.pretraining`), lit, tinted, blurred and
made noisy at random; the network names the texture and the shape, and says where the shape lies. No
downloaded image or weight is used. The result is a timm local-dir,
`timm.create_model("local-dir:pipeline/weights/bundled", pretrained=True, num_classes=0)`, with `card.json`
beside it: how it was made and what it is worth.

The same arguments on the same machine give the same weights, as long as `--threads` is the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
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
from pipeline.sample import generate

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
    "chosen": "the architecture, and how hard line-b's camera is, were chosen while looking at the sample of seed 0: "
    "believe the figures of other seeds",
}
BUNDLED = Path(__file__).parent / "weights" / "bundled"


@dataclass(frozen=True)
class Recipe:
    """How a backbone is made; the constants are those of the bundled weights."""

    seed: int  # decides weights, pictures and their order
    steps: int  # of the optimizer
    threads: int  # torch's: another number gives other weights
    architecture: str = "resnet10t"
    batch: int = 64  # pictures per step
    learning_rate: float = 2e-3  # peak of the one-cycle schedule
    weight_decay: float = 0.02  # AdamW's, on matrices only
    image_size: int = 160  # final side in pixels
    small_size: int = 64  # side in pixels of most steps
    full_size_share: float = 0.04  # last share of steps, at the final side
    textures_each: int = 50  # stored textures per family
    shapes_each: int = 70  # stored masks per shape


def create(recipe: Recipe, classes: int) -> nn.Module:
    """The architecture with random weights from torch's current seed."""
    return timm.create_model(recipe.architecture, num_classes=classes, **MODEL_ARGS)


def train(recipe: Recipe) -> tuple[nn.Module, dict[str, Any]]:
    """Pretrain; the network with its classifier (textures first, then shapes) and what happened."""
    torch.manual_seed(recipe.seed)
    pictures = Pictures(recipe.seed, recipe.textures_each, recipe.shapes_each)
    network = create(recipe, len(TEXTURES) + len(SHAPES))
    start(network)
    network = network.to(memory_format=torch.channels_last).train()
    locate = nn.Conv2d(MODEL_ARGS["channels"][-1], 1, 1)  # where a mark lies; not part of the result
    learned = [p for p in [*network.parameters(), *locate.parameters()] if p.requires_grad]
    decayed = [p for p in learned if p.ndim > 1]
    rest = [p for p in learned if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, recipe.steps, pct_start=0.15
    )
    record: dict[str, Any] = {"steps": recipe.steps, "pictures": recipe.steps * recipe.batch}
    started = time.perf_counter()
    for step, loss, right in steps(network, locate, pictures, recipe):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 2.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == recipe.steps - 1:
            record["last"] = {"loss": round(loss.item(), 3), "texture": right[0], "shape": right[1]}
            print(f"step {step:5d}  {time.perf_counter() - started:6.0f} s  {record['last']}", flush=True)
    settle_statistics(network, pictures, recipe.image_size)
    record["seconds"] = round(time.perf_counter() - started)
    return network.eval(), record


def steps(
    network: nn.Module, locate: nn.Module, pictures: Pictures, recipe: Recipe
) -> Iterator[tuple[int, Tensor, tuple[float, float]]]:
    """For each step its number, its loss and the shares of textures and shapes named rightly."""
    for step in range(recipe.steps):
        # Small pictures first, for speed; the last steps see the final size, and so do the BN statistics.
        side = recipe.image_size if step >= recipe.steps * (1 - recipe.full_size_share) else recipe.small_size
        if step % 2 == 0:
            images, textures, shapes, marks = pictures.batch(recipe.batch, side, hard=step / recipe.steps)
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


def export(network: nn.Module, recipe: Recipe, folder: Path) -> None:
    """Write `model.safetensors` and `config.json` as a timm local-dir."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architecture": recipe.architecture,
        "num_classes": len(TEXTURES) + len(SHAPES),
        "num_features": network.num_features,
        "model_args": MODEL_ARGS,
        "pretrained_cfg": {
            "tag": "visionloop_procedural",
            "input_size": [3, recipe.image_size, recipe.image_size],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": MEAN,
            "std": STD,
            "num_classes": len(TEXTURES) + len(SHAPES),
            "pool_size": [-(-recipe.image_size // 32)] * 2,
            "first_conv": network.pretrained_cfg["first_conv"],
            "classifier": network.pretrained_cfg["classifier"],
            "license": "apache-2.0",
            "label_names": [make.__name__ for make in TEXTURES] + [name for name, _, _ in SHAPES],
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def beside(recipe: Recipe, bundled: Path) -> dict[str, nn.Module]:
    """The weights in the folder `bundled`, the same architecture with random ones, and with the filters but no training."""
    torch.manual_seed(recipe.seed)
    drawn = create(recipe, 0)
    filtered = create(recipe, 1)
    start(filtered)
    settle_statistics(filtered, Pictures(recipe.seed, 6, 6), recipe.image_size)
    filtered.reset_classifier(0)
    trained = timm.create_model(f"local-dir:{bundled}", pretrained=True, num_classes=0)
    return {"bundled": trained.eval(), "random_weights": drawn.eval(), "filters_untrained": filtered.eval()}


def measured(recipe: Recipe, bundled: Path, seeds: list[int], real_images: Path | None) -> dict[str, Any]:
    """What the weights in the folder `bundled` are worth on samples of `seeds`, made for this, and on real images."""
    with tempfile.TemporaryDirectory(prefix="visionloop-samples-") as folder:
        samples = [Path(folder) / f"seed-{seed}" for seed in seeds]
        for seed, sample in zip(seeds, samples, strict=True):
            generate(sample, seed=seed)
        return measure(beside(recipe, bundled), samples, real_images, recipe.image_size)


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.pretrain", description=(__doc__ or "").split("\n")[0]
    )
    add, usual = parser.add_argument, "(default: %(default)s)"
    add("--output", type=Path, default=BUNDLED, help=f"the timm local-dir to write {usual}")
    add("--seed", type=int, default=0, help=f"decides weights, pictures and their order {usual}")
    add("--steps", type=int, default=4000, help=f"optimizer steps {usual}")
    add("--threads", type=int, default=1, help=f"torch threads {usual}")
    add(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 202],
        help="seeds of the samples to measure on (default: 0 202)",
    )
    add("--real-images", type=Path, help="also measure on this folder of <class>/<train|val|test>*.jpg")
    add("--measure-only", action="store_true", help="don't train; measure what lies in --output again")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Pretrain (unless told to measure only), measure, and write the local-dir with its card."""
    options = arguments(given)
    recipe = Recipe(options.seed, options.steps, options.threads)
    torch.set_num_threads(options.threads)
    card_path = options.output / "card.json"
    if options.measure_only:
        card = json.loads(card_path.read_text())
    else:
        network, record = train(recipe)
        export(network, recipe, options.output)
        card = {
            "command": " ".join(["python -m pipeline.pretrain", *(sys.argv[1:] if given is None else given)]),
            "choices": asdict(recipe),
            "training": record,
            "versions": {"torch": torch.__version__, "timm": timm.__version__, "numpy": np.__version__},
        }
    card = DESCRIPTION | {name: value for name, value in card.items() if name not in DESCRIPTION}
    card_path.write_text(json.dumps(card, indent=2) + "\n")
    card["measured"] = measured(recipe, options.output, options.seeds, options.real_images)
    card_path.write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card["measured"], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
