"""Which images count in full: not the twentieth shot of one odd part, nor a source that floods the log.

The evidence assumes that images are exchangeable: drawn independently, each source at its usual pace. Where they come
in bursts they are not, so an image of a burst may lower the evidence but not raise it. That is valid whatever the rule
is, for it takes from the wealth alone. One in ``BURST`` counts all the same: a camera that sends the same black frame
for ever is seen.

A burst is what follows an image near-alike to it, or comes from a source that sends more than it usually does while
others send, too. With one source, or none given, or where the others have fallen silent, nothing is a flood: there
the source is all that there is to watch.
"""

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from monitoring.window import Window

BURST = 10
"""Of a burst, one image in so many counts."""
RECENT = 500
"""Images whose sources are remembered, so long until a flood is what is usual; the last ``BURST`` are held against
those before.
"""
LEAST = 20
"""Images before, under which nothing is usual yet."""
SPREADS = 2.0
"""Standard deviations, and one image more, by which a source may send more than usual."""
SILENT = 10
"""Times their usual gap after which the others have fallen silent."""


@dataclass
class Bursts:
    """State, so that a killed watch goes on where its last transaction stood.

    Attributes:
        seen, repeats, flooded: images so far, and those that counted less as near-alike or as of a flood.
        counted: (position, source, embedding) of the last images that counted in full.
        recent: (source, seconds) of the last images.
    """

    seen: int = 0
    repeats: int = 0
    flooded: int = 0
    counted: deque[tuple[int, str, np.ndarray]] = field(default_factory=lambda: deque(maxlen=BURST))
    recent: deque[tuple[str, float]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def take(self, window: Window, near: float) -> np.ndarray:
        """(n,) bool, which of the next images count in full; closer than ``near`` are near-alike."""
        embeddings = window.embeddings.astype(np.float64)
        return np.array(
            [
                self._step(row.source, row.time.timestamp(), embedding, near)
                for row, embedding in zip(window.rows, embeddings, strict=True)
            ],
            dtype=bool,
        )

    def _step(self, source: str, time: float, embedding: np.ndarray, near: float) -> bool:
        lately = [entry for entry in self.counted if self.seen - entry[0] < BURST]
        repeats = any(float(np.linalg.norm(embedding - other)) < near for _, _, other in lately)
        flooded = not repeats and any(name == source for _, name, _ in lately) and self._floods(source, time)
        counts = not repeats and not flooded
        if counts:
            self.counted.append((self.seen, source, embedding))
        self.recent.append((source, time))
        self.seen += 1
        self.repeats += repeats
        self.flooded += flooded
        return counts

    def _floods(self, source: str, time: float) -> bool:
        """Whether the source has sent more of the last images than it usually does, while others send."""
        names = [name for name, _ in self.recent]
        before, now = names[:-BURST], names[-BURST:]
        if len(before) < LEAST:
            return False
        usual = before.count(source) / len(before)
        spread = float(np.sqrt(BURST * usual * (1 - usual)))
        return now.count(source) > BURST * usual + SPREADS * spread + 1 and self._others_send(source, time)

    def _others_send(self, source: str, time: float) -> bool:
        others = [at for name, at in self.recent if name != source]
        if len(others) < 2:
            return False
        gap = (others[-1] - others[0]) / (len(others) - 1)
        return time - others[-1] <= SILENT * gap

    def sources_before(self, time: datetime) -> list[str]:
        """Of the last images those before ``time``, by their sources."""
        return [name for name, at in self.recent if at < time.timestamp()]

    def to_dict(self) -> dict[str, Any]:
        return {
            "seen": self.seen,
            "repeats": self.repeats,
            "flooded": self.flooded,
            "counted": [[position, source, other.tolist()] for position, source, other in self.counted],
            "recent": [list(entry) for entry in self.recent],
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Bursts":
        """What ``to_dict`` wrote; a fresh start where that is nothing."""
        if not raw:
            return cls()
        found = cls(raw["seen"], raw["repeats"], raw["flooded"])
        found.counted.extend(
            (position, source, np.array(other)) for position, source, other in raw["counted"]
        )
        found.recent.extend((source, time) for source, time in raw["recent"])
        return found
