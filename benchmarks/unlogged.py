"""The service without a log, to measure what the log costs: ``bentoml serve benchmarks.unlogged:Classifier``."""

from concurrent.futures import Future
from typing import Any

from pipeline.artifacts import encode_log_row
from services import classifier, engine
from services.prediction_log import PredictionLog

Classifier = classifier.Classifier


class Unlogged(PredictionLog):
    """Makes the row's line, as the log does, and throws it away."""

    def append(self, row: dict[str, Any], image: bytes) -> "Future[None]":
        encode_log_row(row)
        done: Future[None] = Future()
        done.set_result(None)
        return done


engine.PredictionLog = Unlogged  # type: ignore[misc]
