"""Rows that another model than the champion answered: a service keeps the bundle that it started with.

After a promotion or a rollback it goes on so until it is restarted, and the watch, which looks at the champion's
rows alone, sees nothing. What came before the champion's first row is of the service that was restarted then.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass
class Strangers:
    """Counts since ``since``, as far as the log was read."""

    since: datetime | None = None
    first: datetime | None = None
    """Of the champion's rows."""
    found: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    """Model → rows, and the time of the last one."""

    def own(self, time: datetime) -> None:
        """A row of the champion's."""
        self.first = time if self.first is None else min(self.first, time)

    def add(self, raw: dict[str, Any]) -> None:
        """A row of the log that is not the champion's; one without a readable time does not count."""
        try:
            time = datetime.fromisoformat(raw["time"])
        except (TypeError, ValueError):
            return
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        if self.since is not None and time < self.since:
            return
        model = str(raw["model"])
        count, last = self.found.get(model, (0, time))
        self.found[model] = count + 1, max(last, time)

    @property
    def words(self) -> str | None:
        """What to do about it; None where nothing is to be done."""
        still = {
            model: count
            for model, (count, last) in self.found.items()
            if self.first is None or last > self.first
        }
        if not still:
            return None
        rows, names = sum(still.values()), ", ".join(model[:12] for model in still)
        return f"{rows} rows of another model ({names}): restart the service, it keeps the bundle that it started with"
