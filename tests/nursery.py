"""Children to be killed: one process imports everything once, forks a real process for each round, and buries it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent

_LOOP = """
import os, sys
sys.path.insert(0, sys.argv[1])
{imports}
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            work(line.strip())
            os._exit(0)
        except BaseException as error:
            print("FAILED", repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    print(child, flush=True)
    sys.stdin.readline()  # until then its process id is nobody else's
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Nursery:
    """``source`` is Python that imports what is needed and defines ``work(text)``; use as a context."""

    def __init__(
        self, source: str, *, cwd: Path, errors: Path, environment: dict[str, str] | None = None
    ) -> None:
        self._errors = errors
        with errors.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LOOP.format(imports=source), str(ROOT)],
                cwd=cwd, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream,
            )  # fmt: skip
        self.pid = self._process.pid
        self.child: int | None = None

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin
        assert self._process.stdout
        if self.child is not None:
            self.kill()
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def bear(self, text: str) -> int:
        """Start ``work(text)``; the child's process id."""
        print(text, file=self._process.stdin, flush=True)
        self.child = int(self._line())
        return self.child

    def bury(self) -> int:
        """Wait until the child is gone; 0 where it had done its work, else minus the signal or its exit code."""
        print(file=self._process.stdin, flush=True)
        status = int(self._line())
        self.child = None
        return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def kill(self) -> int:
        """kill -9; what ``bury`` says."""
        assert self.child is not None
        os.kill(self.child, signal.SIGKILL)
        return self.bury()

    def said(self) -> str:
        """What the children printed on standard error."""
        return self._errors.read_text(errors="replace")

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"the nursery is gone:\n{self.said()}"
        return line
