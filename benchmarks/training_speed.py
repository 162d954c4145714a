"""Images a second at full fine-tuning: our loop beside timm's script and fastai's, each at its best precision and flags.

    python -m benchmarks.training_speed               # deeppcb_cls at 128 px, some 12 minutes on two idle cores
    python -m benchmarks.training_speed --only ours   # one side alone; nothing is recorded

Every layer is trained by all three. A figure leaves out the first epoch, which also starts workers, kernels and graphs.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median

from benchmarks.best_flags import chosen
from benchmarks.contenders import Contender, Fastai, Ours, Timm, timm_script
from benchmarks.errors import ContenderError, ended
from benchmarks.interleave import ratio_of_medians
from benchmarks.record import RESULTS, Result, Row, measuring, of_device
from benchmarks.sets import ROOT, SETS
from benchmarks.time_to_accuracy import ENOUGH, Run, race

WHAT = "Images a second while the whole network is trained, each contender at its best precision and flags."
EPOCHS = 3
TRAIN = {"unfreeze": 1.0, "budget_seconds": 600, "mix": 0.0, "augment": "crop"}


def speeds(runs: Sequence[Run], name: str) -> list[float]:
    """A contender's images a second, window by window.

    Raises:
        ContenderError: a run trained nothing that lasted: the probe was kept, and its speed is another one.
    """
    own = [run.outcome.images_per_second for run in runs if run.outcome.name == name]
    if not own or None in own:
        raise ContenderError(
            f"{name} kept its probe: take a set on which fine-tuning wins, such as deeppcb_cls"
        )
    return [value for value in own if value is not None]


def rows(runs: Sequence[Run], size: int) -> list[Row]:
    """Ours beside each rival."""
    ours, *rivals = list(dict.fromkeys(sorted((run.outcome.name for run in runs), key=_ours_first)))
    mine, found = speeds(runs, ours), []
    for rival in rivals:
        theirs = speeds(runs, rival)
        ratio = ratio_of_medians(mine, theirs)
        enough = min(len(mine), len(theirs)) >= ENOUGH
        row = Row(
            case=f"{runs[0].case}, mobilenetv2_100, {size} px", measure="full fine-tuning", unit="images/s",
            better="higher", ours=ours, rival=rival, ours_value=median(mine), rival_value=median(theirs),
            ratio=ratio.value, ratio_ci95=(ratio.low, ratio.high) if enough else None, windows=len(mine),
            headline=True,
        )  # fmt: skip
        found.append(row)
    return found


def _ours_first(name: str) -> bool:
    return not name.startswith("visionloop")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_speed", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--set", choices=SETS, default="deeppcb_cls")
    parser.add_argument("--image-size", type=int, default=128, help="px (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of a run (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=5, help="runs of each (default: %(default)s)")
    parser.add_argument(
        "--only", choices=("ours", "timm", "fastai"), help="one side alone; nothing is recorded"
    )
    parser.add_argument(
        "--flags", help="for both rivals, instead of the best ones: '--precision bfloat16 --workers 8'"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "var/bench")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the result goes")
    parser.add_argument("--force", action="store_true", help="measure although the machine is at other work")
    options = parser.parse_args()
    given = options.flags.split() if options.flags else None
    field: dict[str, Contender] = {}
    if options.only in (None, "ours"):
        field["ours"] = Ours("finetune", train=TRAIN | {"epochs": options.epochs})
    if options.only in (None, "timm"):
        field["timm"] = Timm(timm_script(), options.epochs, given or chosen(Timm.name, options.results))
    if options.only in (None, "fastai"):
        field["fastai"] = Fastai(options.epochs, given or chosen(Fastai.name, options.results))
    recorded: AbstractContextManager[Result | None] = (
        nullcontext()
        if options.only
        else measuring(
            of_device("training_speed"), what=WHAT, state="cold", force=options.force, results=options.results
        )
    )
    with recorded as result:
        runs = race(
            list(field.values()),
            [options.set],
            [0],
            options.windows,
            options.image_size,
            options.work,
            answering=False,
        )
        if result is not None:
            result.rows += rows(runs, options.image_size)
            names = dict.fromkeys(run.outcome.name for run in runs)
            result.details |= {"images_per_second": {name: speeds(runs, name) for name in names}}
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
