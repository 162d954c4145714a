"""The verdict: PROMOTE, REJECT or INSUFFICIENT_EVIDENCE, and why.

    python -m pipeline gate

Any failed check rejects; otherwise any unknown check that decides leaves it to a person; otherwise the challenger
is promoted. A verdict is a result: the exit code is 0 whatever it says.
"""

from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import artifacts
from pipeline.architecture import architecture
from pipeline.artifacts import Workspace
from pipeline.budget import performance_checks
from pipeline.checks import AT_MOST, Check, absolute
from pipeline.comparison import compare
from pipeline.evaluate import summarise
from pipeline.evidence import Evidence, gather, without_copies
from pipeline.integrity import integrity_checks
from pipeline.intervals import codes, mcnemar
from pipeline.params import Params
from pipeline.past_images import past_checks
from pipeline.peeks import check as peek_check
from pipeline.relabelled import relabelled
from pipeline.robustness import abstention_checks, robustness_checks
from pipeline.slices import slice_checks
from pipeline.verdict_page import page as verdict_page

__all__ = ["Verdict", "decide", "judge", "report", "run"]

Decision = Literal["PROMOTE", "REJECT", "INSUFFICIENT_EVIDENCE"]
ROWS_SHOWN = 40


@dataclass(frozen=True)
class Verdict:
    """What verdict.json holds."""

    decision: Decision
    summary: str
    challenger: str
    champion: str | None
    format: str  # of the bundle's networks, the one that was judged: onnx or int8
    checks: list[Check]


def judge(evidence: Evidence, params: Params) -> Verdict:
    """The verdict on ``evidence``. Where the evidence itself is in doubt, nothing else is looked at."""
    checks = integrity_checks(evidence, params)
    if all(check.outcome != "fail" for check in checks):
        evidence = without_copies(evidence)
        test = evidence.predictions.filter(pc.equal(evidence.predictions["split"], "test"))
        checks += _alone(evidence, test, params)
        if evidence.champion:
            checks += _comparison_checks(evidence, test, params)
        checks += _under_stress(evidence, test, params)
        checks += performance_checks(evidence.performance, params.gate, params.seed)
        checks += past_checks(evidence.past)
        checks.append(peek_check(evidence.peek, params.gate.max_peeks, test.num_rows))
    decision = decide(checks)
    return Verdict(
        decision=decision, summary=_summary(decision, checks), challenger=evidence.challenger,
        champion=evidence.champion, format=evidence.form, checks=checks,
    )  # fmt: skip


def _alone(evidence: Evidence, test: pa.Table, params: Params) -> list[Check]:
    """What the test images say of the challenger itself, over all and by slice."""
    whole = (
        not evidence.alike
    )  # then metrics.json, which was compared with the predictions, is about all of them
    metrics = (evidence.metrics if whole else summarise(evidence.predictions, evidence.info, params))["test"]
    correct = test["correct"].to_numpy(zero_copy_only=False)
    return absolute(test, metrics, evidence.info["classes"], params.gate) + slice_checks(
        correct, test["group"].to_pylist(), evidence.masks, params.gate
    )


def _under_stress(evidence: Evidence, test: pa.Table, params: Params) -> list[Check]:
    known = set(evidence.champion_origin["classes"] if evidence.champion else evidence.info["classes"])
    columns = (test[name].to_pylist() for name in ("image_id", "group", "label"))
    groups = {image_id: group for image_id, group, label in zip(*columns, strict=True) if label in known}
    confidence = test["confidence"].to_numpy(zero_copy_only=False)
    return robustness_checks(
        evidence.stress, evidence.challenger, evidence.champion, groups, params.gate
    ) + abstention_checks(
        evidence.stress, evidence.challenger, confidence, params.serve.abstain_below, params.gate
    )


def decide(checks: list[Check]) -> Decision:
    """Any fail rejects; any unknown that decides is not for a machine to decide."""
    if any(check.outcome == "fail" for check in checks):
        return "REJECT"
    if any(check.outcome == "unknown" and check.decides for check in checks):
        return "INSUFFICIENT_EVIDENCE"
    return "PROMOTE"


def _comparison_checks(evidence: Evidence, test: pa.Table, params: Params) -> list[Check]:
    """Against the champion, over the images of the classes that it knows."""
    known = list(evidence.champion_origin["classes"])
    lost = sorted(set(known) - set(evidence.info["classes"]))
    new = sorted(set(evidence.info["classes"]) - set(known))
    classes = Check(
        "classes",
        "fail" if lost else "pass",
        float(len(lost)),
        bound=0.0,
        support=len(evidence.info["classes"]),
        would_flip=f"training images of {', '.join(lost)}"
        if lost
        else "any class of the champion's that is lost",
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
    rows = np.isin(test["image_id"].to_pylist(), shared["image_id"].to_pylist())
    labels = np.array(shared["label"].to_pylist(), dtype=object)
    parts = {
        kind: {name: mask[rows] for name, mask in masks.items()} for kind, masks in evidence.masks.items()
    }
    parts["class"] = {name: labels == name for name in sorted(set(labels))}
    parts = {
        kind: {name: mask for name, mask in found.items() if mask.any()} for kind, found in parts.items()
    }
    parts = {kind: found for kind, found in parts.items() if len(found) > 1}
    overall, *rest = compare(difference, codes(shared["group"].to_pylist()), parts, params.gate)
    chance = mcnemar(int((difference > 0).sum()), int((difference < 0).sum()))
    told = replace(overall, detail=f"{overall.detail}; McNemar's exact test p = {chance:.2g}")
    now = dict(zip(test["image_id"].to_pylist(), test["label"].to_pylist(), strict=True))
    built = architecture(evidence.info, evidence.champion_info)
    return [classes, built, relabelled(now, evidence.champion_labels), told, *rest]


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
        text += f"; undecided, nothing against it: {', '.join(check.name for check in shown)}"
    against = next(
        (check for check in checks if check.name == "noninferiority" and check.value is not None), None
    )
    if against:
        text += f". Against the champion: {against.value:+.3f} ({against.detail} of {against.support})"
    return text + "."


def run(workspace: Workspace, params: Params) -> int:
    """Predictions, metrics, bundle and pin → ``reports/verdict.json`` and its page; 0 whatever the verdict."""
    evidence = gather(workspace, params)
    verdict = judge(evidence, params)
    artifacts.write_json(workspace.verdict, asdict(verdict))
    judged = verdict_page.Judged(
        info=evidence.info, ours=evidence.predictions, theirs=evidence.champion_predictions,
        known=evidence.champion_origin.get("classes", []), masks=evidence.masks,
    )  # fmt: skip
    verdict_page.write(workspace, params, asdict(verdict), judged)
    print(report(verdict))
    return 0


def report(verdict: Verdict) -> str:
    """The verdict as a table, what would flip what did not pass, and the summary."""
    checks = verdict.checks
    if len(checks) > ROWS_SHOWN:  # of many classes, those that did not pass and the worst
        checks = [
            c for i, c in enumerate(checks) if c.outcome != "pass" or "/" not in c.name or i < ROWS_SHOWN // 2
        ]
    width = max(len(check.name) for check in checks) + 2
    lines = [f"{'check':<{width}}{'value':>8}{'95 % interval':>20}{'bound':>10}{'support':>8}  outcome"]
    for check in checks:
        value = "" if check.value is None else f"{check.value:.{'0e' if 0 < check.value < 5e-4 else '3f'}}"
        interval = f"{check.ci95[0]:.3f} to {check.ci95[1]:.3f}" if check.ci95 else ""
        sign = "<=" if check.name.split("/")[0] in AT_MOST else ">="
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
