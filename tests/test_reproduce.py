"""A released bundle made again: from what, how far it is the same, and what keeps it from being made."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import recipe
from pipeline.__main__ import main
from pipeline.artifacts import (
    PREDICTIONS,
    SPLIT,
    STRESS_TABLE,
    Workspace,
    digest_file,
    read_json,
    read_table,
    write_json,
    write_table,
)
from pipeline.certificate import BIT_EQUAL, DIVERGED, TOLERATED, certify, summary
from pipeline.errors import StateError
from pipeline.params import Params
from pipeline.registry import Registry
from pipeline.transfer.papers import params_digest
from tests import tiny_bundle, tiny_workspace

METRICS = {
    "test": {"n": 6, "accuracy": 1.0, "accuracy_ci95": [0.6, 1.0], "ece": 0.01},
    "seconds": {"predict": 0.1},
    "train": {"n": 12, "images_per_second": 100.0},
}
PIPELINE = """
stages:
  split:
    cmd: mkdir -p artifacts && cp {made}/manifest.parquet {made}/split.parquet artifacts
    deps: [data/images]
    outs: [artifacts/manifest.parquet, artifacts/split.parquet]
  gate:
    cmd: mkdir -p reports && cp -r {made}/bundle {made}/predictions.parquet artifacts && cp {made}/metrics.json reports
    deps: [artifacts/split.parquet]
    outs: [artifacts/bundle, artifacts/predictions.parquet, reports/metrics.json]
"""


def bundle(folder: Path, papers: dict[str, Any], *, gain: float = 4.0) -> str:
    """A tiny bundle with ``papers`` in its bundle.json; its digest."""
    shutil.rmtree(folder, ignore_errors=True)
    tiny_bundle.make(folder, gain=gain)
    write_json(folder / "bundle.json", read_json(folder / "bundle.json") | papers)
    return digest_file(folder / "bundle.json")


def dvc(workspace: Workspace, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=workspace.root, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def papers(workspace: Workspace, made: Path, **code: Any) -> dict[str, Any]:
    digests = {name: digest_file(made / f"{name}.parquet") for name in ("manifest", "split")}
    digests["params"] = params_digest(Params.load(workspace.params))
    commit = tiny_workspace.git(workspace.root, "rev-parse", "HEAD").strip()
    return {"digests": digests, "code": {"commit": commit, "dirty": False} | code}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """What the stages "compute" lies here, so that a test may let them compute something else."""
    return tmp_path / "made"


@pytest.fixture
def workspace(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A real git checkout with a tiny pipeline; what it makes is in place and released, images not yet in DVC."""
    root = tmp_path / "workspace"
    workspace = tiny_workspace.make(root)
    predicted = read_table(root / "inputs/made/predictions.parquet", PREDICTIONS)
    shutil.rmtree(root / "inputs")
    made.mkdir()
    write_table(made / "predictions.parquet", predicted)
    split = predicted.select([name for name in SPLIT.names if name != "reason"])
    write_table(made / "split.parquet", split)
    write_table(made / "manifest.parquet", split.select(["image_id", "path"]))
    write_json(made / "metrics.json", METRICS)
    (made / "stress.parquet").write_bytes(b"what the bundle said of corrupted images")
    (root / "dvc.yaml").write_text(PIPELINE.replace("{made}", str(made)))
    (root / "params.yaml").write_text("data: {sources: [{path: data/images, domain: line-a}]}\n")
    tiny_workspace.git(root, "add", "--all")
    tiny_workspace.git(root, "commit", "--quiet", "--message", "Pipeline")
    bundle(made / "bundle", papers(workspace, made))
    monkeypatch.chdir(root)
    monkeypatch.delenv("VISIONLOOP_HOME", raising=False)
    return workspace


def released(workspace: Workspace, made: Path) -> str:
    """As if the stages had run, and the result been released; the digest."""
    (workspace.root / "reports").mkdir(exist_ok=True)
    shutil.copytree(made, workspace.root / "artifacts", dirs_exist_ok=True)
    shutil.copy(made / "metrics.json", workspace.metrics)
    digest = Registry(workspace.registry).add(workspace.bundle)
    recipe.keep(workspace)
    return digest


@pytest.fixture
def again(workspace: Workspace, made: Path, tmp_path: Path) -> tuple[recipe.Recipe, Workspace]:
    """The recipe of what was released, and a fresh workspace that made the same."""
    digest = released(workspace, made)
    fresh = tmp_path / "fresh"
    shutil.copytree(workspace.root, fresh, ignore=shutil.ignore_patterns("var", ".git", ".dvc"))
    return recipe.find(workspace, digest), Workspace(fresh, fresh / "var")


# The certificate


def test_the_same_bits_are_certified_as_such_whatever_the_clock_said(
    workspace: Workspace, again: tuple[recipe.Recipe, Workspace]
) -> None:
    found, fresh = again
    slower = METRICS | {"seconds": {"predict": 9.0}, "train": {"n": 12, "images_per_second": 1.0}}
    write_json(fresh.metrics, slower)
    certificate = certify(workspace, found, fresh)
    assert certificate["outcome"] == BIT_EQUAL
    assert certificate["reproduced"] == found.digest
    assert (found.folder / STRESS_TABLE).exists(), "the watch reads it"
    assert certificate["first_difference"] is None
    assert all(row["equal"] for row in certificate["artifacts"])
    assert certificate["metrics"] == {}


def test_other_data_is_a_divergence_at_the_manifest(
    workspace: Workspace, again: tuple[recipe.Recipe, Workspace]
) -> None:
    found, fresh = again
    write_json(fresh.manifest, {"not": "the same"})
    certificate = certify(workspace, found, fresh)
    assert (certificate["outcome"], certificate["first_difference"]) == (
        DIVERGED,
        "artifacts/manifest.parquet",
    )


def test_small_differences_are_within_tolerance_and_named(
    workspace: Workspace, again: tuple[recipe.Recipe, Workspace]
) -> None:
    found, fresh = again
    bundle(fresh.bundle, papers(workspace, workspace.root / "artifacts"), gain=4.001)
    metrics = json.loads(json.dumps(METRICS))
    metrics["test"]["ece"] = 0.012
    write_json(fresh.metrics, metrics)
    certificate = certify(workspace, found, fresh)
    assert certificate["outcome"] == TOLERATED
    assert certificate["first_difference"] == "artifacts/bundle/model.safetensors"
    assert list(certificate["metrics"]) == ["test.ece"]
    assert certificate["metrics"]["test.ece"]["difference"] == pytest.approx(0.002)
    assert "test.ece: 0.01, here 0.012" in summary(certificate | {"seconds": 1.0})


def test_a_metric_beyond_the_tolerance_is_a_divergence(
    workspace: Workspace, again: tuple[recipe.Recipe, Workspace]
) -> None:
    found, fresh = again
    metrics = json.loads(json.dumps(METRICS))
    metrics["test"]["accuracy"] = 0.99
    write_json(fresh.metrics, metrics)
    certificate = certify(workspace, found, fresh)
    assert certificate["outcome"] == DIVERGED
    assert certificate["first_difference"] == "reports/metrics.json (without seconds)"


def test_another_network_is_a_divergence_even_where_the_metrics_are_the_same(
    workspace: Workspace, again: tuple[recipe.Recipe, Workspace]
) -> None:
    found, fresh = again
    bundle(fresh.bundle, papers(workspace, workspace.root / "artifacts"), gain=8.0)
    certificate = certify(workspace, found, fresh)
    assert (certificate["outcome"], certificate["first_difference"]) == (
        DIVERGED,
        "artifacts/bundle/model.safetensors",
    )


def test_another_environment_is_told(
    workspace: Workspace, again: tuple[recipe.Recipe, Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, fresh = again
    found.environment["packages"]["numpy"] = "1.0.0"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    (fresh.root / "requirements.lock").write_text(
        "numpy==1.0.0 \\\n    --hash=sha256:0\nno-such-package==1\n"
    )
    said = certify(workspace, found, fresh)["environment"]
    assert any(line.startswith("packages.numpy: 1.0.0, here ") for line in said["difference"])
    assert any(
        line.startswith("threads.OMP_NUM_THREADS: ") and line.endswith("here 7")
        for line in said["difference"]
    )
    assert len(said["lock"]) == 1
    assert "numpy: 1.0.0 in the lock" in said["lock"][0]


# What can't be made again


def test_names_of_a_bundle(workspace: Workspace, made: Path) -> None:
    digest = released(workspace, made)
    for name in (digest, digest[:6], f"release/{digest[:12]}", f"visionloop:{digest[:12]}-4ef683e4"):
        assert recipe.find(workspace, name).digest == digest
    for name in ("0" * 12, digest[:5], "release/"):
        with pytest.raises(StateError, match="give a digest"):
            recipe.find(workspace, name)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ({"dirty": True}, "not committed.*can't be restored"),
        ({"commit": None}, "names no commit"),
        ({"commit": "0" * 40}, "does not have: `git fetch`"),
    ],
)
def test_code_that_no_commit_holds_is_refused(
    workspace: Workspace, made: Path, code: dict[str, Any], words: str
) -> None:
    bundle(made / "bundle", papers(workspace, made, **code))
    digest = released(workspace, made)
    with pytest.raises(StateError, match=words):
        recipe.find(workspace, digest)


def test_parameters_that_changed_before_the_release_are_refused(workspace: Workspace, made: Path) -> None:
    workspace.params.write_text("seed: 1\n")
    digest = released(workspace, made)
    with pytest.raises(StateError, match="changed between `dvc repro` and the release"):
        recipe.find(workspace, digest)


def test_a_bundle_that_came_in_without_a_release_has_no_recipe(
    workspace: Workspace, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = Registry(workspace.registry).add(made / "bundle")
    assert main(["reproduce", digest]) == 1
    assert "has no recipe" in capsys.readouterr().err


# The whole way, with real DVC and git


@pytest.mark.slow
def test_a_bundle_is_made_again_from_its_commit_and_dvc_s_images(
    workspace: Workspace, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.root / ".gitignore").write_text("/var\n/artifacts/\n/reports/\n/data/images\n")
    tiny_workspace.git(workspace.root, "commit", "--quiet", "--all", "--message", "Images are DVC's")
    bundle(made / "bundle", papers(workspace, made))
    dvc(workspace, "add", "--quiet", "data/images")  # what a retrain finds: not committed yet
    dvc(workspace, "repro", "--quiet", "gate")
    digest = released(workspace, made)
    image = next((workspace.root / "data/images").iterdir())
    whole = image.read_bytes()
    # Life goes on in the workspace: none of this may reach the reproduction.
    image.unlink()
    image.write_bytes(b"changed")
    workspace.params.write_text("seed: 5\n")
    tiny_workspace.git(workspace.root, "commit", "--quiet", "--all", "--message", "Later")

    assert main(["reproduce", f"release/{digest[:12]}"]) == 0
    out = capsys.readouterr().out
    assert f"bit-equal: {digest[:12]}" in out
    place = workspace.home / "reproductions" / digest[:12]
    certificate = read_json(place / "certificate.json")
    assert certificate["images"] == {"data/images": "DVC"}
    assert (place / "workspace/data/images" / image.name).read_bytes() == whole
    assert yaml.safe_load((place / "workspace/params.yaml").read_text())["data"]["sources"]

    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    assert main(["reproduce", digest, "--into", str(tmp_path / "full")]) == 1
    assert "is not empty" in capsys.readouterr().err

    bundle(made / "bundle", papers(workspace, made), gain=9.0)  # the stages compute something else now
    assert main(["reproduce", digest, "--into", str(tmp_path / "other")]) == 1
    out = capsys.readouterr().out
    assert f"diverged: {digest[:12]}" in out
    assert "the first that differs: artifacts/bundle/model.safetensors" in out
    assert read_json(tmp_path / "other/certificate.json")["outcome"] == DIVERGED
