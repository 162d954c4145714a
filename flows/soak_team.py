"""The people of the soaked year: they answer the queue late, in part and sometimes wrongly, mend a lens, close an episode.

They know the truth of an image from the world and do what the loop's own messages tell them to, through the same
intake and journal as ``python -m monitoring label`` and ``dismiss``.
"""

import csv
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from flows.soak_pool import Pools
from flows.soak_world import World
from monitoring.episodes import approve, dismiss
from monitoring.journal import Episode, Journal
from monitoring.label_intake import take
from monitoring.labels import read_labels
from monitoring.watch import Outcome
from pipeline.artifacts import Workspace, read_json
from pipeline.params import Params

__all__ = ["Team"]

WRONG = 0.04
"""Share of the answers that name another class."""
OPEN = 0.05
"""Share of the images that nobody is sure about."""
FIRST = 0.6
"""Share of a queue that comes back first; the rest follows."""
TARDY = 3
"""Of which alarm's queue (counted from 1) nobody thinks for 16 days, longer than watch.label_timeout_days."""
FRESH = 60
"""Labelled images that are brought after a challenger was refused."""


@dataclass
class Team:
    """``labels`` given in all, ``wrong`` of them; ``dismissed`` and ``approved`` episodes with why; ``recent``: ids of these days' images."""

    workspace: Workspace
    params: Params
    world: World
    pools: Pools
    recent: list[str] = field(default_factory=list)
    labels: int = 0
    wrong: int = 0
    dismissed: list[tuple[str, str]] = field(default_factory=list)
    approved: list[tuple[str, str]] = field(default_factory=list)
    queues: int = 0

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng([self.world.seed, 17])
        self._agenda: list[tuple[datetime, str, str, str]] = []
        self._known: set[str] = set()
        self._alarms = 0
        self._brought: set[str] = set()
        self._places = self.pools.places()
        self._classes = sorted({self._truth(image_id) for image_id in self._places})

    def hear(self, outcome: Outcome, now: datetime) -> None:
        """What the watch said: a queue is worked off, a question is answered."""
        episode = outcome.episode
        if episode is None or not episode.is_open:
            return
        opened = outcome.evidence if outcome.decision == "drift_open" else None
        if opened and read_json(opened / "explanation.json")["kind"] == "source":
            self._known.add(episode.id)
            self._later(now, self._days(1, 4), "mend", episode.id)
        queue = outcome.queue.name if outcome.queue and (outcome.queue / "queue.csv").exists() else None
        if queue and queue not in self._known:
            self._known.add(queue)
            self.queues += 1
            self._alarms += queue == episode.id
            tardy = queue == episode.id and self._alarms == TARDY
            late = self._days(16, 18) if tardy else self._days(1, 5)
            self._later(now, late, "answer", episode.id, queue)
            self._later(now, late + self._days(2, 6), "rest", episode.id, queue)
        question = f"{episode.id} {episode.asks} {episode.retrain_started}"
        if episode.state == "needs_human" and episode.asks != "labels" and question not in self._known:
            self._known.add(question)
            self._later(now, self._days(1, 3), f"asked {episode.asks}", episode.id)

    def work(self, now: datetime) -> None:
        """Do what is due."""
        due = sorted(entry for entry in self._agenda if entry[0] <= now)
        self._agenda = [entry for entry in self._agenda if entry[0] > now]
        for _, task, episode, queue in due:
            with Journal(self.workspace.journal) as journal:
                known = journal.episode(episode)
            if not known.is_open:
                continue
            if task == "mend":
                self.world.mended = now
                self._close(episode, "the lens is clean again", now)
            elif task in ("answer", "rest"):
                self._answer(queue, now, FIRST if task == "answer" else 1.0)
            elif known.state == "needs_human":
                self._decide(known, now)

    def _decide(self, episode: Episode, now: datetime) -> None:
        """What a person is asked: a refused challenger gets more labels once, an undecided one goes if it is the better one."""
        if episode.asks == "rejected" and episode.id not in self._brought:
            self._brought.add(episode.id)
            self._bring(episode.id, now)
            self._approve(episode.id, "more labels are there", now)
        elif episode.asks == "rejected":
            self._close(episode.id, "more labels did not help", now)
        elif episode.asks == "verdict" and self._gain() <= 0:
            self._close(episode.id, "the challenger is no better on labelled images", now)
        else:
            self._approve(episode.id, "it is the better one on labelled images", now)

    def _gain(self) -> float:
        """Accuracy of the challenger less the champion's, on the test images of the newest domain."""
        checks = read_json(self.workspace.verdict)["checks"]
        newest = read_labels(self.workspace.labels)[-1].domain
        found = [one["value"] for one in checks if one["name"] == f"noninferiority/domain/{newest}"]
        return float(found[0]) if found else 0.0

    def _approve(self, episode: str, why: str, now: datetime) -> None:
        with Journal(self.workspace.journal) as journal:
            approve(journal, episode, by="the label team", why=why, now=now)
        self.approved.append((episode, why))

    def _later(self, now: datetime, days: float, task: str, episode: str, queue: str = "") -> None:
        self._agenda.append((now + timedelta(days=days), task, episode, queue))

    def _days(self, low: float, high: float) -> float:
        return float(self._rng.uniform(low, high))

    def _close(self, episode: str, why: str, now: datetime) -> None:
        with Journal(self.workspace.journal) as journal:
            dismiss(journal, episode, why=why, now=now)
        self.dismissed.append((episode, why))

    def _answer(self, asked: str, now: datetime, share: float) -> None:
        """Fill in the first ``share`` of queue.csv and hand it in."""
        queue = self.workspace.queue / asked
        with (queue / "queue.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        done = rows[: round(share * len(rows))]
        for row in done:
            row["label"] = self._named(row["image_id"])
        if done:
            answered = queue / f"answered-{now:%Y%m%dT%H%M}.csv"
            with answered.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(stream, list(rows[0]))
                writer.writeheader()
                writer.writerows(done)
            self._take(answered, now, None)

    def _bring(self, episode: str, now: datetime) -> None:
        """Images of these days in folders by class, as the loop asks for where it wants more labels."""
        folder = self.workspace.home / "brought" / f"{episode}-{now:%Y%m%dT%H%M}"
        for image_id in self.recent[-FRESH:]:
            target = folder / (self._named(image_id) or self._truth(image_id)) / f"{image_id}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self._image(image_id)["data"])
        self._take(folder, now, f"production-{episode[:8]}")

    def _take(self, given: Path, now: datetime, domain: str | None) -> None:
        taken = take(self.workspace, self.params, given, by="the label team", now=now, domain=domain)
        self.labels += len(taken.labels)
        self.wrong += sum(label.label != self._truth(label.image_id) for label in taken.labels)
        for label in taken.labels:
            self.world.retire(*self._places[label.image_id])

    def _image(self, image_id: str) -> dict[str, Any]:
        regime, index = self._places[image_id]
        return self.pools.images(regime)[index]

    def _truth(self, image_id: str) -> str:
        return str(self._image(image_id)["label"])

    def _named(self, image_id: str) -> str:
        """What the team calls an image, the same each time; "" where nobody is sure."""
        rng = np.random.default_rng([self.world.seed, int(image_id[:12], 16)])
        chance, label = float(rng.random()), self._truth(image_id)
        if chance < OPEN:
            return ""
        return (
            str(rng.choice([name for name in self._classes if name != label]))
            if chance < OPEN + WRONG
            else label
        )
