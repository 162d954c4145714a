"""Whether an acknowledged answer is in the log, whatever is killed: random kill -9 under load.

    python -m benchmarks.durability                                   # 1,000 kills of a writer, 30 of the whole service
    python -m benchmarks.durability --kills 50 --service-kills 3 --results /tmp/look

Nothing is timed, so the machine may be busy; exit code 1 where a row is lost, doubled, or without its image. What
durability costs is `benchmarks.log_cost`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.errors import ContenderError, ended
from benchmarks.log_kills import CLIENTS, Killed, kill_services, kill_writers
from benchmarks.record import RESULTS, measuring

KILLS, SERVICE_KILLS = 1000, 30
WHAT = (
    "kill -9 at random moments under load, of a process that writes the log and of the whole service behind real "
    "connections: acknowledged rows (answers with status 200) that are lost, doubled or without their kept image."
)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.durability", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--kills", type=int, default=KILLS, help="of a writing process (default: %(default)s)"
    )
    parser.add_argument(
        "--service-kills", type=int, default=SERVICE_KILLS, help="of `bentoml serve` (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as work,
        measuring("durability", what=WHAT, state="warm", timed=False, results=options.results) as result,
    ):
        writers = kill_writers(Path(work) / "writer", options.kills, seed=options.seed, say=_say)
        print(sentence("a process that writes the log", writers), flush=True)
        services = kill_services(Path(work) / "service", options.service_kills, seed=options.seed, say=_say)
        print(sentence("the whole service", services), flush=True)
        if not (writers.whole and services.whole):
            raise ContenderError(
                "a row that was acknowledged is not in the log exactly once, or its image is not there"
            )
        result.details = {"clients": CLIENTS, "writer": writers.to_dict(), "service": services.to_dict()}
    return 0


def sentence(what: str, done: Killed) -> str:
    """What came of it."""
    return (
        f"{done.kills:,} kills of {what}: {done.acknowledged:,} acknowledged, {len(done.lost)} lost, {len(done.doubled)} "
        f"doubled, {len(done.without_image)} without their image; {done.rows - done.acknowledged:,} more rows were written and "
        f"not acknowledged, {done.damaged} lines torn; {done.archived:,} rows were compacted meanwhile."
    )


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(ended(main))
