"""What can go wrong with a benchmark, each with a sentence that says what to do.

BenchmarkError
├── SetError          the images are not there, or can't be prepared
├── ContenderError    a contender can't run, or did not do what it is compared for
├── CommandError      a command failed or ran too long
├── LoadedError       the machine is at other work
└── TableError        a page has no place for its table
"""

import sys
from collections.abc import Callable

__all__ = [
    "BenchmarkError",
    "CommandError",
    "ContenderError",
    "LoadedError",
    "SetError",
    "TableError",
    "ended",
]


class BenchmarkError(Exception):
    """The base of all others."""


class SetError(BenchmarkError):
    """A set can't be prepared."""


class ContenderError(BenchmarkError):
    """A contender can't run, or did not do what it is compared for."""


class CommandError(BenchmarkError):
    """A command failed or ran too long; the message ends with what it said last."""


class LoadedError(BenchmarkError):
    """The machine is at other work."""


class TableError(BenchmarkError):
    """A page has no place for its table."""


def ended(main: Callable[[], int]) -> int:
    """``main``'s exit code; 1 where it refused, with the reason on standard error."""
    try:
        return main()
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
