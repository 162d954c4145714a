"""The probe's head: what it learns, what its search protects, and what it refuses."""

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.transfer.calibration import calibration, fit_temperature, log_losses
from pipeline.transfer.choice import compare
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.probe import Head, Views, _folds, fit_probe, logistic

CLASSES = ("a", "b", "c")


def clouds(per_class: int, spread: float, seed: int = 0, width: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, width] around one centre a class, and their labels."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(0, 1, (len(CLASSES), width))
    labels = np.repeat(np.arange(len(CLASSES)), per_class)
    return (centres[labels] + generator.normal(0, spread, (len(labels), width))).astype(np.float32), labels


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    groups: list[str] | None = None,
    weights: np.ndarray | None = None,
    log_prior: np.ndarray | None = None,
) -> Head:
    return fit_probe(
        Views(features[None]),
        labels,
        CLASSES,
        groups=groups or [str(row) for row in range(len(labels))],
        weights=np.ones(len(labels)) if weights is None else weights,
        log_prior=np.zeros(len(CLASSES)) if log_prior is None else log_prior,
        seed=0,
    )


def accuracy(head: Head, features: np.ndarray, labels: np.ndarray) -> float:
    return float((head.logits(features).argmax(axis=1) == labels).mean())


def test_it_learns_and_is_the_same_each_time() -> None:
    features, labels = clouds(40, 1.0)
    head = fit(features, labels)
    assert accuracy(head, *clouds(200, 1.0, seed=1)) > 0.95
    assert head.folds == 5
    np.testing.assert_array_equal(head.weight, fit(features, labels).weight)


def test_the_head_is_scikit_learns_on_standardised_features() -> None:
    from sklearn.linear_model import LogisticRegression

    features, labels = clouds(40, 2.0)
    head = fit(features * 7 + 3, labels)
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    rival = LogisticRegression(C=head.strength, tol=1e-8, max_iter=5000).fit(standard, labels)
    difference = head.logits(features * 7 + 3) - (standard @ rival.coef_.T + rival.intercept_)
    difference -= difference.mean(axis=1, keepdims=True)  # a constant over the classes changes nothing
    assert np.abs(difference).max() < 0.02


def test_more_features_than_images_gives_the_same_head_as_without_the_short_cut() -> None:
    features, labels = clouds(10, 1.0, width=200)
    head = fit(features, labels)
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    weight, bias, _ = logistic(
        standard.astype(np.float64), labels, 3, head.strength, np.ones(len(labels)), np.zeros(3)
    )
    np.testing.assert_allclose(head.logits(features), standard @ weight.T + bias, atol=0.02)


def test_noisy_labels_ask_for_a_stronger_penalty() -> None:
    features, labels = clouds(40, 1.0)
    shuffled = labels.copy()
    np.random.default_rng(1).shuffle(shuffled)
    assert fit(features, shuffled).strength < fit(features, labels).strength


def test_no_group_is_on_both_sides_of_a_fold() -> None:
    labels = np.tile(np.arange(3), 40)
    groups = [f"part-{row // 6}" for row in range(120)]
    folds = _folds(labels, groups, 3, seed=0)
    assert len(folds) == 5
    for fitted, held in folds:
        assert not {groups[row] for row in fitted} & {groups[row] for row in held}


def test_near_alike_shots_in_one_group_do_not_fool_the_search() -> None:
    """Ten copies of each noisy image: without groups, memory looks like skill."""
    features, labels = clouds(6, 1.0, width=60)
    labels = np.random.default_rng(3).permutation(labels)  # nothing to learn at all
    copies = np.repeat(features, 10, axis=0) + np.random.default_rng(4).normal(0, 0.01, (180, 60)).astype(
        np.float32
    )
    many = np.repeat(labels, 10)
    groups = [str(row // 10) for row in range(180)]
    assert fit(copies, many, groups=groups).strength < fit(copies, many).strength


def test_classes_too_small_for_folds_take_the_default() -> None:
    features, labels = clouds(4, 0.5)
    head = fit(features, labels, groups=[CLASSES[label] for label in labels])
    assert head.folds == 0
    assert accuracy(head, features, labels) == 1.0


def test_dead_and_huge_features_do_no_harm() -> None:
    features, labels = clouds(30, 0.5)
    features = np.concatenate([features, np.zeros((90, 2)), np.full((90, 1), 1e4)], axis=1).astype(np.float32)
    head = fit(features, labels)
    assert np.isfinite(head.weight).all()
    assert accuracy(head, features, labels) > 0.95


def test_bad_input_is_refused_in_words() -> None:
    features, labels = clouds(4, 1.0)
    with pytest.raises(DataError, match="all of one class"):
        fit_probe(
            Views(features[None]), np.zeros(12, int), ["only"], groups=["g"] * 12, weights=np.ones(12),
            log_prior=np.zeros(1), seed=0,
        )  # fmt: skip
    with pytest.raises(DataError, match="3 training images for 3 classes"):
        fit(features[[0, 4, 8]], labels[[0, 4, 8]])


def balance(plan: str, weights: tuple[float, float, float]) -> dict[str, object]:
    return {
        "plan": plan,
        "classes": {label: {"weight": weight} for label, weight in zip(CLASSES, weights, strict=True)},
    }


def imbalanced() -> tuple[np.ndarray, np.ndarray]:
    features, labels = clouds(100, 2.5)
    keep = np.concatenate([np.arange(100), 100 + np.arange(100), 200 + np.arange(8)])
    return features[keep], labels[keep]


@pytest.mark.parametrize("name", ["class_weights", "sampler", "logit_adjustment"])
def test_each_plan_finds_more_of_the_rare_class(name: str) -> None:
    features, labels = imbalanced()
    test, truth = clouds(300, 2.5, seed=7)
    rare = truth == 2

    def recall(plan: Plan) -> float:
        head = fit(features, labels, weights=plan.probe_weights, log_prior=plan.log_prior)
        return accuracy(head, test[rare], truth[rare])

    plain = recall(Plan.of(balance("none", (1, 1, 1)), labels, CLASSES))
    assert recall(Plan.of(balance(name, (0.2, 0.2, 2.6)), labels, CLASSES)) > plain + 0.05


def test_the_sampler_draws_by_weight_and_others_show_each_image_once() -> None:
    labels = imbalanced()[1]
    generator = np.random.default_rng(0)
    sampler = Plan.of(balance("sampler", (0.2, 0.2, 2.6)), labels, CLASSES)
    drawn = np.concatenate([sampler.order(generator) for _ in range(50)])
    assert (labels[drawn] == 2).mean() > 2 * (labels == 2).mean()
    plain = Plan.of(balance("none", (1, 1, 1)), labels, CLASSES)
    assert sorted(plain.order(generator)) == list(range(len(labels)))
    with pytest.raises(DataError, match="lacks the classes"):
        Plan.of({"plan": "none", "classes": {}}, labels, CLASSES)


def logits_of(labels: np.ndarray, scale: float, wrong: float, seed: int) -> np.ndarray:
    """Logits that are right but for a share ``wrong``, with a margin of ``scale``."""
    generator = np.random.default_rng(seed)
    shown = np.where(generator.random(len(labels)) < wrong, (labels + 1) % 3, labels)
    return scale * np.eye(3)[shown] + generator.normal(0, 0.3, (len(labels), 3))


def test_the_temperature_undoes_overconfidence_and_underconfidence() -> None:
    labels = np.arange(600) % 3
    for scale in (20.0, 0.5):
        logits = logits_of(labels, scale, 0.2, 0)
        result = calibration(logits, labels, [str(n) for n in range(600)])
        assert result["after"]["nll"] < result["before"]["nll"]
        assert result["after"]["ece"] < result["before"]["ece"]
    assert fit_temperature(logits_of(labels, 20.0, 0.2, 0), labels) > 2
    assert fit_temperature(logits_of(labels, 0.5, 0.2, 0), labels) < 1


def test_few_images_that_are_all_right_do_not_make_it_certain() -> None:
    labels = np.arange(9) % 3
    temperature = fit_temperature(3 * np.eye(3)[labels], labels)
    assert 0.3 < temperature < 1
    assert np.isfinite(log_losses(1e4 * np.eye(3)[(labels + 1) % 3], labels, temperature)).all()


def test_the_second_wins_only_beyond_the_noise() -> None:
    labels = np.arange(120) % 3
    groups = [str(n) for n in range(120)]
    worse, better = logits_of(labels, 3, 0.3, 0), logits_of(labels, 3, 0.05, 1)
    assert compare(worse, better, labels, groups).second_wins
    assert not compare(better, worse, labels, groups).second_wins
    assert not compare(better, better, labels, groups).second_wins
    assert not compare(worse, better, labels, ["one part"] * 120).second_wins


def test_a_few_parts_photographed_often_are_few() -> None:
    labels = np.arange(120) % 3
    first, second = logits_of(labels, 3, 0.2, 0), logits_of(labels, 3, 0.15, 5)
    alone = compare(first, second, labels, [str(n) for n in range(120)])
    together = compare(
        np.repeat(first, 5, 0),
        np.repeat(second, 5, 0),
        np.repeat(labels, 5),
        [str(n // 5) for n in range(600)],
    )
    assert together.error == pytest.approx(alone.error, rel=0.05)
