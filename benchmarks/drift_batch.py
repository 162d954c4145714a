"""One look at one window: let every contender judge the same draws, each in a process of its own.

What a rival says of a draw is kept below --work: it is judged again only where the draws, the rival's version or the
code that calls it are others. Ours is always judged anew.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.drift_levelled import Judgement
from benchmarks.drift_power import OURS
from benchmarks.errors import CommandError
from benchmarks.sets import ROOT
from pipeline.artifacts import read_json, write_json

DRIFT_PYTHON = ROOT / "benchmarks/.venvs/drift/bin/python"
REQUIREMENTS = ROOT / "benchmarks/rivals/drift-requirements.txt"
ALL = 10**9
JUDGED = {
    OURS: (ALL, ALL),
    "evidently distance": (ALL, ALL),
    "evidently mmd": (ALL, ALL),
    "alibi mmd": (ALL, ALL),
    "alibi ks": (200, 12),
    "torchdrift mmd": (50, 4),
    "alibi mmd 1000": (50, 4),
    "evidently model": (50, 8),
    "evidently ratio": (50, 4),
    "frouros mmd": (50, 4),
}
"""How many draws a contender judges, without drift by n, and with it by kind of shift and n: the slow ones few."""
USUAL = tuple(name for name in JUDGED if name != "frouros mmd")
"""Who races by default: frouros's permutations compute the kernel anew, which takes many seconds a draw."""


def judge(work: Path, processes: int, slow: int = 1, names: Sequence[str] = USUAL) -> list[Judgement]:
    """Let contenders judge the recorded draws, so many at a time, and the slow ones ``slow`` times their share."""
    rivals = DRIFT_PYTHON.exists()
    if not rivals:
        print(f"{DRIFT_PYTHON} is missing: without the rivals; `make rivals` makes it", file=sys.stderr)
    drawn = drawn_of(work)

    def one(name: str) -> Judgement | None:
        foreign = not name.startswith((OURS, "evidently"))
        if foreign and not rivals:
            return None
        quiet, shifted = (slow * count for count in JUDGED[name])
        module = "benchmarks.rivals.drift_run" if foreign else "benchmarks.drift_ours"
        python = str(DRIFT_PYTHON) if foreign else sys.executable
        command = ["-m", module, name, "--work", str(work), "--shifted", str(shifted), "--quiet", str(quiet)]
        made_of = {"draws": drawn, "command": command[:3] + command[5:], "code": _code(module, foreign)}
        if name == OURS or not kept(work, name, made_of):
            done = subprocess.run(
                [python, *command], cwd=ROOT, check=False, text=True, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            if done.returncode:
                raise CommandError(f"{name} failed:\n{done.stdout[-3000:]}")
            write_json(_note(work, name), made_of)
        print(f"judged: {name}", flush=True)
        return _read(work, name)

    with ThreadPoolExecutor(processes) as pool:
        return [found for found in pool.map(one, names) if found is not None]


def drawn_of(work: Path) -> str:
    """Of the draws and of all that they name."""
    digest = hashlib.sha256()
    for path in [work / "draws.npz", *sorted(work.glob("*-stack.npz"))]:
        with np.load(path) as stored:
            for column in sorted(stored.files):
                digest.update(f"{path.name} {column}".encode())
                digest.update(np.ascontiguousarray(stored[column]).tobytes())
    return digest.hexdigest()


def _code(module: str, foreign: bool) -> list[str]:
    """What a judgement rests on besides the draws: the code that calls the rival, and the rival's version."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    pinned = REQUIREMENTS.read_bytes() if foreign else version("evidently").encode()
    return [hashlib.sha256(text).hexdigest() for text in (path.read_bytes(), pinned)]


def _note(work: Path, name: str) -> Path:
    return work / f"{name}.made-of.json"


def kept(work: Path, name: str, made_of: Mapping[str, object]) -> bool:
    note = _note(work, name)
    return note.exists() and (work / f"{name}.json").exists() and read_json(note) == made_of


def _read(work: Path, name: str) -> Judgement:
    raw = json.loads((work / f"{name}.json").read_text(encoding="utf-8"))
    scores = {int(number): (float(score), bool(drift)) for number, (score, drift) in raw["scores"].items()}
    return Judgement(name, scores, float(raw["cpu_seconds_a_draw"]))
