"""Where a release builds and tries things out: one release at a time, and nothing is left of a killed one."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.artifacts import Workspace
from pipeline.errors import StateError
from pipeline.lock import alone


@contextmanager
def scratch(workspace: Workspace) -> Iterator[Path]:
    """A temporary folder below ``var/releasing``, for one release alone; what earlier ones left is removed first.

    Raises:
        StateError: another release is at work in this workspace.
    """
    place = workspace.home / "releasing"
    try:
        with alone(place / ".lock", seconds=0):
            kept = [
                path
                for name in ("releases", "recipes")
                for path in (workspace.registry / name).rglob(".*.tmp")
            ]
            for leftover in [*place.glob("run-*"), *kept]:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            with tempfile.TemporaryDirectory(dir=place, prefix="run-") as folder:
                yield Path(folder)
    except StateError as error:
        if str(place) not in str(error):
            raise
        raise StateError(
            f"another release is at work in {workspace.home}: wait for it, or end it, then try again"
        ) from error
