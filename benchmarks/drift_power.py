"""What the judgements of one look come to: false alarms without drift, power with it, and where we lose.

Each contender's own decision gives the raw rates; beside them stands the power at equal false alarms
(``benchmarks.drift_levelled``), null where the draws without drift are too few for that. A cell is one shift, level,
share and n over the sets; a pool is all cells of a kind of shift (and n), for what few draws can tell apart.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.stats import binom

from benchmarks.drift_draws import Draw
from benchmarks.drift_levelled import RESAMPLES, SEED, Judgement, Levelled

OURS = "visionloop"


def summary(draws: Sequence[Draw], judged: Sequence[Judgement]) -> dict[str, Any]:
    """False alarms by set and n, power by cell (over the sets) and by pool of cells, and where we are below a rival."""
    quiet = [draw for draw in draws if draw.cell.shift == "none"]
    shifted = [draw for draw in draws if draw.cell.shift != "none"]
    sizes, still = np.array([d.cell.n for d in draws]), np.array([d.cell.shift == "none" for d in draws])
    levelled = [Levelled(one, sizes, still) for one in judged]
    cells: dict[str, list[Draw]] = {}
    for draw in shifted:
        cells.setdefault(draw.cell.name, []).append(draw)
    power = [_cell(own, levelled) for own in cells.values()]
    pools = [_pool(name, own, levelled) for name, own in _pools(shifted)]
    return {
        "contenders": {one.name: _contender(one, quiet, shifted) for one in levelled},
        "power": power,
        "power_by_shift": _by_shift(shifted, levelled),
        "pools": pools,
        "cells": _verdict(power),
        "lost": [
            {"cell": cell["cell"], "draws": cell["draws"], **loss}
            for cell in power
            for loss in _losses(cell["paired"])
        ],
        "lost_pools": [
            {"pool": pool["pool"], "rival": name, **gap}
            for pool in pools
            for name, gap in pool["against"].items()
            if gap["high"] < 0
        ],
    }


def _contender(one: Levelled, quiet: Sequence[Draw], shifted: Sequence[Draw]) -> dict[str, Any]:
    own = one.judgement
    keys = sorted({(draw.set, draw.cell.n) for draw in quiet})
    cells = {
        f"{name} n={n}": [draw for draw in quiet if (draw.set, draw.cell.n) == (name, n)] for name, n in keys
    }
    cells |= {f"n={n}": [draw for draw in quiet if draw.cell.n == n] for n in one.bars}
    rates = {name: own.decided(of) for name, of in {"all": quiet, **cells}.items()}
    return {
        "cpu_seconds_a_draw": round(own.cpu_seconds, 4),
        "draws_with_drift": own.decided(shifted).n,
        "draws_without_drift": {n: len(one.still(n)) for n in one.bars},
        "comparable": {n: bars is not None for n, bars in one.bars.items()},
        "false_alarms": {name: rate.to_dict() for name, rate in rates.items() if rate.n},
    }


def _cell(draws: Sequence[Draw], levelled: Sequence[Levelled]) -> dict[str, Any]:
    """How many of the cell's draws each called, of those who judged them all; the slow ones stand in the pools alone."""
    numbers, first = np.array([draw.number for draw in draws]), draws[0].cell
    raw = {one.name: one.judgement.decided(draws) for one in levelled}
    there = [one for one in levelled if raw[one.name].n == len(draws)]
    rates = {one.name: one.rate(numbers) for one in there}
    ours = next(one for one in levelled if one.name == OURS)
    return {
        "cell": first.name,
        "draws": len(draws),
        "raw": {one.name: raw[one.name].hits for one in there},
        "equal_false_alarms": {name: rate and rate.hits for name, rate in rates.items()},
        "paired": {one.name: _paired(ours, one, numbers) for one in there if one is not ours and rates[one.name]},
    }  # fmt: skip


def _paired(ours: Levelled, other: Levelled, numbers: np.ndarray) -> list[int]:
    """Called by ours alone, and by the other alone."""
    mine, theirs = ours.hits[0, numbers], other.hits[0, numbers]
    return [int((mine & ~theirs).sum()), int((theirs & ~mine).sum())]


def _verdict(power: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By rival how many cells we lose and win by the sign test, and how many equals would lose by chance."""
    found: dict[str, dict[str, Any]] = {}
    for cell in power:
        for name, (won, lost) in cell["paired"].items():
            own = found.setdefault(name, {"cells": 0, "lost": 0, "won": 0, "lost_by_chance": 0.0})
            own["cells"] += 1
            own["lost"] += _beyond_chance(lost, won)
            own["won"] += _beyond_chance(won, lost)
            own["lost_by_chance"] += _by_chance(won + lost)
    return {name: own | {"lost_by_chance": round(own["lost_by_chance"], 2)} for name, own in found.items()}


def _losses(paired: dict[str, list[int]]) -> list[dict[str, Any]]:
    """Rivals that called what we did not more often than chance gives."""
    return [
        {"rival": name, "only_ours": won, "only_rival": lost}
        for name, (won, lost) in paired.items()
        if _beyond_chance(lost, won)
    ]


def _beyond_chance(more: int, fewer: int) -> bool:
    """The exact sign test: as one-sided a split has a chance of at most 2.5 %."""
    return more > fewer and float(binom.sf(more - 1, more + fewer, 0.5)) <= 0.025


def _by_chance(split: int) -> float:
    """The chance that equals differ beyond it, on as many draws that one alone called."""
    counts = np.arange(split + 1)
    tail = binom.sf(counts - 1, split, 0.5)
    return float(tail[tail <= 0.025].max(initial=0.0))


def _pools(shifted: Sequence[Draw]) -> Iterator[tuple[str, list[Draw]]]:
    """Everything; each kind of shift; and each kind and n. Over the sets, levels and shares."""
    yield "all", list(shifted)
    kinds = list(dict.fromkeys(draw.cell.shift for draw in shifted))
    for kind in kinds:
        own = [draw for draw in shifted if draw.cell.shift == kind]
        yield kind, own
        for n in sorted({draw.cell.n for draw in own}):
            yield f"{kind} n={n}", [draw for draw in own if draw.cell.n == n]


def _pool(name: str, draws: Sequence[Draw], levelled: Sequence[Levelled]) -> dict[str, Any]:
    numbers = np.array([draw.number for draw in draws])
    ours = next(one for one in levelled if one.name == OURS)
    rates = {one.name: one.rate(numbers) for one in levelled}
    return {
        "pool": name,
        "equal_false_alarms": {key: rate and rate.to_dict() for key, rate in rates.items()},
        "against": {
            one.name: _gap(ours, one, numbers) for one in levelled if one is not ours and rates[one.name]
        },
    }


def _gap(ours: Levelled, other: Levelled, numbers: np.ndarray) -> dict[str, Any]:
    """Power of ours less the other's, on the draws that both judged.

    The 95 % interval is of a bootstrap over these draws and over the draws without drift that set the two bars.
    """
    both = numbers[ours.known[numbers] & other.known[numbers]]
    gap = ours.hits[:, both].astype(np.int8) - other.hits[:, both]
    again = np.random.default_rng(SEED).integers(0, len(both), (RESAMPLES, len(both)))
    spread = np.take_along_axis(gap[1:], again, axis=1).mean(axis=1)
    low, high = np.quantile(spread, (0.025, 0.975))
    return {
        "ours": round(float(ours.hits[0, both].mean()), 4),
        "rival": round(float(other.hits[0, both].mean()), 4),
        "difference": round(float(gap[0].mean()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "draws": len(both),
    }


def _by_shift(shifted: Sequence[Draw], levelled: Sequence[Levelled]) -> dict[str, Any]:
    """Over all sets, shares and n: the rates at equal false alarms of those that judged every draw."""
    found: dict[str, Any] = {}
    for key in dict.fromkeys((draw.cell.shift, draw.cell.level) for draw in shifted):
        own = np.array([d.number for d in shifted if (d.cell.shift, d.cell.level) == key])
        rates = {one.name: one.rate(own) for one in levelled}
        found[f"{key[0]}-{key[1]}"] = {
            name: rate.to_dict() for name, rate in rates.items() if rate and rate.n == len(own)
        }
    return found
