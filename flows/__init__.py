"""Prefect only: the flows that run the loop. May import every other package; nobody imports this one."""

import pipeline  # noqa: F401  (switches every library's telemetry off)
