"""What a verdict looks at beside accuracy: slices, corruption, nonsense, cost, lineage, and how worn the test is."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from benchmarks.verdicts import reference
from pipeline import artifacts, leak, peeks
from pipeline.architecture import architecture
from pipeline.artifacts import Workspace
from pipeline.budget import performance_checks
from pipeline.corruptions import CORRUPTIONS, corrupt
from pipeline.errors import DataError, ParamsError
from pipeline.foreign import FOREIGN, foreign
from pipeline.gate import judge
from pipeline.intervals import codes
from pipeline.locked import lock_fault, md5_as_dvc
from pipeline.params import Gate
from pipeline.performance import measure
from pipeline.relabelled import relabelled
from pipeline.robustness import abstention_checks, robustness_checks
from pipeline.slices import slice_checks, slices
from tests import tiny_bundle
from tests.test_gate import (
    LABELS,
    OURS,
    PARAMS,
    THEIRS,
    errors,
    evidence,
    failed,
    outcome,
    predictions,
    stressed,
    timed,
)

# --- slices


def manifest(**columns: list[Any]) -> pa.Table:
    n = len(next(iter(columns.values())))
    given: dict[str, list[Any]] = {name: [None] * n for name in artifacts.MANIFEST.names}
    given |= {"path": [f"{i}.jpg" for i in range(n)], "width": [64] * n, "height": [64] * n, **columns}
    arrays = {field.name: pa.array(given[field.name], field.type) for field in artifacts.MANIFEST}
    return pa.table(arrays, schema=artifacts.MANIFEST)


def test_numbers_are_cut_into_terciles_and_few_values_are_taken_as_they_are() -> None:
    test = predictions(errors(0))
    table = manifest(brightness=[i / 250 for i in range(250)], width=[64] * 100 + [128] * 150)
    found = slices(test, table, ("brightness", "image_size", "domain"), [])
    assert [name.split()[0] for name in found["brightness"]] == ["low", "middle", "high"]
    assert all(80 <= rows.sum() <= 86 for rows in found["brightness"].values())
    assert {name: int(rows.sum()) for name, rows in found["image_size"].items()} == {"64": 100, "91": 150}
    assert "domain" not in found  # a single slice says nothing


def test_a_source_is_the_folder_that_an_image_came_from() -> None:
    test = predictions(errors(0))
    paths = [f"data/a/{i}.jpg" if i < 100 else f"data/labelled/{i}.jpg" for i in range(250)]
    test = test.set_column(test.column_names.index("path"), "path", pa.array(paths))
    found = slices(test, manifest(path=paths), ("source",), ["data/a", "data/ab"])
    assert {name: int(rows.sum()) for name, rows in found["source"].items()} == {
        "data/a": 100,
        "labelled": 150,
    }


def test_an_unknown_kind_of_slice_names_the_nearest_and_too_many_values_are_refused() -> None:
    test = predictions(errors(0))
    with pytest.raises(ParamsError, match="did you mean 'brightness'"):
        slices(test, manifest(brightness=[0.5] * 250), ("brightnes",), [])
    with pytest.raises(DataError, match="250 values"):
        slices(test, manifest(group=[f"g{i}" for i in range(250)]), ("group",), [])
    with pytest.raises(DataError, match="not in manifest"):
        slices(test, manifest(brightness=[0.5]), ("brightness",), [])


def dark(right: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    rows = np.arange(len(right)) % 5 == 0
    return {"brightness": {"dark": rows, "bright": ~rows}}


def test_a_slice_that_fails_is_not_hidden_by_the_mean() -> None:
    right = errors(0)
    right[np.arange(250) % 5 == 0] = np.arange(50) % 4 == 0  # 13 of 50 dark ones; .852 over all
    verdict = judge(evidence(predictions(right, confidence=0.85), masks=dark(right)), PARAMS)
    assert verdict.decision == "REJECT"
    assert {"slice/brightness/dark", "gap/brightness"} <= set(failed(verdict))
    assert outcome(verdict, "slice/brightness/dark").would_flip == "12 more correct of 50"
    assert "more correct of 50 in dark" in str(outcome(verdict, "gap/brightness").would_flip)


def test_a_gap_that_few_images_show_is_for_a_person() -> None:
    rows = np.arange(300) >= 20  # 20 in the small slice
    correct = np.ones(300, dtype=bool)
    correct[:9] = False  # .55 of 20, beside 1
    checks = slice_checks(
        correct, [str(i) for i in range(300)], {"k": {"small": ~rows, "large": rows}}, Gate(max_slice_gap=0.4)
    )
    gap = next(check for check in checks if check.name == "gap/k")
    assert gap.value == 0.45
    assert (gap.outcome, gap.decides) == ("unknown", True)


def test_equal_slices_are_seldom_accused() -> None:
    wrongs = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        correct = generator.random(300) < 0.8
        thirds = np.arange(300) % 3
        masks = {"k": {str(part): thirds == part for part in range(3)}}
        checks = slice_checks(correct, [str(i) for i in range(300)], masks, Gate(min_slice_accuracy=0.8))
        wrongs += any(check.outcome == "fail" for check in checks)
    assert wrongs <= 3  # level 2 %


# --- corruption and nonsense


def test_corruptions_grow_with_severity_and_follow_from_the_seed() -> None:
    y, x = np.mgrid[0:64, 0:64]
    view = np.stack([x * 3, y * 3, (x // 8 + y // 8) % 2 * 180], axis=-1).astype(np.uint8)
    for kind in CORRUPTIONS:
        before = view.copy()
        harm = []
        for severity in (1, 3, 5):
            made = corrupt(view, kind, severity, 7)
            assert made.shape == view.shape
            assert made.dtype == np.uint8
            np.testing.assert_array_equal(made, corrupt(view, kind, severity, 7))
            harm.append(float(np.abs(made.astype(float) - view).mean()))
        assert 0 < harm[0] < harm[1] < harm[2], kind
        np.testing.assert_array_equal(view, before)
    with pytest.raises(ValueError, match="severity is 6"):
        corrupt(view, "jpeg", 6, 0)


def test_foreign_images_follow_from_the_seed_and_differ_from_each_other() -> None:
    for kind in FOREIGN:
        made = foreign(kind, 32, 3, count=12)
        assert made.shape == (12, 32, 32, 3)
        np.testing.assert_array_equal(made, foreign(kind, 32, 3, count=12))
        assert len({image.tobytes() for image in made}) == 12


GROUPS = {f"{number:04}": f"part-{number}" for number in range(60)}


def test_a_challenger_that_noise_breaks_is_refused() -> None:
    table = stressed([OURS, THEIRS], {OURS: 0.4, THEIRS: 0.8})
    checks = robustness_checks(table, OURS, THEIRS, GROUPS, Gate())
    assert {check.outcome for check in checks} == {"fail"}
    assert len(checks) == 1 + len(CORRUPTIONS)
    assert checks[0].value == -0.4
    assert "0.400, the champion 0.800" in checks[0].detail
    verdict = judge(
        evidence(predictions(errors(20)), predictions(errors(20), digest=THEIRS), stress=table), PARAMS
    )
    assert verdict.decision == "REJECT"
    assert "robustness" in failed(verdict)


def test_one_as_robust_passes_and_without_a_champion_it_is_shown() -> None:
    table = stressed([OURS, THEIRS], {OURS: 0.7, THEIRS: 0.7})
    assert {c.outcome for c in robustness_checks(table, OURS, THEIRS, GROUPS, Gate())} == {"pass"}
    alone = robustness_checks(table, OURS, None, GROUPS, Gate())
    assert [check.name for check in alone] == ["robustness", "robustness_worst"]
    assert all("nobody to compare with" in check.detail for check in alone)


def test_without_stressed_images_robustness_is_unknown_and_says_which_knob() -> None:
    table = stressed([OURS], images=5)
    (check,) = robustness_checks(table, OURS, None, GROUPS, Gate())
    assert (check.outcome, check.decides) == ("unknown", False)
    assert "evaluate.stress_images" in str(check.would_flip)


def test_abstention_is_judged_where_it_is_switched_on_and_a_threshold_is_named_where_not() -> None:
    table = stressed([OURS])  # 40 foreign images each, confidences .30 to .69
    confidence = np.full(250, 0.9)
    silent = abstention_checks(table, OURS, confidence, 0.0, Gate())
    assert {(check.outcome, check.decides) for check in silent} == {("unknown", False)}
    assert "serve.abstain_below 0.495 abstains on 50% of them, and on 0.0% of the test images" in str(
        silent[0].would_flip
    )
    assert {c.outcome for c in abstention_checks(table, OURS, confidence, 0.6, Gate())} == {"pass"}
    assert {c.outcome for c in abstention_checks(table, OURS, confidence, 0.35, Gate())} == {"fail"}


# --- cost


def measured(**ours: Any) -> dict[str, Any]:
    return {"challenger": timed(OURS) | ours, "champion": timed(THEIRS)}


@pytest.mark.parametrize(
    ("ours", "refused"),
    [
        ({"megabytes": 600.0}, "size"),
        ({"memory_megabytes": 4000.0}, "memory"),
        ({"cold_start_seconds": 60.0}, "cold_start"),
        ({"by_round": [300.0 + i for i in range(12)]}, "latency"),
        ({"by_round": [100.0 + i for i in range(12)]}, "slowdown"),
    ],
)
def test_what_costs_too_much_is_refused(ours: dict[str, Any], refused: str) -> None:
    outcomes = {check.name: check.outcome for check in performance_checks(measured(**ours), Gate(), 0)}
    assert outcomes[refused] == "fail"
    assert set(outcomes) == {"size", "memory", "cold_start", "latency", "slowdown"}


def test_a_noisy_machine_is_no_proof_of_slowness() -> None:
    ours = {"by_round": [10.0, 90.0, 12.0, 80.0, 11.0, 70.0, 33.0, 34.0, 12.0, 60.0, 75.0, 31.0]}
    check = next(c for c in performance_checks(measured(**ours), Gate(), 0) if c.name == "slowdown")
    assert check.value is not None
    assert check.value > 3
    assert check.outcome == "unknown"
    assert all(c.outcome == "pass" for c in performance_checks(measured(), Gate(), 0))


# --- copies


def test_test_images_that_look_trained_on_are_set_aside_and_many_refuse() -> None:
    ours = predictions(errors(20))
    aside = frozenset(ours["path"].to_pylist()[:5])
    verdict = judge(evidence(ours, predictions(errors(25), digest=THEIRS), alike=aside), PARAMS)
    assert outcome(verdict, "accuracy").support == 245
    assert outcome(verdict, "noninferiority").support == 245
    assert (
        "5 look like one, mirrored or to the network, and are set aside"
        in outcome(verdict, "integrity_leak").detail
    )
    split = pa.table({"image_id": ["a"], "path": ["a.jpg"], "group": ["g"], "split": ["test"]})
    for number, refused in ((12, False), (13, True)):
        pairs = [
            {"test": f"{n}.jpg", "test_id": str(n), "train": "t.jpg", "kind": "embedding"}
            for n in range(number)
        ]
        result = {
            "bundle": OURS,
            "split": leak.split_digest(split),
            "compared": {"test": 250},
            "pairs": pairs,
        }
        fault = leak.fault(result | {"seal": artifacts.digest_json(result)}, split, OURS)
        assert (fault is not None) is refused
    assert len(leak.alike(result)) == 13
    mirrored = result | {"pairs": [pairs[0] | {"kind": "perceptual", "mirrored": True}]}
    assert leak.fault(mirrored | {"seal": artifacts.digest_json(mirrored)}, split, OURS) is None
    exact = result | {"pairs": [pairs[0] | {"kind": "exact"}]}
    assert "1 of 250 test images" in str(
        leak.fault(exact | {"seal": artifacts.digest_json(exact)}, split, OURS)
    )


# --- labels


def test_classes_under_each_others_name_are_for_a_person_to_confirm() -> None:
    """The challenger learnt the new names and beats the champion; on today's labels all looks well."""
    ours = predictions(errors(20))
    now = dict(zip(ours["image_id"].to_pylist(), ours["label"].to_pylist(), strict=True))
    names = {"pit": "crack", "crack": "pit"}
    then = {image_id: names.get(label, label) for image_id, label in now.items()}
    theirs = predictions(errors(140), digest=THEIRS)
    verdict = judge(evidence(ours, theirs, champion_labels=then), PARAMS)
    assert verdict.decision == "INSUFFICIENT_EVIDENCE"
    check = outcome(verdict, "relabelled")
    assert check.value == 130 / 250
    assert "80 from pit to crack" in check.detail
    assert "--approve" in str(check.would_flip)


def test_a_few_corrected_labels_pass() -> None:
    now = {str(number): "crack" if number < 100 else "pit" for number in range(200)}
    then = now | {"0": "pit", "1": "pit", "150": "crack"}
    assert relabelled(now, then).outcome == "pass"
    assert relabelled(now, {}).outcome == "pass"
    few = now | {str(number): "scratch" for number in range(4)}  # 4 of 4 scratches are cracks now
    assert relabelled(now, few).outcome == "unknown"


# --- the champion's weights, in another network


def test_the_champions_weights_in_another_network_are_for_a_person_to_confirm() -> None:
    """They load strictly, and everything afterwards agrees: only the champion shows it."""
    ours, theirs = predictions(errors(20)), predictions(errors(20), digest=THEIRS)
    champion = evidence(ours).info | {"backbone_kwargs": {"pad_type": "same", "img_size": 96}}
    mine = changed(backbone_kwargs={"img_size": 128})
    verdict = judge(evidence(ours, theirs, champion_info=champion, **mine), PARAMS)
    assert verdict.decision == "INSUFFICIENT_EVIDENCE"
    check = outcome(verdict, "architecture")
    assert "pad_type is not set, the champion's 'same'" in check.detail
    assert "img_size" not in check.detail
    assert "--approve" in str(check.would_flip)
    same = judge(
        evidence(ours, theirs, champion_info=champion, **changed(backbone_kwargs={"pad_type": "same"})),
        PARAMS,
    )
    assert outcome(same, "architecture").outcome == "pass"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"backbone": "resnet10t"}, "pass"),
        ({"backbone": "resnet10t.tag"}, "pass"),  # another name of the same network
        ({"backbone": "resnet18"}, "backbone is 'resnet18', the champion's 'resnet10t'"),
        ({"backbone": "resnet18", "weights": {"digest": "v"}}, "pass"),
        ({"backbone_kwargs": {"pad_type": ""}}, "pad_type is '', the champion's not set"),
        ({"weights": {}}, "pass"),
    ],
)
def test_same_weights_same_network(changes: dict[str, Any], found: str) -> None:
    champion = {"weights": {"digest": "w"}, "backbone": "resnet10t", "backbone_kwargs": {}}
    check = architecture(champion | changes, champion)
    assert found in (check.outcome, check.detail.partition(": ")[2])


# --- what the bundle says of itself


def changed(**info: Any) -> dict[str, Any]:
    """Arguments of evidence() with another bundle.json."""
    found = evidence(predictions(errors(20)))
    return {"info": found.info | info}


@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        ({"parity": {"error": 0.5, "limit": 0.001}}, "integrity_parity", "differed by 0.5, over 0.001"),
        ({"parity": {"error": float("nan"), "limit": 0.001}}, "integrity_parity", "differed by nan"),
        ({"parity": None}, "integrity_parity", "were not compared"),
        ({"fingerprint": "0" * 64}, "integrity_fingerprint", "another fingerprint"),
        ({"digests": {"manifest": "0" * 64}}, "integrity_lineage", "another manifest"),
    ],
)
def test_a_bundle_that_contradicts_itself_is_refused(change: dict[str, Any], check: str, words: str) -> None:
    ours = predictions(errors(20))
    verdict = judge(evidence(ours, **changed(**change)), PARAMS)
    assert verdict.decision == "REJECT"
    assert check in failed(verdict)
    assert words in outcome(verdict, check).detail


def test_another_head_or_other_answers_are_refused() -> None:
    ours = predictions(errors(20))
    permuted = (np.roll(np.eye(3), 1, axis=0), np.zeros(3))
    verdict = judge(evidence(ours, head=permuted), PARAMS)
    assert "gives other answers than model.onnx" in outcome(verdict, "integrity_parity").detail
    assert "integrity_parity" in failed(judge(evidence(ours, head=None), PARAMS))
    stored = reference(predictions(errors(25, seed=3)))
    verdict = judge(evidence(ours, references={"onnx": stored}), PARAMS)
    assert "answered otherwise than when the bundle was sealed" in outcome(verdict, "integrity_parity").detail
    verdict = judge(evidence(ours, references={"onnx": reference(ours.slice(10))}), PARAMS)
    assert (
        "10 of 250 held-out images are not in the bundle's reference"
        in outcome(verdict, "integrity_parity").detail
    )


FIGURES = {"kept": True, "images": 40, "agreement": 0.975, "agreement_ci95": [0.87, 1.0], "accuracy": 0.9,
           "accuracy_drop": 0.005}  # fmt: skip


def with_int8(**figures: Any) -> dict[str, Any]:
    """Arguments of evidence() with an INT8 network in the bundle, which says so of it."""
    return changed(files={"model.int8.onnx": "0" * 64}, formats={"int8": FIGURES | figures})


@pytest.mark.parametrize(
    ("facts", "check", "words"),
    [
        (with_int8(agreement=0.7), "integrity_parity_int8", "agree on 0.700 of the validation images, under 0.95"),
        (with_int8(agreement=None), "integrity_parity_int8", "nothing of how it agrees"),
        (with_int8(agreement=float("nan")), "integrity_parity_int8", "agree on nan"),
        (with_int8(kept=False), "integrity_parity_int8", "nothing of how it agrees"),
        (with_int8(accuracy_drop=0.2), "integrity_drop_int8", "loses 0.200 of the accuracy"),
        (with_int8(accuracy_drop=float("nan")), "integrity_drop_int8", "loses nan"),
    ],
)  # fmt: skip
def test_an_int8_network_that_does_not_agree_is_refused_though_float32_is_served(
    facts: dict[str, Any], check: str, words: str
) -> None:
    verdict = judge(evidence(predictions(errors(20)), **facts), PARAMS)
    assert verdict.format == "onnx"
    assert failed(verdict) == [check]
    assert words in outcome(verdict, check).detail


def test_the_parity_of_int8_stands_in_the_verdict_and_follows_from_the_stored_answers() -> None:
    ours = predictions(errors(20))
    assert not any("int8" in check.name for check in judge(evidence(ours), PARAMS).checks)
    verdict = judge(evidence(ours, **with_int8()), PARAMS)
    parity, drop = (outcome(verdict, f"integrity_{name}_int8") for name in ("parity", "drop"))
    assert (parity.value, parity.ci95, parity.bound, parity.support) == (0.975, [0.87, 1.0], 0.95, 40)
    assert (drop.value, drop.bound, drop.support) == (0.005, 0.01, 40)
    assert verdict.decision == "PROMOTE"
    found = with_validation(1.0)
    table, stored = found.pop("ours"), found.pop("references")["onnx"]
    place = stored.column_names.index("predicted")
    named = ["pit" if i % 10 == 0 else label for i, label in enumerate(stored["predicted"].to_pylist())]
    other = stored.set_column(place, "predicted", pa.array(named))
    info = found["info"] | with_int8()["info"] | {"temperature": found["info"]["temperature"]}
    both = {"onnx": stored, "int8": other}
    verdict = judge(evidence(table, references=both, info=info), PARAMS)
    assert failed(verdict) == ["integrity_parity_int8"]
    assert "the stored answers say 0.9" in outcome(verdict, "integrity_parity_int8").detail
    info |= {"formats": {"int8": FIGURES | {"agreement": 0.975}}}
    same = judge(evidence(table, references={"onnx": stored, "int8": stored}, info=info), PARAMS)
    assert failed(same) == ["integrity_parity_int8"], "1 is not .975 either"


def with_validation(temperature: float, method: str = "temperature") -> dict[str, Any]:
    """Evidence whose logits were divided by ``temperature`` times what the validation images ask for.

    Vector scaling does so within the network, and leaves a temperature of 1.
    """
    from pipeline.transfer.calibration import fit_temperature

    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    logits = generator.normal(0, 1, (120, 3)) + 2.0 * np.eye(3)[labels]
    fitted = fit_temperature(logits, labels) * temperature
    scaled = np.exp(logits / fitted)
    probabilities = (scaled / scaled.sum(axis=1, keepdims=True)).astype(np.float32)
    validation = predictions(np.ones(120, dtype=bool), labels)
    rows = validation.to_pylist()
    for number, row in enumerate(rows):
        winner = int(probabilities[number].argmax())
        row |= {"image_id": f"v{number}", "path": f"v{number}.jpg", "split": "validation"}
        row |= {
            "probabilities": probabilities[number].tolist(),
            "confidence": float(probabilities[number].max()),
        }
        row |= {"predicted": ["clean", "crack", "pit"][winner], "correct": winner == labels[number]}
    table = pa.concat_tables(
        [
            predictions(errors(20)).replace_schema_metadata(),
            pa.Table.from_pylist(rows, schema=artifacts.PREDICTIONS),
        ]
    )
    stored = reference(table)
    left = fitted if method == "temperature" else 1.0
    embedding = [list(np.log(np.maximum(p, 1e-12)) * left) for p in table["probabilities"].to_pylist()]
    place = artifacts.REFERENCE.names.index("embedding")
    field = artifacts.REFERENCE.field(place)
    stored = stored.set_column(place, field, pa.array(embedding, field.type))
    info = changed(temperature=left, validation={"method": method})
    return {"ours": table, "references": {"onnx": stored}, **info}


def test_a_temperature_that_validation_does_not_give_is_refused() -> None:
    honest = with_validation(1.0)
    verdict = judge(evidence(honest.pop("ours"), **honest), PARAMS)
    assert outcome(verdict, "integrity_calibration").outcome == "pass", outcome(
        verdict, "integrity_calibration"
    ).detail
    other = with_validation(1.3)
    verdict = judge(evidence(other.pop("ours"), **other), PARAMS)
    assert "integrity_calibration" in failed(verdict)
    assert "it was fitted to other images" in outcome(verdict, "integrity_calibration").detail


@pytest.mark.parametrize(("temperature", "expected"), [(1.5, "pass"), (1.0, "pass"), (0.6, "fail")])
def test_vector_scaling_may_leave_its_own_images_shy_but_not_too_sure(
    temperature: float, expected: str
) -> None:
    found = with_validation(temperature, "vector")
    verdict = judge(evidence(found.pop("ours"), **found), PARAMS)
    assert outcome(verdict, "integrity_calibration").outcome == expected


def test_a_temperature_on_top_of_vector_scaling_is_refused() -> None:
    found = with_validation(1.0, "vector")
    found["info"]["temperature"] = 1.5
    verdict = judge(evidence(found.pop("ours"), **found), PARAMS)
    assert "integrity_parity" in failed(verdict)
    assert "leaves no temperature" in outcome(verdict, "integrity_calibration").detail


def test_a_gap_in_the_lineage_is_for_a_person_to_accept() -> None:
    verdict = judge(
        evidence(predictions(errors(20)), **changed(code={"commit": None, "dirty": None})), PARAMS
    )
    assert verdict.decision == "INSUFFICIENT_EVIDENCE"
    check = outcome(verdict, "lineage")
    assert check.kind != "integrity"  # --approve covers it
    assert "no git commit" in check.detail
    assert "`git commit pipeline dvc.yaml`, then `dvc repro -f bundle`" in str(check.would_flip)


@pytest.mark.parametrize(
    ("change", "words", "mend"),
    [
        ({"code": {"commit": "e" * 40, "dirty": True}}, "code (it had uncommitted changes)", "git commit"),
        ({"weights": {"digest": "w", "source": "w/", "licence": None}}, "licence of the weights", "config.json"),
        ({"digests": {**dict.fromkeys(("manifest", "split", "params", "lock"), "d" * 64)}}, "weights", "bundle"),
    ],
)  # fmt: skip
def test_code_that_no_commit_holds_and_weights_without_papers_are_for_a_person(
    change: dict[str, Any], words: str, mend: str
) -> None:
    verdict = judge(evidence(predictions(errors(20)), **changed(**change)), PARAMS)
    assert verdict.decision == "INSUFFICIENT_EVIDENCE"
    check = outcome(verdict, "lineage")
    assert check.detail == f"not on record: {words}"
    assert (check.value, check.bound) == (1, 0)
    assert mend in str(check.would_flip)


def test_random_weights_need_no_licence() -> None:
    random = changed(weights={"digest": "w", "source": "none", "licence": None})
    assert judge(evidence(predictions(errors(20)), **random), PARAMS).decision == "PROMOTE"


def test_reports_of_other_bundles_are_refused() -> None:
    ours = predictions(errors(20))
    stale = judge(evidence(ours, stress_origin={"bundles": [THEIRS]}), PARAMS)
    assert "stress.parquet is about aaaaaaaaaaaa" in outcome(stale, "integrity_companions").detail
    other = judge(evidence(ours, performance={"challenger": timed(THEIRS), "champion": None}), PARAMS)
    assert "performance.json is about aaaaaaaaaaaa" in outcome(other, "integrity_companions").detail


def test_the_comparison_names_mcnemars_p_value() -> None:
    verdict = judge(evidence(predictions(errors(5)), predictions(errors(25), digest=THEIRS)), PARAMS)
    assert "McNemar" in outcome(verdict, "noninferiority").detail


def test_nll_has_a_bound() -> None:
    strict = replace(PARAMS, gate=replace(PARAMS.gate, max_nll=0.1))
    verdict = judge(evidence(predictions(errors(20))), strict)
    assert failed(verdict) == ["nll"]
    assert str(outcome(verdict, "nll").would_flip).endswith("lower")


# --- a test set wears out


def test_looks_are_counted_by_challenger_and_alike_test_sets_count_as_one(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, tmp_path / "var")

    def names(numbers: range) -> list[str]:
        return [hashlib.sha256(str(number).encode()).hexdigest() for number in numbers]

    ids = names(range(100))
    assert [peeks.count(workspace, c, ids) for c in ("a", "b", "a", "c", "b")] == [1, 2, 1, 3, 2]
    assert peeks.count(workspace, "d", ids[:80]) == 4
    assert peeks.count(workspace, "e", names(range(1000, 1100))) == 1
    for number, fresh in ((99, False), (100, True), (300, True)):  # new ones beside 100 that were looked at
        grown = ids + names(range(1000 * number, 1000 * number + number))
        assert (peeks.count(workspace, f"grown by {number}", grown) == 1) is fresh, number
    assert "at least half of them new" in str(peeks.check(21, 20, 100).would_flip)


def test_a_worn_test_set_asks_for_fresh_images() -> None:
    verdict = judge(evidence(predictions(errors(20)), peek=21), PARAMS)
    assert verdict.decision == "INSUFFICIENT_EVIDENCE"
    assert "fresh test images" in str(outcome(verdict, "peeks").would_flip)
    assert judge(evidence(predictions(errors(20)), peek=20), PARAMS).decision == "PROMOTE"


def test_a_damaged_record_of_looks_is_an_error_and_no_fresh_start(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, tmp_path / "var")
    peeks.count(workspace, "a", ["1" * 64])
    workspace.peeks.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"peeks\.json is damaged"):
        peeks.count(workspace, "b", ["1" * 64])


# --- dvc.lock


def test_what_dvc_lock_does_not_name_is_not_released(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, tmp_path / "var")
    assert "is missing" in str(lock_fault(workspace))
    artifacts.write_json(workspace.verdict, {"decision": "PROMOTE"})
    artifacts.write_json(workspace.metrics, {"test": {}})
    artifacts.write_json(workspace.bundle / "bundle.json", {})

    def named(path: str, md5: str = "0" * 32) -> dict[str, str]:
        return {"path": path, "md5": md5_as_dvc(tmp_path / path) or md5}

    bundle = {"outs": [named("artifacts/bundle")]}
    code = {"path": "pipeline/gate.py", "md5": "0" * 32}  # code may go on; what was judged from may not
    gate = {"outs": [named("reports/verdict.json")], "deps": [named("reports/metrics.json"), code]}

    def locked(**stages: object) -> None:
        (tmp_path / "dvc.lock").write_text(json.dumps({"stages": stages}), encoding="utf-8")  # JSON is YAML

    locked(bundle=bundle, gate=gate)
    assert lock_fault(workspace) is None
    locked(bundle=bundle)
    assert lock_fault(workspace) == "reports/verdict.json is not in dvc.lock"
    locked(bundle=bundle, gate=gate)
    artifacts.write_json(workspace.metrics, {"test": {"accuracy": 0.999}})
    assert "metrics.json is not what dvc.lock names" in str(lock_fault(workspace))
    gate["deps"] = []
    lock = {
        "stages": {"bundle": bundle, "gate": {"outs": [{"path": "reports/verdict.json", "md5": "0" * 32}]}}
    }
    locked(**lock["stages"])
    assert "verdict.json is not what dvc.lock names" in str(lock_fault(workspace))
    workspace.verdict.unlink()
    assert "md5 missing" in str(lock_fault(workspace))
    (tmp_path / "dvc.lock").write_text("stages: [", encoding="utf-8")
    with pytest.raises(DataError, match="restore it with git"):
        lock_fault(workspace)


def test_groups_of_alike_shots_count_once_in_a_slice() -> None:
    correct = np.repeat([True, False, True, True], 30)
    groups = [str(i // 30) for i in range(120)]
    masks = {"k": {"a": np.arange(120) < 60, "b": np.arange(120) >= 60}}
    checks = slice_checks(correct, groups, masks, Gate(min_slice_accuracy=0.7))
    assert not [check for check in checks if check.outcome == "fail"]  # .5 of 60, but of two parts
    assert len(set(codes(groups).tolist())) == 4
    assert len(LABELS) == 250


def test_memory_is_the_worker_s_own_and_not_its_parent_s(tmp_path: Path) -> None:
    """A process that is forked off a large one inherits its peak, as getrusage counts."""
    image = tmp_path / "image.png"
    Image.new("RGB", (40, 40), (200, 30, 30)).save(image)
    tiny_bundle.make(tmp_path / "bundle")
    ballast = np.ones(150_000_000)  # 1.2 GB
    found = measure({"challenger": tmp_path / "bundle"}, [str(image)], PARAMS)["challenger"]
    assert ballast.sum() > 0
    assert 20 < found["memory_megabytes"] < 600
    assert found["cold_start_seconds"] > 0
    assert len(found["by_round"]) == 12
