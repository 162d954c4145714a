"""Calibration: what it undoes, what it does not invent, and that its gain is judged on images it has not seen."""

from typing import Any

import numpy as np
import pytest

from pipeline.bundle import softmax
from pipeline.transfer.calibration import fit_temperature, log_losses
from pipeline.transfer.confidence import Calibration, calibrate
from pipeline.transfer.vector_scaling import fit_vector

CLASSES = ("a", "b", "c")


def logits_of(labels: np.ndarray, scale: float, wrong: float, seed: int) -> np.ndarray:
    """Logits that are right but for a share ``wrong``, with a margin of ``scale``."""
    generator = np.random.default_rng(seed)
    shown = np.where(generator.random(len(labels)) < wrong, (labels + 1) % 3, labels)
    return scale * np.eye(3)[shown] + generator.normal(0, 0.3, (len(labels), 3))


def calibrated(logits: np.ndarray, labels: np.ndarray, method: Any = "auto", shots: int = 1) -> Calibration:
    groups = [f"part-{row // shots}" for row in range(len(labels))]
    return calibrate(logits, labels, groups, CLASSES, method, 0)


def test_the_temperature_undoes_overconfidence_and_underconfidence() -> None:
    labels = np.arange(600) % 3
    for scale in (20.0, 0.5):
        validation = calibrated(logits_of(labels, scale, 0.2, 0), labels).validation
        before, after = validation["before"], validation["after"]
        assert validation["method"] == "temperature"
        assert validation["cross_fitted"]
        assert after["nll"] < before["nll"]
        assert after["ece"] < before["ece"]
        assert after["nll_ci95"][0] < after["nll"] < after["nll_ci95"][1] < before["nll_ci95"][0]
        assert after["ece_ci95"][0] <= after["ece"] <= after["ece_ci95"][1]
    assert fit_temperature(logits_of(labels, 20.0, 0.2, 0), labels) > 2
    assert fit_temperature(logits_of(labels, 0.5, 0.2, 0), labels) < 1


def test_few_images_that_are_all_right_do_not_make_it_certain() -> None:
    labels = np.arange(9) % 3
    temperature = fit_temperature(3 * np.eye(3)[labels], labels)
    assert 0.3 < temperature < 1
    assert np.isfinite(log_losses(1e4 * np.eye(3)[(labels + 1) % 3], labels, temperature)).all()


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are perfectly calibrated: each label is drawn from what its logits say."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (n, 3))
    shares = softmax(logits)
    return logits, (generator.random((n, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(0, 2)


def test_a_class_that_is_too_sure_of_itself_asks_for_vector_scaling() -> None:
    """One class's logits are three times too large, and another is claimed too often: no temperature mends both."""
    honest, labels = drawn(1200)
    distorted = honest * np.array([3.0, 1.0, 1.0]) + np.array([0.0, 1.5, 0.0])
    found = calibrated(distorted, labels)
    assert found.validation["method"] == "vector"
    assert found.validation["vector_gain"] > found.validation["standard_error"]
    assert found.temperature == 1.0
    assert found.vector is not None
    assert (
        found.validation["after"]["nll"]
        < calibrated(distorted, labels, "temperature").validation["after"]["nll"]
    )
    scale = found.vector.scale / found.vector.scale[2]
    assert scale[0] == pytest.approx(1 / 3, rel=0.25)
    assert scale[1] == pytest.approx(1, rel=0.25)
    unseen, truth = drawn(3000, seed=1)
    mended = found.vector.apply(unseen * np.array([3.0, 1.0, 1.0]) + np.array([0.0, 1.5, 0.0]))
    assert log_losses(mended, truth).mean() == pytest.approx(log_losses(unseen, truth).mean(), abs=0.01)


def test_a_class_without_validation_images_keeps_vector_scaling_away() -> None:
    labels = np.arange(600) % 3
    logits = logits_of(labels, 3.0, 0.1, 1)
    logits[:, 0] *= 6
    assert calibrated(logits, labels).validation["method"] == "vector"
    seen = labels != 2
    found = calibrated(logits[seen], labels[seen])
    assert found.validation["method"] == "temperature"
    assert "no validation image of 1 class to scale by" in found.report


def test_vector_scaling_does_not_bring_back_shares_that_the_plan_has_taken_out() -> None:
    """Nine in ten images are of one class, and the logits answer as if half were: a bias pays, for the rare class."""
    generator = np.random.default_rng(0)
    labels = (generator.random(1500) < 0.1).astype(int)
    seen = generator.normal(np.where(labels == 1, 1.0, -1.0), 1.0)
    adjusted = np.stack([-seen, seen], axis=1)
    found = calibrated(adjusted, labels)
    assert found.validation["vector_gain"] > 10 * found.validation["standard_error"]
    assert found.validation["method"] == "temperature"
    vector = calibrated(adjusted, labels, "vector").vector
    assert vector is not None
    recalls = [
        (logits[labels == 1].argmax(axis=1) == 1).mean() for logits in (adjusted, vector.apply(adjusted))
    ]
    assert recalls[0] > recalls[1] + 0.1


def test_what_one_temperature_mends_is_left_to_it() -> None:
    for n in (40, 400):
        honest, labels = drawn(n, seed=2)
        found = calibrated(honest * 2.5, labels)
        assert found.validation["method"] == "temperature"
        assert found.vector is None
    assert found.temperature == pytest.approx(2.5, rel=0.2)


def test_a_few_images_keep_the_temperature_even_where_vector_scaling_is_asked_for() -> None:
    """One image a class says next to nothing about that class alone."""
    logits = np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 2.0, 0.0]])
    vector = fit_vector(logits, np.arange(3))
    temperature = fit_temperature(logits, np.arange(3))
    np.testing.assert_allclose(vector.scale * temperature, 1, atol=0.2)
    np.testing.assert_allclose(vector.bias, 0, atol=0.35)


def test_the_gain_is_judged_on_images_that_the_fit_has_not_seen() -> None:
    """Labels at random, ten copies each: fitted copies would show a gain that is none."""
    generator = np.random.default_rng(3)
    logits, labels = generator.normal(0, 2, (30, 3)), generator.integers(0, 3, 30)
    copies, many = np.repeat(logits, 10, axis=0), np.repeat(labels, 10)
    by_group = calibrated(copies, many, "vector", shots=10).validation
    leaking = calibrated(copies, many, "vector").validation
    assert leaking["after"]["nll"] < by_group["after"]["nll"]
    assert leaking["after"]["nll_ci95"][1] - leaking["after"]["nll_ci95"][0] < (
        by_group["after"]["nll_ci95"][1] - by_group["after"]["nll_ci95"][0]
    )


def test_images_of_one_group_can_not_be_held_out_and_it_says_so() -> None:
    honest, labels = drawn(20)
    found = calibrated(honest, labels, shots=20)
    assert not found.validation["cross_fitted"]
    assert found.validation["after"]["nll_ci95"] is None
    assert "on the same images" in found.report


def test_the_curve_has_a_point_a_bin_before_and_after() -> None:
    honest, labels = drawn(200)
    points = calibrated(honest * 3, labels).reliability
    assert {point["when"] for point in points} == {"before", "after"}
    for when in ("before", "after"):
        assert sum(point["images"] for point in points if point["when"] == when) == 200
    for point in points:
        assert point["low"] <= point["accuracy"] <= point["high"]
