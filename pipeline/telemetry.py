"""Every library's telemetry, off, in one place.

Importing any of our packages switches it off for that process. The set-up calls ``install`` once, which
does the same for the libraries' own commands (``prefect``, ``bentoml``, ``evidently``, ``dvc``) started
from this environment.
"""

import os
import sysconfig
from pathlib import Path

OFF = {
    "DO_NOT_TRACK": "1",  # Evidently, Prefect
    "BENTOML_DO_NOT_TRACK": "True",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime from 1.31 on
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


def switch_off() -> None:
    """Set the switches in this process's environment; a value that the user has set wins."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)


def install() -> Path:
    """Write a ``.pth`` file that switches telemetry off in every process of this environment."""
    target = Path(sysconfig.get_paths()["purelib"]) / "visionloop_telemetry.pth"
    target.write_text(f"import os; [os.environ.setdefault(k, v) for k, v in {OFF!r}.items()]\n")
    return target
