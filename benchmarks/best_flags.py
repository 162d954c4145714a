"""Which precision and how many loader workers serve each rival best on this machine: measured, not assumed.

    python -m benchmarks.best_flags

One set, three epochs a trial; the figure is images per second of the faster epoch after the first. The precision
is tried first, with the first number of workers, then the number of workers with the better precision. The other benchmarks
read the result, benchmarks/results/best_flags.json, and refuse that of another machine.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender, Fastai, Timm, timm_script
from benchmarks.errors import ContenderError, ended
from benchmarks.record import RESULTS, machine, measuring, of_device
from benchmarks.sets import ROOT, SETS, Prepared, prepare
from pipeline.artifacts import read_json

EPOCHS = 3
PRECISIONS = ("bfloat16", "float32")
WORKERS = (2, 1, 0)
WHAT = "Images per second of each rival by its flags, in the faster epoch after the first; what is chosen is what the others use."


def chosen(rival: str, results: Path = RESULTS) -> list[str]:
    """The flags that were found best for ``rival`` on this machine.

    Raises:
        ContenderError: they have not been measured here.
    """
    path = results / f"{of_device('best_flags')}.json"
    recorded = read_json(path) if path.exists() else {}
    own = machine()
    if any(recorded.get("machine", {}).get(key) != own[key] for key in ("cpu", "cores")):
        raise ContenderError(
            f"{path} was not measured on this machine: run `python -m benchmarks.best_flags`, or pass --flags"
        )
    return list(recorded["details"][rival]["chosen"])


def trials(
    make: Callable[[list[str]], Contender],
    prepared: Prepared,
    precisions: Sequence[str],
    workers: Sequence[int],
) -> tuple[list[str], list[dict[str, Any]]]:
    """The best flags of one rival, and all that was tried."""
    tried: list[dict[str, Any]] = []

    def speed(flags: list[str]) -> float:
        contender = make(flags)
        later = contender.run(prepared, None, seed=0).details["epochs"][1:]
        found = max(epoch["images"] / epoch["seconds"] for epoch in later)  # what disturbs only ever slows
        tried.append({"flags": flags, "images_per_second": round(found, 1)})
        print(f"{contender.name:<18}{' '.join(flags):<40}{found:>8.1f} images/s", flush=True)
        return found

    def flags(precision: str, workers: int) -> list[str]:
        return ["--precision", precision, "--workers", str(workers)]

    by_precision = {name: speed(flags(name, workers[0])) for name in precisions}
    precision = max(by_precision, key=by_precision.__getitem__)
    by_workers = {workers[0]: by_precision[precision]}
    by_workers |= {number: speed(flags(precision, number)) for number in workers[1:]}
    return flags(precision, max(by_workers, key=by_workers.__getitem__)), tried


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.best_flags", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--work", type=Path, default=ROOT / "var/bench")
    parser.add_argument("--set", choices=SETS, default="grocery20")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument(
        "--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS, help="default: both"
    )
    parser.add_argument("--workers", nargs="+", type=int, default=WORKERS, help="default: 2 1 0")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the result goes")
    parser.add_argument("--force", action="store_true", help="measure although the machine is at other work")
    options = parser.parse_args()
    script = timm_script()
    with measuring(
        of_device("best_flags"), what=WHAT, state="cold", force=options.force, results=options.results
    ) as result:
        prepared = prepare(options.set, options.work, image_size=options.image_size)
        makers: tuple[Callable[[list[str]], Contender], ...] = (
            lambda flags: Timm(script, options.epochs, flags),
            lambda flags: Fastai(options.epochs - 1, flags),  # fine_tune adds an epoch
        )
        for make in makers:
            best, tried = trials(make, prepared, options.precisions, options.workers)
            result.details[make([]).name] = {"chosen": best, "tried": tried}
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
