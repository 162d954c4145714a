"""The whole card."""

from pipeline.model_card.facts import Facts, gather
from pipeline.model_card.markdown import escaped, names
from pipeline.model_card.origin import data, licences, training
from pipeline.model_card.worth import calibration, limits, metrics, verdict

__all__ = ["Facts", "card", "gather"]


def card(facts: Facts) -> str:
    """The card as Markdown; the same facts give the same text."""
    sections = (_head, data, training, metrics, calibration, limits, verdict, licences)
    return "\n\n".join(section(facts) for section in sections) + "\n"


def _head(facts: Facts) -> str:
    info = facts.info
    return (
        f"# Model card: {escaped(info.get('strategy'))} on {escaped(info.get('backbone'))}\n\n"
        f"An image classifier of {len(info['classes'])} classes: {names(info['classes'])}. Bundle `{facts.digest}`, "
        f"judged {escaped(facts.verdict['decision'])}."
    )
