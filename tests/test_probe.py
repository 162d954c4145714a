"""The probe's head: what it learns, what its search protects, and what it refuses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import DataError, ParamsError
from pipeline.transfer.calibration import fit_temperature, log_losses
from pipeline.transfer.choice import compare
from pipeline.transfer.examples import Examples, standardise
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.logistic import logistic
from pipeline.transfer.prior import class_embeddings, read_prior, scaled, write_prior
from pipeline.transfer.probe import MOST_FOR_LOGISTIC, Head, fit_probe, head_kind, held_out
from pipeline.transfer.ridge import ridge_path
from pipeline.transfer.stratify import stratified_folds
from tests.test_calibration import logits_of

CLASSES = ("a", "b", "c")
KINDS = ("ok", "dent", "deep_scratch", "stain", "crack", "missing_screw")


def clouds(per_class: int, spread: float, seed: int = 0, width: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, width] around one centre a class, and their labels."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(0, 1, (len(CLASSES), width))
    labels = np.repeat(np.arange(len(CLASSES)), per_class)
    return (centres[labels] + generator.normal(0, spread, (len(labels), width))).astype(np.float32), labels


def examples(
    features: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
    log_prior: np.ndarray | None = None,
) -> Examples:
    return Examples(
        features[None],
        labels,
        np.ones(len(labels)) if weights is None else weights,
        np.zeros(3) if log_prior is None else log_prior,
    )


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    groups: list[str] | None = None,
    weights: np.ndarray | None = None,
    log_prior: np.ndarray | None = None,
    head: Any = "logistic",
) -> Head:
    return fit_probe(
        examples(features, labels, weights, log_prior),
        CLASSES,
        groups=groups or [str(row) for row in range(len(labels))],
        seed=0,
        head=head,
    )


def accuracy(head: Head, features: np.ndarray, labels: np.ndarray) -> float:
    return float((head.logits(features).argmax(axis=1) == labels).mean())


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_it_learns_and_is_the_same_each_time(kind: str) -> None:
    features, labels = clouds(40, 1.0)
    head = fit(features, labels, head=kind)
    assert accuracy(head, *clouds(200, 1.0, seed=1)) > 0.95
    assert head.folds == 5
    assert head.kind == kind
    np.testing.assert_array_equal(head.weight, fit(features, labels, head=kind).weight)


def test_the_ridge_solution_is_scikit_learns() -> None:
    from sklearn.linear_model import Ridge, RidgeClassifier

    features, labels = clouds(40, 2.0)
    rows = features.astype(np.float64) * 3 + 1
    weights = np.random.default_rng(5).uniform(0.2, 3.0, len(labels))
    for penalty in (0.01, 1.0):
        [(weight, bias)] = ridge_path(rows, labels, weights, np.zeros(3), [penalty])
        settings = {"alpha": penalty * weights.sum()}
        rival = Ridge(**settings).fit(rows, np.eye(3)[labels], sample_weight=weights)
        np.testing.assert_allclose(weight, rival.coef_, atol=1e-9)
        np.testing.assert_allclose(bias, rival.intercept_, atol=1e-9)
        named = RidgeClassifier(**settings).fit(rows, labels, sample_weight=weights).predict(rows)
        np.testing.assert_array_equal((rows @ weight.T + bias).argmax(axis=1), named)


def test_ridge_gives_logits_that_are_as_sure_as_they_may_be() -> None:
    """Its scores are no logits; what the head ships is: about as good in log loss as the logistic head."""
    features, labels = clouds(100, 2.5)
    test, truth = clouds(400, 2.5, seed=1)
    loss = {
        kind: float(log_losses(fit(features, labels, head=kind).logits(test), truth).mean())
        for kind in ("logistic", "ridge")
    }
    assert loss["ridge"] < loss["logistic"] + 0.05
    best = fit_temperature(fit(features, labels, head="ridge").logits(test), truth)
    assert 0.6 < best < 1.5  # of the raw scores it would be some 0.15


def test_one_wild_image_does_not_decide_the_search() -> None:
    features, labels = clouds(60, 1.5)
    features = np.concatenate([features, np.zeros((180, 1), np.float32)], axis=1)
    features[0, -1] = 1e3  # a feature that is zero in all images but one
    for kind in ("logistic", "ridge"):
        found = held_out(examples(features, labels), [str(n) for n in range(180)], kind, 0)
        assert found is not None
        assert found.losses.min() < 0.5
        assert fit(features, labels, head=kind).kind == kind


def test_auto_is_logistic_until_it_would_take_too_long() -> None:
    small = examples(*clouds(40, 1.0))
    assert head_kind(small) == "logistic"
    assert head_kind(small, "ridge") == "ridge"
    width = MOST_FOR_LOGISTIC // (3 * 1000) + 1
    large = Examples(
        np.broadcast_to(np.float32(0), (1, 1000, width)), np.zeros(1000), np.ones(1000), np.zeros(3)
    )
    assert head_kind(large) == "ridge"
    assert head_kind(large, "logistic") == "logistic"


def test_standardised_features_fold_back_into_raw_ones() -> None:
    features, _ = clouds(10, 1.0, width=200)
    features[:, 7] = 5.0  # dead
    standard = standardise(features)
    weight, bias = np.random.default_rng(0).normal(0, 1, (3, standard.values.shape[1])), np.ones(3)
    full, shift = standard.fold(weight, bias)
    np.testing.assert_allclose(features @ full.T + shift, standard.values @ weight.T + bias, atol=1e-4)
    assert (full[:, 7] == 0).all()


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
        standard.astype(np.float64), labels, np.ones(len(labels)), np.zeros(3), head.strength
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
    folds = stratified_folds(labels, groups, 5)
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
    for kind in ("logistic", "ridge"):
        head = fit(features, labels, groups=[CLASSES[label] for label in labels], head=kind)
        assert head.folds == 0
        assert accuracy(head, features, labels) == 1.0


def test_dead_and_huge_features_do_no_harm() -> None:
    features, labels = clouds(30, 0.5)
    features = np.concatenate([features, np.zeros((90, 2)), np.full((90, 1), 1e4)], axis=1).astype(np.float32)
    for kind in ("logistic", "ridge"):
        head = fit(features, labels, head=kind)
        assert np.isfinite(head.weight).all()
        assert accuracy(head, features, labels) > 0.95


def test_bad_input_is_refused_in_words() -> None:
    features, labels = clouds(4, 1.0)
    with pytest.raises(DataError, match="all of one class"):
        fit_probe(examples(features, np.zeros(12, int)), ["only"], groups=["g"] * 12, seed=0)
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


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
@pytest.mark.parametrize("name", ["class_weights", "sampler", "logit_adjustment"])
def test_each_plan_finds_more_of_the_rare_class(name: str, kind: str) -> None:
    features, labels = imbalanced()
    test, truth = clouds(300, 2.5, seed=7)
    rare = truth == 2

    def recall(plan: Plan) -> float:
        head = fit(features, labels, weights=plan.probe_weights, log_prior=plan.log_prior, head=kind)
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


def tower(seed: int = 0) -> tuple[np.ndarray, Callable[[list[str]], np.ndarray], Callable[..., Any]]:
    """A made-up image and text tower: the image tower's projection, the text encoder, and images of the classes."""
    generator = np.random.default_rng(seed)
    meanings = {name: generator.normal(size=16) for name in KINDS}
    projection = generator.normal(size=(32, 16)) / 4

    def encode(texts: list[str]) -> np.ndarray:
        return np.stack(
            [next(m for name, m in meanings.items() if name.replace("_", " ") in text) for text in texts]
        ) + generator.normal(0, 0.3, (len(texts), 16))

    def features(labels: np.ndarray) -> np.ndarray:
        shown = np.stack([meanings[KINDS[label]] for label in labels])
        noise = generator.normal(0, 2.0, (len(labels), 32))
        return (shown @ np.linalg.pinv(projection) + noise).astype(np.float32)

    return projection, encode, features


def test_class_names_make_a_probe_on_an_image_a_class_better(tmp_path: Path) -> None:
    projection, encode, features = tower()
    write_prior(tmp_path / "prior.json", KINDS, class_embeddings(KINDS, encode, projection))
    prior = read_prior(tmp_path / "prior.json", KINDS, 32)
    labels = np.array([0, 0, 1, 2, 3, 4, 5])
    few = Examples(features(labels)[None], labels, np.ones(7), np.zeros(6))
    named = replace(few, prior=scaled(prior, few.features[0], labels))
    shown = np.arange(600) % 6
    unseen = features(shown)
    heads = [fit_probe(one, KINDS, groups=[*"abcdefg"], seed=0) for one in (few, named)]
    accuracy = [float((head.logits(unseen).argmax(axis=1) == shown).mean()) for head in heads]
    losses = [float(log_losses(head.logits(unseen), shown).mean()) for head in heads]
    assert [head.prior for head in heads] == [False, True]
    assert accuracy[1] > accuracy[0] + 0.05
    assert losses[1] < losses[0]


def test_class_names_that_mislead_are_left_out() -> None:
    """The names of other classes, and enough images for cross-validation to see that."""
    projection, encode, features = tower()
    labels = np.arange(180) % 6
    many = Examples(features(labels)[None], labels, np.ones(180), np.zeros(6))
    groups = [str(row) for row in range(180)]
    wrong = class_embeddings((*KINDS[1:], KINDS[0]), encode, projection)
    misled = replace(many, prior=scaled(wrong, many.features[0], labels))
    heads = [fit_probe(one, KINDS, groups=groups, seed=0) for one in (many, misled)]
    assert not heads[1].prior
    np.testing.assert_array_equal(heads[1].weight, heads[0].weight)
    ridge = fit_probe(misled, KINDS, groups=groups, seed=0, head="ridge")
    assert not ridge.prior
    assert head_kind(misled) == "logistic"


@pytest.mark.parametrize(
    ("classes", "width", "words"),
    [((*KINDS, "new"), 32, "no class new"), (KINDS, 768, "backbone's features have 768 numbers")],
)
def test_a_prior_of_other_classes_or_another_backbone_is_refused(
    classes: tuple[str, ...], width: int, words: str, tmp_path: Path
) -> None:
    projection, encode, _ = tower()
    file = tmp_path / "prior.json"
    with pytest.raises(ParamsError, match=r"can't be read.*pipeline\.transfer\.prior"):
        read_prior(file, KINDS, 32)
    write_prior(file, KINDS, class_embeddings(KINDS, encode, projection))
    with pytest.raises(ParamsError, match=words):
        read_prior(file, classes, width)
