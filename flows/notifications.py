"""One message for what a person should know, through the Prefect notification block named ``visionloop``.

Any notification block will do (Slack, Teams, e-mail, a webhook of one's own): make it in Prefect's UI under
that name, and it is used; without one, nothing is sent. What was sent is kept in ``var/notified.json``, so that
each time an episode comes into a state is told once, however often the watch looks. A receiver that is down costs a
row in the journal, and the message goes out with the next look, for a day.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from prefect import get_run_logger

from flows.pages import plain
from monitoring.journal import Journal, Step
from monitoring.states import TRANSITIONS
from pipeline.artifacts import Workspace, read_json, write_json
from pipeline.errors import StateError
from pipeline.lock import alone
from pipeline.registry import Registry

if TYPE_CHECKING:
    from prefect.blocks.abstract import NotificationBlock

__all__ = ["BLOCK", "notify"]

BLOCK = "visionloop"
SUBJECTS = {
    "drift_open": "drift: labels are asked",
    "needs_human": "a person is needed",
    "approval_asked": "a release waits for approval",
    "rejected": "the challenger was not promoted",
    "failed": "a retrain broke",
    "promoted": "a new champion",
    "rolled_back": "rolled back",
}
MOVES = {"promote": "promoted", "rollback": "rolled_back"}
FRESH = timedelta(days=1)
"""Older news is none: a block that is made today does not tell of last month."""
SAME = timedelta(hours=1)
"""A move of the pointer and an episode's row of the same name, so close, are one piece of news."""
LOCK_SECONDS = 60.0


@dataclass(frozen=True)
class News:
    """What to tell, once: ``about`` an episode, a challenger or a move of the pointer that is in ``state``.

    ``entry`` counts how often it has come into that state: a person may be needed twice in one episode.
    """

    about: str
    state: str
    text: str
    entry: int = 1

    @property
    def key(self) -> str:
        return f"{self.about} {self.state}" + (f" {self.entry}" if self.entry > 1 else "")


def notify(workspace: Workspace, *, now: datetime) -> int:
    """Send what is new since the last call; the number of messages. It never raises: news are not the work itself."""
    logger = get_run_logger()
    try:
        block = _block()
        if block is None:
            logger.debug("no notification block is named %s: nothing is sent", BLOCK)
            return 0
        with (
            alone(workspace.home / "notify.lock", seconds=LOCK_SECONDS),
            Journal(workspace.journal) as journal,
        ):
            return _send(block, workspace, journal, now)
    except Exception as error:  # whatever keeps a message from going out, the flow goes on
        logger.warning("nobody was notified: %s: %s", type(error).__name__, error)
        return 0


def _send(block: "NotificationBlock", workspace: Workspace, journal: Journal, now: datetime) -> int:
    steps = journal.steps()
    path = workspace.home / "notified.json"
    sent: dict[str, str] = read_json(path) if path.exists() else {}
    before = len(sent)
    told = {step.detail.get("key") for step in steps if step.decision == "notify_failed"}
    tried = set(sent)
    for news in _news(workspace, steps, now - FRESH):
        if news.key in tried:
            continue
        tried.add(news.key)
        subject = f"visionloop: {SUBJECTS[news.state]}"
        try:
            block.notify(plain(news.text), subject=subject)
        except Exception as error:  # httpx's, apprise's, the receiver's own
            said = f"“{subject}” did not go out: {type(error).__name__}: {plain(error)}"
            get_run_logger().warning("%s; the next look tries again", said)
            if news.key not in told:
                journal.record(
                    Step(time=now, decision="notify_failed", reason=said, detail={"key": news.key})
                )
            continue
        sent[news.key] = now.isoformat()
        write_json(path, sent)
    return len(sent) - before


def _news(workspace: Workspace, steps: Sequence[Step], since: datetime) -> Iterator[News]:
    """Rows of the journal, then moves of the pointer that no row tells of."""
    fresh = []
    for step, entry in _entries(steps):
        if step.time < since or step.decision not in SUBJECTS:
            continue
        fresh.append(step)
        asked = step.detail.get("flow_run") or step.detail.get("challenger")
        if step.decision == "approval_asked" and asked:
            yield News(asked, step.decision, step.reason)
        elif step.decision != "approval_asked" and step.episode:
            yield News(step.episode, step.decision, step.reason, entry)
    try:
        moves = Registry(workspace.registry).history()
    except StateError:
        return  # a damaged registry is the watch's to report
    for move in moves:
        time, state = datetime.fromisoformat(move["since"]), MOVES.get(move.get("action", ""))
        if (
            state is None
            or time < since
            or any(s.decision == state and abs(s.time - time) < SAME for s in fresh)
        ):
            continue
        digest = move["digest"][:12]
        yield News(f"{digest}@{move['since']}", state, f"{digest}, by {move['by']}: {move['why']}")


def _entries(steps: Sequence[Step]) -> Iterator[tuple[Step, int]]:
    """Each row, and how often its episode has come into the row's state by then.

    A wake-up repeats the row of a state that lasts: that is no entry, where no row of another state, and nobody's
    approval, lies in between.
    """
    standing: dict[str | None, str] = {}
    entries: Counter[tuple[str | None, str]] = Counter()
    for step in steps:
        key = (step.episode, step.decision)
        if step.decision in TRANSITIONS or step.decision == "approved":
            entries[key] += standing.get(step.episode) != step.decision
            standing[step.episode] = step.decision
        yield step, entries[key]


def _block() -> "NotificationBlock | None":
    """The block of that name, of whatever kind it is."""
    import prefect.blocks.notifications  # noqa: F401  (its kinds are known once it is imported)
    from prefect.blocks.abstract import NotificationBlock
    from prefect.blocks.core import Block
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = [document for document in client.read_block_documents() if document.name == BLOCK]
    for document in found:
        block = Block.load(f"{document.block_type.slug}/{BLOCK}") if document.block_type else None
        if isinstance(block, NotificationBlock):
            return block
    return None
