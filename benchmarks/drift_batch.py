"""One look at one window: false alarms without drift and power with it, ours beside other libraries.

Every contender judges the same draws in a process of its own. Its own decision gives the raw rates; beside them
stands the power at the threshold at which it alarms in 5 % of its own draws without drift, by n, so that nobody
gains by alarming more often.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drift_draws import Draw
from benchmarks.errors import CommandError
from benchmarks.sets import ROOT
from pipeline.artifacts import read_json
from pipeline.intervals import wilson

LEVEL = 0.05
OURS = "visionloop"
DRIFT_PYTHON = ROOT / "benchmarks/.venvs/drift/bin/python"
EVERY = {
    "visionloop": (1, 1),
    "alibi mmd": (1, 4),
    "alibi ks": (1, 4),
    "evidently model": (4, 16),
    "evidently distance": (4, 16),
    "evidently mmd": (16, 64),
    "evidently ratio": (128, 128),
    "alibi mmd 1000": (128, 128),
    "torchdrift mmd": (128, 128),
    "frouros mmd": (128, 128),
}
"""Each so many-th draw with drift, and without, that a contender judges: the slow ones few."""
LANES = 2


@dataclass(frozen=True)
class Rate:
    """``hits`` of ``n`` draws, with Wilson's 95 % interval."""

    hits: int
    n: int

    def to_dict(self) -> dict[str, Any]:
        low, high = wilson(self.hits, self.n)
        return {
            "rate": round(self.hits / self.n, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "draws": self.n,
        }


@dataclass(frozen=True)
class Judgement:
    """One contender over the draws that it judged: number → (score, decided)."""

    name: str
    scores: dict[int, tuple[float, bool]]
    cpu_seconds: float

    def decided(self, draws: Sequence[Draw]) -> Rate:
        own = [self.scores[draw.number][1] for draw in draws if draw.number in self.scores]
        return Rate(sum(own), len(own))


def judge(work: Path, names: Sequence[str] = tuple(EVERY)) -> list[Judgement]:
    """Let all contenders judge the recorded draws, two at a time."""
    rivals = DRIFT_PYTHON.exists()
    if not rivals:
        print(f"{DRIFT_PYTHON} is missing: without the rivals; `make rivals` makes it", file=sys.stderr)

    def one(name: str) -> Judgement | None:
        foreign = not name.startswith(("visionloop", "evidently"))
        if foreign and not rivals:
            return None
        module = "benchmarks.rivals.drift_run" if foreign else "benchmarks.drift_ours"
        python = str(DRIFT_PYTHON) if foreign else sys.executable
        every, quiet = EVERY[name]
        command = [
            python,
            "-m",
            module,
            name,
            "--work",
            str(work),
            "--every",
            str(every),
            "--quiet-every",
            str(quiet),
        ]
        done = subprocess.run(
            command, cwd=ROOT, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        if done.returncode:
            raise CommandError(f"{name} failed:\n{done.stdout[-3000:]}")
        print(f"judged: {name}", flush=True)
        return _read(work, name)

    with ThreadPoolExecutor(LANES) as pool:
        return [found for found in pool.map(one, names) if found is not None]


def _read(work: Path, name: str) -> Judgement:
    raw = read_json(work / f"{name}.json")
    scores = {int(number): (float(score), bool(drift)) for number, (score, drift) in raw["scores"].items()}
    return Judgement(name, scores, float(raw["cpu_seconds_a_draw"]))


def summary(draws: Sequence[Draw], judged: Sequence[Judgement]) -> dict[str, Any]:
    """False alarms by set and n, power by cell (over the sets), and where we are below the best rival."""
    quiet = [draw for draw in draws if draw.cell.shift == "none"]
    shifted = [draw for draw in draws if draw.cell.shift != "none"]
    bars = {one.name: _bars(one, quiet) for one in judged}
    found: dict[str, Any] = {
        "contenders": {
            one.name: {
                "cpu_seconds_a_draw": round(one.cpu_seconds, 4),
                "false_alarms": _false_alarms(one, quiet),
                "threshold_at_equal_false_alarms": bars[one.name],
            }
            for one in judged
        }
    }
    cells: dict[str, list[Draw]] = {}
    for draw in shifted:
        cells.setdefault(draw.cell.name, []).append(draw)
    found["power"] = [_cell(own, judged, bars) for own in cells.values()]
    found["power_by_shift"] = _by_shift(found["power"])
    found["lost"] = [
        {"cell": cell["cell"], **loss} for cell in found["power"] for loss in _losses(cell["paired"])
    ]
    return found


def _false_alarms(one: Judgement, quiet: Sequence[Draw]) -> dict[str, Any]:
    keys = sorted({(draw.set, draw.cell.n) for draw in quiet})
    by_cell = {
        f"{name} n={n}": one.decided([d for d in quiet if (d.set, d.cell.n) == (name, n)]).to_dict()
        for name, n in keys
    }
    return {"all": one.decided(quiet).to_dict(), **by_cell}


def _bars(one: Judgement, quiet: Sequence[Draw]) -> dict[int, float]:
    """By n the largest score at which at most 5 % of the draws without drift are drift."""
    bars = {}
    for n in sorted({draw.cell.n for draw in quiet}):
        own = np.array([one.scores[d.number][0] for d in quiet if d.cell.n == n and d.number in one.scores])
        values, counts = np.unique(own, return_counts=True)
        allowed = values[np.cumsum(counts) <= LEVEL * len(own)]
        bars[n] = float(allowed[-1]) if len(allowed) else float("-inf")
    return bars


def _cell(own: list[Draw], judged: Sequence[Judgement], bars: dict[str, dict[int, float]]) -> dict[str, Any]:
    n = own[0].cell.n

    def hits(one: Judgement) -> dict[int, bool]:
        bar = bars[one.name][n]
        return {d.number: one.scores[d.number][0] <= bar for d in own if d.number in one.scores}

    calibrated = {one.name: hits(one) for one in judged}
    ours = calibrated[OURS]
    return {
        "cell": own[0].cell.name,
        "shift": own[0].cell.shift,
        "level": own[0].cell.level,
        "share": own[0].cell.share,
        "n": n,
        "raw": {one.name: one.decided(own).to_dict() for one in judged if calibrated[one.name]},
        "equal_false_alarms": {
            name: Rate(sum(found.values()), len(found)).to_dict() for name, found in calibrated.items() if found
        },
        "paired": {
            name: [sum(ours[k] and not v for k, v in found.items()), sum(v and not ours[k] for k, v in found.items())]
            for name, found in calibrated.items()
            if found and name != OURS
        },
    }  # fmt: skip


def _by_shift(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over all shares and n: on the draws that both judged, the rates of ours and of each rival."""
    sums: dict[str, dict[str, list[int]]] = {}
    for cell in cells:
        for name, rate in cell["equal_false_alarms"].items():
            own = sums.setdefault(f"{cell['shift']}-{cell['level']}", {}).setdefault(name, [0, 0])
            own[0] += round(rate["rate"] * rate["draws"])
            own[1] += rate["draws"]
    return {
        shift: {name: Rate(*counts).to_dict() for name, counts in own.items()} for shift, own in sums.items()
    }


def _losses(paired: dict[str, list[int]]) -> list[dict[str, Any]]:
    """Rivals that found what we did not more often than chance gives: the sign test's 95 % bound."""
    return [
        {"rival": name, "only_ours": won, "only_rival": lost}
        for name, (won, lost) in paired.items()
        if lost > won and wilson(lost, won + lost)[0] > 0.5
    ]
