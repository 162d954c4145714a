"""``python -m pipeline <verb>`` with a stopwatch between its imports and its work, as the rivals' runners have.

python -m benchmarks.ours_run train report.json        # in a workspace
"""

import time

STARTED = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from pipeline.__main__ import leave, load  # noqa: E402
from pipeline.__main__ import main as pipeline  # noqa: E402


def main() -> int:
    verb, report = sys.argv[1], Path(sys.argv[2])
    load(verb)  # what else a verb imports comes in passing
    ready = time.perf_counter()
    code = pipeline([verb])
    seconds = {"imports": ready - STARTED, "work": time.perf_counter() - ready}
    report.write_text(json.dumps({"seconds": seconds}) + "\n", encoding="utf-8")
    return code


if __name__ == "__main__":
    leave(main())
