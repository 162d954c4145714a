"""BentoML only: the service that answers with the champion, and its prediction log."""

import pipeline  # noqa: F401  (switches every library's telemetry off)
