"""``python -I guard.py <command>``: the command, ended with all it started once the parent is gone.

The parent holds the other end of standard input. Closing it, also by being killed, ends this process
group; SIGTERM lets the command end in order.
"""

import os
import signal
import subprocess
import sys
import threading


def _end_with_parent() -> None:
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    # The group's SIGTERM is for the command (started before this line, so it does not inherit it).
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(command.wait())
