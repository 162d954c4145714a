"""How long an image takes and how large the network is: as it would ship, in ONNX Runtime, on this machine."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bundle import open_session

__all__ = ["ROUNDS", "THREADS", "milliseconds"]

THREADS = 1  # of ONNX Runtime; what the service gives one image where it works on several at once
ROUNDS = (
    3  # over all candidates, so that a minute in which the machine was busy does not meet one of them alone
)
WARM_UPS = 4
LEAST_RUNS = 8  # a round
MOST_RUNS = 200
SECONDS = 0.4  # a round, unless LEAST_RUNS take longer


def milliseconds(folder: Path, info: dict[str, Any], pixels: np.ndarray) -> list[float]:
    """One round: the time of each run of ``folder``/model.onnx on float32 [1, 3, H, W] ``pixels``, in ms.

    Batch 1, one process, ``THREADS`` threads; decoding and resizing the image are not in it. ``info`` holds
    ``classes`` and ``embedding_size``, as in bundle.json.

    Raises:
        IntegrityError: ONNX Runtime can't open the network.
    """
    session = open_session(folder, info, THREADS)
    feed = {"images": pixels}
    for _ in range(WARM_UPS):
        session.run(["logits", "embedding"], feed)
    taken: list[float] = []
    started = time.perf_counter()
    while len(taken) < LEAST_RUNS or (len(taken) < MOST_RUNS and time.perf_counter() - started < SECONDS):
        before = time.perf_counter()
        session.run(["logits", "embedding"], feed)
        taken.append((time.perf_counter() - before) * 1000)
    return taken
