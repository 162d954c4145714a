"""One wake-up: log → windows → evidence → decision → journal → label queue and dashboard.

Entry: ``python -m flows.watch``, every 15 minutes or by hand. ``wake`` may be called as often as one likes
and killed anywhere: each window's cursor, evidence and journal row are one transaction, the queue is written
whole or again, and of two at once the second does nothing.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from monitoring import dashboard, label_queue, observation, shadow
from monitoring.drift import Decision
from monitoring.episodes import abandoned, mark_promoted, mark_rolled_back, step_about, supersede
from monitoring.faults import looks_of
from monitoring.journal import Episode, Journal, Step
from monitoring.opening import EXPLAINED, ask, ask_more, folder_of, new_episode, triggered
from monitoring.policy import Action
from monitoring.publish import publish
from monitoring.risk import labelled
from monitoring.sensitivity import smallest
from monitoring.situation import Alarm, decided, grown, signature_of
from monitoring.states import STANDING
from monitoring.stream import Stream
from monitoring.traffic import traffic
from monitoring.triage import Explanation, explain
from monitoring.triggers import Due, due, unlearnable
from monitoring.window import Window
from monitoring.words import evidence_in_words
from pipeline.artifacts import Workspace
from pipeline.params import Params
from pipeline.registry import Registry

LOOKING = ("insufficient_data", "quiet", "drifting", "observing")
"""Decisions on what the champion answered: their reason says where another model answers too."""


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
        """Start ``flows.retrain`` for the episode: it begins, or goes on where a release is to be finished."""
        return self.decision in ("retrain", "release")


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
                nothing = Outcome(decision="no_champion", reason=reason)
                return replace(nothing, report_error=publish(workspace, journal, now=now))
            stream = Stream.of(workspace, params, champion, journal)
            outcome = _Wake(stream, journal, now).run()
            outcome = _drawn(outcome, stream, journal, now) if draw else outcome
            return replace(outcome, report_error=publish(workspace, journal, now=now) or outcome.report_error)


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
        closed = self._caught_up()
        alarmed = self.stream.alarmed and self.journal.episode(self.stream.alarmed)
        if alarmed and not alarmed.is_open:
            self.stream.restart(alarmed.changed)
        while (window := self.stream.next_window(closely=self._is_observing())) is not None:
            self._take(window)
        overdue = self._due()
        episode = self.journal.open_episode()
        if episode is None and overdue is not None:
            episode = triggered(self.stream, self.journal, overdue, self.now)
        if episode is None:
            return self._without_episode(closed, overdue)
        if episode.state == "drift_open":
            windows = [seen.window for seen in self.seen]
            return self._with_episode(*ask(self.stream, self.journal, episode, self.now, windows))
        if episode.state == "awaiting_labels" and episode.trigger == "drift" and self.seen:
            ask_more(self.stream, self.journal, episode, self.now)
        if self._is_observing():
            observation.ask(self.stream, episode)
        return self._with_episode(episode, None)

    def _is_observing(self) -> bool:
        episode = self.journal.open_episode()
        return episode is not None and episode.state in STANDING

    def _caught_up(self) -> Episode | None:
        """What happened since the last wake-up: a pointer that moved, a worker that is gone. The episode that it closed."""
        champion = self.stream.champion
        self._end_shadow(champion)
        episode = self.journal.open_episode()
        if episode is None:
            return None
        promoted = episode.challenger == champion and mark_promoted(
            self.journal, episode.id, challenger=champion, now=self.now
        )
        if promoted or (episode.challenger == champion and episode.state in STANDING):
            if self.stream.params.watch.observe_images == 0:
                self._with_episode(self.journal.episode(episode.id), None)
        elif episode.champion != champion:
            supersede(self.journal, episode.id, champion=champion, now=self.now)
        elif episode.state in STANDING:
            why = f"{champion[:12]} is champion again: the pointer was moved back"
            mark_rolled_back(self.journal, episode.id, why=why, now=self.now)
        else:
            abandoned(self.journal, episode, self.now)
        episode = self.journal.episode(episode.id)
        return None if episode.is_open else episode

    def _end_shadow(self, champion: str) -> None:
        """Nobody needs the answers of a challenger that became champion, or whose episode is closed."""
        digest = shadow.requested(self.workspace)
        own = [one for one in self.journal.episodes() if one.challenger == digest]
        if digest == champion or (own and not any(one.is_open for one in own)):
            shadow.end(self.workspace)

    def _take(self, window: Window) -> None:
        """One window: into the evidence, a decision, and all of it into the journal at once."""
        decision = self.stream.observe(window)
        since = self.stream.time_of(decision.onset) if decision.alarm else None
        began = since or window.rows[0].time
        alarm = Alarm(decision.alarm, evidence_in_words(decision, since))
        episode = standing = self.journal.open_episode()
        # A new drift ends an observation that has its number of images, unless the champion is to be rolled back.
        over = self._decide(episode, 0, alarm) if alarm.raised and episode else None
        if over and over.state == "monitoring":
            episode = None
        if alarm.raised and episode is None:
            more = grown(self.stream, self.journal, window, decision.statistic)
            alarm, began = replace(alarm, grown=more), more or began
        explanation = None
        # What opens nothing is not worth a look at its images.
        if alarm.raised and episode is None and self._decide(None, len(window), alarm).kind == "drift_open":
            shifted = self.stream.since(began, EXPLAINED) or window
            explanation = explain(self.stream.measure, shifted, looks_of(shifted, self.images))
            # More images than the window's, and more hours.
            decision = replace(decision, context=self.stream.places(shifted) or decision.context)
            words = evidence_in_words(decision, since)
            alarm = replace(alarm, words=words, signature=signature_of(explanation))
        action = self._decide(None, len(window), alarm)
        if explanation is not None and action.kind == "drift_open":
            action = replace(action, reason=f"{explanation.text} {action.reason}")
        drifting = episode is not None and (alarm.raised or episode.state not in STANDING)
        action = Action("drifting", alarm.words) if drifting else action
        step = Step(
            time=self.now,
            decision=action.kind,
            reason=self._with_strangers(action).reason,
            champion=self.stream.champion,
            episode=episode.id if episode else None,
            window=window.name,
            images=len(window),
            statistic=decision.statistic,
            log10_e=decision.log10_e,
            detail=decision.to_dict()
            | {"first": window.rows[0].time.isoformat(), "dropped": self.stream.log.dropped}
            | {"traffic": traffic(window)},
        )
        with self.journal.transaction():
            if over and over.state == "monitoring" and standing:
                self._moved(standing, over)
            if step.decision == "drift_open":
                opened = new_episode(self.stream, window.name, since=began, why=step.reason, now=self.now)
                opened = self.journal.begin(replace(opened, signature=alarm.signature))
                self.stream.alarmed = opened.id
                evidence = self.workspace.relative(folder_of(self.stream, opened))
                step = replace(step, episode=opened.id, evidence=evidence)
            self.stream.save(self.journal)
            self.journal.record(step)
        self.seen.append(Seen(window, decision))

    def _decide(self, episode: Episode | None, images: int, alarm: Alarm | None = None) -> Action:
        return decided(self.stream, self.journal, self.now, episode, images, alarm)

    def _with_strangers(self, action: Action) -> Action:
        said = self.stream.log.strangers.words if action.kind in LOOKING else None
        return replace(action, reason=f"{action.reason.rstrip('.')}; {said}") if said else action

    def _due(self) -> Due | None:
        stream = self.stream
        found = due(self.workspace, stream.params, self.journal, stream.champion, stream.promoted, self.now)
        return found[0] if found else None

    def _without_episode(self, closed: Episode | None, overdue: Due | None) -> Outcome:
        if self.seen and overdue is None:
            step = self.journal.steps(1)[0]
        else:
            waiting = self.stream.waiting()
            action = unlearnable(overdue) if overdue else self._decide(None, waiting)
            champion, reason = self.stream.champion, action.reason
            if action.kind == "insufficient_data":
                least = smallest(self.stream.measure, waiting, self.stream.params.watch.alpha)
                reason = self._with_strangers(replace(action, reason=f"{reason}: {least.words}")).reason
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
        action = self._with_strangers(self._decide(episode, 0))
        if action.state:
            episode = self._moved(episode, action)
        else:
            margin = self.stream.params.gate.noninferiority_margin
            known = labelled(self.workspace, episode, self.stream.measure.reference, margin)
            reason = f"{action.reason}; {known.words}" if known else action.reason
            step = step_about(episode, self.now, action.kind, reason)
            self.journal.record(replace(step, detail={"labelled": known.to_dict()} if known else {}))
        if action.state == "awaiting_labels":
            return self._with_episode(episode, explanation)
        opened = explanation is not None
        return Outcome(
            decision="drift_open" if opened else action.kind,
            reason=f"{episode.why} {action.reason}." if opened else action.reason,
            champion=self.stream.champion,
            episode=episode,
            windows=tuple(self.seen),
            explanation=explanation.text if explanation else None,
            queue=label_queue.folder_of(self.workspace, observation.queue_of(episode)),
            evidence=folder_of(self.stream, episode),
        )

    def _moved(self, episode: Episode, action: Action) -> Episode:
        """To the state that the policy says, with its reason; where that is rolled_back, the pointer goes first."""
        if action.state == "rolled_back":
            form = self.stream.params.serve.format
            why = f"observed after the promotion: {action.reason}"
            registry, new = Registry(self.workspace.registry), self.stream.champion
            registry.rollback(by="watch", why=why, to=episode.champion, form=form, expect=new)
            mark_rolled_back(self.journal, episode.id, why=action.reason, now=self.now)
            return self.journal.episode(episode.id)
        with self.journal.transaction():
            after = self.journal.move(episode, str(action.state), now=self.now, asks=action.asks)
            self.journal.record(step_about(episode, self.now, action.kind, action.reason))
        if episode.state == "shadow":
            shadow.end(self.workspace)
        return after


def _drawn(outcome: Outcome, stream: Stream, journal: Journal, now: datetime) -> Outcome:
    """Add what is new to the dashboard; the decision stands whether that works or not."""
    try:
        dashboard.draw(stream, journal.steps(champion=stream.champion))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        journal.record(Step(time=now, decision="report_failed", reason=reason, champion=stream.champion))
        return replace(outcome, report_error=reason)
    return outcome
