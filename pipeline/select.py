"""Which backbone? Several side by side on the training images: what each is worth, what it costs, which to take.

    python -m pipeline select resnet18 /models/mobilenetv2_100 --weights hub

artifacts/split.parquet → the table, reports/select.json and reports/select.png. For each candidate: a linear
probe on its frozen features, cross-validated over the training images by group; LogME; the time of an image in
ONNX Runtime here; parameters, size on disk and the licence of the weights. Recommended is the fastest network on
the Pareto front within one standard error of the most accurate. The features stay in the cache, so training the
chosen one does not compute them again. Validation and test images are not looked at.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.artifacts import SPLIT, Workspace, read_table, write_json
from pipeline.errors import DataError
from pipeline.params import Params

__all__ = ["run"]


def run(workspace: Workspace, params: Params, texts: Sequence[str] = (), weights: str = "hub") -> int:
    """Compare ``texts`` (default: ``model.candidates``, else the current model); 1 where not one could be measured.

    Args:
        texts: names of architectures, paths of weights, ``name=path``, or ``bundled``.
        weights: of the names: hub or none.

    Raises:
        DataError: there is no split yet, its training images can't be cross-validated, or one does not decode.
    """
    if not workspace.split.exists():
        raise DataError(f"{workspace.split} is missing: run `dvc repro split` first")
    from pipeline.selection.scoring import sample

    images = sample(read_table(workspace.split, SPLIT).to_pylist(), params.seed)
    # Only now, when nothing is left to refuse, what pays for torch.
    from pipeline.allocation import keep_memory
    from pipeline.selection.candidates import candidates
    from pipeline.selection.chart import draw
    from pipeline.selection.report import report, table
    from pipeline.selection.trial import Failure, Trial, attempt, time_in_turns
    from pipeline.transfer.device import deterministic, pick_device

    chosen = candidates(texts or params.model.candidates, weights, params.model, workspace.root)
    device = pick_device(params.train.device)
    keep_memory()
    deterministic(params.seed)
    with tempfile.TemporaryDirectory(prefix="select-") as place:
        tried: list[Trial | Failure] = []
        for number, candidate in enumerate(chosen):
            print(f"select: {candidate.label} ({number + 1} of {len(chosen)})", flush=True)
            folder = Path(place) / str(number)
            tried.append(attempt(workspace, params, candidate, images, device, folder))
        trials = [one for one in tried if isinstance(one, Trial)]
        time_in_turns(trials)
    found = report(images, trials, [one for one in tried if isinstance(one, Failure)])
    write_json(workspace.selection, found)
    picture = workspace.selection.with_suffix(".png")
    if trials:
        draw(picture, found)
    else:
        picture.unlink(missing_ok=True)  # one from before would belong to another comparison
    print(table(found))
    print(
        found["sentence"] or "select: not one candidate could be measured; the reasons stand above",
        flush=True,
    )
    return 0 if trials else 1
