"""A year of the loop in minutes: ``python -m flows.soak`` (or ``make soak``).

    python -m flows.soak                       # reports/soak.json and reports/soak.html
    python -m flows.soak --days 30 --seed 1    # a short one: one change, the first sixth of a year

Real: the images, every bundle and its answers, the prediction log in a process that is killed, the watch, the policy,
the queue and the intake of labels, each retrain with its gate and release. Simulated: the clock, the network (answers
are recorded once for each bundle and image), and the people. Works in var/soak and leaves your data and state alone.
Exit code 1 where a request was lost or a promotion was wrong.
"""

import argparse
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flows.demo import interrupted
from flows.demo_stage import Stage
from flows.soak_costs import Costs
from flows.soak_page import page
from flows.soak_pool import Pools
from flows.soak_workspace import Disk, lay_out, release_first
from flows.soak_world import World
from flows.soak_year import Year
from pipeline.artifacts import Workspace, write_json, write_text
from pipeline.errors import VisionloopError

__all__ = ["soak"]

POOL = 400
"""Distinct images of each regime."""
_AT = {
    "real": "at real shifts",
    "harmless": "at harmless ones",
    "bad source": "at the bad source",
    "false": "false",
}


def soak(root: Path, days: int, seed: int, pool: int = POOL) -> dict[str, Any]:
    """Live ``days`` days in ``root``, which is emptied first; what soak.json holds.

    Raises:
        StateError: the first model was not promoted, or the writer broke.
    """
    costs = Costs()
    disk = Disk(root / "home")
    disk.unmount()
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    workspace = Workspace(root / "workspace", disk.place)
    stage = Stage(workspace.root, root / "logs")
    stage.environment |= {
        "VISIONLOOP_HOME": str(workspace.home),
        "BENTOML_HOME": str(workspace.home / "bentoml"),
        "PREFECT_HOME": str(root / "prefect"),
    }
    try:
        with costs.of("images"):
            disk.mount()
            lay_out(workspace, seed)
            stage.start_prefect()  # it comes up while the first images are taken
            world, pools = World(days, seed, pool), Pools(root / "pools", pool, seed)
        with ThreadPoolExecutor(1) as beside:  # a release leaves a core idle
            rendered = beside.submit(pools.render, world.regimes)
            with costs.of("first release"):
                stage.wait_prefect()
                release_first(workspace, stage)
            with costs.of("images"):
                rendered.result()
        year = Year(workspace, stage, disk, world, pools, costs)
        year.live()
        with costs.of("account"):
            report = year.report()
    finally:
        with costs.of("Prefect's server"):
            stage.close()
        if disk.mounted:  # what the year left stays to be looked at
            shutil.copytree(disk.place, root / "state", symlinks=True)
        disk.unmount()
    return report | {"costs": costs.report()}


def verdict(report: dict[str, Any]) -> str:
    """The year in one sentence."""
    lost = report["requests"]["lost"] + report["requests"]["doubled"] + report["requests"]["read_twice"]
    year = report["accuracy"]["year"]
    kinds = ", ".join(f"{count} {_AT[kind]}" for kind, count in sorted(report["alarms_by_kind"].items()))
    return (
        f"{report['days']} days: alarms {len(report['alarms'])} ({kinds or 'none'}), real shifts without one "
        f"{len(report['without_alarm']['real'])}; retrains {len(report['retrains'])}; promotions "
        f"{len(report['promotions'])}, wrong {report['wrong_promotions']}; requests acknowledged "
        f"{report['requests']['acknowledged']}, lost or counted twice {lost}; accuracy {year['with_loop']:.3f} with the "
        f"loop, {year['without_loop']:.3f} without"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--days", type=int, default=365, help="simulated days (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the world, the kills and the people")
    options = parser.parse_args(arguments)
    workspace = Workspace.here()
    report = workspace.root / "reports/soak.json"
    signal.signal(signal.SIGTERM, interrupted)  # whoever ends it finds nothing left running or mounted
    try:
        found = soak(workspace.home / "soak", options.days, options.seed)
    except (VisionloopError, KeyboardInterrupt) as error:
        print(f"soak: {error or 'interrupted'}", file=sys.stderr)
        return 1
    write_json(report, found)
    write_text(report.with_suffix(".html"), page(found, verdict(found)))
    print(f"{verdict(found)}.\n{workspace.relative(report)} and {report.with_suffix('.html').name} beside it")
    requests = found["requests"]
    return int(
        bool(requests["lost"] or requests["doubled"] or requests["read_twice"] or found["wrong_promotions"])
    )


if __name__ == "__main__":
    sys.exit(main())
