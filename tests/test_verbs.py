"""How a verb's process ends: nothing that was printed or registered is lost by leaving early."""

import os
import subprocess
import sys

LEAVES = (
    "import atexit; from pipeline.__main__ import leave\n"
    "atexit.register(print, 'handled'); print('x' * 200_000); leave(3)\n"
)


def test_leaving_runs_exit_handlers_and_writes_all_that_was_printed() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stdout == "x" * 200_000 + "\nhandled\n"
    assert done.stderr == ""


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    code = LEAVES.replace("print('x' * 200_000)", "import sys; sys.stdin.read(); print('x')")
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.close()  # only now does it print
    assert process.wait(timeout=60) == 120
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
