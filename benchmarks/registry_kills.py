"""kill -9 of the registry's own steps: whenever somebody looks, the pointer names a whole bundle.

``kill_at_random`` ends a process that adds bundles, promotes and rolls back, at any moment; ``kill_at_each_file`` ends
one step before the first file that it touches, then before the second, and so on to its end.
"""

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.sets import ROOT
from pipeline.bundle import verify
from pipeline.errors import VisionloopError
from pipeline.registry import Registry
from tests import tiny_bundle
from tests.nursery import Nursery

STEPS = ("add", "promote", "rollback")
LONGEST = 0.08  # s until a random kill; a step takes some milliseconds
KILLED = -9

_STEPS = """
import os, random, signal, sys
from pathlib import Path
import onnxruntime
import pipeline.answers
from pipeline.registry import Registry
registry = Registry(Path({folder!r}))
late = Path({late!r})
doing = os.open({doing!r}, os.O_WRONLY | os.O_CREAT, 0o644)

def step(name, digest):
    if name == "add":
        registry.add(late)
    elif name == "promote":
        registry.promote(digest, by="loop", why="x")
    else:
        registry.rollback(by="loop", why="y", to=digest)
"""

_AT_RANDOM = """
def work(text):
    seed, *digests = text.split()
    chance = random.Random(int(seed))
    while True:
        name = chance.choices(("add", "promote", "rollback"), (2, 6, 2))[0]
        os.pwrite(doing, name.ljust(20).encode(), 0)
        step(name, chance.choice(digests))
"""

_AT_THE_NTH = """
def work(text):
    name, digest, last = text.split()
    left = int(last)

    def count(event, arguments):
        nonlocal left
        if event != "os.kill" and event.split(".")[0] in ("open", "os", "shutil", "fcntl", "tempfile"):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    step(name, digest)
"""


@dataclass
class Killed:
    """What the kills left. ``faults`` must be empty."""

    kills: int = 0
    finished: int = 0  # rounds that had done their work before the kill came; none of ``kills``
    fell: Counter[str] = field(default_factory=Counter)  # what was being done → kills
    moved: int = 0  # how often the pointer had moved by then
    rounds: list[dict[str, Any]] = field(
        default_factory=list
    )  # of releases: each one's moment, s, and outcome
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"fell": dict(self.fell.most_common()), "seconds": round(self.seconds, 1)}


class Watched:
    """A registry of three bundles, and one more to add, that has to be whole whenever somebody looks."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry(folder / "var/registry")
        self.late, self.doing, self.errors = folder / "late", folder / "doing", folder / "errors"
        self.digests = []
        for index in range(len(STEPS)):
            tiny_bundle.make(folder / f"bundle-{index}", gain=2.0 + index)
            self.digests.append(self.registry.add(folder / f"bundle-{index}"))
        self.new = tiny_bundle.make(self.late, gain=9.0)
        self.registry.promote(self.digests[0], by="test", why="first")
        self.known = [move["since"] for move in self.registry.history()]

    def nursery(self, work: str) -> Nursery:
        """Where ``work`` is done, and killed."""
        places = {"folder": self.registry.folder, "late": self.late, "doing": self.doing}
        source = _STEPS.format(**{name: str(place) for name, place in places.items()}) + work
        return Nursery(source, cwd=ROOT, errors=self.errors)

    def look(self) -> list[str]:
        """What is not as it must be: a whole champion, and a history that ends with it and says what it said before."""
        champion = self.registry.champion()
        if champion is None:
            return ["there is no champion"]
        moves = self.registry.history()
        since = [move["since"] for move in moves]
        found = [
            unlike for digest in {champion.digest, *self.registry.digests()} if (unlike := self._half(digest))
        ]
        if moves[-1]["since"] != champion.since:
            found.append("the history does not end where the pointer stands")
        if since[: len(self.known)] != self.known or len(set(since)) != len(since):
            found.append("the history does not say what it said before")
        self.known = since
        return found

    def _half(self, digest: str) -> str | None:
        try:
            return (
                None
                if verify(self.registry.bundle_path(digest)) == digest
                else f"{digest} has another digest"
            )
        except VisionloopError as error:
            return str(error)

    def forget_the_new_one(self) -> None:
        """So that the next child adds it again."""
        shutil.rmtree(self.registry.bundle_path(self.new), ignore_errors=True)

    def another(self) -> str:
        """A digest that is not the champion's."""
        champion = self.registry.champion()
        return next(digest for digest in self.digests if champion is None or digest != champion.digest)

    def mend(self) -> list[str]:
        """Do the next commands their work, and take away what the killed ones left? What they did not."""
        self.forget_the_new_one()
        if self.registry.add(self.late) != self.new:
            return ["a bundle was added under another name"]
        self.registry.promote(self.another(), by="test", why="last")
        found = self.look()
        left = [path.name for path in self.registry.folder.rglob(".*")]
        if left != [".lock"]:
            found.append(f"left behind: {', '.join(left)}")
        lines = (self.registry.folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
        if [json.loads(line)["since"] for line in lines] != self.known:
            found.append("the file of the history has other lines than the history")
        return found


def kill_at_random(folder: Path, kills: int, *, seed: int = 0, say: Callable[[str], None] = print) -> Killed:
    """Kill a process that adds, promotes and rolls back without end, ``kills`` times at any moment."""
    watched, chance = Watched(folder), random.Random(seed)  # noqa: S311
    done, started = Killed(), time.monotonic()
    with watched.nursery(_AT_RANDOM) as nursery:
        for round_ in range(kills):
            watched.doing.write_bytes(b"")
            nursery.bear(" ".join([str(round_), *watched.digests]))
            time.sleep(chance.uniform(0.0, LONGEST))
            if nursery.kill() != KILLED:
                done.faults.append(f"round {round_}: it ended by itself")
            done.fell[watched.doing.read_text(encoding="utf-8").strip() or "before the first step"] += 1
            done.kills += 1
            done.faults += [f"round {round_}: {fault}" for fault in watched.look()]
            watched.forget_the_new_one()
            if round_ % 100 == 99:
                say(f"{round_ + 1} kills, the pointer has moved {len(watched.known) - 1} times")
        if said := nursery.said():
            done.faults.append(said)
    done.moved = len(watched.known) - 1
    done.faults += watched.mend()
    done.seconds = time.monotonic() - started
    return done


def kill_at_each_file(folder: Path, name: str) -> Killed:
    """Run the step ``name`` until it first opens, renames, removes … a file, then until its second time, and so on."""
    watched, done, started = Watched(folder), Killed(), time.monotonic()
    with watched.nursery(_AT_THE_NTH) as nursery:
        code = KILLED
        while code == KILLED:
            watched.forget_the_new_one()
            before = len(watched.known)
            nursery.bear(f"{name} {watched.another()} {done.kills}")
            code = nursery.bury()
            done.faults += [f"before file {done.kills}: {fault}" for fault in watched.look()]
            if code == KILLED:
                done.kills += 1
                done.moved += len(watched.known) > before
        if code:
            done.faults.append(f"it ended with {code}: {nursery.said()}")
    done.finished, done.fell[name] = 1, done.kills
    done.faults += watched.mend()
    done.seconds = time.monotonic() - started
    return done
