"""Prefect only: the flows that run the loop. May import every other package; nobody imports this one.

Importing it, which comes before any ``import prefect``, keeps Prefect's state with ours: PREFECT_HOME is
``<VISIONLOOP_HOME>/prefect`` unless you have chosen a PREFECT_HOME or a server of your own.
"""

import os
import tomllib
from pathlib import Path

import pipeline  # noqa: F401  (switches every library's telemetry off)


def _has_own_server() -> bool:
    """Does the environment, or the active profile of the user's own Prefect, name a server?"""
    if os.environ.get("PREFECT_API_URL"):
        return True
    try:
        profiles = tomllib.loads((Path.home() / ".prefect/profiles.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return False
    active = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
    return bool(profiles.get("profiles", {}).get(active, {}).get("PREFECT_API_URL"))


if "PREFECT_HOME" not in os.environ and not _has_own_server():
    _home = Path(os.environ.get("VISIONLOOP_HOME") or "var").absolute() / "prefect"
    _home.parent.mkdir(parents=True, exist_ok=True)  # Prefect makes its folder, but not the one above it
    os.environ["PREFECT_HOME"] = str(_home)
# The limit of 20 s is met on a busy machine when a flow is called from Python without any server.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
