"""The gate: every check refuses when its fault is planted, and the decision's error rates are what they should be."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from benchmarks.verdicts import masks, reference
from pipeline import artifacts, evaluate, gate, leak, performance, stress
from pipeline.artifacts import Workspace, digest_file
from pipeline.checks import Check
from pipeline.comparison import compare
from pipeline.corruptions import CORRUPTIONS, SEVERITIES
from pipeline.errors import DataError
from pipeline.evaluate import summarise, tabulate
from pipeline.evidence import Evidence
from pipeline.foreign import FOREIGN
from pipeline.gate import Verdict, decide, judge, report
from pipeline.params import Evaluate, Gate, Params
from pipeline.registry import Registry
from pipeline.rejudged import verdict_fault
from pipeline.transfer.calibration import fit_temperature
from tests import tiny_bundle

CLASSES = ["clean", "crack", "pit"]
PARAMS = Params(evaluate=Evaluate(bootstrap=100), gate=Gate(min_class_recall=0.6))
OURS, THEIRS = "c" * 64, "a" * 64
LABELS = np.repeat([0, 1, 2], [120, 80, 50])


def predictions(
    right: np.ndarray,
    labels: np.ndarray = LABELS,
    *,
    digest: str = OURS,
    classes: list[str] = CLASSES,
    confidence: float = 0.9,
    domains: list[str] | None = None,
    groups: list[str] | None = None,
) -> pa.Table:
    """A table in which image i is ``right[i]``; a wrong one is taken for the next class."""
    n, c = len(labels), len(classes)
    named = np.where(right, labels, (labels + 1) % c)
    probabilities = np.full((n, c), (1 - confidence) / (c - 1))
    probabilities[np.arange(n), named] = confidence
    columns = {
        "image_id": [f"{i:04}" for i in range(n)],
        "path": [f"{i}.jpg" for i in range(n)],
        "label": [CLASSES[label] for label in labels],
        "domain": domains or ["line-a"] * n,
        "group": groups or [f"part-{i}" for i in range(n)],
        "split": ["test"] * n,
        "reason": ["assigned"] * n,
    }
    return tabulate(
        pa.table(columns, schema=artifacts.SPLIT), probabilities.astype(np.float32), classes, digest
    )


def errors(count: int, labels: np.ndarray = LABELS, seed: int = 0) -> np.ndarray:
    """Everything right but ``count`` images, spread by chance."""
    right = np.ones(len(labels), dtype=bool)
    right[np.random.default_rng(seed).permutation(len(labels))[:count]] = False
    return right


def evidence(ours: pa.Table, theirs: pa.Table | None = None, **changes: Any) -> Evidence:
    info = {
        "classes": CLASSES,
        "strategy": "probe",
        "backbone": "x",
        "preprocessing": tiny_bundle.PREPROCESSING.to_dict(),
        "fingerprint": tiny_bundle.PREPROCESSING.fingerprint(),
        "temperature": 1.0,
        "parity": {"error": 1e-6, "limit": 1e-3},
        "validation": {"method": "temperature"},
        "weights": {"digest": "w", "licence": "Apache-2.0"},
        "digests": dict.fromkeys(("manifest", "split", "params", "lock", "weights"), "d" * 64),
        "code": {"commit": "e" * 40, "dirty": False},
    }
    bundles = [OURS] if theirs is None else [OURS, THEIRS]
    facts: dict[str, Any] = {
        "challenger": OURS,
        "damage": None,
        "info": info,
        "predictions": ours,
        "origin": {"bundle": OURS, "classes": CLASSES},
        "metrics": summarise(ours, info, PARAMS) | {"seconds": {"predict": 1.0}},
        "validation": {"success": True, "expectations": []},
        "champion": THEIRS if theirs is not None else None,
        "champion_predictions": theirs if theirs is not None else artifacts.PREDICTIONS.empty_table(),
        "champion_origin": {"bundle": THEIRS, "classes": CLASSES} if theirs is not None else {},
        "champion_labels": {},
        "form": "onnx",
        "references": {"onnx": reference(ours)},
        "head": (np.eye(len(CLASSES)), np.zeros(len(CLASSES))),
        "sources": {"manifest": "d" * 64, "split": "d" * 64},
        "masks": masks(ours.filter(pa.compute.equal(ours["split"], "test"))),
        "stress": stressed(bundles),
        "stress_origin": {"bundles": bundles},
        "performance": {"challenger": timed(OURS), "champion": timed(THEIRS) if theirs is not None else None},
        "leak": None,
        "alike": frozenset(),
        "peek": 1,
    }
    return Evidence(**facts | changes)


def stressed(bundles: list[str], right: dict[str, float] | None = None, images: int = 60) -> pa.Table:
    """Each bundle names the first ``right`` share of the images under every corruption; of foreign ones it is unsure."""
    rows = []
    for digest in bundles:
        share = (right or {}).get(digest, 0.7)
        for name, severity in [("clean", 0), *((n, s) for n in CORRUPTIONS for s in SEVERITIES)]:
            for number in range(images):
                correct = number < share * images
                rows.append((digest, f"{number:04}", "corruption", name, severity, "crack", 0.9, correct))
        for name in FOREIGN:
            rows += [(digest, None, "foreign", name, 0, "crack", 0.3 + 0.01 * n, None) for n in range(40)]
    columns = dict(zip(artifacts.STRESS.names, zip(*rows, strict=True), strict=True))
    return pa.table(
        {f.name: pa.array(columns[f.name], f.type) for f in artifacts.STRESS}, schema=artifacts.STRESS
    )


def timed(digest: str, milliseconds: float = 10.0, megabytes: float = 12.0) -> dict[str, Any]:
    rounds = [milliseconds * (1 + 0.02 * (number % 3)) for number in range(12)]
    return {
        "digest": digest,
        "megabytes": megabytes,
        "memory_megabytes": 180.0,
        "cold_start_seconds": 1.5,
        "milliseconds": {"median": milliseconds, "p95": 1.2 * milliseconds},
        "by_round": rounds,
    }


def outcome(verdict: Verdict, name: str) -> Check:
    return next(check for check in verdict.checks if check.name == name)


def failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if check.outcome == "fail"]


NUMBERLESS = {"integrity_bundle", "integrity_predictions", "integrity_fingerprint", "integrity_metrics",
              "integrity_companions"}  # fmt: skip


def complete(checks: list[Check]) -> None:
    """Each check has its columns, and an interval holds the value that it is of."""
    for check in checks:
        assert check.would_flip, check.name
        if check.name in NUMBERLESS or (check.name == "integrity_calibration" and not check.support):
            continue  # and there are no validation images to fit the temperature to
        assert check.value is not None, check
        if check.name not in ("integrity_lineage", "lineage"):
            assert check.support is not None, check
        if not check.name.startswith("robustness") or "nobody to compare" not in check.detail:
            assert check.bound is not None, check
        if check.ci95 is not None:
            low, high = check.ci95
            assert low <= check.value <= high, check
            if check.kind != "performance" and check.name != "nll":
                signed = check.bound is not None and check.bound < 0
                assert (-1 if signed else 0) <= low <= high <= 1, check


def statistics(checks: list[Check]) -> set[str]:
    """The first names of the checks that have an interval."""
    return {check.name.split("/")[0] for check in checks if check.ci95 is not None}


def drawn(seed: int, *, champion: bool) -> Evidence:
    """Evidence as chance gives it: shots in groups, every kind of slice, versions that one names right and one does not."""
    generator = np.random.default_rng(seed)
    n = len(LABELS)
    share = (0.6, 0.86, 1.0)[seed % 3]
    groups = [f"part-{i // (1 + seed % 4)}" for i in range(n)]
    ours, theirs = (
        predictions(generator.random(n) < share, digest=digest, groups=groups, confidence=0.7 + 0.25 * share)
        for digest in (OURS, THEIRS)
    )
    table = stressed([OURS, THEIRS] if champion else [OURS])
    right = generator.random(table.num_rows) < np.where(generator.random(table.num_rows) < 0.9, share, 0.3)
    correct = pa.array(
        [
            None if old is None else bool(new)
            for old, new in zip(table["correct"].to_pylist(), right, strict=True)
        ]
    )
    third = np.arange(n) % 3
    return evidence(
        ours,
        theirs if champion else None,
        stress=table.set_column(table.column_names.index("correct"), "correct", correct),
        masks={
            kind: {str(part): (third == part) if kind != "domain" else (third > 0) == part for part in range(parts)}
            for kind, parts in (("domain", 2), ("image_size", 3), ("brightness", 3))
        },
        alike=frozenset({"3.jpg"}) if seed % 2 else frozenset(),
        validation={"success": True, "expectations": [{"severity": "fail", "success": True}]},
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_each_check_has_its_columns_and_its_interval_holds_its_value(seed: int) -> None:
    alone = judge(drawn(seed, champion=False), PARAMS).checks
    complete(alone)
    beside = judge(drawn(seed, champion=True), PARAMS).checks
    complete(beside)
    of_both = {
        "accuracy",
        "macro_f1",
        "ece",
        "nll",
        "recall",
        "slice",
        "gap",
        "robustness",
        "abstention",
        "latency",
    }
    assert statistics(alone) == of_both | {"robustness_worst"}
    assert statistics(beside) == of_both | {"noninferiority", "slowdown"}


# --- the challenger alone


def test_a_good_first_model_is_promoted() -> None:
    verdict = judge(evidence(predictions(errors(20))), PARAMS)
    assert verdict.decision == "PROMOTE"
    assert verdict.champion is None
    accuracy = outcome(verdict, "accuracy")
    assert accuracy.value == 0.92
    assert accuracy.ci95 is not None
    assert accuracy.ci95[0] < 0.92 < accuracy.ci95[1]
    assert accuracy.bound == 0.8
    assert accuracy.support == 250
    assert accuracy.would_flip == "31 more wrong of 250"
    assert "PROMOTE" in report(verdict)
    json.dumps([check.would_flip for check in verdict.checks])


def test_accuracy_below_the_bound_is_rejected_and_says_how_much_is_missing() -> None:
    verdict = judge(evidence(predictions(errors(80), confidence=0.68)), PARAMS)
    assert verdict.decision == "REJECT"
    assert "accuracy" in failed(verdict)
    assert outcome(verdict, "accuracy").would_flip == "30 more correct of 250"
    assert "30 more correct of 250" in report(verdict)
    near = judge(
        evidence(predictions(errors(60), confidence=0.76)), PARAMS
    )  # .76, where chance gives .70 to .81
    assert near.decision == "INSUFFICIENT_EVIDENCE"
    assert outcome(near, "accuracy").outcome == "unknown"
    assert outcome(near, "accuracy").would_flip == "10 more correct of 250"


def test_macro_f1_sees_what_accuracy_hides() -> None:
    right = errors(0)
    right[LABELS == 2] = np.arange(50) < 20
    verdict = judge(evidence(predictions(right)), PARAMS)
    assert outcome(verdict, "accuracy").outcome == "pass"
    strict = replace(PARAMS, gate=replace(PARAMS.gate, min_macro_f1=0.93, min_class_recall=0.0))
    verdict = judge(evidence(predictions(right)), strict)
    assert failed(verdict) == ["macro_f1"]
    flip = outcome(verdict, "macro_f1").would_flip
    assert flip is not None
    more = int(flip.split()[1])
    mended = right.copy()
    mended[np.flatnonzero(~right)[:more]] = True
    assert outcome(judge(evidence(predictions(mended)), strict), "macro_f1").outcome == "pass"


def test_a_class_proven_below_the_bound_is_rejected_and_named_first() -> None:
    right = errors(0)
    right[LABELS == 2] = np.arange(50) < 15
    verdict = judge(evidence(predictions(right)), PARAMS)
    assert "recall/pit" in failed(verdict)
    assert outcome(verdict, "recall/pit").would_flip == "15 more correct of 50"
    assert next(check.name for check in verdict.checks if check.name.startswith("recall/")) == "recall/pit"


def test_a_class_somewhat_below_the_bound_is_neither_promoted_nor_rejected() -> None:
    right = errors(0)
    right[LABELS == 2] = np.arange(50) < 28  # .56 where .6 is wanted: chance alone could do that
    verdict = judge(evidence(predictions(right)), PARAMS)
    assert verdict.decision == "INSUFFICIENT_EVIDENCE"
    assert outcome(verdict, "recall/pit").outcome == "unknown"


@pytest.mark.parametrize(("hits", "decision"), [(14, "PROMOTE"), (8, "INSUFFICIENT_EVIDENCE")])
def test_a_class_of_few_images_holds_back_only_when_they_speak_against_it(hits: int, decision: str) -> None:
    labels = np.repeat([0, 1, 2], [120, 80, 16])
    right = np.ones(len(labels), dtype=bool)
    right[labels == 2] = np.arange(16) < hits
    verdict = judge(evidence(predictions(right, labels)), PARAMS)
    check = outcome(verdict, "recall/pit")
    assert check.outcome == "unknown"
    assert check.would_flip == "recall of `pit` needs 4 more test images for a decision"
    assert verdict.decision == decision


def test_overconfidence_is_rejected() -> None:
    verdict = judge(evidence(predictions(errors(45), confidence=0.99)), PARAMS)
    assert failed(verdict) == ["ece"]
    assert "lower" in str(outcome(verdict, "ece").would_flip)


def test_too_few_test_images_are_no_verdict() -> None:
    labels = np.repeat([0, 1, 2], [6, 6, 6])
    verdict = judge(evidence(predictions(errors(0, labels), labels)), PARAMS)
    assert verdict.decision == "INSUFFICIENT_EVIDENCE"
    assert outcome(verdict, "accuracy").would_flip == "needs 2 more test images for a decision"
    wrong = judge(evidence(predictions(~errors(0, labels), labels)), PARAMS)
    assert wrong.decision == "INSUFFICIENT_EVIDENCE"


def test_many_shots_of_three_parts_are_no_test_set() -> None:
    groups = [f"part-{i % 3}" for i in range(len(LABELS))]
    verdict = judge(evidence(predictions(errors(0), groups=groups)), PARAMS)
    assert verdict.decision == "INSUFFICIENT_EVIDENCE"
    assert "2 more groups" in str(outcome(verdict, "accuracy").would_flip)


# --- integrity: nothing else is looked at


def test_an_edited_metrics_file_is_refused() -> None:
    facts = evidence(predictions(errors(60)))
    metrics = json.loads(json.dumps(facts.metrics))
    metrics["test"]["accuracy"] = 0.95
    verdict = judge(replace(facts, metrics=metrics), PARAMS)
    assert failed(verdict) == ["integrity_metrics"]
    check = outcome(verdict, "integrity_metrics")
    assert "test.accuracy is 0.95, the predictions give 0.76" in check.detail
    assert "dvc repro -f evaluate" in str(check.would_flip)
    metrics["test"]["accuracy"] = 0.76
    del metrics["by_domain"]
    assert (
        "by_domain is missing"
        in outcome(judge(replace(facts, metrics=metrics), PARAMS), "integrity_metrics").detail
    )
    assert not any(check.name == "accuracy" for check in verdict.checks)


def test_an_added_metric_is_refused_and_other_seconds_are_not() -> None:
    facts = evidence(predictions(errors(20)))
    assert failed(judge(replace(facts, metrics=facts.metrics | {"bonus": 1}), PARAMS)) == [
        "integrity_metrics"
    ]
    assert failed(judge(replace(facts, metrics=facts.metrics | {"seconds": {"predict": 9.0}}), PARAMS)) == []


def test_edited_predictions_are_refused() -> None:
    table = predictions(errors(60))
    place = table.schema.get_field_index("correct")
    edited = table.set_column(place, "correct", pa.array([True] * table.num_rows))
    verdict = judge(evidence(table, predictions=edited), PARAMS)
    assert failed(verdict) == ["integrity_predictions"]
    assert "60 rows contradict" in outcome(verdict, "integrity_predictions").detail
    labels = pa.array(table["predicted"].to_pylist())
    relabelled = table.set_column(table.schema.get_field_index("label"), "label", labels)
    assert failed(judge(evidence(table, predictions=relabelled), PARAMS)) == ["integrity_predictions"]


def test_predictions_of_another_bundle_or_of_other_classes_are_refused() -> None:
    table = predictions(errors(20))
    for origin, words in (
        ({"bundle": THEIRS, "classes": CLASSES}, "made by the bundle aaaaaaaaaaaa"),
        ({"bundle": OURS, "classes": CLASSES[::-1]}, "disagree about the classes"),
        ({}, "made by the bundle None"),
    ):
        verdict = judge(evidence(table, origin=origin), PARAMS)
        assert failed(verdict) == ["integrity_predictions"]
        assert words in outcome(verdict, "integrity_predictions").detail


def test_predictions_without_test_images_or_with_doubles_are_refused() -> None:
    table = predictions(errors(20))
    split = table.schema.get_field_index("split")
    validation = table.set_column(split, "split", pa.array(["validation"] * table.num_rows))
    for broken, words in (
        (validation, "no predictions of test"),
        (pa.concat_tables([table, table]), "predicted twice"),
    ):
        verdict = judge(evidence(table, predictions=broken), PARAMS)
        assert failed(verdict) == ["integrity_predictions"]
        assert words in outcome(verdict, "integrity_predictions").detail


def test_a_damaged_bundle_and_failed_data_are_refused() -> None:
    table = predictions(errors(20))
    verdict = judge(evidence(table, damage="model.onnx has changed", info={}), PARAMS)
    assert failed(verdict) == ["integrity_bundle"]
    assert "model.onnx has changed" in report(verdict)
    assert failed(judge(evidence(table, validation={"success": False}), PARAMS)) == ["integrity_data"]
    assert failed(judge(evidence(table, validation={}), PARAMS)) == ["integrity_data"]


def test_a_champion_scored_on_other_images_is_refused() -> None:
    ours, theirs = predictions(errors(20)), predictions(errors(25), digest=THEIRS)
    verdict = judge(evidence(ours, theirs.slice(0, 240)), PARAMS)
    assert failed(verdict) == ["integrity_test_images"]
    assert "10 of 250 are missing" in outcome(verdict, "integrity_test_images").detail
    other = judge(evidence(ours, theirs, champion_origin={"bundle": "b" * 64, "classes": CLASSES}), PARAMS)
    assert "its predictions are by bbbbbbbbbbbb" in outcome(other, "integrity_test_images").detail
    unscored = judge(evidence(ours, champion=THEIRS), PARAMS)
    assert "integrity_test_images" in failed(unscored)


# --- against the champion


def differing(right: np.ndarray, wins: int, losses: int, among: np.ndarray | None = None) -> np.ndarray:
    """What a challenger gets right that beats the champion's ``right`` on ``wins`` images and loses ``losses``."""
    ours = right.copy()
    among = np.ones(len(right), dtype=bool) if among is None else among
    ours[np.flatnonzero(~right & among)[:wins]] = True
    ours[np.flatnonzero(right & among)[:losses]] = False
    return ours


@pytest.mark.parametrize(
    ("wins", "losses", "decision", "expected"),
    [
        (20, 4, "PROMOTE", "pass"),
        (0, 0, "PROMOTE", "pass"),  # 250 images on which the two agree throughout
        (8, 8, "INSUFFICIENT_EVIDENCE", "unknown"),
        (2, 22, "REJECT", "fail"),
    ],
)
def test_the_challenger_must_not_be_worse(wins: int, losses: int, decision: str, expected: str) -> None:
    theirs = errors(30)
    rotation = np.random.default_rng(3).permutation(len(LABELS))  # spread over the classes
    labels = LABELS[rotation]
    ours = predictions(differing(theirs, wins, losses), labels)
    verdict = judge(evidence(ours, predictions(theirs, labels, digest=THEIRS)), PARAMS)
    check = outcome(verdict, "noninferiority")
    assert check.outcome == expected
    assert verdict.decision == decision
    assert check.detail.startswith(f"{wins} newly right, {losses} newly wrong; McNemar's exact test p = ")
    assert check.value == pytest.approx((wins - losses) / 250)
    assert check.bound == -0.02
    assert f"({check.detail} of 250)" in verdict.summary


def test_an_open_comparison_says_how_many_images_would_decide() -> None:
    theirs = errors(30)
    verdict = judge(
        evidence(predictions(differing(theirs, 8, 8)), predictions(theirs, digest=THEIRS)), PARAMS
    )
    flip = str(outcome(verdict, "noninferiority").would_flip)
    assert "more newly right of 250" in flip
    more = int(flip.split("or about ")[1].split()[0].replace(",", ""))
    # At that many images and the same rates, the bound is met.
    times = (250 + more) / 250
    difference = np.repeat([1.0, -1.0, 0.0], [round(8 * times), round(8 * times), round(234 * times)])
    rng = np.random.default_rng(0)
    check = compare(rng.permutation(difference), np.arange(len(difference)), {}, PARAMS.gate)[0]
    assert check.value == 0
    assert check.outcome == "pass" or abs(int(check.would_flip.split()[1])) <= 2  # type: ignore[union-attr]


def test_a_gain_in_one_domain_does_not_hide_a_loss_in_another() -> None:
    domains = ["line-a"] * 170 + ["line-b"] * 80
    labels = np.arange(250) % 3
    line_a = np.array(domains) == "line-a"
    theirs = np.where(line_a, np.arange(250) % 17 > 0, np.arange(250) % 2 > 0)
    ours = differing(differing(theirs, 35, 0, ~line_a), 0, 9, line_a)
    verdict = judge(
        evidence(
            predictions(ours, labels, domains=domains),
            predictions(theirs, labels, digest=THEIRS, domains=domains),
        ),
        PARAMS,
    )
    assert outcome(verdict, "noninferiority").outcome == "pass"
    assert failed(verdict) == ["noninferiority/domain/line-a"]
    assert outcome(verdict, "noninferiority/domain/line-a").detail == "0 newly right, 9 newly wrong"
    assert outcome(verdict, "noninferiority/domain/line-b").outcome == "pass"
    suspected = differing(differing(theirs, 35, 0, ~line_a), 1, 5, line_a)
    verdict = judge(
        evidence(
            predictions(suspected, labels, domains=domains),
            predictions(theirs, labels, digest=THEIRS, domains=domains),
        ),
        PARAMS,
    )
    held = outcome(verdict, "noninferiority/domain/line-a")
    assert (held.outcome, held.decides) == ("unknown", False)  # 1 right, 5 wrong of 170: chance could do that


def test_a_new_domain_of_few_images_does_not_hold_a_better_challenger_back() -> None:
    domains = ["line-a"] * 226 + ["line-b"] * 24
    labels = np.arange(250) % 3
    theirs = np.where(np.arange(250) < 226, np.arange(250) % 20 > 0, np.arange(250) % 2 > 0)
    ours = theirs.copy()
    ours[226:] = np.arange(24) > 3
    ours[[0, 20, 40, 60]] = True
    ours[[1, 22, 43, 64]] = False
    verdict = judge(
        evidence(
            predictions(ours, labels, domains=domains),
            predictions(theirs, labels, digest=THEIRS, domains=domains),
        ),
        PARAMS,
    )
    assert verdict.decision == "PROMOTE"
    assert outcome(verdict, "noninferiority/domain/line-a").outcome == "unknown"


def test_a_class_that_got_worse_is_not_outweighed_by_another() -> None:
    theirs = errors(0)
    theirs[np.flatnonzero(LABELS == 0)[:40]] = False
    ours = theirs.copy()
    ours[LABELS == 0] = True
    ours[np.flatnonzero(LABELS == 2)[:9]] = False
    verdict = judge(evidence(predictions(ours), predictions(theirs, digest=THEIRS)), PARAMS)
    assert outcome(verdict, "noninferiority").outcome == "pass"
    assert failed(verdict) == ["noninferiority/class/pit"]
    ours[np.flatnonzero(LABELS == 2)[5:9]] = True  # 5 of 50 lost: likely, not proven
    verdict = judge(evidence(predictions(ours), predictions(theirs, digest=THEIRS)), PARAMS)
    assert verdict.decision == "INSUFFICIENT_EVIDENCE"
    assert outcome(verdict, "noninferiority/class/pit").would_flip == "4 more newly right of 50"


def test_a_class_that_production_knows_may_not_vanish() -> None:
    theirs = predictions(errors(20), digest=THEIRS)
    origin = {"bundle": THEIRS, "classes": [*CLASSES, "patch"]}
    verdict = judge(evidence(predictions(errors(20)), theirs, champion_origin=origin), PARAMS)
    assert failed(verdict) == ["classes"]
    assert "patch" in outcome(verdict, "classes").detail


def test_a_new_class_is_not_held_against_the_champion() -> None:
    """The champion is wrong on all of a class that it never saw; that is no gain to hide a loss behind."""
    theirs = np.where(LABELS == 2, False, errors(10))
    ours = errors(0)
    ours[np.flatnonzero(LABELS == 0)[:25]] = False
    columns = predictions(theirs, digest=THEIRS)
    origin = {"bundle": THEIRS, "classes": ["clean", "crack"]}
    verdict = judge(evidence(predictions(ours), columns, champion_origin=origin), PARAMS)
    assert outcome(verdict, "noninferiority").support == 200
    assert "noninferiority" in failed(verdict)
    assert outcome(verdict, "classes").detail == "new: pit"


def test_decisions_follow_from_the_checks() -> None:
    good, bad = Check("a", "pass"), Check("b", "fail")
    held, shown = Check("c", "unknown"), Check("d", "unknown", decides=False)
    assert decide([good, shown]) == "PROMOTE"
    assert decide([good, held, shown]) == "INSUFFICIENT_EVIDENCE"
    assert decide([good, held, bad]) == "REJECT"


def rates(n: int, wins: float, losses: float, draws: int) -> dict[str, float]:
    """Share of each decision for a challenger that truly differs by wins - losses."""
    generator = np.random.default_rng(0)
    settings = Gate()
    found = {"PROMOTE": 0, "REJECT": 0, "INSUFFICIENT_EVIDENCE": 0}
    labels = generator.choice(6, p=[0.4, 0.2, 0.15, 0.1, 0.08, 0.07], size=n)
    parts = {"class": {str(c): labels == c for c in range(6)}}
    for _ in range(draws):
        difference = generator.choice([1.0, -1.0, 0.0], p=[wins, losses, 1 - wins - losses], size=n)
        found[decide(compare(difference, np.arange(n), parts, settings))] += 1
    return {name: count / draws for name, count in found.items()}


@pytest.mark.slow
def test_one_that_is_five_points_worse_is_not_promoted() -> None:
    assert rates(500, 0.05, 0.1, 120)["PROMOTE"] <= 0.01


@pytest.mark.slow
def test_one_that_is_equal_is_not_rejected() -> None:
    assert rates(500, 0.06, 0.06, 120)["REJECT"] <= 0.05


@pytest.mark.slow
def test_one_that_is_better_is_mostly_promoted_on_a_small_test_set() -> None:
    assert rates(240, 0.07, 0.02, 80)["PROMOTE"] >= 0.8


# --- the verb, on disk, with a real bundle


def colours(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """24 images each of three colours, the last four for validation, with their rows of the split."""
    images = []
    folder.mkdir(exist_ok=True)
    for label, colour in (("red", (220, 40, 40)), ("green", (40, 220, 40)), ("blue", (40, 40, 220))):
        for number in range(24):
            path = folder / f"{label}-{number}.png"
            Image.new("RGB", (40, 40), tuple(min(255, channel + number) for channel in colour)).save(path)
            split = "test" if number < 20 else "validation"
            row = {
                "image_id": digest_file(path),
                "path": f"data/{path.name}",
                "label": label,
                "domain": "line-a",
            }
            images.append((path, row | {"group": f"{label}-{number}", "split": split, "reason": "assigned"}))
    return images


def fitted(held_out: list[tuple[Path, dict[str, Any]]], gain: float) -> float:
    """The temperature that the validation images give the bundle of this ``gain``."""
    rows = [(path, row) for path, row in held_out if row["split"] == "validation"]
    views = np.stack([tiny_bundle.PREPROCESSING.view(Image.open(path)) for path, _ in rows])
    logits = gain * tiny_bundle.PREPROCESSING.normalise(views).mean(axis=(2, 3))
    return fit_temperature(logits, np.array([tiny_bundle.CLASSES.index(row["label"]) for _, row in rows]))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path, tmp_path / "var")
    held_out = colours(tmp_path / "data")
    rows = [row for _, row in held_out]
    artifacts.write_table(workspace.split, pa.Table.from_pylist(rows, schema=artifacts.SPLIT))
    columns = {name: [row.get(name) for row in rows] for name in artifacts.MANIFEST.names}
    columns |= {"width": [40] * len(rows), "height": [40] * len(rows)}
    columns |= {"brightness": [0.3 + 0.001 * number for number in range(len(rows))]}
    arrays = {field.name: pa.array(columns[field.name], field.type) for field in artifacts.MANIFEST}
    artifacts.write_table(workspace.manifest, pa.table(arrays, schema=artifacts.MANIFEST))
    artifacts.write_json(workspace.champion_pin, {"digest": None})
    artifacts.write_json(workspace.validation, {"success": True, "expectations": []})
    digests = {name: digest_file(getattr(workspace, name)) for name in ("manifest", "split")}
    digests |= dict.fromkeys(("params", "lock", "weights"), "d" * 64)
    tiny_bundle.make(workspace.bundle, held_out=held_out, temperature=fitted(held_out, 4.0), digests=digests)
    examine(workspace)
    return workspace


def examine(workspace: Workspace) -> None:
    """The stages that ask the bundle."""
    for stage in (evaluate, stress, performance):
        assert stage.run(workspace, PARAMS) == 0
    split = artifacts.read_table(
        workspace.split, artifacts.SPLIT
    )  # which holds no training image to compare with
    digest = digest_file(workspace.bundle / "bundle.json")
    result = {"bundle": digest, "split": leak.split_digest(split), "pairs": [], "compared": {"test": 60}}
    artifacts.write_json(workspace.leak, result | {"seal": artifacts.digest_json(result)})


def test_the_verb_writes_a_verdict_that_names_what_it_judged(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate.run(workspace, PARAMS) == 0
    verdict = artifacts.read_json(workspace.verdict)
    assert verdict["decision"] == "PROMOTE"
    assert verdict["challenger"] == digest_file(workspace.bundle / "bundle.json")
    assert verdict["champion"] is None
    keys = {"name", "outcome", "value", "ci95", "bound", "support", "would_flip", "kind", "decides", "detail"}
    assert all(set(check) == keys for check in verdict["checks"])
    assert verdict["summary"] in capsys.readouterr().out
    assert verdict["format"] == "onnx"
    assert f"<dd><bdi>{verdict['challenger']}</bdi></dd>" in workspace.verdict_page.read_text()
    complete([Check(**check) for check in verdict["checks"]])
    before = [path.read_bytes() for path in (workspace.verdict, workspace.verdict_page)]
    gate.run(workspace, PARAMS)
    assert [path.read_bytes() for path in (workspace.verdict, workspace.verdict_page)] == before


def test_a_verdict_that_the_evidence_does_not_give_is_found_however_consistent_it_is(
    workspace: Workspace,
) -> None:
    gate.run(workspace, PARAMS)
    honest = artifacts.read_json(workspace.verdict)
    assert verdict_fault(workspace, PARAMS, honest) is None

    def forged(**changes: Any) -> dict[str, Any]:
        first, *rest = json.loads(json.dumps(honest["checks"]))
        return honest | {"checks": [first | changes, *rest]}

    strict = replace(PARAMS, gate=Gate(max_size_mb=0.001))
    for params, verdict, words in (
        (PARAMS, honest | {"decision": "REJECT"}, "the decision REJECT, judged again it is PROMOTE: PROMOTE"),
        (strict, honest, "decision PROMOTE, judged again"),  # judged by other bounds
        (PARAMS, honest | {"champion": "a" * 64}, "the champion a"),
        (
            PARAMS,
            honest | {"checks": honest["checks"][1:]},
            f"the first that differs is {honest['checks'][1]['name']}",
        ),
        (PARAMS, forged(outcome="fail"), "has outcome fail, judged again pass"),
        (PARAMS, forged(kind="slice"), "has kind slice, judged again integrity"),
        (PARAMS, forged(value=0.5), "is 0.5, judged again None"),
    ):
        assert words in str(verdict_fault(workspace, params, verdict))


def test_the_verb_compares_with_the_pinned_champion(workspace: Workspace) -> None:
    champion = workspace.root / "champion"
    tiny_bundle.make(champion, gain=2.0)
    digest = Registry(workspace.registry).add(champion)
    artifacts.write_json(workspace.champion_pin, {"digest": digest})
    gate.run(workspace, PARAMS)
    stale = artifacts.read_json(workspace.verdict)  # evaluate has not run since the pin moved
    assert stale["decision"] == "REJECT"
    examine(workspace)
    gate.run(workspace, PARAMS)
    verdict = artifacts.read_json(workspace.verdict)
    assert verdict["champion"] == digest
    names = {check["name"] for check in verdict["checks"]}
    assert {"noninferiority", "noninferiority/class/red", "classes", "integrity_test_images"} <= names
    complete([Check(**check) for check in verdict["checks"]])
    assert "both right, 0 newly right" in workspace.verdict_page.read_text()


def test_a_flipped_byte_is_a_rejection_and_no_crash(workspace: Workspace) -> None:
    model = workspace.bundle / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    assert gate.run(workspace, PARAMS) == 0
    verdict = artifacts.read_json(workspace.verdict)
    assert verdict["decision"] == "REJECT"
    check = next(check for check in verdict["checks"] if check["name"] == "integrity_bundle")
    assert "model.onnx" in check["detail"]
    page = workspace.verdict_page.read_text()
    assert "✗ Reject" in page
    assert "model.onnx" in page
    assert "<svg" not in page


def test_another_bundle_than_the_one_evaluated_is_a_rejection(workspace: Workspace) -> None:
    info = json.loads((workspace.bundle / "bundle.json").read_text())
    artifacts.write_json(workspace.bundle / "bundle.json", info | {"temperature": 2.0})
    gate.run(workspace, PARAMS)
    verdict = artifacts.read_json(workspace.verdict)
    assert [check["name"] for check in verdict["checks"] if check["outcome"] == "fail"] == [
        "integrity_predictions",
        "integrity_leak",
        "integrity_companions",
    ]


def test_metrics_edited_on_disk_are_a_rejection(workspace: Workspace) -> None:
    metrics = artifacts.read_json(workspace.metrics)
    metrics["test"]["per_class"]["red"]["recall"] = 0.5
    artifacts.write_json(workspace.metrics, metrics)
    gate.run(workspace, PARAMS)
    verdict = artifacts.read_json(workspace.verdict)
    assert verdict["decision"] == "REJECT"
    assert "integrity_metrics" in verdict["summary"]


@pytest.mark.parametrize("name", ["predictions", "metrics", "validation", "champion_pin"])
def test_missing_evidence_is_an_error_that_names_the_next_command(workspace: Workspace, name: str) -> None:
    getattr(workspace, name).unlink()
    with pytest.raises(DataError, match="dvc repro"):
        gate.run(workspace, PARAMS)
    assert not workspace.verdict.exists()


@pytest.mark.parametrize("text", ["{}", "[]", '{"pairs": [{}]}'])
def test_a_leak_report_of_another_shape_is_a_rejection_and_no_crash(workspace: Workspace, text: str) -> None:
    workspace.leak.write_text(text, encoding="utf-8")
    assert gate.run(workspace, PARAMS) == 0
    check = next(c for c in artifacts.read_json(workspace.verdict)["checks"] if c["name"] == "integrity_leak")
    assert check["outcome"] == "fail"
    assert "not as it was written" in check["detail"]
