"""Where the soak's minutes go: seconds by the clock and of the processors, by part."""

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Costs"]


class Costs:
    """Filled in by :meth:`of`; a process that runs on beside it counts for the part in which it ends."""

    def __init__(self) -> None:
        self._started, self._processors = time.perf_counter(), _processors()
        self._parts: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """What this block takes is ``part``'s; blocks don't lie in each other."""
        started, processors = time.perf_counter(), _processors()
        try:
            yield
        finally:
            spent = self._parts[part]
            spent[0] += time.perf_counter() - started
            spent[1] += _processors() - processors

    def report(self) -> dict[str, dict[str, float]]:
        """By part, the dearest first: ``seconds``, and ``cpu_seconds`` of this process and those that have ended."""
        parts = sorted(self._parts.items(), key=lambda entry: -entry[1][1])
        named = {
            name: {"seconds": round(took, 1), "cpu_seconds": round(spent, 1)} for name, (took, spent) in parts
        }
        return named | {
            "all": {
                "seconds": round(time.perf_counter() - self._started, 1),
                "cpu_seconds": round(_processors() - self._processors, 1),
            }
        }


def _processors() -> float:
    return sum(os.times()[:4])
