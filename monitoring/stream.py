"""One champion's stream: its part of the log, its evidence, and where in the log an image of it lies."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from monitoring.context import Place, carriers, places
from monitoring.direction import Direction
from monitoring.drift import Decision, observe, yardstick
from monitoring.evidence import Yardstick
from monitoring.journal import Journal
from monitoring.reference import load
from monitoring.wealth import Wealth
from monitoring.window import Log, Window
from pipeline.artifacts import Workspace
from pipeline.params import Params
from pipeline.registry import Champion, Registry

MARKS = 500
"""Windows whose start is remembered, to find the image that a drift began with."""


@dataclass
class Stream:
    """State between wake-ups is the journal's ``streams`` row: the cursor, the wealth, the direction, the marks.

    ``alarmed`` is the episode that the evidence last opened; ``calm`` whether the evidence has been down to
    nothing since that one ended.
    """

    name: str
    champion: str
    promoted: datetime
    workspace: Workspace
    params: Params
    measure: Yardstick
    wealth: Wealth
    direction: Direction
    log: Log
    marks: list[list[Any]]
    alarmed: str | None
    calm: bool

    @classmethod
    def of(cls, workspace: Workspace, params: Params, champion: Champion, journal: Journal) -> "Stream":
        """The champion's stream where the journal says it stands; a new one from its promotion on."""
        reference = load(Registry(workspace.registry), champion.digest, params.serve.format)
        measure = yardstick(reference, params.watch.alpha)
        # A champion that comes back after a rollback starts with fresh evidence.
        name = f"{champion.digest}@{champion.since}"
        cursor, evidence = journal.stream(name)
        size = reference.embeddings.shape[1]
        # Images that a restart has passed over stay so: the cursor knows only the segments from then on.
        since = _utc(evidence.get("since") or champion.since)
        wealth = Wealth.from_dict(measure.events, evidence.get("wealth", {}))
        return cls(
            name=name,
            champion=champion.digest,
            promoted=_utc(champion.since),
            workspace=workspace,
            params=params,
            measure=measure,
            wealth=wealth,
            direction=Direction.from_dict(measure, evidence.get("direction", {}), fresh=wealth.seen == 0),
            log=Log(
                workspace.log,
                champion.digest,
                reference.classes,
                size,
                cursor=cursor,
                since=since,
                archive=params.log.archive,
            ),
            marks=evidence.get("marks", []),
            alarmed=evidence.get("alarmed"),
            calm=evidence.get("calm", True),
        )

    def next_window(self, *, closely: bool = False) -> Window | None:
        """The next window that is large enough, or None; ``closely``, as small as windows may be."""
        least = self.params.watch.min_window
        return self.log.next_window(least if closely else self.params.watch.window, least)

    def waiting(self) -> int:
        """Images that are too few for a window."""
        return self.log.waiting(self.params.watch.min_window)

    def observe(self, window: Window) -> Decision:
        """Take a window into the evidence."""
        self.marks.append([self.wealth.seen, window.rows[0].time.isoformat()])
        del self.marks[:-MARKS]
        watch = self.params.watch
        decision = observe(
            self.measure,
            self.wealth,
            self.direction,
            window,
            alpha=watch.alpha,
            permutations=watch.permutations,
            seed=self.params.seed,
        )
        self.calm = self.calm or decision.log10_e <= 0
        return decision

    def places(self, shifted: Window) -> tuple[Place, ...]:
        """The source and the hours that the images since the drift began, ``shifted``, come from, where they stand out."""
        carry = carriers(self.measure, shifted)
        before = self.wealth.bursts.sources_before(shifted.rows[0].time)
        return () if carry is None else places(carry, shifted, before=before)

    def save(self, journal: Journal) -> None:
        """Write cursor and evidence; inside the transaction that journals the decision."""
        evidence = {
            "wealth": self.wealth.to_dict(),
            "direction": self.direction.to_dict(),
            "marks": self.marks,
            "alarmed": self.alarmed,
            "calm": self.calm,
            "since": self.log.since and self.log.since.isoformat(),
        }
        journal.save_stream(self.name, self.log.position(), evidence)

    def restart(self, after: datetime) -> None:
        """Drop the evidence, and the images up to ``after``: the next alarm has to come from later ones.

        Only what follows an alarm restarts, and each restart may alarm falsely once more with chance alpha - delta:
        see ``monitoring.evidence``. The bounds hold on, so the directions' shares of delta are counted on.
        """
        self.wealth = Wealth(self.measure.events)
        self.direction = Direction.of(self.measure, self.direction.learned)
        self.marks, self.alarmed, self.calm = [], None, False
        log = self.log
        self.log = Log(
            log.folder,
            log.champion,
            log.classes,
            log.embedding_size,
            cursor=log.cursor,
            since=after,
            archive=log.archive,
        )

    def time_of(self, position: int) -> datetime | None:
        """When the image at ``position`` of the stream (0 is its first) was answered, from the log."""
        before = [mark for mark in self.marks if mark[0] <= position]
        if not before:
            return None
        start, time = before[-1]
        count = position - start + 1
        rows = self._reopened(_utc(time)).next_window(count, count)
        return rows.rows[-1].time if rows else _utc(time)

    def since(self, time: datetime, most: int) -> Window | None:
        """Up to ``most`` images from ``time`` on, read or not by the watch so far; None where there are none."""
        return self._reopened(time).next_window(most, 1)

    def _reopened(self, since: datetime) -> Log:
        log = self.log
        return Log(
            log.folder, log.champion, log.classes, log.embedding_size, since=since, archive=log.archive
        )


def _utc(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
