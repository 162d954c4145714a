"""The train verb: the same network each time, also after a kill, and a reason for what it keeps."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import train
from pipeline.artifacts import SPLIT, Workspace, read_json, read_table, write_table
from pipeline.errors import DataError, IntegrityError, ParamsError, StateError
from pipeline.params import Params
from pipeline.transfer import blending, choice, course, features, loop, soup, speed, tuning
from pipeline.transfer.checkpoint import load_checkpoint, read_checkpoint
from pipeline.transfer.cut import Upper
from pipeline.transfer.device import pick_device
from pipeline.transfer.prior import write_prior
from pipeline.transfer.resume import State
from tests import tiny_training

pytestmark = pytest.mark.slow

ARITHMETIC = {"precision": "float32", "memory_format": "channels_last", "compile": "off"}
TUNE = {"strategy": "finetune", "epochs": 3, "batch_size": 16, **ARITHMETIC}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_training.save_weights(tmp_path_factory.mktemp("weights") / "local")


def trained(root: Path, weights: Path | str, **settings: Any) -> dict[str, Any]:
    """checkpoint.json after training in a new workspace in ``root``."""
    workspace = tiny_training.make(root, weights, train=settings)
    assert train.run(workspace, Params.load(workspace.params)) == 0
    return read_checkpoint(workspace.checkpoint)


def lasting(info: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on the clock."""
    kept = {name: value for name, value in info.items() if name not in ("seconds", "arithmetic")}
    kept["train"] = {name: value for name, value in info["train"].items() if name != "images_per_second"}
    return kept


def test_the_probe_is_what_is_kept_when_the_budget_is_spent(weights: Path, tmp_path: Path) -> None:
    info = trained(tmp_path / "w", weights, strategy="auto", budget_seconds=0)
    assert info["strategy"] == "probe"
    assert "Partial fine-tuning was skipped" in info["report"]
    assert info["classes"] == list(tiny_training.CLASSES)
    assert info["validation"]["n"] == 12
    assert info["validation"]["accuracy"] > 0.5
    assert info["train"]["n"] == 48
    curve = (tmp_path / "w/reports/plots/learning_curve.csv").read_text().splitlines()
    assert curve[0] == "step,loss,split"
    assert len(curve) == 3
    classifier, _ = load_checkpoint(tmp_path / "w/artifacts/checkpoint")
    assert classifier.head.weight.shape == (3, info["width"])


def test_auto_fine_tunes_within_its_budget_and_says_what_each_gave(weights: Path, tmp_path: Path) -> None:
    info = trained(tmp_path / "w", weights, strategy="auto", budget_seconds=60)
    kept = info["validation"][info["strategy"]]
    assert {"probe", "partial"} <= info["validation"].keys()
    assert info["validation"]["accuracy"] == kept["accuracy"]
    assert "10 epochs" in info["report"]
    assert "standard error" in info["report"]
    assert (info["train"]["steps"] > 0) == (info["strategy"] == "partial")
    assert not (tmp_path / "w/artifacts/unfinished").exists()
    cut_short = trained(tmp_path / "short", weights, strategy="finetune", budget_seconds=0.001)
    assert "best at its last epoch: a train.budget_seconds above 0.001 may give more" in cut_short["report"]
    assert "may give more" not in info["report"]


def test_the_same_inputs_give_the_same_bits(weights: Path, tmp_path: Path) -> None:
    first, second = (trained(tmp_path / name, weights, **TUNE) for name in ("one", "two"))
    assert lasting(first) == lasting(second)  # the weights' digest is in it
    other = tiny_training.make(tmp_path / "three", weights, train=TUNE)
    other.params.write_text(json.dumps(json.loads(other.params.read_text()) | {"seed": 1}))
    train.run(other, Params.load(other.params))
    assert read_checkpoint(other.checkpoint)["sha256"] != first["sha256"]


def test_killed_in_training_it_goes_on_and_ends_the_same(weights: Path, tmp_path: Path) -> None:
    settings = TUNE | {"epochs": 8}
    undisturbed = trained(tmp_path / "one", weights, **settings)
    workspace = tiny_training.make(tmp_path / "two", weights, train=settings)
    command = [sys.executable, "-m", "pipeline", "train"]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "VISIONLOOP_HOME": str(workspace.home)}
    environment["OMP_NUM_THREADS"] = str(
        torch.get_num_threads()
    )  # bits are promised for one number of threads
    process = subprocess.Popen(
        command, cwd=workspace.root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    states = workspace.unfinished
    while not list(states.glob("*/state.json")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not workspace.checkpoint.exists()
    reached = read_json(next(states.glob("*/state.json")))["epoch"]
    assert 1 <= reached < 8
    assert train.run(workspace, Params.load(workspace.params)) == 0
    resumed = read_checkpoint(workspace.checkpoint)
    assert lasting(resumed) == lasting(undisturbed)
    assert (workspace.plots / "learning_curve.csv").read_bytes() == (
        tmp_path / "one/reports/plots/learning_curve.csv"
    ).read_bytes()
    assert not states.exists()


def test_a_training_on_two_domains_goes_on_after_a_kill_and_ends_the_same(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is averaged in the end, the last epochs, is there again."""
    settings = {"strategy": "partial", "epochs": 3, "batch_size": 16}
    workspace = tiny_training.make(tmp_path / "w", weights, train=settings)
    rewrite(workspace, {"domain": "elsewhere"}, {"label": "dots"})
    params = Params.load(workspace.params)
    saved, save, blended, blend = [], State.save, [], soup.blend

    class KilledError(Exception):
        """Stands for the kill."""

    def stopping(self: State, epoch: int, *arguments: Any) -> None:
        save(self, epoch, *arguments)
        saved.append(epoch)
        if len(saved) == 2:
            raise KilledError

    def watched(before: Any, after: Any, snapshots: Any, *others: Any) -> soup.Blend:
        blended.append((after, *snapshots))
        return blend(before, after, snapshots, *others)

    monkeypatch.setattr(State, "save", stopping)
    monkeypatch.setattr(soup, "blend", watched)
    monkeypatch.setattr(blending, "clustered_error", lambda differences, groups: 0.0)  # any gain will do
    with pytest.raises(KilledError):
        train.run(workspace, params)
    infos = []
    for _ in range(2):
        assert train.run(workspace, params) == 0
        infos.append(read_checkpoint(workspace.checkpoint))
    assert saved == [1, 2, 3, 1, 2, 3]
    assert "over all domains" in infos[0]["report"]
    assert lasting(infos[0]) == lasting(infos[1])
    resumed, whole = blended
    assert len(resumed) == len(whole) == 1 + 3
    assert all(torch.equal(a[name], b[name]) for a, b in zip(resumed, whole, strict=True) for name in b)


def test_a_challenger_that_at_once_beats_the_probe_trains_longer_also_after_a_kill(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "clustered_error", lambda differences, groups: 0.0)  # any gain will do
    settings = {"strategy": "auto", "budget_seconds": 0.019, **ARITHMETIC}
    undisturbed = trained(tmp_path / "one", weights, **settings)
    assert "of 8 epochs" in undisturbed["report"]
    assert (
        "It beat the probe in one of its first two epochs and so had 2 times train.budget_seconds"
        in undisturbed["report"]
    )
    lengths, fit = [], tuning.fit

    def counted(*arguments: Any, **named: Any) -> course.Tuned:
        lengths.append(fit(*arguments, **named))
        return lengths[-1]

    with monkeypatch.context() as patched:
        patched.setattr(tuning, "fit", counted)
        trained(tmp_path / "folds", weights, **settings, folds=2)
    assert [tuned.planned for tuned in lengths] == [8, 8, 8]  # what ships, and each fold as long
    by_name = trained(tmp_path / "partial", weights, **settings | {"strategy": "partial"})
    assert "Partial, 3 of 3 epochs" in by_name["report"]

    class KilledError(Exception):
        """Stands for the kill."""

    workspace, save = tiny_training.make(tmp_path / "two", weights, train=settings), State.save

    def stopping(self: State, epoch: int, *arguments: Any) -> None:
        save(self, epoch, *arguments)
        raise KilledError

    for _ in range(2):  # after its first epoch, and after its second
        monkeypatch.setattr(State, "save", stopping)
        with pytest.raises(KilledError):
            train.run(workspace, Params.load(workspace.params))
    monkeypatch.setattr(State, "save", save)
    assert train.run(workspace, Params.load(workspace.params)) == 0
    assert lasting(read_checkpoint(workspace.checkpoint)) == lasting(undisturbed)


def test_a_challenger_far_behind_the_probe_is_given_up_in_its_last_third(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "past_its_best", lambda tuned: False)  # only the rival counts
    settings = {"budget_seconds": 60, "learning_rate": 0.3, **ARITHMETIC}
    info = trained(tmp_path / "auto", weights, strategy="auto", **settings)
    assert info["strategy"] == "probe"
    assert "Partial, 7 of 10 epochs" in info["report"]
    assert "It was given up after epoch 7, behind the network that it had to beat." in info["report"]
    by_name = trained(tmp_path / "partial", weights, strategy="partial", **settings)
    assert "given up" not in by_name["report"]


def test_a_probe_that_wins_is_untouched_by_the_fine_tuning_that_lost(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = trained(tmp_path / "both", weights, strategy="auto", epochs=2, learning_rate=0.3)
    assert both["strategy"] == "probe"
    assert "partial" in both["validation"] or "not possible" in both["report"]
    monkeypatch.setattr(choice, "TELLING", 1e9)
    alone = trained(tmp_path / "alone", weights, strategy="auto", epochs=2)
    assert "partial" not in alone["validation"]
    assert "Even a network without a mistake would gain" in alone["report"]
    assert both["sha256"] == alone["sha256"]


def test_where_partial_is_not_possible_fine_tuning_is_tried_within_the_budget(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "DISK_SHARE", 0.0)  # a full disk
    workspace = tiny_training.make(tmp_path / "w", weights, train={"strategy": "auto", "epochs": 1})
    assert train.run(workspace, Params.load(workspace.params)) == 0
    info = read_checkpoint(workspace.checkpoint)
    assert "fifth of the free disk" in info["report"]
    assert "Instead, finetune is tried" in info["report"]
    assert {"probe", "finetune"} <= info["validation"].keys()
    for settings, words in (
        ({"strategy": "auto", "budget_seconds": 0}, "Fine-tuning was skipped"),
        ({"strategy": "partial"}, "VISIONLOOP_HOME"),
    ):
        given = json.loads(workspace.params.read_text()) | {"train": settings}
        workspace.params.write_text(json.dumps(given))
        if settings["strategy"] == "partial":
            with pytest.raises(ParamsError, match=words):
                train.run(workspace, Params.load(workspace.params))
        else:
            assert train.run(workspace, Params.load(workspace.params)) == 0
            info = read_checkpoint(workspace.checkpoint)
            assert info["strategy"] == "probe"
            assert words in info["report"]


def test_a_batch_beyond_the_memory_runs_in_parts_and_an_image_beyond_it_leaves_the_probe(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = tiny_training.make(tmp_path / "w", weights, train={"strategy": "auto", "epochs": 1})
    forward, holds = Upper.forward, 4

    def short(self: Upper, activations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.is_grad_enabled() and len(activations) > holds:
            raise torch.OutOfMemoryError(f"out of memory: {len(activations)} images")
        return forward(self, activations)

    monkeypatch.setattr(Upper, "forward", short)
    monkeypatch.setattr(speed, "WORTH", 0.0)  # so short a training is not measured otherwise
    assert train.run(workspace, Params.load(workspace.params)) == 0
    info = read_checkpoint(workspace.checkpoint)
    assert "in parts of 4 images" in capsys.readouterr().out
    assert "partial" in info["validation"]
    assert "does not fit into memory whole" in info["arithmetic"]["partial"]
    holds = 0
    assert train.run(workspace, Params.load(workspace.params)) == 0
    info = read_checkpoint(workspace.checkpoint)
    assert info["strategy"] == "probe"
    assert "a single image does not fit into memory" in info["report"]
    workspace.params.write_text(
        json.dumps(json.loads(workspace.params.read_text()) | {"train": {"strategy": "partial", "epochs": 1}})
    )
    with pytest.raises(StateError, match="single image"):
        train.run(workspace, Params.load(workspace.params))


def test_new_images_reuse_the_features_of_the_old(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path / "w", weights, strategy="probe")
    workspace = Workspace(tmp_path / "w", tmp_path / "w/var")
    for path in sorted((tmp_path / "w/images").rglob("*.png")):
        path.unlink()  # all views are stored, so nobody needs the files
    rows = read_table(workspace.split, SPLIT).to_pylist()
    write_table(workspace.split, type(read_table(workspace.split, SPLIT)).from_pylist(rows[:-6], SPLIT))
    assert train.run(workspace, Params.load(workspace.params)) == 0


def rewrite(workspace: Workspace, change: dict[str, str], where: dict[str, str]) -> None:
    rows = read_table(workspace.split, SPLIT).to_pylist()
    for row in rows:
        if all(row[name] == value for name, value in where.items()):
            row |= change
    write_table(workspace.split, type(read_table(workspace.split, SPLIT)).from_pylist(rows, SPLIT))


@pytest.mark.parametrize(
    ("change", "where", "words"),
    [
        ({"split": "test"}, {"split": "validation"}, "no validation image"),
        ({"split": "excluded"}, {"split": "train"}, "no train image"),
        ({"split": "test"}, {"split": "train", "label": "dots"}, "in validation but not in train: dots"),
        ({"label": "dots"}, {}, "all of one class"),
    ],
)
def test_data_that_can_not_be_learnt_is_refused_and_the_old_checkpoint_stays(
    weights: Path, tmp_path: Path, change: dict[str, str], where: dict[str, str], words: str
) -> None:
    workspace = tiny_training.make(tmp_path / "w", weights)
    workspace.checkpoint.mkdir()
    (workspace.checkpoint / "checkpoint.json").write_text("old")
    rewrite(workspace, change, where)
    with pytest.raises(DataError, match=words):
        train.run(workspace, Params.load(workspace.params))
    assert (workspace.checkpoint / "checkpoint.json").read_text() == "old"


def test_an_image_that_went_bad_since_ingest_is_named(weights: Path, tmp_path: Path) -> None:
    workspace = tiny_training.make(tmp_path / "w", weights)
    victim = workspace.root / "images/dots/001.png"
    victim.write_bytes(victim.read_bytes()[:100])
    with pytest.raises(DataError, match=r"dots/001\.png"):
        train.run(workspace, Params.load(workspace.params))


def test_a_corrupted_checkpoint_is_refused_with_the_next_command(weights: Path, tmp_path: Path) -> None:
    trained(tmp_path / "w", weights)
    folder = tmp_path / "w/artifacts/checkpoint"
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="dvc repro train"):
        load_checkpoint(copy)
    info = read_json(folder / "checkpoint.json")
    (folder / "checkpoint.json").write_text(json.dumps(info | {"classes": ["a", "b"]}))
    with pytest.raises(IntegrityError, match="can't be loaded"):
        load_checkpoint(folder)


def test_the_probes_logits_are_the_networks_own(weights: Path, tmp_path: Path) -> None:
    from pipeline.transfer.classifier import logits_of
    from pipeline.transfer.feeds import PixelFeed
    from pipeline.transforms import Preprocessing
    from pipeline.views import views

    workspace = tiny_training.make(tmp_path / "w", weights, train={"strategy": "probe"})
    params = json.loads(workspace.params.read_text())
    params["model"]["prior"] = "prior.json"  # also where its weights start from what class names say
    workspace.params.write_text(json.dumps(params))
    with pytest.raises(ParamsError, match=r"prior\.json can't be read"):
        train.run(workspace, Params.load(workspace.params))
    embeddings = np.random.default_rng(0).normal(size=(3, 1024))
    write_prior(workspace.root / "prior.json", tiny_training.CLASSES, embeddings)
    assert train.run(workspace, Params.load(workspace.params)) == 0
    info = read_checkpoint(workspace.checkpoint)
    assert "model.prior says of the class names" in info["report"]
    rows = [row for row in read_table(workspace.split, SPLIT).to_pylist() if row["split"] == "validation"]
    preprocessing = Preprocessing.from_dict(info["preprocessing"])
    pixels = views(
        workspace, [r["path"] for r in rows], [r["image_id"] for r in rows], preprocessing,
        max_pixels=10**6, max_bytes=10**6,
    )  # fmt: skip
    classifier, _ = load_checkpoint(workspace.checkpoint)
    feed = PixelFeed(pixels, preprocessing, seed=0)
    logits = logits_of(classifier, feed, np.arange(len(pixels)))
    truth = np.array([info["classes"].index(row["label"]) for row in rows])
    assert (logits.argmax(axis=1) == truth).mean() == pytest.approx(info["validation"]["accuracy"], abs=1e-6)


def test_the_device_that_is_asked_for_must_be_there() -> None:
    if not torch.cuda.is_available():
        assert pick_device("auto") == "cpu"
        with pytest.raises(ParamsError, match="sees no GPU"):
            pick_device("cuda")


def test_where_there_are_several_gpus_torchrun_starts_one_process_each(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[tuple[list[str], Path]] = []

    def run(command: list[str], *, cwd: Path, check: bool) -> subprocess.CompletedProcess[bytes]:
        commands.append((command, cwd))
        return subprocess.CompletedProcess(command, 0)

    workspace = tiny_training.make(tmp_path / "w", weights)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(subprocess, "run", run)
    assert train.run(workspace, Params.load(workspace.params)) == 0
    ((command, folder),) = commands
    assert folder == workspace.root
    assert " ".join(command[1:]) == (
        "-m torch.distributed.run --standalone --nproc-per-node 4 -m pipeline train"
    )
