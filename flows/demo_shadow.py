"""The demo's shadow: requests for the champion, until the challenger has answered enough of them beside it."""

import time

from flows.demo_stage import Stage, send
from flows.demo_workspace import SHADOWED, line_b
from monitoring.shadow import requested, shadowed
from pipeline.artifacts import Workspace
from pipeline.errors import StateError

__all__ = ["in_shadow"]

SECONDS = 120.0


def in_shadow(stage: Stage, url: str) -> str:
    """Step 8: the challenger answers beside the champion, unseen, and the release goes on; how it did, in words."""
    workspace = Workspace(stage.workspace, stage.workspace / "var")
    digest = requested(workspace)
    if digest is None:
        raise StateError("no challenger answers in shadow: see `python -m monitoring why`")
    sent, _ = line_b(stage.workspace)
    with stage.step("shadow", "Shadow: the challenger answers beside the champion, then the pointer moves"):
        deadline = time.monotonic() + SECONDS
        while (seen := shadowed(workspace, digest, SHADOWED, 0.0)).images < SHADOWED:
            if time.monotonic() > deadline:
                raise StateError(f"the challenger answered {seen.images} of {SHADOWED} images in shadow")
            send(url, sent[:SHADOWED], "line-b", a_second=SHADOWED)
        print(f"  {seen.words}")
        stage.run("python", "-m", "flows.watch", "--act", "--no-dashboard")
    return seen.words
