"""Freed memory is kept for the next block, and work that asks for the same ones waits for no page."""

import ctypes
import subprocess
import sys
import textwrap

import pytest

glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="mallopt is glibc's: there is nothing to set here"
)
PAGE = 4096
ROUNDS = 20
WORK = textwrap.dedent(
    """
    import ctypes, resource
    import torch
    torch.set_num_threads(1)
    ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: else a huge page is fetched as one
    {before}
    def work():
        for megabytes in (3, 48, 160):  # below and above what glibc would keep by itself
            torch.ones(megabytes * 2**18).mul(2.0)
    faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    started = faults()
    for _ in range({rounds}):
        work()
    print(faults() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
)


def measured(before: str) -> tuple[int, int]:
    """Pages that repeated work had to fetch, and the most KiB that its process held."""
    code = WORK.format(before=before, rounds=ROUNDS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pages, peak = done.stdout.split()
    return int(pages), int(peak)


@glibc
def test_what_is_kept_is_not_fetched_again() -> None:
    usual, most = measured("")
    kept, peak = measured("from pipeline.allocation import keep_memory; keep_memory()")
    assert usual > ROUNDS * 100 * 2**20 // PAGE, "or there would be nothing to win"
    assert kept < usual / 20
    assert peak < 1.5 * most, "it is the same memory over and over"


@glibc
def test_no_more_is_kept_than_asked_for() -> None:
    kept, _ = measured("from pipeline.allocation import keep_memory; keep_memory(1 << 25, 1 << 27)")
    assert kept > ROUNDS * 100 * 2**20 // PAGE, "blocks above the bound go back to the system"
