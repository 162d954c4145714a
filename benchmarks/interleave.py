"""Contenders in turn, A-B-B-A: what changes with time (heat, a neighbour's work) meets all of them alike.

    timings = interleave({"ours": ours, "rival": rival}, state="cold")     # each returns its figure of one window
    ratio_of_medians(timings["rival"], timings["ours"])                    # with its 95 % interval

``cold``: each window pays for what a first run pays (a new process, empty caches of our own); the operating
system's file cache is warm for everybody. ``warm``: one window each goes before, unmeasured.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.errors import LoadedError

WINDOWS = 5
QUIET = 0.25  # load average of the last minute, by processor, above which nothing is recorded
PATIENCE = 240.0  # s to wait for the load to fall, which after our own work takes a minute or two
RESAMPLES = 10_000

State = Literal["cold", "warm"]


@dataclass(frozen=True)
class Ratio:
    """Of two medians, and the middle 95 % of its bootstrap over windows."""

    value: float
    low: float
    high: float


def order(names: Sequence[str], windows: int) -> list[str]:
    """A B B A A B B A …: each round the other way round."""
    rounds = [names if number % 2 == 0 else list(reversed(names)) for number in range(windows)]
    return [name for one in rounds for name in one]


def interleave(
    contenders: Mapping[str, Callable[[], float]],
    *,
    state: State,
    windows: int = WINDOWS,
    say: Callable[[str], None] = lambda text: print(text, flush=True),
) -> dict[str, list[float]]:
    """Each contender's figures, window by window."""
    if state == "warm":
        for name, contender in contenders.items():
            say(f"warm-up  {name:<24}{contender():>12.4g}")
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for name in order(list(contenders), windows):
        figures[name].append(contenders[name]())
        say(f"{len(figures[name]):>2} of {windows}  {name:<24}{figures[name][-1]:>12.4g}")
    return figures


def ratio_of_medians(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Ratio:
    """median(first) / median(second); windows are resampled within each, since neither knows of the other's."""
    generator = np.random.default_rng(seed)
    above, below = (
        np.median(generator.choice(np.asarray(values, dtype=float), (RESAMPLES, len(values))), axis=1)
        for values in (first, second)
    )
    low, high = np.quantile(above / below, [0.025, 0.975])
    return Ratio(float(np.median(first) / np.median(second)), float(low), float(high))


def wait_until_quiet(
    *,
    force: bool = False,
    load: Callable[[], float] = lambda: os.getloadavg()[0],
    patience: float = PATIENCE,
    pause: float = 5.0,
) -> float:
    """The load average once it is low enough to measure; with ``force``, whatever it is.

    Raises:
        LoadedError: it stayed above ``QUIET`` by processor for ``patience`` seconds.
    """
    bound = QUIET * (os.cpu_count() or 1)
    until = time.monotonic() + patience
    while not force and load() > bound:
        if time.monotonic() >= until:
            raise LoadedError(
                f"the load average of the last minute is {load():.2f}, above {bound:.2f}: other work would be measured, "
                "too. Wait until the machine is idle, or pass --force (the result will say so)"
            )
        time.sleep(pause)
    return load()
