"""The first version of the data that a champion comes from is what later ones are compared with."""

import logging
from collections.abc import Callable

from pipeline.artifacts import MANIFEST, Workspace, digest_file, read_json, read_table, write_json
from pipeline.drifted import read_suite
from pipeline.errors import DataError
from pipeline.profile import profile
from pipeline.registry import Registry

__all__ = ["keep_first_profile"]


def keep_first_profile(workspace: Workspace, digest: str, say: Callable[[int, str], None]) -> None:
    """Write data/expectations.json, where it is empty and ``digest`` is the first champion there ever was.

    Once it is released, not in ``dvc repro``: the file is an input of ``validate``, which would have to run again in the
    run that made it. A release stands without it: what keeps it from being made is said, not raised.
    """
    registry = Registry(workspace.registry)
    if {move["digest"] for move in registry.history()} != {digest} or not workspace.manifest.exists():
        return
    try:
        if read_suite(workspace.expectations) is not None:
            return
        made_of = read_json(registry.bundle_path(digest) / "bundle.json").get("digests", {}).get("manifest")
        if made_of != digest_file(workspace.manifest):
            return  # the workspace has moved on to other data
        suite = profile(read_table(workspace.manifest, MANIFEST))
    except DataError as error:
        say(logging.WARNING, f"no profile of the data was kept: {error}")
        return
    write_json(workspace.expectations, suite)
    say(
        logging.INFO,
        f"{workspace.relative(workspace.expectations)} holds what the first version of the data looks like, "
        f"{suite['meta']['images']:,} images: look through it and commit it. From the next `dvc repro` on, validate "
        "compares later versions with it",
    )
