"""The verdict: PROMOTE, REJECT or INSUFFICIENT_EVIDENCE, and why.

    python -m pipeline gate

Any failed check rejects; otherwise any unknown check that decides leaves it to a person; otherwise the challenger
is promoted. A verdict is a result: the exit code is 0 whatever it says.
"""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import artifacts
from pipeline.artifacts import Workspace
from pipeline.bundle import verify
from pipeline.checks import Check, absolute, integrity, metrics_fault, predictions_fault
from pipeline.comparison import compare
from pipeline.errors import DataError, IntegrityError
from pipeline.evaluate import read_origin, summarise
from pipeline.intervals import codes
from pipeline.params import Params

Decision = Literal["PROMOTE", "REJECT", "INSUFFICIENT_EVIDENCE"]
ROWS_SHOWN = 40


@dataclass(frozen=True)
class Evidence:
    """All that a verdict is made from; the tables are of the PREDICTIONS schema."""

    challenger: str  # the bundle's digest
    damage: str | None  # why the bundle is not what its digest says
    info: dict[str, Any]  # bundle.json
    predictions: pa.Table
    origin: dict[str, Any]  # which bundle made the predictions, with which classes
    metrics: dict[str, Any]
    validation: dict[str, Any]
    champion: str | None  # the pinned digest
    champion_predictions: pa.Table
    champion_origin: dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What verdict.json holds."""

    decision: Decision
    summary: str
    challenger: str
    champion: str | None
    checks: list[Check]


def judge(evidence: Evidence, params: Params) -> Verdict:
    """The verdict on ``evidence``. Where the evidence itself is in doubt, nothing else is looked at."""
    checks = _integrity_checks(evidence, params)
    if all(check.outcome == "pass" for check in checks):
        test = evidence.predictions.filter(pc.equal(evidence.predictions["split"], "test"))
        classes = evidence.info["classes"]
        checks += absolute(
            test, summarise(evidence.predictions, evidence.info, params)["test"], classes, params.gate
        )
        if evidence.champion:
            checks += _comparison_checks(evidence, test, params)
    decision = decide(checks)
    return Verdict(decision, _summary(decision, checks), evidence.challenger, evidence.champion, checks)


def decide(checks: list[Check]) -> Decision:
    """Any fail rejects; any unknown that decides is not for a machine to decide."""
    if any(check.outcome == "fail" for check in checks):
        return "REJECT"
    if any(check.outcome == "unknown" and check.decides for check in checks):
        return "INSUFFICIENT_EVIDENCE"
    return "PROMOTE"


def _integrity_checks(evidence: Evidence, params: Params) -> list[Check]:
    """Is what was measured what would ship, and is what was written what was measured?"""
    checks = [
        integrity(
            "bundle", evidence.damage, f"every file of {evidence.challenger[:12]} is as sealed", "`dvc repro`"
        ),
        integrity(
            "data",
            None
            if evidence.validation.get("success") is True
            else "reports/validation.json says that the data failed",
            "the data passed its validation",
            "mend the data that `python -m pipeline validate` lists, then `dvc repro`",
        ),
    ]
    if evidence.damage:
        return checks
    classes = evidence.info["classes"]
    fault = predictions_fault(evidence.predictions, evidence.origin, evidence.challenger, classes)
    rerun = "`dvc repro -f evaluate`"
    checks.append(integrity("predictions", fault, "made by this bundle, row by row consistent", rerun))
    if not fault:
        computed = summarise(evidence.predictions, evidence.info, params)
        difference = metrics_fault(evidence.metrics, computed)
        fault = f"metrics.json is not what the predictions give: {difference}" if difference else None
        checks.append(integrity("metrics", fault, "metrics.json follows from the predictions", rerun))
    if evidence.champion:
        checks.append(
            integrity(
                "test_images", _champion_fault(evidence), "both were asked about the same images", rerun
            )
        )
    return checks


def _champion_fault(evidence: Evidence) -> str | None:
    """What makes the champion's predictions no fair comparison."""
    made_by = evidence.champion_origin.get("bundle")
    if made_by != evidence.champion:
        return f"champion-pin.json names {str(evidence.champion)[:12]}, its predictions are by {str(made_by)[:12]}"
    theirs = evidence.champion_predictions
    ours = evidence.predictions.filter(pc.equal(evidence.predictions["split"], "test"))
    names = [
        dict(zip(table["image_id"].to_pylist(), table["label"].to_pylist(), strict=True))
        for table in (ours, theirs)
    ]
    if names[0] != names[1] or ours.num_rows != theirs.num_rows:
        missing, foreign = len(names[0].keys() - names[1].keys()), len(names[1].keys() - names[0].keys())
        return (
            f"the champion was asked about other test images or labels: {missing} of {ours.num_rows} are missing, "
            f"{foreign} are foreign"
        )
    return None


def _comparison_checks(evidence: Evidence, test: pa.Table, params: Params) -> list[Check]:
    """Against the champion, over the images of the classes that it knows."""
    known = list(evidence.champion_origin["classes"])
    lost = sorted(set(known) - set(evidence.info["classes"]))
    new = sorted(set(evidence.info["classes"]) - set(known))
    classes = Check(
        "classes",
        "fail" if lost else "pass",
        support=len(evidence.info["classes"]),
        would_flip=f"training images of {', '.join(lost)}" if lost else None,
        kind="comparison",
        detail=f"no longer known: {', '.join(lost)}" if lost else f"new: {', '.join(new) or 'none'}",
    )
    champion = evidence.champion_predictions
    right = dict(zip(champion["image_id"].to_pylist(), champion["correct"].to_pylist(), strict=True))
    shared = test.filter(pc.is_in(test["label"], value_set=pa.array(known, pa.string())))
    if shared.num_rows == 0:
        flip = "test images of the classes that the champion knows"
        return [classes, Check("noninferiority", "unknown", support=0, would_flip=flip, kind="comparison")]
    theirs = np.array([right[image_id] for image_id in shared["image_id"].to_pylist()], dtype=float)
    difference = shared["correct"].to_numpy(zero_copy_only=False).astype(float) - theirs
    parts = {}
    for kind, column in (("domain", "domain"), ("class", "label")):
        values = np.array(shared[column].to_pylist(), dtype=object)
        if len(set(values)) > 1:
            parts[kind] = {name: values == name for name in sorted(set(values))}
    return [
        classes,
        *compare(difference, codes(shared["group"].to_pylist()), parts, params.gate, params.seed),
    ]


def _summary(decision: Decision, checks: list[Check]) -> str:
    failed = [check for check in checks if check.outcome == "fail"]
    open_ = [check for check in checks if check.outcome == "unknown" and check.decides]
    shown = [check for check in checks if check.outcome == "unknown" and not check.decides]
    text = f"{decision}: {sum(check.outcome == 'pass' for check in checks)} of {len(checks)} checks pass"
    if failed:
        text += f"; failed: {', '.join(check.name for check in failed)}"
    if open_:
        text += f"; can't be decided: {', '.join(check.name for check in open_)}"
    if shown:
        text += f"; too few images to say, nothing against it: {', '.join(check.name for check in shown)}"
    against = next(
        (check for check in checks if check.name == "noninferiority" and check.value is not None), None
    )
    if against:
        text += f". Against the champion: {against.value:+.3f} ({against.detail} of {against.support})"
    return text + "."


def run(workspace: Workspace, params: Params) -> int:
    """Predictions, metrics, bundle and pin → ``reports/verdict.json``; 0 whatever the verdict."""
    verdict = judge(gather(workspace), params)
    artifacts.write_json(workspace.verdict, asdict(verdict))
    print(report(verdict))
    return 0


def gather(workspace: Workspace) -> Evidence:
    """Read the evidence; a damaged bundle is part of it.

    Raises:
        DataError: a file is missing, damaged or of another shape.
    """
    try:
        challenger, damage = verify(workspace.bundle), None
        info = artifacts.read_json(workspace.bundle / "bundle.json")
    except IntegrityError as error:
        raw = workspace.bundle / "bundle.json"
        challenger = hashlib.sha256(raw.read_bytes()).hexdigest() if raw.exists() else "missing"
        damage, info = str(error), {}
    pin = artifacts.read_json(workspace.champion_pin)
    if not isinstance(pin, dict) or "digest" not in pin:
        raise DataError('champion-pin.json must be {"digest": ...}: run `python -m pipeline.registry pin`')
    return Evidence(
        challenger=challenger,
        damage=damage,
        info=info,
        predictions=artifacts.read_table(workspace.predictions, artifacts.PREDICTIONS),
        origin=read_origin(workspace.predictions),
        metrics=artifacts.read_json(workspace.metrics),
        validation=artifacts.read_json(workspace.validation),
        champion=pin["digest"],
        champion_predictions=artifacts.read_table(workspace.champion_predictions, artifacts.PREDICTIONS),
        champion_origin=read_origin(workspace.champion_predictions),
    )


def report(verdict: Verdict) -> str:
    """The verdict as a table, what would flip what did not pass, and the summary."""
    checks = verdict.checks
    if len(checks) > ROWS_SHOWN:  # of many classes, those that did not pass and the worst
        checks = [
            c for i, c in enumerate(checks) if c.outcome != "pass" or "/" not in c.name or i < ROWS_SHOWN // 2
        ]
    width = max(len(check.name) for check in checks) + 2
    lines = [f"{'check':<{width}}{'value':>8}{'95 % interval':>20}{'bound':>10}{'images':>8}  outcome"]
    for check in checks:
        value = "" if check.value is None else f"{check.value:.3f}"
        interval = f"{check.ci95[0]:.3f} to {check.ci95[1]:.3f}" if check.ci95 else ""
        sign = "<=" if check.name == "ece" else ">="
        bound = "" if check.bound is None else f"{sign} {check.bound:g}"
        support = "" if check.support is None else f"{check.support:,}"
        held = " (holds it back)" if check.outcome == "unknown" and check.decides else ""
        lines.append(
            f"{check.name:<{width}}{value:>8}{interval:>20}{bound:>10}{support:>8}  {check.outcome}{held}"
        )
    for check in checks:
        if check.outcome != "pass":
            reason = f"{check.detail}; " if check.detail else ""
            lines.append(
                f"{check.name}: {reason}{check.outcome}, what would flip it: {check.would_flip or 'nothing known'}"
            )
    return "\n".join([*lines, verdict.summary])


__all__ = ["Evidence", "Verdict", "decide", "gather", "judge", "report", "run"]
