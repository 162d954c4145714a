"""Folds that keep groups together and classes in proportion: near-alike shots are never on both sides."""

from collections.abc import Sequence

import numpy as np

__all__ = ["stratified_folds"]


def stratified_folds(
    labels: np.ndarray, groups: Sequence[str], folds: int, *, most: int | None = None, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(fitted, held out) rows of ``labels`` [n], codes 0..classes-1, by scikit-learn's StratifiedGroupKFold.

    There are fewer folds than asked for where a class has fewer groups, and none, [], where a class has one
    group only. Each class is among the fitted rows of each fold.

    Args:
        groups: [n]; images of one group are never on both sides of a fold.
        most: rows; of a larger set a sample of so many is folded.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    codes = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)[1]
    count = int(labels.max()) + 1
    rows = np.arange(len(labels))
    if most is not None and len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    in_class = [len(np.unique(codes[rows][labels[rows] == label])) for label in range(count)]
    number = min(folds, *in_class)
    if number < 2:
        return []
    splitter = StratifiedGroupKFold(number, shuffle=True, random_state=seed)
    pairs = [(rows[a], rows[b]) for a, b in splitter.split(rows, labels[rows], codes[rows])]
    return [(a, b) for a, b in pairs if len(b) and len(np.unique(labels[a])) == count]
