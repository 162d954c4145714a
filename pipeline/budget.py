"""What answering may cost: size, memory, cold start and latency against their bounds and the champion's.

Size, memory and cold start are measured once, latency in rounds. Latency is noisy: over a bound it rejects only
where the lower end of its interval is over it too; otherwise it is for a person, or for another run on an idle
machine, to say.
"""

from typing import Any

import numpy as np

from pipeline.checks import Check, Outcome
from pipeline.params import Gate

__all__ = ["performance_checks"]

RESAMPLES = 2000
MENDS = {
    "size": "a smaller network (`python -m pipeline compress`), or a higher gate.max_size_mb",
    "memory": "a smaller network or model.image_size, or a higher gate.max_memory_mb",
    "cold_start": "a smaller network, or a higher gate.max_cold_start_seconds",
}


def performance_checks(measured: dict[str, Any], gate: Gate, seed: int) -> list[Check]:
    """``measured`` is reports/performance.json."""
    ours, theirs = measured["challenger"], measured["champion"]
    bounds = {
        "size": (ours["megabytes"], gate.max_size_mb, "MB on disk"),
        "memory": (ours["memory_megabytes"], gate.max_memory_mb, "MB at its peak, of a process of its own"),
        "cold_start": (ours["cold_start_seconds"], gate.max_cold_start_seconds, "s to the first answer"),
    }
    checks = [
        Check(
            name, "pass" if value <= bound else "fail", value, None, bound, 1,
            MENDS[name] if value > bound else f"{bound - value:,.1f} more", kind="performance", detail=what,
        )
        for name, (value, bound, what) in bounds.items()
    ]  # fmt: skip
    rounds = np.array(ours["by_round"])
    drawn = np.random.default_rng(seed).integers(0, len(rounds), (RESAMPLES, len(rounds)))
    detail = f"ms an image, median; p95 {ours['milliseconds']['p95']:.3g}; one thread"
    spread = np.median(rounds[drawn], axis=1)
    checks.append(
        _timed("latency", float(np.median(rounds)), spread, gate.max_latency_ms, len(rounds), detail)
    )
    if theirs:
        other = np.array(theirs["by_round"])  # the rounds were run in turn: they share the machine's moods
        ratios = rounds / other
        detail = f"times the champion's {theirs['milliseconds']['median']:.3g} ms an image"
        spread = np.median(ratios[drawn], axis=1)
        checks.append(
            _timed("slowdown", float(np.median(ratios)), spread, gate.max_slowdown, len(rounds), detail)
        )
    return checks


def _timed(name: str, value: float, spread: np.ndarray, bound: float, rounds: int, detail: str) -> Check:
    low, high = (float(end) for end in np.quantile(spread, [0.025, 0.975]))
    outcome: Outcome = "pass" if value <= bound else "fail" if low > bound else "unknown"
    flip = f"{abs(value - bound):.3g} {'less' if value > bound else 'more'}"
    return Check(
        name, outcome, round(value, 4), [round(low, 4), round(high, 4)], bound, rounds, flip,
        kind="performance", detail=detail,
    )  # fmt: skip
