"""The prediction log's closed segments into the archive, once a day: ``python -m flows.compact``.

The same as ``python -m monitoring compact``, as a flow, so that a deployment can have a schedule and a record.
"""

import argparse
import sys

from prefect import flow, get_run_logger
from prefect.states import Completed, Failed, State

from flows.server import command
from flows.tasks import step
from monitoring import compact as archive
from pipeline import clock
from pipeline.artifacts import Workspace
from pipeline.errors import VisionloopError
from pipeline.params import Params


@flow(name="compact", persist_result=False)
def compact() -> State:
    """Archive every closed segment and remove what is past ``log.archive_days``; Failed with the reason if it can't."""
    workspace = Workspace.here()
    try:
        params = Params.load(workspace.params)
        done = step("compact", lambda: archive.compact(workspace, params.log, now=clock.now()))
    except (VisionloopError, OSError) as error:  # the segments stay: the next run goes on
        return Failed(message=str(error))
    get_run_logger().info("%s", done.text)
    return Completed(message=done.text)


def main(arguments: list[str] | None = None) -> int:
    argparse.ArgumentParser(
        prog="python -m flows.compact", description=(__doc__ or "").split("\n")[0]
    ).parse_args(arguments)
    return command(lambda: 0 if compact(return_state=True).is_completed() else 1)


if __name__ == "__main__":
    sys.exit(main())
