"""A byte flipped in DVC's cache: never in a bundle; mended where a whole copy is left, else said in words."""

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.stored import md5_of, outs
from tests import tiny_training
from tests.conftest import ROOT, Checkout

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with drawings that DVC tracks, ingested once."""
    from flows.demo_workspace import copy_checkout

    root = tmp_path_factory.mktemp("scanned") / "workspace"
    copy_checkout(ROOT, root)
    checkout = Checkout(root)
    generator = np.random.default_rng(0)
    for label in tiny_training.CLASSES:
        folder = root / "data/drawn" / label
        folder.mkdir(parents=True)
        for number in range(4):
            (folder / f"{number}.png").write_bytes(tiny_training.picture(label, generator))
    checkout.params({"data": {"sources": [{"path": "data/drawn", "domain": "drawn"}], "group_pattern": None}})
    checkout.run("dvc", "add", "--quiet", "data/drawn")
    checkout.run("dvc", "repro", "ingest")
    return root


@pytest.fixture
def workspace(scanned: Path, tmp_path: Path) -> Checkout:
    """A copy of it, with a remote of its own."""
    shutil.copytree(scanned, tmp_path / "workspace", symlinks=True)
    local = tmp_path / "workspace/.dvc/config.local"
    local.write_text(f"['remote \"local\"']\n    url = {tmp_path / 'remote'}\n")
    return Checkout(tmp_path / "workspace")


def flip(workspace: Checkout, name: str) -> Path:
    """Flip one bit of the object behind a file, as a bad disk would: its mode and its times stay."""
    place = object_of(workspace, name)
    before = place.stat()
    data = bytearray(place.read_bytes())
    data[-20] ^= 1
    place.chmod(0o644)
    place.write_bytes(data)
    place.chmod(stat.S_IMODE(before.st_mode))
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    return place


def object_of(workspace: Checkout, name: str) -> Path:
    md5 = md5_of(workspace.root / name)
    return workspace.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def test_a_flipped_byte_gets_into_the_workspace_but_into_no_model(workspace: Checkout) -> None:
    name = "data/drawn/dots/2.png"
    assert {out.path: out.md5 for out in outs(workspace.root)}["data/drawn"] == md5_of(
        workspace.root / "data/drawn"
    ), "we hash as DVC does"
    whole = (workspace.root / name).read_bytes()
    workspace.run("dvc", "push", "--quiet")
    place = flip(workspace, name)
    shutil.rmtree(workspace.root / "data/drawn")
    workspace.run("dvc", "checkout", "data/drawn.dvc")
    assert (workspace.root / name).read_bytes() != whole, "DVC trusts a read-only object"
    workspace.params({"data": {"max_pixels": 1_000_000}})  # so that the images are read again
    said = workspace.run("dvc", "repro", "gate", code=255)
    assert "data/drawn is not what `data/drawn.dvc` stored" in said
    assert "python -m pipeline cache" in said
    assert not (workspace.root / "artifacts/bundle").exists()

    mended = workspace.run("python", "-m", "pipeline", "cache")
    assert f"1 damaged and mended: {name}" in mended
    assert (workspace.root / name).read_bytes() == whole == place.read_bytes()
    assert "all whole" in workspace.run("python", "-m", "pipeline", "cache")
    workspace.run("dvc", "repro", "ingest")


def test_without_a_remote_a_lost_image_is_named_with_what_to_do(workspace: Checkout) -> None:
    name = "data/drawn/down/1.png"
    place = flip(workspace, name)
    shutil.copyfile(place, workspace.root / name)
    said = workspace.run("python", "-m", "pipeline", "cache", code=1)
    assert name in said
    assert "neither the workspace nor the remote has them whole" in said
    assert "run `dvc add data/drawn`" in said
    assert not place.exists(), "nothing is made from it"


def test_what_the_workspace_has_whole_needs_no_remote(workspace: Checkout) -> None:
    images, table = "data/drawn/down/1.png", "artifacts/sources/drawn.parquet"
    places = [flip(workspace, images), flip(workspace, table)]
    assert "2 damaged and mended" in workspace.run("python", "-m", "pipeline", "cache")
    assert [md5_of(place) for place in places] == [md5_of(workspace.root / name) for name in (images, table)]


def test_a_remote_s_flipped_byte_is_noticed_at_the_pull(workspace: Checkout) -> None:
    name = "data/drawn/across/3.png"
    workspace.run("dvc", "push", "--quiet")
    place = object_of(workspace, name)
    remote = workspace.root.parent / "remote/files/md5" / place.parent.name / place.name
    data = bytearray(remote.read_bytes())
    data[-20] ^= 1
    remote.chmod(0o644)
    remote.write_bytes(data)
    shutil.rmtree(workspace.root / ".dvc/cache")
    shutil.rmtree(workspace.root / "data/drawn")
    workspace.run("dvc", "pull", "data/drawn.dvc", code=1)
    assert not place.exists(), "the damaged object is not taken in"
    assert yaml.safe_load((workspace.root / "data/drawn.dvc").read_text())["outs"][0]["nfiles"] == 12


def test_a_file_that_changed_behind_dvc_s_back_is_shown_to_it(workspace: Checkout) -> None:
    file = workspace.root / "artifacts/sources/drawn.parquet"
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    said = workspace.run("python", "-m", "pipeline", "cache", code=1)
    assert "dvc checkout --force artifacts/sources/drawn.parquet" in said
    workspace.run("dvc", "checkout", "--force", "artifacts/sources/drawn.parquet")
    assert "all whole" in workspace.run("python", "-m", "pipeline", "cache")
