"""What two runs of the same commit must agree on: what files say, without what the clock or the machine says."""

import json
from pathlib import Path
from typing import Any

from pipeline.artifacts import digest_file, digest_json, read_json

__all__ = ["checkpoint", "compared", "flat", "verdict"]

CLOCK = ("seconds", "images_per_second")  # how long it took is no result
MACHINE = (
    "arithmetic",
    "environment",
)  # of checkpoint.json: what was measured to be fast here, and where "here" was
# Checks whose outcome a busier machine changes, or (peeks) the verdicts that were asked for before.
CIRCUMSTANCES = ("latency", "slowdown", "cold_start", "memory", "peeks")


def flat(value: Any, *, without: tuple[str, ...] = CLOCK) -> dict[str, Any]:
    """The value of a JSON file as ``test.per_class.pit.recall`` → value."""
    found: dict[str, Any] = {}

    def walk(value: Any, where: str) -> None:
        entries = (
            value.items()
            if isinstance(value, dict)
            else enumerate(value)
            if isinstance(value, list)
            else None
        )
        if entries is None:
            found[where] = value
            return
        for key, entry in entries:
            if key not in without:
                walk(entry, f"{where}.{key}".lstrip("."))

    walk(value, "")
    return found


def checkpoint(folder: Path) -> dict[str, str]:
    """Of each file of a checkpoint the digest of what it says; empty where there is none."""
    paths = sorted(folder.glob("*")) if folder.is_dir() else []
    return {
        path.name: digest_json(flat(json.loads(path.read_text(encoding="utf-8")), without=CLOCK + MACHINE))
        if path.suffix == ".json"
        else digest_file(path)
        for path in paths
    }


def verdict(path: Path) -> dict[str, str] | None:
    """``decision`` and the outcome of each check by its name; None where no verdict is."""
    if not path.exists():
        return None
    said = read_json(path)
    return {"decision": said["decision"]} | {check["name"]: check["outcome"] for check in said["checks"]}


def compared(before: dict[str, str], now: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Both verdicts without CIRCUMSTANCES; and without the decision, where one of those fell out otherwise."""
    names = {name for name in before.keys() | now.keys() if name.split("/")[0] in CIRCUMSTANCES}
    if any(before.get(name) != now.get(name) for name in names):
        names.add("decision")
    one, other = ({name: said for name, said in each.items() if name not in names} for each in (before, now))
    return one, other
