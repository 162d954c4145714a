"""What time it is, for what is kept as state: the pointer's moves, the log's folders, the journal's rows.

``VISIONLOOP_NOW=2027-03-01T08:00:00+00:00`` sets it for one process, so that a year can pass in minutes
(``python -m flows.soak``). Without it, the machine's clock. Durations are never measured with it.
"""

import contextlib
import os
from datetime import UTC, datetime

from pipeline.errors import StateError

__all__ = ["now"]


def now() -> datetime:
    """The time in UTC.

    Raises:
        StateError: VISIONLOOP_NOW is no time with a time zone.
    """
    given = os.environ.get("VISIONLOOP_NOW")
    if not given:
        return datetime.now(UTC)
    time = None
    with contextlib.suppress(ValueError):
        time = datetime.fromisoformat(given)
    if time is None or time.tzinfo is None:
        raise StateError(
            f"VISIONLOOP_NOW is {given!r}, which is no time with a time zone (2027-03-01T08:00:00+00:00): "
            "unset it, unless this is a simulation"
        )
    return time.astimezone(UTC)
