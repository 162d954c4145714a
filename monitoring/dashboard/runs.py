"""Evidently's reports: one of a window, one of its labels."""

from typing import Any

import numpy as np

from monitoring.dashboard.point import NUMBERS, Point, moved, thresholds

__all__ = ["accuracy", "columns"]


def columns(point: Point) -> Any:
    """A run: column by column against the reference, and our own figures."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import MeanValue, RowCount, UniqueValueCount
    from evidently.presets import DataDriftPreset

    limits = thresholds(point)
    # Evidently's own share would be another series for every window, since the thresholds are part of it.
    share = float(np.mean([moved(point, name) > limit for name, limit in limits.items()]))
    ours = {**point.figures, "drifted_share": share}
    definition = DataDefinition(numerical_columns=[*NUMBERS, *ours], categorical_columns=["predicted"])
    current, reference = (
        # Evidently wants the same columns on both sides, so the reference carries our figures too.
        Dataset.from_pandas(pd.DataFrame(columns).assign(**ours), data_definition=definition)
        for columns in (point.current, point.reference)
    )
    preset = DataDriftPreset(
        columns=[*NUMBERS, "predicted"],
        num_method="wasserstein",
        cat_method="jensenshannon",
        per_column_threshold=limits,
    )
    own = [MeanValue(column=name) for name in (*ours, *NUMBERS)]
    metadata = {"contact sheet": point.sheet} if point.sheet else {}
    return Report([preset, RowCount(), UniqueValueCount(column="predicted"), *own]).run(
        current, reference, timestamp=point.time, metadata=metadata
    )


def accuracy(point: Point) -> Any:
    """A run of the window's labelled images: the share of hits with its interval (Wilson, 95 %)."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import MeanValue
    from scipy.stats import binomtest

    hits = sum(point.correct)
    bounds = binomtest(hits, len(point.correct)).proportion_ci(method="wilson")
    names = {"correct_low": float(bounds.low), "correct_high": float(bounds.high)}
    frame = pd.DataFrame({"correct": [float(hit) for hit in point.correct]}).assign(**names)
    data = Dataset.from_pandas(frame, data_definition=DataDefinition(numerical_columns=["correct", *names]))
    return Report([MeanValue(column=name) for name in frame.columns]).run(data, None, timestamp=point.time)
