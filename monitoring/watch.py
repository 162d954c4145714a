"""One wake-up: log → windows → evidence → decision → journal → label queue and dashboard.

Entry: ``python -m flows.watch``, every 15 minutes or by hand. ``wake`` may be called as often as one likes
and killed anywhere: each window's cursor, evidence and journal row are one transaction, the queue is written
whole or again, and of two at once the second does nothing.
"""

import contextlib
import fcntl
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from monitoring import contact_sheet, dashboard, label_queue
from monitoring.drift import Decision
from monitoring.faults import looks_of
from monitoring.journal import Episode, Journal, Step, mark_promoted, retrains_since, supersede
from monitoring.policy import Action, Situation, decide
from monitoring.risk import labelled
from monitoring.sensitivity import smallest
from monitoring.stream import Stream
from monitoring.triage import Explanation, explain
from monitoring.window import Window
from monitoring.words import evidence_in_words
from pipeline.artifacts import Workspace, write_json, write_text
from pipeline.params import Params
from pipeline.registry import Registry

MONTH = timedelta(days=30)
EXPLAINED = 500
"""Images since the drift began that the explanation and the queue look at, at most."""


@dataclass(frozen=True)
class Seen:
    """One window of this wake-up and what it said."""

    window: Window
    decision: Decision


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the wake-up came to.

    Attributes:
        decision: a ``policy.Kind``; act on ``retrain`` alone.
        reason: a sentence or two with figures, as the journal has it.
        episode: the open one, or the one that this wake-up closed.
        explanation: what changed, in words, where this wake-up raised the alarm.
        queue, evidence: the episode's folders; None without one.
        report_error: why the dashboard could not be drawn; the decision stands all the same.
    """

    decision: str
    reason: str
    champion: str | None = None
    episode: Episode | None = None
    windows: tuple[Seen, ...] = field(default=(), repr=False)
    explanation: str | None = None
    queue: Path | None = None
    evidence: Path | None = None
    report_error: str | None = None

    @property
    def retrain(self) -> bool:
        return self.decision == "retrain"


def wake(workspace: Workspace, params: Params, *, now: datetime, draw: bool = True) -> Outcome:
    """Look at what the log holds since the last wake-up, and decide. ``now`` must know its time zone.

    Raises:
        StateError: the journal can't be read or written, or an episode was moved in between.
        DataError, IntegrityError: the champion's reference can't be read.
    """
    with _alone(workspace.home) as alone:
        if not alone:
            reason = "another watch is at work in this workspace; this one did nothing"
            return Outcome(decision="busy", reason=reason)
        champion = Registry(workspace.registry).champion()
        with Journal(workspace.journal) as journal:
            if champion is None:
                reason = "there is no champion to watch: run `dvc repro` and `python -m flows.release`"
                journal.record(Step(time=now, decision="no_champion", reason=reason))
                return Outcome(decision="no_champion", reason=reason)
            stream = Stream.of(workspace, params, champion, journal)
            outcome = _Wake(stream, journal, now).run()
            return _drawn(outcome, stream, journal, now) if draw else outcome


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[bool]:
    """Hold ``watch.lock``; the kernel lets go of it when the process dies, however it dies."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "watch.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@dataclass
class _Wake:
    """The steps of one wake-up over what they share."""

    stream: Stream
    journal: Journal
    now: datetime
    seen: list[Seen] = field(default_factory=list)

    @property
    def workspace(self) -> Workspace:
        return self.stream.workspace

    @property
    def images(self) -> Path:
        return self.workspace.log / "images"

    def run(self) -> Outcome:
        closed = self._close_of_another_champion()
        alarmed = self.stream.alarmed and self.journal.episode(self.stream.alarmed)
        if alarmed and not alarmed.is_open:
            self.stream.restart(alarmed.changed)
        while (window := self.stream.next_window()) is not None:
            self._take(window)
        episode = self.journal.open_episode()
        if episode is None:
            return self._without_episode(closed)
        if episode.state == "drift_open":
            return self._with_episode(*self._ask(episode))
        if episode.state == "awaiting_labels" and self.seen:
            self._ask_more(episode)
        return self._with_episode(episode, None)

    def _close_of_another_champion(self) -> Episode | None:
        episode = self.journal.open_episode()
        champion = self.stream.champion
        if episode is None or episode.champion == champion:
            return None
        if episode.challenger == champion or episode.state == "training":
            mark_promoted(self.journal, episode.id, challenger=champion, now=self.now)
        else:
            supersede(self.journal, episode.id, champion=champion, now=self.now)
        return self.journal.episode(episode.id)

    def _take(self, window: Window) -> None:
        """One window: into the evidence, a decision, and all of it into the journal at once."""
        decision = self.stream.observe(window)
        since = self.stream.time_of(decision.onset) if decision.alarm else None
        words = evidence_in_words(decision, since)
        episode = self.journal.open_episode()
        action = self._decide(episode, len(window), alarm=decision.alarm, words=words)
        kind = "drifting" if episode else action.kind
        reason = words if episode else action.reason
        if kind == "drift_open":
            shifted = self.stream.since(since or window.rows[0].time, EXPLAINED) or window
            reason = f"{self._explained(shifted).text} {words}"
        step = Step(
            time=self.now,
            decision=kind,
            reason=reason,
            champion=self.stream.champion,
            episode=episode.id if episode else None,
            window=window.name,
            images=len(window),
            statistic=decision.statistic,
            log10_e=decision.log10_e,
            detail=decision.to_dict()
            | {"first": window.rows[0].time.isoformat(), "dropped": self.stream.log.dropped},
        )
        with self.journal.transaction():
            if kind == "drift_open":
                began = self.journal.begin(self._new_episode(window, since, reason))
                self.stream.alarmed = began.id
                step = replace(step, episode=began.id, evidence=self._named(self._folder(began)))
            self.stream.save(self.journal)
            self.journal.record(step)
        self.seen.append(Seen(window, decision))

    def _explained(self, window: Window) -> Explanation:
        return explain(self.stream.measure, window, looks_of(window, self.images))

    def _new_episode(self, window: Window, since: datetime | None, why: str) -> Episode:
        reference = self.stream.measure.reference.digest
        key = "\n".join([self.stream.name, reference, window.name])
        return Episode(
            id=hashlib.sha256(key.encode()).hexdigest()[:16],
            version=1,
            state="drift_open",
            champion=self.stream.champion,
            reference=reference,
            window=window.name,
            since=since or window.rows[0].time,
            opened=self.now,
            changed=self.now,
            why=why,
        )

    def _folder(self, episode: Episode) -> Path:
        return self.workspace.home / "monitoring" / episode.window

    def _named(self, path: Path) -> str:
        return self.workspace.relative(path)

    def _decide(
        self, episode: Episode | None, images: int, *, alarm: bool = False, words: str = ""
    ) -> Action:
        watch, label = self.stream.params.watch, self.stream.params.label
        episodes = self.journal.episodes()
        own = [one for one in episodes if one.champion == self.stream.champion]
        return decide(
            Situation(
                now=self.now,
                images=images,
                min_window=watch.min_window,
                alarm=alarm,
                evidence=words,
                cooldown_hours=watch.cooldown_hours,
                min_labels=label.min_labels,
                state=episode.state if episode else None,
                asked=len(label_queue.items_of(self.workspace, episode.id)) if episode else 0,
                labels=label_queue.labels_of(self.workspace, episode) if episode else 0,
                labels_used=episode.labels_used if episode else 0,
                waiting_since=episode.changed if episode and episode.state == "awaiting_labels" else None,
                label_timeout_days=watch.label_timeout_days,
                retrains=retrains_since(self.journal, self.now - MONTH),
                retrains_a_month=watch.retrains_a_month,
                last_retrain=max(
                    (one.retrain_started for one in episodes if one.retrain_started), default=None
                ),
                dismissed=max((one.changed for one in own if one.state == "dismissed"), default=None),
            )
        )

    def _ask(self, episode: Episode) -> tuple[Episode, Explanation]:
        """Explain the drift, write its queue, and wait for labels. A kill in between: the next wake-up does it."""
        window = self.stream.since(episode.since, EXPLAINED) or self.seen[-1].window
        explanation = self._explained(window)
        self._write_evidence(episode, window, explanation)
        items = label_queue.write(self.workspace, episode, window, self.stream.measure, self.stream.params)
        queue = self._named(label_queue.folder_of(self.workspace, episode.id))
        asked = (
            f"{len(items)} images are asked in {queue}"
            if items
            else "No image was kept, so none can be asked"
        )
        with self.journal.transaction():
            episode = self.journal.move(episode, "awaiting_labels", now=self.now, queue=queue)
            step = Step(
                time=self.now,
                decision="asked",
                reason=f"{asked}.",
                champion=self.stream.champion,
                episode=episode.id,
                images=len(window),
                evidence=self._named(self._folder(episode)),
            )
            self.journal.record(step)
        return episode, explanation

    def _ask_more(self, episode: Episode) -> None:
        """Fill up a queue that was written when only few images had come; one that is begun stays as it is."""
        window = self.stream.since(episode.since, EXPLAINED)
        before = len(label_queue.items_of(self.workspace, episode.id))
        if window is None or label_queue.labels_of(self.workspace, episode):
            return
        items = label_queue.write(self.workspace, episode, window, self.stream.measure, self.stream.params)
        if len(items) == before:
            return
        reason = f"{len(items) - before} more images are asked in {episode.queue}, {len(items)} in all."
        champion = self.stream.champion
        step = Step(time=self.now, decision="asked", reason=reason, champion=champion, episode=episode.id)
        self.journal.record(step)

    def _write_evidence(self, episode: Episode, window: Window, explanation: Explanation) -> None:
        folder, reference = self._folder(episode), self.stream.measure.reference
        contact_sheet.draw(folder / "contact-sheet.png", window, explanation.examples, reference, self.images)
        write_text(folder / "explanation.txt", f"{episode.why}\n")
        write_json(folder / "explanation.json", explanation.to_dict() | {"images": len(window)})

    def _without_episode(self, closed: Episode | None) -> Outcome:
        if self.seen:
            step = self.journal.steps(1)[0]
        else:
            waiting = self.stream.waiting()
            action = self._decide(None, waiting)
            champion, reason = self.stream.champion, action.reason
            if action.kind == "insufficient_data":
                least = smallest(self.stream.measure, waiting, self.stream.params.watch.alpha)
                reason = f"{reason}: {least.words}"
            step = Step(time=self.now, decision=action.kind, reason=reason, champion=champion)
            self.journal.record(step)
        return Outcome(
            decision=step.decision,
            reason=step.reason,
            champion=self.stream.champion,
            episode=closed,
            windows=tuple(self.seen),
        )

    def _with_episode(self, episode: Episode, explanation: Explanation | None) -> Outcome:
        action = self._decide(episode, 0)
        champion = self.stream.champion
        margin = self.stream.params.gate.noninferiority_margin
        known = labelled(self.workspace, episode, self.stream.measure.reference, margin)
        self.journal.record(
            Step(
                time=self.now,
                decision=action.kind,
                reason=f"{action.reason}; {known.words}" if known else action.reason,
                champion=champion,
                episode=episode.id,
                detail={"labelled": known.to_dict()} if known else {},
            )
        )
        opened = explanation is not None
        return Outcome(
            decision="drift_open" if opened else action.kind,
            reason=f"{episode.why} {action.reason}." if opened else action.reason,
            champion=champion,
            episode=episode,
            windows=tuple(self.seen),
            explanation=explanation.text if explanation else None,
            queue=label_queue.folder_of(self.workspace, episode.id),
            evidence=self._folder(episode),
        )


def _drawn(outcome: Outcome, stream: Stream, journal: Journal, now: datetime) -> Outcome:
    """Add what is new to the dashboard; the decision stands whether that works or not."""
    try:
        dashboard.draw(stream, [step for step in journal.steps() if step.champion == stream.champion])
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        journal.record(Step(time=now, decision="report_failed", reason=reason, champion=stream.champion))
        return replace(outcome, report_error=reason)
    return outcome
