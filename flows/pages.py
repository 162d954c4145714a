"""What Prefect's UI shows of a retrain: tables and short pages made from the stages' own reports.

Class names, paths and reasons come from disk and from people: Prefect renders every string as Markdown,
so each passes through :func:`plain`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.artifacts import Workspace, read_json

__all__ = ["against", "plain", "publish", "verdict_page"]

LONGEST = 1000
# Prefect's tables show entities and backslashes as they are, so what Markdown or HTML would act on is replaced by a
# sign that looks like it.
_ACTIVE = str.maketrans(dict(zip("\\`*[]<>|~&", "＼ˋ∗［］‹›¦∼＆", strict=True)))


def plain(text: object) -> str:
    """``text`` as one line that Markdown and HTML leave as it is; signs that they act on become look-alikes."""
    line = " ".join(str(text).split()).replace("://", ":∕∕").replace("www.", "www․")
    return (line if len(line) <= LONGEST else line[: LONGEST - 1] + "…").translate(_ACTIVE)


def publish(stage: str, workspace: Workspace) -> None:
    """Attach the report of ``stage`` to the running task; a stage without a report of its own has none."""
    name = stage.split("@")[0]
    if name not in _PAGES:
        return
    source, make = _PAGES[name]
    path = workspace.root / source
    if path.is_file():
        make(read_json(path))


def _validation(report: dict[str, Any]) -> None:
    from prefect.artifacts import create_table_artifact

    rows = [
        {
            "expectation": plain(check["name"]),
            "outcome": "pass" if check["success"] else f"**{plain(check['severity'])}**",
            "observed": plain(check["observed"]),
            "examples": plain(", ".join(map(str, check.get("examples") or []))),
        }
        for check in sorted(report["expectations"], key=lambda check: bool(check["success"]))
    ]
    failed = sum(1 for check in report["expectations"] if not check["success"])
    description = f"{len(rows)} expectations, {failed} not met. Data Docs: reports/data_docs/index.html"
    create_table_artifact(table=rows, key="validation", description=description)


def _balance(report: dict[str, Any]) -> None:
    from prefect.artifacts import create_table_artifact

    rows = [
        {"class": plain(name), **{key: _number(value) for key, value in row.items()}}
        for name, row in report["classes"].items()
    ]
    description = f"Plan: **{plain(report['plan'])}**. {plain(report['reason'])}"
    create_table_artifact(table=rows, key="balance", description=description)


def _checkpoint(report: dict[str, Any]) -> None:
    from prefect.artifacts import create_markdown_artifact

    head = f"# {plain(report['strategy'])} on {plain(report['backbone'])}\n\n"
    create_markdown_artifact(
        markdown=head + plain(report.get("report", "")),
        key="training",
        description="What was trained, and why",
    )


def _metrics(report: dict[str, Any]) -> None:
    from prefect.artifacts import create_table_artifact

    test = report["test"]
    low, high = test["accuracy_ci95"]
    rows = [
        {"class": plain(name), **{key: _number(value) for key, value in row.items()}}
        for name, row in test["per_class"].items()
    ]
    domains = "; ".join(
        f"{plain(name)} {row['accuracy']:.3f} (n={row['n']})"
        for name, row in report.get("by_domain", {}).items()
    )
    description = (
        f"Test accuracy **{test['accuracy']:.3f}** (95 %: {low:.3f} to {high:.3f}, n={test['n']}), "
        f"macro F1 {test['macro_f1']:.3f}, ECE {test['ece']:.3f}. By domain: {domains or 'one only'}"
    )
    create_table_artifact(table=rows, key="metrics", description=description)


def against(verdict: dict[str, Any]) -> list[dict[str, Any]]:
    """The checks that keep it from PROMOTE: failed, or unknown where that decides."""
    return [
        check
        for check in verdict["checks"]
        if check["outcome"] == "fail" or (check["outcome"] == "unknown" and check.get("decides", True))
    ]


def verdict_page(verdict: dict[str, Any]) -> str:
    """The verdict as Markdown: the decision, then every check, those that stand against it first."""
    order = {"fail": 0, "unknown": 1, "pass": 2}
    champion = verdict.get("champion")
    lines = [
        f"# {plain(verdict['decision'])}",
        "",
        f"Challenger {plain(str(verdict['challenger'])[:12])}, "
        + (f"against champion {plain(champion[:12])}." if champion else "no champion yet."),
        "",
        "| check | outcome | value | 95 % interval | bound | support |",
        "|---|---|---|---|---|---|",
    ]
    checks = sorted(verdict["checks"], key=lambda check: order.get(check["outcome"], 0))
    for check in checks:
        interval = check.get("ci95")
        cells = (
            plain(check["name"]),
            plain(check["outcome"]),
            _number(check.get("value")),
            "" if interval is None else f"{_number(interval[0])} to {_number(interval[1])}",
            _number(check.get("bound")),
            _number(check.get("support")),
        )
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    # Sentences below the table: the UI's tables don't wrap.
    lines += ["", "## In words", ""]
    for check in checks:
        words = " ".join(plain(check.get(key) or "") for key in ("detail", "would_flip")).strip()
        lines += [f"- {plain(check['name'])} ({check['outcome']}): {words}"] if words else []
    return "\n".join(lines) + "\n"


def _verdict(report: dict[str, Any]) -> None:
    from prefect.artifacts import create_markdown_artifact

    create_markdown_artifact(
        markdown=verdict_page(report), key="verdict", description=plain(report["decision"])
    )


def _number(value: Any) -> Any:
    """Numbers short enough for a table; anything else as plain text."""
    if value is None:
        return ""
    if isinstance(value, float):
        return round(value, 4)
    return value if isinstance(value, (int, bool)) else plain(value)


_PAGES: dict[str, tuple[str | Path, Callable[[dict[str, Any]], None]]] = {
    "validate": ("reports/validation.json", _validation),
    "balance": ("artifacts/balance.json", _balance),
    "train": ("artifacts/checkpoint/checkpoint.json", _checkpoint),
    "evaluate": ("reports/metrics.json", _metrics),
    "gate": ("reports/verdict.json", _verdict),
}
