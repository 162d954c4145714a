"""Keep the result of a whole fire drill, which lies in reports/ and goes with `make clean`.

    python -m flows.fire_drill && python -m benchmarks.fire_drill

Nothing is timed. Refused: a part of a drill, one of another commit, or one in which a fault was not refused by the gate
that must.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.errors import ContenderError, ended
from benchmarks.record import RESULTS, commit, measuring
from benchmarks.sets import ROOT
from pipeline.artifacts import read_json
from pipeline.errors import DataError

WHAT = (
    "Faults planted in copies of a real run that is promoted: which gate refuses each, in which words, which faults nothing "
    "refuses, and why."
)


def kept(report: Path, results: Path = RESULTS) -> Path:
    """``report`` (reports/fire_drill.json) → ``results``/fire_drill.json.

    Raises:
        ContenderError: it is missing, a part, of another commit, or a fault was not refused as it must be.
    """
    try:
        found: dict[str, Any] = read_json(report)
    except DataError as error:
        raise ContenderError(f"{error}: run `python -m flows.fire_drill` first") from error
    wrong = [result["fault"] for result in found["results"] if not result["as_expected"]]
    if not found["whole"] or wrong:
        raise ContenderError(
            f"{report} is {'a part of a drill' if not found['whole'] else 'no success: ' + ', '.join(wrong)}; only a whole one "
            "in which every fault was refused by the gate that must is kept"
        )
    here = commit()["commit"]
    if found["commit"] != here:
        raise ContenderError(
            f"{report} is of {str(found['commit'])[:12]}, checked out is {str(here)[:12]}: run `python -m flows.fire_drill` again"
        )
    with measuring("fire_drill", what=WHAT, state="warm", timed=False, results=results) as result:
        result.details = {name: value for name, value in found.items() if name not in ("commit", "whole")}
        result.details["results"] = [
            {name: value for name, value in row.items() if name != "seconds"} for row in found["results"]
        ]
    return results / "fire_drill.json"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fire_drill", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--report", type=Path, default=ROOT / "reports/fire_drill.json")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    kept(options.report, options.results)
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
