"""Whether answers may be missing from the log, for whoever reads figures that come from it."""

from pipeline.artifacts import Workspace
from pipeline.params import Params

__all__ = ["lossy"]


def lossy(workspace: Workspace) -> str | None:
    """A sentence where ``log.mode`` is lossy; None where each answer is on disk before it leaves.

    Raises:
        ParamsError: params.yaml can't be read.
    """
    if not workspace.params.exists() or Params.load(workspace.params).log.mode != "lossy":
        return None
    return "lossy (log.mode): answers may be missing from it, and from what the watch sees"
