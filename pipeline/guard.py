"""``python -I guard.py <command>``: the command, ended with all it started once the parent is gone.

The parent holds the other end of standard input. Closing it, also by being killed, ends every descendant,
also those in sessions of their own (a server's workers); SIGTERM lets the command end in order.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

SUBREAPER = 36  # Linux, prctl(2): who loses its parent becomes ours, so that no descendant gets out of sight


def _end_with_parent() -> None:
    sys.stdin.read()
    _sweep()
    os.killpg(0, signal.SIGKILL)


def _sweep() -> None:
    """kill -9 to every descendant, until none is left: a supervisor may start another worker meanwhile."""
    while children := _descendants():
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def _descendants() -> list[int]:
    """Everybody below this process; nobody where there is no /proc: then the process group has to do."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {os.getpid()})


if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    # The group's SIGTERM is for the command (started before this line, so it does not inherit it).
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    code = command.wait()
    _sweep()
    sys.exit(code)
