"""Who works on an episode: a lease with a heartbeat and a fencing token, in the journal's table ``leases``.

Each taking of a lease raises its token. Whoever moves the champion pointer does so inside ``fenced``, which
holds the journal's write lock and looks at the token: a worker that was stopped, outlived its lease and was
replaced finds a higher token there and is refused (Kleppmann 2016 on fencing tokens; Gray and Cheriton 1989 on
leases).

No wall clock takes part, so that a clock that jumps neither steals a lease nor keeps a dead one. A lease is over
when the machine has started anew since, when its process is gone, or when no heartbeat came for ``EXPIRES``
seconds of the boot clock, which every process of a machine shares and nobody can set. SQLite's WAL binds a
journal to one machine anyway.
"""

import contextlib
import functools
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from monitoring.journal import Journal
from pipeline.errors import StateError

EXPIRES = 120.0
BEATS = 20.0
"""Seconds between two heartbeats: five may be missed."""

Holder = Literal["nobody", "alive", "gone"]


@dataclass(frozen=True)
class Lease:
    """The right to work on an episode, for as long as nobody holds a higher ``token``."""

    episode: str
    token: int


def uptime() -> float:
    """Seconds since the machine started, sleep included; the same for every process of it."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def holder(journal: Journal, episode: str) -> Holder:
    """Does somebody hold the lease, and are they still there?"""
    _, owner, beat = journal.lease(episode) or (0, None, 0.0)
    if owner is None:
        return "nobody"
    return "alive" if _lives(json.loads(owner), beat) else "gone"


def take(journal: Journal, episode: str) -> Lease | None:
    """The lease with a token of its own, or None where somebody else is alive and holds it."""
    with journal.transaction():
        if holder(journal, episode) == "alive":
            return None
        row = journal.lease(episode)
        token = (row[0] if row else 0) + 1
        journal.save_lease(episode, token, json.dumps(_myself()), uptime())
    return Lease(episode, token)


def give_back(journal: Journal, lease: Lease) -> None:
    """The work is over. Nothing happens where somebody else has the lease by now."""
    with journal.transaction():
        row = journal.lease(lease.episode)
        if row is not None and row[0] == lease.token:
            journal.save_lease(lease.episode, lease.token, None, uptime())


def revoke(journal: Journal, episode: str) -> None:
    """Whoever held the lease does not any more, should they still come back."""
    with journal.transaction():
        row = journal.lease(episode)
        journal.save_lease(episode, (row[0] if row else 0) + 1, None, uptime())


def beat(journal: Journal, lease: Lease) -> bool:
    """Still here. False where the lease is somebody else's by now."""
    with journal.transaction():
        row = journal.lease(lease.episode)
        if row is None or row[0] != lease.token or row[1] is None:
            return False
        journal.save_lease(lease.episode, lease.token, row[1], uptime())
    return True


@contextlib.contextmanager
def fenced(journal: Journal, lease: Lease) -> Iterator[None]:
    """Nobody can take the lease while the block runs.

    Raises:
        StateError: somebody has taken it already; the block did not run.
    """
    with journal.transaction():
        row = journal.lease(lease.episode)
        if row is None or row[0] != lease.token or row[1] is None:
            raise StateError(
                f"episode {lease.episode} was taken over by another worker (its token is {row[0] if row else 0}, "
                f"this worker's {lease.token}): this one is out of date and changes nothing more. See `python -m "
                "monitoring status`"
            )
        yield


@contextlib.contextmanager
def beating(path: Path, lease: Lease) -> Iterator[None]:
    """A heartbeat for the journal at ``path`` while the block runs; the lease is given back at its end."""
    over = threading.Event()
    thread = threading.Thread(target=_keep_beating, args=(path, lease, over), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with Journal(path) as journal:
            give_back(journal, lease)


def _keep_beating(path: Path, lease: Lease, over: threading.Event) -> None:
    while not over.wait(BEATS):
        # A journal that is locked for long is tried again at the next beat; `fenced` has the last word.
        with contextlib.suppress(StateError), Journal(path) as journal:
            if not beat(journal, lease):
                return


@functools.cache
def _boot() -> str:
    """Of this start of the machine; "" where the system does not tell, then only the boot clock does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _myself() -> dict[str, str | int]:
    return {"boot": _boot(), "namespace": _namespace(), "pid": os.getpid(), "started": _started(os.getpid())}


def _lives(owner: dict[str, str | int], beat: float) -> bool:
    now = uptime()
    if owner["boot"] != _boot() or beat > now or now - beat > EXPIRES:
        return False
    # Another container has process ids of its own, which say nothing here.
    return owner["namespace"] != _namespace() or _started(int(owner["pid"])) == owner["started"]


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When the process started, in ticks since the boot: a process id alone is given away again."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(") ")[2]
            .split()
        )
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
