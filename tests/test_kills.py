"""kill -9, at every step and at random moments: the pointer names a whole bundle, and the next command goes on.

The whole release, with its build and its sandbox, is killed six times here; ``VISIONLOOP_KILLS=20`` kills it
twenty times.
"""

import json
import os
import random
import shutil
import time
from pathlib import Path

import psutil
import pytest

from pipeline.artifacts import Workspace
from pipeline.bundle import verify
from pipeline.registry import Registry
from tests import tiny_bundle, tiny_workspace
from tests.nursery import ROOT, Nursery
from tests.prefect_server import PrefectServer

pytestmark = pytest.mark.slow

RANDOM_KILLS = 200
RELEASE_KILLS = int(os.environ.get("VISIONLOOP_KILLS", "6"))

STEPS = """
import os, random, signal, sys
from pathlib import Path
import onnxruntime
import pipeline.answers
from pipeline.registry import Registry
registry = Registry(Path({folder!r}))
late = Path({late!r})

def step(name, digest):
    if name == "add":
        registry.add(late)
    elif name == "promote":
        registry.promote(digest, by="loop", why="x")
    else:
        registry.rollback(by="loop", why="y", to=digest)
"""

AT_RANDOM = (
    STEPS
    + """
def work(text):
    seed, *digests = text.split()
    chance = random.Random(int(seed))
    while True:
        name = chance.choices(("add", "promote", "rollback"), (2, 6, 2))[0]
        step(name, chance.choice(digests))
"""
)

AT_THE_NTH = (
    STEPS
    + """
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
)


class Watched:
    """A registry of three bundles, and one more to add, that has to be whole whenever somebody looks."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry(folder / "var/registry")
        self.late = folder / "late"
        self.digests = []
        for index in range(3):
            tiny_bundle.make(folder / f"bundle-{index}", gain=2.0 + index)
            self.digests.append(self.registry.add(folder / f"bundle-{index}"))
        self.new = tiny_bundle.make(self.late, gain=9.0)
        self.registry.promote(self.digests[0], by="test", why="first")
        self.known = [move["since"] for move in self.registry.history()]

    def source(self, template: str) -> str:
        return template.replace("{folder!r}", repr(str(self.registry.folder))).replace(
            "{late!r}", repr(str(self.late))
        )

    def check(self) -> None:
        """A whole, verified champion; a history that ends with it and says what it said before."""
        champion = self.registry.champion()
        assert champion is not None
        assert verify(self.registry.bundle_path(champion.digest)) == champion.digest
        moves = self.registry.history()
        assert moves[-1]["since"] == champion.since, "the history ends where the pointer stands"
        since = [move["since"] for move in moves]
        assert since[: len(self.known)] == self.known, "and never changes what it said"
        assert len(set(since)) == len(since)
        self.known = since
        for digest in self.registry.digests():
            assert verify(self.registry.bundle_path(digest)) == digest

    def forget_the_new_one(self) -> None:
        """So that the next child adds it again."""
        shutil.rmtree(self.registry.bundle_path(self.new), ignore_errors=True)

    def mended(self) -> None:
        """The next commands do their work and take away what the killed ones left."""
        self.forget_the_new_one()
        assert self.registry.add(self.late) == self.new
        current = self.registry.champion()
        other = next(digest for digest in self.digests if current and digest != current.digest)
        self.registry.promote(other, by="test", why="last")
        self.check()
        names = [path.name for path in self.registry.folder.rglob(".*")]
        assert names == [".lock"]
        lines = (self.registry.folder / "history.jsonl").read_text().splitlines()
        assert [json.loads(line)["since"] for line in lines] == self.known


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_two_hundred_kills_at_random_moments_of_the_registry_s_steps(
    tmp_path: Path, watched: Watched
) -> None:
    chance = random.Random(0)
    with Nursery(watched.source(AT_RANDOM), cwd=ROOT, errors=tmp_path / "errors") as nursery:
        for round_ in range(RANDOM_KILLS):
            nursery.bear(" ".join([str(round_), *watched.digests]))
            time.sleep(chance.uniform(0.0, 0.08))
            assert nursery.kill() == -9, nursery.said()
            watched.check()
            watched.forget_the_new_one()
        assert nursery.said() == ""
    assert len(watched.known) > RANDOM_KILLS / 4, "the children did move the pointer"
    watched.mended()


@pytest.mark.parametrize("name", ["add", "promote", "rollback"])
def test_a_kill_before_every_file_that_a_step_touches(tmp_path: Path, watched: Watched, name: str) -> None:
    """The step is run until it first opens, renames, removes … a file, then until its second time, and so on."""
    kills = 0
    with Nursery(watched.source(AT_THE_NTH), cwd=ROOT, errors=tmp_path / "errors") as nursery:
        while True:
            watched.forget_the_new_one()
            champion = watched.registry.champion()
            target = next(digest for digest in watched.digests if champion and digest != champion.digest)
            nursery.bear(f"{name} {target} {kills}")
            code = nursery.bury()
            watched.check()
            if code == 0:
                break
            assert code == -9, nursery.said()
            kills += 1
    assert kills >= 15, "from the lock to the last flush"
    watched.mended()


RELEASE = """
import services.bento, onnxruntime, pipeline.answers
from flows.release import release

def work(text):
    state = release(why=text, return_state=True)
    print(state.message, flush=True, file=sys.stderr)
    if not state.is_completed():
        os._exit(1)
"""


def alive(mark: str, besides: set[int]) -> list[str]:
    """Command lines of the processes that carry ``mark`` in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in besides and process.environ().get("VISIONLOOP_MARK") == mark:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def gone(mark: str, besides: set[int], seconds: float = 15.0) -> list[str]:
    """Wait until nothing is alive any more; what still is after ``seconds``."""
    deadline = time.monotonic() + seconds
    while (left := alive(mark, besides)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


@pytest.mark.timeout(1200)
def test_kills_at_random_moments_of_a_whole_release(tmp_path: Path, prefect_server: PrefectServer) -> None:
    """Each challenger's release, which builds its Bento and serves it in the sandbox, is killed once."""
    workspace = tiny_workspace.make(tmp_path / "workspace")
    registry = Registry(workspace.registry)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    mark = str(tmp_path)
    environment = prefect_server.environment | {"VISIONLOOP_MARK": mark, "TMPDIR": str(temporary)}
    chance = random.Random(1)
    with Nursery(RELEASE, cwd=workspace.root, errors=tmp_path / "errors", environment=environment) as nursery:
        seconds = _released(nursery, workspace, 1.0)
        besides = {nursery.pid}
        moments = [seconds * (round_ + chance.random()) / RELEASE_KILLS for round_ in range(RELEASE_KILLS)]
        chance.shuffle(moments)
        promoted = 0
        for round_, moment in enumerate(moments):
            before = registry.champion()
            assert before is not None
            challenger = _challenge(workspace, 2.0 + round_ / 10)
            nursery.bear(f"round {round_}")
            time.sleep(moment)
            assert nursery.kill() in (-9, 0), nursery.said()
            champion = registry.champion()
            assert champion is not None
            assert champion.digest in (before.digest, challenger)
            assert verify(registry.bundle_path(champion.digest)) == champion.digest
            assert registry.history()[-1]["since"] == champion.since
            assert gone(mark, besides) == [], "what it had started ends with it"
            promoted += champion.digest == challenger
        assert promoted < RELEASE_KILLS / 2, "most were killed before the pointer moved"
        _released(nursery, workspace, 9.0)
        assert gone(mark, besides) == []
    assert [path.name for path in (workspace.home / "releasing").iterdir()] == [".lock"]
    assert list(temporary.iterdir()) == []
    assert [path.name for path in registry.folder.rglob(".*")] == [".lock"]
    for built in (workspace.home / "bentoml/bentos/visionloop").iterdir():
        assert built.name == "latest" or (built / "bento.yaml").exists(), f"half a Bento: {built}"


def _challenge(workspace: Workspace, gain: float) -> str:
    """Another bundle, judged against today's champion: PROMOTE."""
    champion = Registry(workspace.registry).champion()
    digest = tiny_workspace.new_challenger(
        workspace, gain=gain, champion=champion.digest if champion else None
    )
    for folder in ("artifacts/bundle", "artifacts/checkpoint"):
        shutil.rmtree(workspace.root / folder, ignore_errors=True)
    tiny_workspace.reproduced(workspace)
    return digest


def _released(nursery: Nursery, workspace: Workspace, gain: float) -> float:
    """A release that nobody disturbs makes its challenger champion; the seconds that it took."""
    challenger = _challenge(workspace, gain)
    started = time.monotonic()
    nursery.bear("undisturbed")
    assert nursery.bury() == 0, nursery.said()
    champion = Registry(workspace.registry).champion()
    assert champion is not None
    assert champion.digest == challenger
    return time.monotonic() - started
