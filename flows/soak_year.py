"""The year itself, hour by hour: traffic, kills, a full disk, people, and the loop that is woken every six hours."""

import contextlib
import fcntl
import os
import random
import signal
import subprocess
import time
from collections import deque
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from flows.demo_stage import Stage
from flows.soak_account import Account, Retrain, day_of, suppressions
from flows.soak_audit import audit, read_log
from flows.soak_costs import Costs
from flows.soak_pool import Pools
from flows.soak_team import Team
from flows.soak_traffic import Traffic
from flows.soak_workspace import Disk
from flows.soak_world import START, World
from monitoring.journal import Episode, Journal
from monitoring.shadow import shadowed, wanted
from monitoring.watch import Outcome, wake
from pipeline.artifacts import Workspace
from pipeline.errors import StateError
from pipeline.params import Params
from pipeline.registry import Registry

__all__ = ["Year"]

WAKE_HOURS = 6
RESTART_DAYS = 30
KILL_DAYS = 20
"""The writer is killed once in so many days, on average."""
WATCH_KILLS = 4
RECENT = 300


class Year:
    """Everything that plays together in one soak; :meth:`live` it, then :meth:`report`."""

    def __init__(
        self, workspace: Workspace, stage: Stage, disk: Disk, world: World, pools: Pools, costs: Costs
    ) -> None:
        self.workspace, self.stage, self.disk, self.world = workspace, stage, disk, world
        self.costs = costs
        self.params = Params.load(workspace.params)
        self.registry = Registry(workspace.registry)
        self.traffic = Traffic(workspace, pools.folder, world.seed)
        self.traffic.start()
        self.account = Account(world, pools, self.traffic.bundle)
        self.team = Team(workspace, self.params, world, pools)
        self.pools = pools
        self._chance = random.Random(f"soak {world.seed}")  # noqa: S311 - a schedule, no secret
        hours = world.days * 24
        self._kills = set(self._chance.sample(range(24, hours), max(1, world.days // KILL_DAYS)))
        self._watch_kills = set(self._chance.sample(range(48, hours), min(WATCH_KILLS, world.days // 60)))
        self._full_hour = int(world.days * 0.21) * 24 + 10
        self._retrain_killed = world.days < 180  # a short soak has no time for the cooldown after it
        self.killed_watches = self.killed_retrains = 0
        self._before = ""
        self._recent: deque[str] = deque(maxlen=RECENT)

    def live(self) -> None:
        """Let the year pass."""
        try:
            for hour in range(self.world.days * 24):
                self._hour(hour)
        finally:
            with self.costs.of("traffic"):
                self.traffic.stop()

    def _hour(self, hour: int) -> None:
        now = START + timedelta(hours=hour)
        requests = list(self.world.requests(now))
        full = hour == self._full_hour
        with self.costs.of("traffic"):
            if full:
                self._fill(True)
            elif hour % (RESTART_DAYS * 24) == RESTART_DAYS * 24 - 1:
                self.traffic.start()
            self.traffic.send(requests, kill=hour in self._kills and not full)
        places = self.pools.images
        self._recent += [places(request.regime)[request.index]["image_id"] for request in requests]
        end = now + timedelta(hours=1)
        if full:
            self._wake(end)
            self._fill(False)
        if hour in self._watch_kills:
            with self.costs.of("watch"):
                self._kill_watch(end)
        if (hour + 1) % WAKE_HOURS == 0:
            with self.costs.of("people"):
                self.team.recent = list(self._recent)
                self.team.work(end)
            self._wake(end)

    def _fill(self, full: bool) -> None:
        if not self.disk.full(full):
            self.traffic.full(full)

    def _wake(self, now: datetime) -> None:
        try:
            with self.costs.of("watch"):
                outcome = wake(self.workspace, self.params, now=now, draw=False)
        except StateError as error:
            self.account.decisions["failed"] += 1
            self.account.failed_wake_ups.append({"day": day_of(now), "says": str(error)})
            return
        self.account.decisions[outcome.decision] += 1
        if outcome.decision == "drift_open" and outcome.episode is not None:
            sent = [request for request, _ in self.traffic.acknowledged.values()]
            alarm = self.account.alarm(
                now, str(outcome.champion), outcome.episode.id, outcome.explanation or "", sent
            )
            self._say(now, f"alarm ({alarm.cause or 'FALSE'}): {alarm.words}")
        elif (
            outcome.decision in ("rolled_back", "needs_human", "monitoring")
            and outcome.decision != self._before
        ):
            self._say(now, f"{outcome.decision}: {outcome.reason}")
        self._before = outcome.decision
        self.team.hear(outcome, now)
        if outcome.retrain and outcome.episode is not None:
            with self.costs.of("retrains"):
                self._retrain(outcome, outcome.episode, now)
        with self.costs.of("traffic"):
            self._follow(outcome.episode, now)

    def _retrain(self, outcome: Outcome, episode: Episode, now: datetime) -> None:
        """What the event ``visionloop.retrain.requested`` starts; the first one of the year is killed on its way.

        After the shadow the same command goes on with the release, and the retrain before gets its outcome.
        """
        command = ("python", "-m", "flows.retrain", "--release", "--episode", episode.id, "--reason")
        self.stage.environment["VISIONLOOP_NOW"] = now.isoformat()
        if not self._retrain_killed:
            self._retrain_killed = True
            self._kill_retrain((*command, outcome.reason), episode)
            came, says = "killed", "kill -9 while its stages ran"
        else:
            self.stage.run(*command, outcome.reason, show=False, accept=(0, 1))
            with Journal(self.workspace.journal) as journal:
                after = journal.episode(episode.id)
                came, says = after.state, journal.steps(1)[0].reason
        begun = self.account.retrains
        if outcome.decision == "release" and begun and begun[-1].episode == episode.id:
            begun[-1] = replace(begun[-1], outcome=came, says=says)
        else:
            begun.append(Retrain(day_of(now), episode.id, outcome.reason, came, says))
        self._say(now, f"{outcome.decision}: {came}: {says}")

    def _follow(self, episode: Episode | None, now: datetime) -> None:
        """A service keeps the bundle that it started with: where the pointer has moved, it is started again."""
        champion, before = self.registry.champion(), self.traffic.bundle
        if champion is None or champion.digest == before.name:
            return
        self.traffic.start()
        known = episode.opened if episode else now
        if champion.digest in self.account.known or champion.digest == self.account.first.name:
            self.account.rollbacks.append({"day": day_of(now), "to": champion.digest, "from": before.name})
            return
        images = wanted(self.params.release.shadow_images)
        shadow = shadowed(self.workspace, champion.digest, images, 0.0).words
        promotion = self.account.promotion(now, before, self.traffic.bundle, known, shadow)
        self._say(now, f"champion: {promotion.accuracy_before} → {promotion.accuracy} on these days' images")

    def _kill_retrain(self, command: tuple[str, ...], episode: Episode) -> None:
        self.stage.launch("retrain", *command)
        process = self.stage.servers.pop("retrain")
        while process.poll() is None:
            with Journal(self.workspace.journal) as journal:
                if journal.episode(episode.id).state == "training":
                    break
            time.sleep(0.2)
        time.sleep(self._chance.uniform(2, 12))
        self.killed_retrains += _killed(process)

    def _kill_watch(self, now: datetime) -> None:
        """A wake-up in a process of its own, killed while it holds the lock."""
        self.stage.environment["VISIONLOOP_NOW"] = now.isoformat()
        self.stage.launch("watch", "python", "-m", "flows.watch", "--no-dashboard")
        process = self.stage.servers.pop("watch")
        while process.poll() is None and not self._watched():
            time.sleep(0.005)
        time.sleep(self._chance.uniform(0, 0.3))
        self.killed_watches += _killed(process)

    def _watched(self) -> bool:
        """Whether somebody holds the watch's lock."""
        with (self.workspace.home / "watch.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _say(self, now: datetime, text: str) -> None:
        print(f"  day {day_of(now):6.2f}  {text}", flush=True)

    def report(self) -> dict[str, Any]:
        """What soak.json holds."""
        rows, broken = read_log(self.workspace.log)
        with Journal(self.workspace.journal) as journal:
            steps, episodes = journal.steps(), journal.episodes()
        answered = list(self.traffic.acknowledged.values())
        return self.account.report() | {
            "days": self.world.days,
            "seed": self.world.seed,
            "suppressed": suppressions(steps),
            "episodes": [
                {"id": one.id, "state": one.state, "opened_day": day_of(one.opened), "changed_day": day_of(one.changed)}
                for one in episodes
            ],
            "accuracy": self.account.accuracy(answered, self.registry.folder / "bundles"),
            "requests": audit(self.traffic.acknowledged, rows, steps)
            | {
                "refused": len(self.traffic.refused),
                "refusal": next(iter(self.traffic.refused.values()), None),
                "unanswered_sent_again": len(self.traffic.unanswered),
                "broken_lines": broken,
            },
            "faults": {
                "writer_kills": self.traffic.kills,
                "writer_starts": self.traffic.starts,
                "watch_kills": self.killed_watches,
                "retrain_kills": self.killed_retrains,
                "full_disk": "tmpfs without a free byte" if self.disk.mounted else "RLIMIT_FSIZE 0 for the writer",
            },
            "labels": {
                "given": self.team.labels,
                "wrong": self.team.wrong,
                "queues": self.team.queues,
                "dismissed": [{"episode": episode, "why": why} for episode, why in self.team.dismissed],
                "approved": [{"episode": episode, "why": why} for episode, why in self.team.approved],
            },
        }  # fmt: skip


def _killed(process: subprocess.Popen[Any]) -> bool:
    """Kill -9 to the process and all that it has started; whether it was still there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL
