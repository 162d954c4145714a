"""How unlike the held-out images each new one is: the score of a domain classifier.

A logistic regression tells production's embeddings from the reference's. Scores are cross-fitted: an image's
comes from a classifier that saw neither it nor a near-alike one, so a classifier that learned its images by
heart makes none of them look new (Chernozhukov et al., "Double/debiased machine learning", 2018, for the
cross-fitting; Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", ICLR 2017, for the classifier).
"""

from collections.abc import Sequence

import numpy as np

from monitoring.evidence import distances

FOLDS = 5
STRENGTH = 1e-2
"""C of the logistic regression, on standardised embeddings: far more columns than rows want a strong penalty."""
MOST = 1000
"""Reference images that it sees; of more, this many are drawn."""


def domain_scores(
    reference: np.ndarray, groups: Sequence[str], embeddings: np.ndarray, scenes: np.ndarray, *, seed: int
) -> np.ndarray:
    """(m, d) held out, (n, d) new -> (n,) chance, for equal parts of both, that an image is a new one.

    Half means that nothing tells it from the reference. All are half where one side is too small for folds.

    Args:
        groups: of the reference's images; a group is never on both sides of a fold.
        scenes: (n,) codes of the new images, likewise.
    """
    from sklearn.linear_model import LogisticRegression  # a second to import, and only a queue asks
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(seed)
    kept = np.sort(rng.permutation(len(reference))[:MOST])
    known = np.unique([groups[row] for row in kept], return_inverse=True)[1]
    if min(len(np.unique(known)), len(np.unique(scenes))) < FOLDS:
        return np.full(len(embeddings), 0.5)
    rows = np.concatenate([reference[kept], embeddings]).astype(np.float64)
    new = np.arange(len(rows)) >= len(kept)
    together = np.concatenate([known, scenes + known.max() + 1])
    scores = np.full(len(rows), 0.5)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    with threadpool_limits(1):  # small products: on a busy machine threads would wait for each other
        for fitted, held in folds.split(rows, new, together):
            regression = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=300)
            classifier = make_pipeline(StandardScaler(), regression).fit(rows[fitted], new[fitted])
            scores[held] = classifier.predict_proba(rows[held])[:, 1]
    return scores[len(kept) :]


def scenes_of(embeddings: np.ndarray, near: float) -> np.ndarray:
    """(n, d) -> (n,) codes: an image closer than ``near`` to an earlier scene's first image is of that scene."""
    firsts: list[int] = []
    codes = np.zeros(len(embeddings), dtype=int)
    for row in range(len(embeddings)):
        gaps = distances(embeddings[[row]], embeddings[firsts])[0] if firsts else np.array([np.inf])
        if gaps.min() > near**2 + 1e-9:
            codes[row] = len(firsts)
            firsts.append(row)
        else:
            codes[row] = int(gaps.argmin())
    return codes
