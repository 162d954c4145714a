"""One command, watched from outside: its seconds, its memory, and what else the machine did meanwhile.

    watched = watch([python, "-m", "pipeline", "train"], cwd=workspace)

The clock runs from the start of the process to its end, interpreter and imports included. Memory is the sum
over the process and its children of their proportional set sizes (what they share counts once), looked at
once a second; the kernel adds the largest resident set of any single one of them.
"""

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.errors import CommandError

SHOWN = 3000  # characters of a failed command's output
LOOK_EVERY = 1.0  # s; reading /proc costs milliseconds


@dataclass(frozen=True)
class Watched:
    seconds: float
    cpu_seconds: float  # of the process and all children that it waited for
    others: float  # share of the machine's processors that anything else took meanwhile, 0 to 1
    peak_bytes: int  # of the whole tree; 0 where the process was too short to be looked at
    peak_process_bytes: int  # resident, of the largest single process
    output: str


def watch(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str] | None = None, timeout: float = 3600
) -> Watched:
    """Run ``command`` and watch it.

    Raises:
        CommandError: it ended with another code than 0, or did not end within ``timeout`` seconds.
    """
    with tempfile.TemporaryFile() as output:
        busy, started = _busy(), time.perf_counter()
        process = subprocess.Popen(
            list(command), cwd=cwd, env=dict(environment or os.environ), stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        memory = _Memory(process.pid)
        deadline = threading.Timer(timeout, os.killpg, (process.pid, signal.SIGKILL))
        memory.start()
        deadline.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            seconds = time.perf_counter() - started
            deadline.cancel()
            memory.stop()
        process.returncode = os.waitstatus_to_exitcode(status)  # else Popen would wait for it again
        busy = _busy() - busy
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode:
        why = f"ran longer than {timeout:g} s" if seconds >= timeout else f"exit code {process.returncode}"
        raise CommandError(f"{' '.join(command)}: {why}\n{text[-SHOWN:]}")
    cpu = usage.ru_utime + usage.ru_stime
    others = max(0.0, busy - cpu) / (seconds * (os.cpu_count() or 1))
    return Watched(seconds, cpu, min(1.0, others), memory.peak, usage.ru_maxrss * 1024, text)


def _busy() -> float:
    """Seconds that the machine's processors were not idle, since it started; time that a host took away counts."""
    times = psutil.cpu_times()._asdict()
    counted_twice = {"guest", "guest_nice"}  # in user and nice
    return sum(value for name, value in times.items() if name not in {"idle", "iowait", *counted_twice})


class _Memory(threading.Thread):
    """Looks at a process tree until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._pid = pid
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(LOOK_EVERY):
            self.peak = max(self.peak, self._tree())

    def stop(self) -> None:
        self._done.set()
        self.join()

    def _tree(self) -> int:
        total = 0
        try:
            root = psutil.Process(self._pid)
            tree = [root, *root.children(recursive=True)]
        except psutil.Error:
            return 0
        for process in tree:
            try:
                total += int(getattr(process.memory_full_info(), "pss", 0))
            except psutil.Error:  # it has just ended
                continue
        return total
