"""Who works on an episode: a stale worker can't promote, two schedulers are one, clocks jump, kill -9 at every write.

By default a turn is killed at every seventh of its writes; with ``VISIONLOOP_KILLS`` set, at every one.
"""

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image

from monitoring import leases
from monitoring.episodes import advance, mark_retrain_started
from monitoring.journal import Episode, Journal
from monitoring.watch import wake
from pipeline.artifacts import Workspace
from pipeline.errors import StateError
from pipeline.params import Params, Watch
from pipeline.registry import Registry
from tests import tiny_bundle
from tests.nursery import ROOT, Nursery

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
E = "0123456789abcdef"
STRIDE = 1 if "VISIONLOOP_KILLS" in os.environ else 7
PARAMS = Params(watch=Watch(cooldown_hours=0.0))


class Loop:
    """A champion, a challenger that is not in the registry yet, and an episode whose labels are back."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root, root / "var")
        self.registry = Registry(self.workspace.registry)
        images = [(root / f"{index}.png", _row(index)) for index in range(30)]
        for index, (path, _) in enumerate(images):
            Image.new("RGB", (40, 40), (200 - index, 20 + index, index)).save(path)
        tiny_bundle.make(root / "old", gain=2.0, held_out=images)
        self.challenger = tiny_bundle.make(root / "new", gain=4.0, held_out=images)
        self.old = self.registry.add(root / "old")
        self.registry.promote(self.old, by="test", why="first")
        self.workspace.labels.parent.mkdir(parents=True)
        self.workspace.labels.write_text(
            "image_id,path,label,domain,group,split,labelled_by,time\n"
            f"{1:064x},p,red,line-a,g,train,ann,{(NOW + timedelta(hours=1)).isoformat()}\n"
        )
        with Journal(self.workspace.journal) as journal:
            journal.begin(_episode(E, self.old))

    def state(self) -> str:
        with Journal(self.workspace.journal) as journal:
            return journal.episode(E).state

    def champion(self) -> str:
        champion = self.registry.champion()
        assert champion is not None
        return champion.digest

    def wake(self, now: datetime = NOW) -> str:
        return wake(self.workspace, PARAMS, now=now, draw=False).decision


def _episode(name: str, champion: str) -> Episode:
    return Episode(
        id=name, version=1, state="awaiting_labels", champion=champion, reference="r", window="w", since=NOW,
        opened=NOW, changed=NOW, why="100 labels came", trigger="labels",
    )  # fmt: skip


def _row(index: int) -> dict[str, str]:
    return {
        "image_id": f"{index:064x}",
        "domain": "line-a",
        "group": str(index),
        "label": "red",
        "split": "test",
    }


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return Loop(tmp_path)


WORKER = f"""
import sys
from datetime import UTC, datetime
from pathlib import Path
from monitoring import leases
from monitoring.episodes import advance, mark_retrain_started, promoting
from monitoring.journal import Journal
from pipeline.artifacts import Workspace
from pipeline.errors import StateError
from pipeline.registry import Registry
import pipeline.answers, onnxruntime

E = {E!r}

def labelled(root):
    place = Workspace(root, root / "var")
    with Journal(place.journal) as journal:
        lease = mark_retrain_started(journal, E, now=datetime.now(UTC), labels=50)
        if lease is None:
            return
        challenger = Registry(place.registry).add(root / "new")
        for state in ("training", "evaluating"):
            advance(journal, lease, state, now=datetime.now(UTC), why=state)
        advance(journal, lease, "infra_validating", now=datetime.now(UTC), why="PROMOTE", challenger=challenger)
        leases.give_back(journal, lease)

def released(root, wait=lambda: None):
    place = Workspace(root, root / "var")
    with Journal(place.journal) as journal:
        episode = journal.episode(E)
        lease = leases.take(journal, E) if episode.state == "infra_validating" else None
        if lease is None:
            return
        wait()
        fence = promoting(journal, lease, challenger=episode.challenger, now=datetime.now(UTC))
        Registry(place.registry).promote(episode.challenger, by="w", why="x", expect=episode.champion, fence=fence)
        leases.give_back(journal, lease)
"""

STALE = (
    WORKER
    + """
def wait():
    print("holds it", flush=True)
    sys.stdin.readline()

labelled(Path(sys.argv[1]))
try:
    released(Path(sys.argv[1]), wait)
    print("promoted", flush=True)
except StateError as error:
    print(error, flush=True)
"""
)


def started(loop: Loop) -> subprocess.Popen[str]:
    """A worker that is about to promote, and waits for a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", STALE, str(loop.workspace.root)],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "holds it\n"
    return process


def ended(process: subprocess.Popen[str]) -> str:
    return process.communicate("go on\n", timeout=60)[0].strip()


@pytest.mark.slow
def test_a_worker_that_holds_its_lease_promotes(loop: Loop) -> None:
    assert ended(started(loop)) == "promoted"
    assert loop.champion() == loop.challenger
    assert loop.state() == "promoted"


@pytest.mark.slow
def test_a_stale_worker_can_not_promote(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = started(loop)
    assert loop.wake() == "training"
    now = leases.uptime()
    monkeypatch.setattr(
        leases, "uptime", lambda: now + leases.EXPIRES + 1
    )  # it sent no heartbeat for so long
    assert loop.wake() == "retrain"
    with Journal(loop.workspace.journal) as journal:
        second = mark_retrain_started(journal, E, now=NOW, labels=60)
    assert second is not None
    assert second.token > 2
    said = ended(worker)
    assert "was taken over by another worker" in said
    assert f"its token is {second.token}" in said
    assert loop.champion() == loop.old
    assert loop.state() == "dataset_frozen"


@pytest.mark.slow
def test_a_worker_whose_episode_a_person_dismissed_can_not_promote(loop: Loop) -> None:
    from monitoring.episodes import dismiss

    worker = started(loop)
    with Journal(loop.workspace.journal) as journal:
        assert dismiss(journal, E, why="lamp replaced", now=NOW)
    assert "not to be promoted now" in ended(worker)
    assert loop.champion() == loop.old


@pytest.mark.slow
@pytest.mark.parametrize("years", [-10, 10])
def test_a_clock_that_jumps_neither_steals_a_lease_nor_keeps_a_dead_one(loop: Loop, years: int) -> None:
    worker, jumped = started(loop), NOW + timedelta(days=365 * years)
    assert loop.wake(jumped) == "training"
    worker.kill()
    worker.communicate()
    assert loop.wake(jumped) == "retrain", "kill -9 ends a lease at once, whatever the clock says"
    with Journal(loop.workspace.journal) as journal:
        failed = next(step for step in journal.steps() if step.decision == "failed")
    assert "ended without a word while infra_validating" in failed.reason


def test_a_lease_does_not_outlive_its_machine_s_start(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(loop.workspace.journal) as journal:
        assert mark_retrain_started(journal, E, now=NOW, labels=50)
        assert leases.holder(journal, E) == "alive"
        monkeypatch.setattr(leases, "uptime", lambda: 1.0)  # the boot clock starts anew
        assert leases.holder(journal, E) == "gone"


def test_a_heartbeat_keeps_the_lease_and_says_when_it_is_lost(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(loop.workspace.journal) as journal:
        lease = mark_retrain_started(journal, E, now=NOW, labels=50)
        assert lease is not None
        assert leases.take(journal, E) is None, "one at a time"
        start = leases.uptime()
        for minute in range(1, 6):
            monkeypatch.setattr(leases, "uptime", lambda minute=minute: start + 60 * minute)
            assert leases.beat(journal, lease)
            assert leases.holder(journal, E) == "alive"
        leases.revoke(journal, E)
        assert not leases.beat(journal, lease)
        with pytest.raises(StateError, match="out of date"):
            advance(journal, lease, "training", now=NOW, why="x")
        monkeypatch.undo()
        monkeypatch.setattr(leases, "BEATS", 0.01)
        mine = leases.take(journal, E)
        assert mine is not None
        before = journal.lease(E)
        with leases.beating(loop.workspace.journal, mine):
            while journal.lease(E) == before:
                pass
        assert leases.holder(journal, E) == "nobody"


@pytest.mark.slow
def test_of_two_schedulers_each_episode_goes_to_one(tmp_path: Path) -> None:
    names, path = [f"{number:016x}" for number in range(40)], tmp_path / "j.sqlite"
    with Journal(path) as journal:
        for name in names:  # one at a time is for one journal's life; here forty lives are raced for
            journal.move(journal.begin(_episode(name, "c" * 64)), "dismissed", now=NOW)
        journal._db.execute("UPDATE episodes SET state = 'awaiting_labels'")
    code = f"""
import sys
from datetime import UTC, datetime
from pathlib import Path
from monitoring.episodes import mark_retrain_started
from monitoring.journal import Journal
with Journal(Path({str(path)!r})) as journal:
    print("ready", flush=True)
    sys.stdin.readline()
    for name in {names!r}:
        if mark_retrain_started(journal, name, now=datetime.now(UTC), labels=50):
            print(name, flush=True)
    sys.stdin.readline()  # its leases live as long as it does
"""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin
        print(file=process.stdin, flush=True)
    won = [set(process.communicate("\n", timeout=60)[0].split()) for process in both]
    assert won[0] & won[1] == set()
    assert won[0] | won[1] == set(names)


KILLED = (
    WORKER
    + """
import os, signal, sqlite3
from datetime import timedelta
from monitoring.watch import wake
from pipeline.params import Params, Watch

real = sqlite3.connect
left = None

def counted(statement):
    global left
    if left is not None and statement.split()[0] in ("BEGIN", "COMMIT", "UPDATE", "INSERT"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

def connect(*arguments, **named):
    connection = real(*arguments, **named)
    connection.set_trace_callback(counted)
    return connection

sqlite3.connect = connect

def work(text):
    global left
    root, last = text.split()
    left = int(last)
    turn(Path(root))

def turn(root):
    place, now = Workspace(root, root / "var"), datetime.now(UTC)
    params = Params(watch=Watch(cooldown_hours=0.0, observe_images=0))
    outcome = wake(place, params, now=now, draw=False)
    if outcome.decision == "retrain":
        labelled(root)
    released(root)
    wake(place, params, now=now, draw=False)
"""
)


@pytest.mark.slow
def test_kill_9_at_every_write_of_a_whole_turn(loop: Loop, tmp_path: Path) -> None:
    """From labels to a closed episode, killed before its first statement, its second …; the next turn goes on."""
    begun, root, kills = tmp_path / "begun", loop.workspace.root, 0
    shutil.copytree(loop.workspace.home, begun)
    with Nursery(KILLED, cwd=ROOT, errors=tmp_path / "errors") as nursery:
        while True:
            shutil.rmtree(loop.workspace.home)
            shutil.copytree(begun, loop.workspace.home)
            nursery.bear(f"{root} {kills}")
            code = nursery.bury()
            if code != 0:
                assert code == -9, nursery.said()
                _never_lost(loop)
                for _ in range(2):  # the next turn, and where it found a dead worker, the one after
                    nursery.bear(f"{root} 10000")
                    assert nursery.bury() == 0, nursery.said()
            _closed(loop)
            if code == 0:
                break
            kills += STRIDE
    assert kills > 25


def _never_lost(loop: Loop) -> None:
    with Journal(loop.workspace.journal) as journal:
        episode = journal.episode(E)
        assert episode.is_open or episode.state == "monitoring"
        said = [step.decision for step in journal.steps()]
        assert said.count("promoted") <= 1
    assert len(loop.registry.history()) <= 2


def _closed(loop: Loop) -> None:
    """One promotion, one pointer, one row of it, and the episode at its end."""
    assert loop.champion() == loop.challenger
    assert [move["digest"] for move in loop.registry.history()] == [loop.old, loop.challenger]
    with Journal(loop.workspace.journal) as journal:
        assert journal.episode(E).state == "monitoring"
        assert [step.decision for step in journal.steps()].count("promoted") == 1
