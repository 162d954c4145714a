"""Whether the champion pointer names a whole bundle, whatever is killed: kill -9 of releases and of the registry's steps.

    python -m benchmarks.kills                                                     # 300 and 24 kills
    python -m benchmarks.kills --kills 50 --release-kills 3 --results /tmp/look

Nothing is timed, so the machine may be busy; exit code 1 where a kill left half a bundle, a pointer without one, a
history that says something else, a process or a file.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.errors import ContenderError, ended
from benchmarks.record import RESULTS, measuring
from benchmarks.registry_kills import STEPS, Killed, kill_at_each_file, kill_at_random
from benchmarks.release_kills import kill_releases
from tests.prefect_server import serving

KILLS, RELEASE_KILLS = 300, 24
WHAT = (
    "kill -9 of the registry's add, promote and rollback at random moments and before every file that they touch, and of "
    "whole releases with their build and sandbox: after each, the champion pointer must name a whole, verified bundle, "
    "and the next command must go on."
)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kills", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--kills", type=int, default=KILLS, help="of the registry's own steps (default: %(default)s)"
    )
    parser.add_argument(
        "--release-kills", type=int, default=RELEASE_KILLS, help="of a whole release (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as work,
        measuring("kills", what=WHAT, state="warm", timed=False, results=options.results) as result,
    ):
        found = measure(options, Path(work))
        if faults := [fault for done in found.values() for fault in done.faults]:
            raise ContenderError("\n".join(faults))
        result.details = {name: done.to_dict() for name, done in found.items()}
    return 0


def measure(options: argparse.Namespace, work: Path) -> dict[str, Killed]:
    """What came of each kind of kill, by name."""
    found = {
        "registry, at random": kill_at_random(
            _folder(work, "random"), options.kills, seed=options.seed, say=_say
        )
    }
    for name in STEPS:
        found[f"registry, before every file of {name}"] = kill_at_each_file(_folder(work, name), name)
    with serving(_folder(work, "prefect")) as server:
        found["release"] = kill_releases(
            _folder(work, "release"), options.release_kills, server.environment, seed=options.seed, say=_say
        )
    for name, done in found.items():
        _say(sentence(name, done))
    return found


def sentence(what: str, done: Killed) -> str:
    """What came of it."""
    fell = ", ".join(f"{count} {where}" for where, count in done.fell.most_common())
    return (
        f"{what}: {done.kills} kills ({fell}), {done.finished} ended before; the pointer moved {done.moved} times; "
        f"{len(done.faults)} faults."
    )


def _folder(work: Path, name: str) -> Path:
    (work / name).mkdir()
    return work / name


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(ended(main))
