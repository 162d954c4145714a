"""Does reports/verdict.json follow from the evidence? Judged again, before anything is released.

A verdict and a dvc.lock that were forged together agree with one another. What lies in artifacts/ and reports/ does
not: the same evidence, judged by the same code and parameters, gives the same verdict to the last check.
"""

import math
import subprocess
from dataclasses import asdict
from typing import Any

import yaml

from pipeline.artifacts import Workspace
from pipeline.errors import DataError
from pipeline.params import Params

__all__ = ["verdict_fault"]

COMMAND = "python -m pipeline gate"
SAME = 1e-3  # of a check's value: another machine rounds otherwise in the last digits


def verdict_fault(workspace: Workspace, params: Params, verdict: dict[str, Any]) -> str | None:
    """What ``verdict`` (verdict.json) says and the evidence does not give; None where they agree.

    A dvc.yaml whose gate is another command than ours has a verdict that only its author can judge again; then it
    must at least be the dvc.yaml of the commit, so that whose gate it was is on record.

    Raises:
        DataError: some of the evidence is missing or damaged.
    """
    command = _command(workspace)
    if command != COMMAND:
        if _committed(workspace):
            return None
        return f"the gate of dvc.yaml is {command!r}, which is not what git's last commit holds"
    from pipeline.gate import gather, judge  # what draws the verdict's page takes a second to import

    again = asdict(judge(gather(workspace, params), params))
    for name in ("challenger", "champion", "decision"):
        if verdict[name] != again[name]:
            return (
                f"it names the {name} {verdict[name]}, judged again it is {again[name]}: {again['summary']}"
            )
    return _check_fault(verdict["checks"], again["checks"])


def _check_fault(written: list[dict[str, Any]], again: list[dict[str, Any]]) -> str | None:
    names = [[check.get("name") for check in checks] for checks in (written, again)]
    if names[0] != names[1]:
        odd = next((one or other for one, other in zip(*names, strict=False) if one != other), None)
        return f"it holds {len(written)} checks, judged again there are {len(again)}" + (
            f"; the first that differs is {odd}" if odd else ""
        )
    for ours, theirs in zip(written, again, strict=True):
        for name in ("outcome", "kind", "decides", "support"):
            if ours.get(name) != theirs[name]:
                return f"{theirs['name']} has {name} {ours.get(name)}, judged again {theirs[name]}"
        if not _close(ours.get("value"), theirs["value"]):
            return f"{theirs['name']} is {ours.get('value')}, judged again {theirs['value']}"
    return None


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=SAME, abs_tol=SAME) or (math.isnan(one) and math.isnan(other))


def _command(workspace: Workspace) -> str:
    """What dvc.yaml runs as its gate; ours where there is no dvc.yaml."""
    path = workspace.root / "dvc.yaml"
    if not path.exists():
        return COMMAND
    try:
        return str(yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]["gate"]["cmd"])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} has no stage `gate` that can be read ({error!r}): restore it with git"
        ) from error


def _committed(workspace: Workspace) -> bool:
    """Whether dvc.yaml is, byte for byte, the one of git's last commit."""
    held = subprocess.run(
        ["git", "show", "HEAD:./dvc.yaml"], cwd=workspace.root, capture_output=True, check=False
    )
    return held.returncode == 0 and held.stdout == (workspace.root / "dvc.yaml").read_bytes()
