"""The states of an episode and the moves between them; what is not in the table is refused. Pure.

    monitoring → drift_open → awaiting_labels → dataset_frozen → training → evaluating → infra_validating
    → shadow → promoted → observing → monitoring

``monitoring`` stands at both ends: nothing is open. Off the path: ``rejected`` (the verdict speaks against the
challenger; a person is asked next), ``failed`` (something broke; it may be tried again), ``needs_human``,
``dismissed`` (a person: no new model needed), ``rolled_back`` (the new champion was worse than the old one),
``superseded`` (somebody else became champion meanwhile).
"""

WORKING = ("dataset_frozen", "training", "evaluating", "infra_validating")
"""A worker is at it, and holds the episode's lease."""
STANDING = ("promoted", "observing")
"""The episode's challenger is champion."""
CLOSED = ("monitoring", "dismissed", "rolled_back", "superseded")
_ENDS = ("dismissed", "superseded")

TRANSITIONS: dict[str, tuple[str, ...]] = {
    "monitoring": ("drift_open",),
    "drift_open": ("awaiting_labels", "needs_human", *_ENDS),
    "awaiting_labels": ("dataset_frozen", "needs_human", *_ENDS),
    "dataset_frozen": ("training", "failed", *_ENDS),
    "training": ("evaluating", "failed", *_ENDS),
    "evaluating": ("infra_validating", "rejected", "needs_human", "failed", *_ENDS),
    "infra_validating": ("shadow", "promoted", "needs_human", "failed", *_ENDS),
    "shadow": ("promoted", "needs_human", "failed", *_ENDS),
    "promoted": ("observing", "monitoring", "rolled_back", "superseded"),
    "observing": ("monitoring", "rolled_back", "superseded"),
    "rejected": ("needs_human", *_ENDS),
    "failed": ("dataset_frozen", "infra_validating", "needs_human", *_ENDS),
    "needs_human": ("awaiting_labels", "infra_validating", *_ENDS),
}
OPEN = tuple(state for state in TRANSITIONS if state not in CLOSED)


def allowed(before: str, after: str) -> bool:
    """May an episode go from one state to the other? Closed ones stay closed: the next drift is another episode."""
    return after in TRANSITIONS.get(before, ())
