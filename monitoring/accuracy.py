"""A champion's accuracy in production, from the images of its queues that were drawn at random and labelled.

Only those estimate it without bias. What the champion said of each is in the queue's manifest.
"""

import math
from dataclasses import dataclass
from datetime import datetime

from monitoring.label_queue import items_of
from monitoring.labels import read_labels
from pipeline.artifacts import Workspace, read_json

Z95, Z99 = 1.959964, 2.575829


@dataclass(frozen=True)
class Hits:
    """``correct`` of ``labelled`` images; the share's interval is Wilson's (1927)."""

    correct: int
    labelled: int

    @property
    def share(self) -> float:
        return self.correct / self.labelled if self.labelled else float("nan")

    def interval(self, z: float = Z95) -> tuple[float, float]:
        """[0, 1] where nothing is labelled."""
        if not self.labelled:
            return 0.0, 1.0
        n, square = self.labelled, z * z
        middle = (self.share + square / (2 * n)) / (1 + square / n)
        half = z / (1 + square / n) * math.sqrt(self.share * (1 - self.share) / n + square / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.correct} of {self.labelled} ({self.share:.2f}, 95 %: {low:.2f} to {high:.2f})"


def difference(new: Hits, old: Hits, z: float = Z95) -> tuple[float, float]:
    """Interval of new less old, two independent proportions: Newcombe's hybrid score, his method 10 (1998)."""
    (new_low, new_high), (old_low, old_high) = new.interval(z), old.interval(z)
    gap = new.share - old.share
    return (
        gap - math.hypot(new.share - new_low, old_high - old.share),
        gap + math.hypot(new_high - new.share, old.share - old_low),
    )


def hits_of(
    workspace: Workspace, champion: str, queue: str | None = None, since: datetime | None = None
) -> Hits:
    """The champion's hits on randomly drawn, labelled images: of one queue, or of all that were asked of it.

    Args:
        since: labels from then on only.
    """
    labels = {
        label.image_id: label.label
        for label in read_labels(workspace.labels)
        if since is None or label.time >= since
    }
    names = [queue] if queue else sorted(path.parent.name for path in workspace.queue.glob("*/manifest.json"))
    said: dict[str, str] = {}
    for name in names:
        manifest = workspace.queue / name / "manifest.json"
        if manifest.exists() and read_json(manifest)["champion"] == champion:
            said |= {item.image_id: item.predicted for item in items_of(workspace, name) if item.random}
    correct = [said[image_id] == label for image_id, label in labels.items() if image_id in said]
    return Hits(sum(correct), len(correct))
