"""What a network is worth: metrics by slice, calibration, limits and the verdict."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.model_card.facts import Facts
from pipeline.model_card.markdown import escaped, interval, names, number, table

__all__ = ["calibration", "limits", "metrics", "verdict"]

OVERALL = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "nll": "log loss (nats)",
    "ece": "calibration error (ECE)",
}
SMALLEST = 5  # classes that are named as those with the fewest training images


def metrics(facts: Facts) -> str:
    test = facts.metrics.get("test", {})
    groups = f" in {test['groups']:,} groups" if "groups" in test else ""
    lines = [
        "## Metrics",
        "",
        f"Over {test.get('n', 0):,} test images{groups}, none of which was used for training or tuning; intervals are 95 %.",
        "",
        table(
            ("metric", "value", "95 % interval"),
            [
                (words, number(test[key]), interval(test.get(f"{key}_ci95")))
                for key, words in OVERALL.items()
                if key in test
            ],
        ),
    ]
    for key, parts in facts.metrics.items():
        if key.startswith("by_") and parts:
            lines += ["", _parts(key.removeprefix("by_").replace("_", " "), parts)]
    lines += ["", _classes(test.get("per_class", {}))]
    slices = [check for check in facts.verdict["checks"] if check.get("kind") == "slice"]
    return "\n".join(
        [*lines, *(["", "Slices that the verdict looked at:", "", _checks(slices)] if slices else [])]
    )


def _parts(title: str, parts: dict[str, Any]) -> str:
    rows = [
        (escaped(name), f"{row['n']:,}", number(row["accuracy"]), interval(row.get("accuracy_ci95")))
        for name, row in parts.items()
    ]
    return table((title, "test images", "accuracy", "95 % interval"), rows)


def _classes(per_class: dict[str, Any]) -> str:
    rows = [
        (
            escaped(name), f"{row['support']:,}", number(row["recall"]), interval(row.get("recall_ci95")),
            number(row["precision"]), number(row["f1"]),
        )
        for name, row in per_class.items()
    ]  # fmt: skip
    return table(("class", "test images", "recall", "95 % interval", "precision", "F1"), rows)


def calibration(facts: Facts) -> str:
    info, below = facts.info, facts.params.serve.abstain_below
    fitted = info.get("validation") or {}
    method = {"vector": "a scale and a bias for each class", "temperature": "one temperature"}.get(
        str(fitted.get("method"))
    )
    how = f", fitted to {fitted['n']:,} validation images" if "n" in fitted else ""
    lines = [
        "## Calibration and abstention",
        "",
        f"Confidence is calibrated by {method or 'one temperature'} ({number(info['temperature'])}){how}. What is left of the "
        "error on test images is the calibration error above.",
        "",
        f"As served it abstains below a confidence of {below:g} (`serve.abstain_below`)."
        if below
        else "As served it never abstains (`serve.abstain_below` is 0): whatever it is shown gets one of its classes.",
    ]
    return "\n".join(lines)


def limits(facts: Facts) -> str:
    per_class = facts.metrics.get("test", {}).get("per_class", {})
    least, domains = facts.params.gate.min_support, [source.domain for source in facts.params.data.sources]
    few = [name for name, row in per_class.items() if row["support"] < least]
    lines = [
        "## Limits",
        "",
        "- It knows its classes only, and takes an image of anything else for one of them.",
        f"- It was judged on {names(domains)} alone. Another camera, light or place is another domain: nothing here says how "
        "it does there, until `python -m flows.watch` has asked for labels of it.",
    ]
    if facts.split is not None:
        trained = Counter(row["label"] for row in facts.split.to_pylist() if row["split"] == "train")
        smallest = sorted((count, name) for name, count in trained.items())[:SMALLEST]
        said = ", ".join(f"{escaped(name)} ({count:,})" for count, name in smallest)
        lines.append(f"- The classes with the fewest training images: {said}.")
    if few:
        lines.append(f"- Too few test images (under {least}) to say much of: {names(few)}.")
    checks = facts.verdict["checks"]
    stress = [check for check in checks if check.get("kind") == "robustness"]
    tables = {
        "What the verdict left undecided:": [
            check for check in checks if check["outcome"] == "unknown" and check not in stress
        ],
        "Under disturbance (against a champion, the value is the difference of accuracy):": stress,
    }
    for title, found in tables.items():
        if found:
            lines += ["", title, "", _checks(found)]
    return "\n".join(lines)


def verdict(facts: Facts) -> str:
    verdict, champion = facts.verdict, facts.verdict["champion"]
    against = f"against the champion `{champion}`" if champion else "with no champion to compare with"
    lines = ["## Verdict", "", f"Judged {against}. {escaped(verdict.get('summary') or verdict['decision'])}"]
    if facts.approval:
        lines += ["", f"A person released it in spite of that: {escaped(facts.approval)}"]
    return "\n".join(lines)


def _checks(checks: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            escaped(check["name"]), number(check.get("value")), interval(check.get("ci95")), number(check.get("bound")),
            f"{check['support']:,}" if check.get("support") is not None else "", escaped(_said(check)),
        )
        for check in checks
    ]  # fmt: skip
    return table(("check", "value", "95 % interval", "bound", "images", "outcome"), rows)


def _said(check: dict[str, Any]) -> str:
    """The outcome, what it rests on, and where it is open what would decide it."""
    said = (
        "unknown, held it back"
        if check["outcome"] == "unknown" and check.get("decides")
        else check["outcome"]
    )
    reasons = [check["detail"]] if check.get("detail") else []
    if check["outcome"] != "pass" and check.get("would_flip"):
        reasons.append(f"would flip it: {check['would_flip']}")
    return "; ".join([said, *reasons])
