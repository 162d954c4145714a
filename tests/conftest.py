"""Real workspaces and real commands for the tests that need them."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.prefect_server import prefect_server  # noqa: F401  (one server for all tests that need one)

if "PYTEST_XDIST_WORKER" in os.environ:
    # Every process of `make test` would take all cores for its products, and wait for the others' threads most of the
    # time. Here, before the first import of numpy or torch; a test's own processes inherit it.
    each = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ |= {f"{library}_NUM_THREADS": str(max(1, each)) for library in ("OMP", "MKL", "OPENBLAS")}

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LONGEST = ("test_loop.py", "test_real.py", "test_fire_drill.py", "test_strategies.py", "test_experiments.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: `make test` gives whole files to its processes, and nobody shall wait for the last."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


class Checkout:
    """A copy of the project in an empty folder, with its own history and state; commands run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "var"
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "BENTOML_"))
        } | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "VISIONLOOP_HOME": str(self.home)}

    def run(self, *command: str, code: int = 0, timeout: float = 900) -> str:
        """Run a command here and return all it printed; fails the test on another exit code."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, timeout=timeout, check=False,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == code, (
            f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-6000:]}"
        )
        return done.stdout

    def params(self, changes: dict[str, dict[str, Any]]) -> None:
        """Merge ``changes`` (section → key → value) into this workspace's params.yaml."""
        path = self.root / "params.yaml"
        content = yaml.safe_load(path.read_text())
        for section, values in changes.items():
            content[section] |= values
        path.write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    from flows.demo_workspace import copy_checkout

    copy_checkout(ROOT, tmp_path / "workspace")
    return Checkout(tmp_path / "workspace")


@pytest.fixture
def mount_point() -> Iterator[Path]:
    """An empty folder outside of pytest's own: what a killed session leaves mounted must not fail the next one's clean-up."""
    place = Path(tempfile.mkdtemp(prefix="visionloop-"))
    yield place
    shutil.rmtree(place)


@pytest.fixture
def small_disk(mount_point: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(mount_point)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small tmpfs can't be mounted here: {mounted.stderr.strip()}")
    yield mount_point
    subprocess.run(["umount", str(mount_point)], check=True)


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpack one of the real data sets, once: ``real_data("grocery20")`` → its folder."""
    place = os.environ.get("VISIONLOOP_REAL_DATA")
    if not place:
        pytest.skip("VISIONLOOP_REAL_DATA is not set: no real images to verify on")
    unpacked: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        if name == "weights":
            return Path(place) / "weights"
        if name not in unpacked:
            folder = tmp_path_factory.mktemp(name)
            with tarfile.open(Path(place) / f"{name}.tar") as archive:
                archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and later
                archive.extractall(folder)  # noqa: S202
            unpacked[name] = folder
        return unpacked[name]

    return unpack
