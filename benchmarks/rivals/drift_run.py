"""One drift detector of another library on the recorded draws, in the rivals' own interpreter.

    benchmarks/.venvs/drift/bin/python -m benchmarks.rivals.drift_run "alibi mmd" --work DIR

Reads <work>/draws.npz and <work>/<set>-stack.npz, writes <work>/<contender>.json: for each draw a score (small
means drift) and the detector's own decision at its level of .05. A new detector a draw: the reference differs.
"""

import argparse
import functools
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

LEVEL = 0.05
Judge = Callable[[dict[str, np.ndarray], np.ndarray, np.ndarray], tuple[float, bool]]


def alibi_mmd(permutations: int) -> Judge:
    """Alibi Detect's MMDDrift on embeddings, its kernel's width by the median of the data."""
    from alibi_detect.cd import MMDDrift

    def judge(stack: dict[str, np.ndarray], reference: np.ndarray, window: np.ndarray) -> tuple[float, bool]:
        detector = MMDDrift(
            stack["embeddings"][reference], backend="pytorch", n_permutations=permutations, p_val=LEVEL
        )
        said = detector.predict(stack["embeddings"][window])["data"]
        return float(said["p_val"]), bool(said["is_drift"])

    return judge


def alibi_ks(stack: dict[str, np.ndarray], reference: np.ndarray, window: np.ndarray) -> tuple[float, bool]:
    """Alibi Detect's KSDrift on the softmax, one test a class, Bonferroni."""
    from alibi_detect.cd import KSDrift

    said = KSDrift(stack["probabilities"][reference], p_val=LEVEL).predict(stack["probabilities"][window])[
        "data"
    ]
    return float(np.min(said["p_val"])), bool(said["is_drift"])


def torchdrift_mmd(
    stack: dict[str, np.ndarray], reference: np.ndarray, window: np.ndarray
) -> tuple[float, bool]:
    """TorchDrift's kernel MMD with its 1,000 permutations."""
    import torch
    import torchdrift

    detector = torchdrift.detectors.KernelMMDDriftDetector()
    detector.fit(torch.from_numpy(stack["embeddings"][reference]))
    p = float(detector.compute_p_value(torch.from_numpy(stack["embeddings"][window])))
    return p, p <= LEVEL


def frouros_mmd(
    stack: dict[str, np.ndarray], reference: np.ndarray, window: np.ndarray
) -> tuple[float, bool]:
    """Frouros's MMD with 100 permutations. Its default width of 1 sees nothing here: the median, in its favour."""
    from frouros.callbacks import PermutationTestDistanceBased
    from frouros.detectors.data_drift import MMD
    from frouros.utils.kernels import rbf_kernel

    x, y = stack["embeddings"][reference], stack["embeddings"][window]
    both = np.concatenate([x, y]).astype(np.float64)
    squared = (both**2).sum(1)[:, None] + (both**2).sum(1)[None] - 2 * both @ both.T
    width = float(np.sqrt(np.median(squared[np.triu_indices(len(both), 1)]) / 2))
    test = PermutationTestDistanceBased(num_permutations=100, random_state=0, num_jobs=1, name="test")
    detector = MMD(kernel=functools.partial(rbf_kernel, sigma=width), callbacks=[test])
    detector.fit(X=x)
    p = float(detector.compare(X=y)[1]["test"]["p_value"])
    return p, p <= LEVEL


CONTENDERS: dict[str, Callable[[], Judge]] = {
    "alibi mmd": lambda: alibi_mmd(100),
    "alibi mmd 1000": lambda: alibi_mmd(1000),
    "alibi ks": lambda: alibi_ks,
    "torchdrift mmd": lambda: torchdrift_mmd,
    "frouros mmd": lambda: frouros_mmd,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals.drift_run")
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shifted", type=int, default=10**9, help="judge so many draws of a pool with drift")
    parser.add_argument("--quiet", type=int, default=10**9, help="and so many of a pool without")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # a line a detector about the missing GPU
    import torch

    torch.set_num_threads(1)
    draws = np.load(options.work / "draws.npz")
    stacks = {name: _stack(options.work / f"{name}-stack.npz") for name in np.unique(draws["set"])}
    judge = CONTENDERS[options.contender]()
    columns = (draws[key] for key in ("set", "reference", "window", "quiet", "rank"))
    names, references, windows, quiet, ranks = columns
    started, scores = time.process_time(), {}
    for number in range(len(names)):
        if ranks[number] >= (options.quiet if quiet[number] else options.shifted):
            continue
        np.random.seed(number)
        torch.manual_seed(number)
        reference, window = references[number], windows[number]
        scores[number] = judge(stacks[names[number]], reference[reference >= 0], window[window >= 0])
    seconds = (time.process_time() - started) / max(1, len(scores))
    said = {"cpu_seconds_a_draw": seconds, "scores": scores}
    (options.work / f"{options.contender}.json").write_text(json.dumps(said), encoding="utf-8")
    return 0


def _stack(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return {name: stored[name].astype(np.float32) for name in ("embeddings", "probabilities")}


if __name__ == "__main__":
    sys.exit(main())
