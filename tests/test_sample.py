"""The embedded data set: reproducible, grouped, whole or absent, and learnable with the bundled backbone."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import sample
from pipeline.cameras import CAMERAS, machine_part, photograph
from pipeline.defects import DEFECTS
from pipeline.sample import COUNTS, FIRST_PART, generate, plan
from pipeline.surfaces import SHOT_SIZE

SMALL = {
    "line-a": {"clean": 7, "scratch": 3, "pit": 2, "patch": 3, "crack": 2, "inclusion": 2},
    "line-b": {"clean": 3, "crack": 2},
}


def digests(root: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of each file."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def dhash(path: Path) -> np.ndarray:
    """64 bits: whether brightness rises from one cell of a 9 x 8 thumbnail to the next."""
    thumbnail = np.asarray(Image.open(path).convert("L").resize((9, 8)), dtype=int)
    return (np.diff(thumbnail, axis=1) > 0).ravel()


@pytest.mark.slow
def test_same_seed_gives_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    alone, together, other = tmp_path / "alone", tmp_path / "together", tmp_path / "other"
    generate(alone, seed=3, workers=1, counts=SMALL)
    generate(together, seed=3, workers=2, counts=SMALL)
    generate(other, seed=4, workers=1, counts=SMALL)
    assert digests(alone) == digests(together)
    assert not set(digests(alone).values()) & set(digests(other).values())


def test_counts_classes_and_decodable_shots(tmp_path: Path) -> None:
    counts = generate(tmp_path / "sample", workers=1, counts=SMALL)
    assert counts == SMALL
    for camera, per_class in SMALL.items():
        for defect, count in per_class.items():
            files = list((tmp_path / "sample" / camera / defect).glob("part-*_*.jpg"))
            assert len(files) == count
            with Image.open(files[0]) as image:
                assert (image.size, image.mode) == ((SHOT_SIZE, SHOT_SIZE), "RGB")


def test_plan_is_exact_unbalanced_and_never_reuses_a_part() -> None:
    parts = plan(0, COUNTS)
    for camera, per_class in COUNTS.items():
        assert set(per_class) == set(DEFECTS)
        for defect, count in per_class.items():
            shots = [part.shots for part in parts if (part.camera, part.defect) == (camera, defect)]
            assert sum(shots) == count
            assert set(shots) <= {2, 3, 4}
    numbers = [part.number for part in parts]
    assert len(set(numbers)) == len(numbers)
    assert max(p.number for p in parts if p.camera == "line-a") < FIRST_PART["line-b"]
    assert max(COUNTS["line-a"].values()) > 3 * min(COUNTS["line-a"].values())


def test_shots_of_a_part_are_alike_and_parts_differ(tmp_path: Path) -> None:
    generate(tmp_path / "sample", workers=1, counts={"line-a": {"clean": 24}})
    files = sorted((tmp_path / "sample/line-a/clean").iterdir())
    bits, part = np.array([dhash(path) for path in files]), np.array([path.name[:9] for path in files])
    distance = (bits[:, None] != bits[None]).sum(axis=2)
    same = part[:, None] == part[None]
    off_diagonal = ~np.eye(len(files), dtype=bool)
    assert np.median(distance[same & off_diagonal]) <= 10
    assert distance[~same].min() > 6


@pytest.mark.parametrize("camera", list(CAMERAS))
@pytest.mark.parametrize("defect", list(DEFECTS))
def test_every_defect_leaves_a_mark(camera: str, defect: str) -> None:
    """The same part with and without its defect differs where, and only where, it has one."""
    seen = []
    for kind in ("clean", defect):
        scene = machine_part(np.random.default_rng(5), CAMERAS[camera], kind)
        # A lamp and an exposure of its own would hide the defect's effect: the clean part lends its own.
        first = seen[0][0] if seen else scene
        lit = type(scene)(scene.reflectance, scene.relief, first.exposure, first.fall, first.lamp)
        shot = photograph(np.random.default_rng(6), lit, CAMERAS[camera])
        seen.append((lit, np.asarray(shot, dtype=float)))
    change = np.abs(seen[0][1] - seen[1][1]).max(axis=2)
    assert (change > 20).mean() == 0 if defect == "clean" else 0.001 < (change > 20).mean() < 0.5


def test_interruption_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "data" / "sample"
    taken: list[int] = []

    def stop_early(part: sample.Part, root: Path, seed: int) -> int:
        if len(taken) == 3:
            raise KeyboardInterrupt
        taken.append(part.number)
        return shoot(part, root, seed)

    shoot = sample.shoot
    monkeypatch.setattr(sample, "shoot", stop_early)
    with pytest.raises(KeyboardInterrupt):
        generate(target, workers=1, counts=SMALL)
    assert list(target.parent.iterdir()) == []

    monkeypatch.setattr(sample, "shoot", shoot)
    generate(target, workers=1, counts=SMALL)
    before = digests(target)
    taken.clear()
    monkeypatch.setattr(sample, "shoot", stop_early)
    with pytest.raises(KeyboardInterrupt):
        generate(target, seed=1, workers=1, counts=SMALL)
    assert digests(target) == before
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.slow
def test_the_recipe_is_the_one_that_made_the_bundled_weights() -> None:
    from pipeline.pretrain import BUNDLED, Recipe, arguments

    usual = arguments([])
    card = json.loads((BUNDLED / "card.json").read_text(encoding="utf-8"))
    assert asdict(Recipe(usual.seed, usual.steps, usual.threads)) == card["choices"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_bundled_backbone_beats_the_same_network_with_random_weights(tmp_path: Path) -> None:
    """Frozen features under one probe, on parts that nobody looked at: on both cameras, beyond the interval."""
    import timm
    import torch

    from pipeline.pretrain import BUNDLED
    from pipeline.pretraining.worth import measure

    each = {"clean": 130, "scratch": 90, "pit": 70, "patch": 60, "crack": 60, "inclusion": 60}
    generate(tmp_path / "sample", seed=31, counts={"line-a": each, "line-b": each})
    pretrained = timm.create_model(f"local-dir:{BUNDLED}", pretrained=True, num_classes=0).eval()
    torch.manual_seed(0)
    drawn = timm.create_model(f"local-dir:{BUNDLED}", pretrained=False, num_classes=0).eval()
    figures = measure({"bundled": pretrained, "random": drawn}, [tmp_path / "sample"], None, 160)["sample"]
    margin = figures["bundled_minus_random"]
    assert figures["bundled"]["line_a"]["accuracy"] >= 0.8
    assert margin["line_a"]["ci95"][0] > 0.03
    assert margin["line_b_after_labels"]["ci95"][0] > 0.15
    # The other camera costs at least 15 points, and its labels bring most of them back.
    assert figures["bundled"]["line_b"]["accuracy"] <= figures["bundled"]["line_a"]["accuracy"] - 0.15
    assert (
        figures["bundled"]["line_b_after_labels"]["accuracy"]
        >= figures["bundled"]["line_b"]["accuracy"] + 0.1
    )
