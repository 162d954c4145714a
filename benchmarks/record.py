"""A result and all that is needed to judge it: benchmarks/results/<name>.json.

    with measuring("time_to_accuracy", what="…", state="cold", force=False) as result:
        result.rows.append(Row(...))

Waits until the machine is quiet, notes the load before and after, the machine, the versions on both sides,
the commit and the command, and writes the file when the block ends without an error.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import psutil

from benchmarks.interleave import QUIET, State, wait_until_quiet
from benchmarks.sets import ROOT
from pipeline.artifacts import write_json

RESULTS = ROOT / "benchmarks/results"
OURS = ("torch", "torchvision", "timm", "numpy", "onnxruntime", "pillow")
RIVALS = ("fastai", "timm", "torch", "torchvision", "numpy", "pillow")
RIVALS_PYTHON = ROOT / "benchmarks/.venvs/rivals/bin/python"
DERIVED = ("benchmarks/results", "benchmarks/README.md", "README.md")  # what a benchmark itself writes

ON_GPU = "_gpu"  # ends the names of results of a GPU
PLACES = ("VISIONLOOP_REAL_DATA", "VISIONLOOP_TIMM_TRAIN")


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """On the same ``n`` test images; the difference is ours less the rival's, with its paired 95 % interval."""

    ours: float
    rival: float
    n: int
    difference: float
    difference_ci95: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison; the tables are made of these."""

    case: str  # on what: grocery20
    measure: str  # what the figures are: from nothing to a network
    unit: str  # s, images/s, MiB
    better: Literal["lower", "higher"]
    ours: str  # whose figure it is: visionloop auto
    rival: str
    ours_value: float  # a median where there are several windows
    rival_value: float
    ratio: float  # how many times better ours is; below 1 it is worse
    ratio_ci95: tuple[float, float] | None  # null: a single window each
    windows: int  # of each
    headline: bool  # in the README's table, too
    accuracy: Accuracies | None = None


@dataclass
class Result:
    """One benchmark's result, as it stands in its file."""

    name: str
    what: str  # a sentence: what is measured, and how
    state: State | Literal["cold and warm"]
    date: str
    command: list[str]
    machine: dict[str, Any]
    versions: dict[str, Any]
    load: dict[str, float]
    forced: bool  # measured whether or not the machine was at other work: ``load`` says which
    rows: list[Row] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


REQUIRED = tuple(Result.__dataclass_fields__)
REQUIRED_IN_ROW = tuple(Row.__dataclass_fields__)


@contextmanager
def measuring(
    name: str,
    *,
    what: str,
    state: State | Literal["cold and warm"],
    force: bool = False,
    timed: bool = True,
    results: Path = RESULTS,
) -> Iterator[Result]:
    """A result to fill in; written to ``results`` at the end. Where nothing is ``timed``, no machine is too busy.

    Raises:
        LoadedError: the machine is at other work, and ``force`` is not set.
    """
    before = wait_until_quiet(force=force) if timed else os.getloadavg()[0]
    result = Result(
        name=name,
        what=what,
        state=state,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=["python", *_command()],
        machine=machine(),
        versions=versions(),
        load={"before": before},
        forced=force,
    )
    yield result
    result.load["after"] = os.getloadavg()[0]
    write_json(results / f"{name}.json", without_places(result.to_dict()))
    print(f"recorded: {results / f'{name}.json'}", flush=True)


def without_places(value: Any) -> Any:
    """``value`` with the places on this machine replaced by the names that stand for them."""
    if isinstance(value, dict):
        return {key: without_places(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(entry) for entry in value]
    if not isinstance(value, str):
        return value
    for name in PLACES:
        if os.environ.get(name):
            value = value.replace(os.environ[name].rstrip("/"), f"${name}")
    return value.replace(f"{ROOT}/", "")


def disturbed(result: dict[str, Any]) -> bool:
    """Whether it was forced, and the machine at other work when it began."""
    return bool(result["forced"]) and result["load"]["before"] > QUIET * result["machine"]["cores"]


def of_device(name: str) -> str:
    """The result's name: where a GPU trains, it is another one than a CPU's."""
    return name if _gpu() is None else f"{name}{ON_GPU}"


def faults(result: dict[str, Any]) -> list[str]:
    """What a result file lacks, in words; empty where it is whole."""
    found = [f"lacks {key}" for key in REQUIRED if key not in result]
    for number, row in enumerate(result.get("rows", [])):
        found += [f"row {number} lacks {key}" for key in REQUIRED_IN_ROW if key not in row]
    for part, keys in {
        "machine": ("cpu", "cores", "memory_gib", "gpu"),
        "versions": ("python", "ours", "rivals"),
        "load": ("before", "after"),
    }.items():
        found += [f"{part} lacks {key}" for key in keys if key not in result.get(part, {})]
    return found


def machine() -> dict[str, Any]:
    """The hardware, never the machine's name."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
    }


def _cpu() -> str:
    """The processor's name and the extensions that matter to a network's speed."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    able = [
        name
        for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
        if name in found.get("flags", "").split()
    ]
    return (
        f"{found.get('model name', platform.machine())} ({', '.join(able) or 'no vector extensions known'})"
    )


def _gpu() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return ", ".join(done.stdout.split("\n")).strip(", ") or None


def versions() -> dict[str, Any]:
    """Python, the libraries on both sides, and our own commit."""
    return {
        "python": platform.python_version(),
        "ours": {**_installed(OURS), **commit()},
        "rivals": _rivals(),
    }


def _installed(names: tuple[str, ...]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _rivals() -> dict[str, str | None]:
    """What their environment holds; empty where it has not been made."""
    if not RIVALS_PYTHON.exists():
        return {}
    code = (
        "import importlib.metadata as m, sys\n"
        "have = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "print(*(have.get(n, '-') for n in sys.argv[1:]))"
    )
    done = subprocess.run([RIVALS_PYTHON, "-c", code, *RIVALS], capture_output=True, text=True, check=True)
    return dict(zip(RIVALS, done.stdout.split(), strict=True))


def commit() -> dict[str, Any]:
    """Our commit, and whether anything but the results themselves was changed since."""
    excluded = [f":!{path}" for path in DERIVED]
    changed = _git("status", "--porcelain", "--", ".", *excluded)
    return {"commit": _git("rev-parse", "HEAD") or None, "dirty": bool(changed)}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _command() -> list[str]:
    """The command line, as one would type it."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    return ["-m", module.name, *sys.argv[1:]] if module else [Path(sys.argv[0]).name, *sys.argv[1:]]
