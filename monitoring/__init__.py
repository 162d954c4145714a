"""Reads the prediction log and the reference; decides, explains, asks for labels. Never imports torch."""

import pipeline  # noqa: F401  (switches every library's telemetry off)
