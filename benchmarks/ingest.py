"""How fast images are read and checked, and what a few more of them cost.

    python -m benchmarks.ingest                              # 5,000 made-up JPEGs, some 3 minutes on two cores
    python -m benchmarks.ingest --images 100000 --work DIR   # the full size; DIR keeps the images

- ingest: images a second of `python -m pipeline ingest` with nothing remembered, over the rate at which one process
  reads and decodes the same files with Pillow, times the number of cores.
- validate: seconds and memory of `python -m pipeline validate` beside the limits of 60 s and 2 GB.
- more: `ingest` after one image in a hundred came, beside `ingest` of all of them.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from PIL import Image

from benchmarks.errors import ended
from benchmarks.interleave import interleave, ratio_of_medians
from benchmarks.pictures import SIZE, make_pictures
from benchmarks.process import Watched, watch
from benchmarks.record import RESULTS, Row, measuring
from benchmarks.sets import ROOT
from pipeline.artifacts import write_json

WHAT = "Images a second read, hashed, decoded and described; seconds and memory of the checks; what a few more images cost."
BARE = 1000  # files of a window of bare decoding
SECONDS, BYTES = 60.0, 2e9  # of validate
SETTLE = 2.5  # s after which a file is old enough to be remembered


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pipeline(workspace: Path, *verb: str) -> Watched:
    """``python -m pipeline`` in the workspace, watched."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "VISIONLOOP_HOME": str(workspace / "var")}
    return watch([sys.executable, "-m", "pipeline", *verb], cwd=workspace, environment=environment)


def rescan(workspace: Path) -> Watched:
    """``ingest`` from the source's files, whatever table of them is there."""
    shutil.rmtree(workspace / "artifacts", ignore_errors=True)
    return pipeline(workspace, "ingest")


def bare(files: Sequence[Path]) -> Callable[[], float]:
    """Images a second of one process that reads and decodes, times the cores."""

    def window() -> float:
        started = time.perf_counter()
        for file in files:
            with Image.open(file) as image:
                image.convert("RGB")
        return len(files) / (time.perf_counter() - started) * cores()

    return window


def cold(workspace: Path, images: int) -> Callable[[], float]:
    """Images a second of ``ingest`` that remembers nothing."""

    def window() -> float:
        shutil.rmtree(workspace / "var", ignore_errors=True)
        return images / rescan(workspace).seconds

    return window


def prepare(work: Path, images: int) -> Path:
    """A workspace beside the images, with no more than these."""
    folder = work / "images"
    make_pictures(folder, images)
    for path in folder.rglob("*.jpg"):
        if int(path.stem) >= images:
            path.unlink()
    workspace = work / "workspace"
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir()
    write_json(workspace / "params.yaml", {"data": {"sources": [{"path": str(folder), "domain": "made-up"}]}})
    time.sleep(SETTLE)
    return workspace


def _against_limit(case: str, measure: str, unit: str, value: float, limit: float) -> Row:
    return Row(
        case=case, measure=measure, unit=unit, better="lower", ours="visionloop", rival="the limit", ours_value=value,
        rival_value=limit, ratio=limit / value, ratio_ci95=None, windows=1, headline=True,
    )  # fmt: skip


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ingest", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--images", type=int, default=5000, help="default: %(default)s")
    parser.add_argument("--windows", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--work", type=Path, help="keep the images here (default: a temporary folder)")
    parser.add_argument("--force", action="store_true", help="measure on a busy machine all the same")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(options, (options.work or Path(temporary)).absolute())
    return 0


def measure(options: argparse.Namespace, work: Path) -> None:
    """All three, recorded."""
    workspace, images = prepare(work, options.images), options.images
    files = sorted((work / "images").rglob("*.jpg"))
    files = files[:: max(1, len(files) // BARE)][:BARE]
    case = f"{images:,} JPEGs of {SIZE[0]} x {SIZE[1]} px"
    with measuring("ingest", what=WHAT, state="warm", force=options.force, results=options.results) as result:
        contenders = {"visionloop": cold(workspace, images), "bare": bare(files)}
        figures = interleave(contenders, state="warm", windows=options.windows)
        ours, rival = figures["visionloop"], figures["bare"]
        ratio = ratio_of_medians(ours, rival)
        result.rows.append(
            Row(case=case, measure="ingest", unit="images/s", better="higher", ours="visionloop",
                rival=f"bare decoding x {cores()} cores", ours_value=median(ours), rival_value=median(rival),
                ratio=ratio.value, ratio_ci95=(ratio.low, ratio.high), windows=options.windows, headline=True)
        )  # fmt: skip
        checked = pipeline(workspace, "validate")
        memory = max(checked.peak_bytes, checked.peak_process_bytes)
        result.rows.append(_against_limit(case, "validate", "s", checked.seconds, SECONDS))
        result.rows.append(_against_limit(case, "validate, memory", "MB", memory / 1e6, BYTES / 1e6))
        more = max(1, images // 100)
        make_pictures(work / "images", more, start=images)
        again = rescan(workspace)
        whole = images / median(ours)
        result.rows.append(
            Row(case=f"{case}, {more:,} more", measure="ingest of what is new", unit="s", better="lower",
                ours="visionloop", rival="all of them", ours_value=again.seconds, rival_value=whole,
                ratio=whole / again.seconds, ratio_ci95=None, windows=1, headline=True)
        )  # fmt: skip
        unchanged = rescan(workspace)
        result.details = {
            "figures": figures,
            "validate": {"seconds": checked.seconds, "peak_bytes": memory, "others": checked.others},
            "more": {"images": more, "seconds": again.seconds, "said": again.output.splitlines()[:3]},
            "unchanged": {"seconds": unchanged.seconds},
        }
        for row in result.rows:
            print(
                f"{row.measure:<24}{row.ours_value:>12.4g} {row.unit:<10}{row.rival}: {row.rival_value:.4g}  ({row.ratio:.2f})"
            )


if __name__ == "__main__":
    sys.exit(ended(main))
