"""Decisions as sentences with figures."""

from datetime import datetime

from monitoring.drift import Decision


def evidence_in_words(decision: Decision, since: datetime | None) -> str:
    """The figures behind a decision, in a sentence."""
    bar = f"evidence 10^{decision.log10_e:.1f}, the alarm is at 10^{decision.log10_threshold:.1f}"
    if not decision.alarm:
        name, p = min(decision.adjusted.items(), key=lambda item: item[1])
        return f"no drift in {decision.images} images: {bar}; smallest batch p {p:.2g} ({name})"
    lead = decision.leads[0]
    when = f" of {since:%Y-%m-%d %H:%M:%S} UTC" if since else ""
    what = f"{_event(lead.statistic, lead.direction)} in {lead.share:.0%} of the last window"
    began = f"since image {decision.onset + 1}{when}"
    return f"{what}, at most {lead.chance:.0%} is expected, {began}; {bar}."


def _event(statistic: str, direction: str) -> str:
    if direction in ("more", "less"):
        return (
            f"class {statistic!r} is predicted"
            if direction == "more"
            else f"class {statistic!r} is not predicted"
        )
    word = {"novelty": "distance to known images", "confidence": "the model's confidence"}.get(
        statistic, statistic
    )
    return f"{word} is unusually {'high' if direction == 'up' else 'low'}"
