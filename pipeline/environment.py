"""What a result may depend on besides code and data: Python, the processor, threads, installed packages."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

# Extensions that choose another kernel, and with it another order of summation.
EXTENSIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def environment() -> dict[str, Any]:
    """This process's, as a value for JSON: what may differ between two runs of the same commit on the same data."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **_processor(),
        "cores": cores,
        "threads": {name: os.environ.get(name) for name in THREADS},
        "packages": {found.metadata["Name"].lower(): found.version for found in distributions()},
    }


def _processor() -> dict[str, Any]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return {"processor": platform.processor(), "extensions": []}
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    return {
        "processor": name[1] if name else platform.processor(),
        "extensions": [extension for extension in EXTENSIONS if extension in known],
    }


def difference(before: dict[str, Any], now: dict[str, Any], where: str = "") -> list[str]:
    """In words, one line a value: ``packages.torch: 2.15.0, here 2.15.1``; empty where nothing differs."""
    lines: list[str] = []
    for name in dict.fromkeys([*before, *now]):
        one, other = before.get(name), now.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            lines += difference(one, other, f"{where}{name}.")
        elif one != other:
            lines.append(f"{where}{name}: {_word(one)}, here {_word(other)}")
    return lines


def _word(value: Any) -> str:
    return "none" if value in (None, []) else ", ".join(value) if isinstance(value, list) else str(value)


def against_lock(lock: Path) -> list[str]:
    """Where the installed packages are not those of a requirements.lock, one line each.

    Packages that are not installed are passed over: the lock is for every platform and for development too.
    """
    if not lock.exists():
        return []
    named: dict[str, list[str]] = {}  # several versions of one, for several Pythons
    for name, locked in re.findall(
        r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE
    ):
        named.setdefault(name, []).append(locked)
    lines = []
    for name, several in named.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue
        if installed not in several:
            lines.append(f"{name}: {' or '.join(several)} in the lock, here {installed}")
    return lines
