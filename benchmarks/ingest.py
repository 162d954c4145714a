"""How fast images are read and checked, and what a few more of them cost.

    python -m benchmarks.ingest                              # 5,000 made-up JPEGs, some 3 minutes on two cores
    python -m benchmarks.ingest --images 100000 --windows 2 --work DIR   # the full size; DIR keeps the images, 6 GB

- ingest: images a second of `python -m pipeline ingest` with nothing remembered, over the rate at which one new process
  reads and decodes the same files with Pillow, times the number of cores. That process takes another part of the files in
  each window, as many as take some ten seconds: it must read them from where ours does, not from a cache of its own.
  A second rival does the same with glibc told to keep a picture's memory for the next, as our workers do.
- validate: seconds and memory of `python -m pipeline validate` beside the limits of 60 s and 2 GB.
- more: `ingest` after one image in a hundred came, beside `ingest` of all of them, and of the new ones alone.
- by DVC: the same with images that DVC tracks, where `dvc repro` lets the scan hash them first.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from benchmarks.errors import ContenderError, ended
from benchmarks.interleave import interleave, ratio_of_medians
from benchmarks.pictures import SIZE, make_pictures
from benchmarks.process import Watched, watch
from benchmarks.record import RESULTS, Row, measuring
from benchmarks.sets import ROOT
from pipeline.artifacts import write_json

WHAT = "Images a second read, hashed, decoded and described; seconds and memory of the checks; what a few more images cost."
BARE = 5000  # files of a window of bare decoding
SECONDS, BYTES = 60.0, 2e9  # of validate
SETTLE = 2.5  # s after which a file is old enough to be remembered
DECODING = """
import sys, time
from PIL import Image
files = sys.stdin.read().splitlines()
started = time.perf_counter()
for file in files:
    with Image.open(file) as image:
        image.convert("RGB")
print(len(files) / (time.perf_counter() - started))
"""
KEEPING = "from pipeline.allocation import keep_memory; from pipeline.examine import KEPT; keep_memory(KEPT // 4, KEPT)"
IMAGES = "data/images"  # in the workspace
DOMAIN = "made-up"
STAGES = {
    "stages": {
        "scan": {
            "foreach": "${data.sources}",
            "do": {
                "cmd": "python -m pipeline scan ${item.domain}",
                "deps": ["${item.path}"],
                "outs": ["artifacts/sources/${item.domain}.parquet"],
            },
        }
    }
}


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(workspace: Path, *command: str) -> Watched:
    """``python -m`` in the workspace, watched."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "VISIONLOOP_HOME": str(workspace / "var"),
        "PATH": path,
    }
    return watch([sys.executable, "-m", *command], cwd=workspace, environment=environment)


def rescan(workspace: Path) -> Watched:
    """``ingest`` from the source's files, whatever table of them is there."""
    shutil.rmtree(workspace / "artifacts", ignore_errors=True)
    return run(workspace, "pipeline", "ingest")


def bare(files: Sequence[Path], kept: bool = False) -> Callable[[], float]:
    """Images a second of one process that reads and decodes the next ``BARE`` of the files, times the cores.

    Args:
        kept: the process keeps the memory of a picture for the next one.
    """
    begin = 0
    command = [sys.executable, "-c", (KEEPING if kept else "") + DECODING]

    def window() -> float:
        nonlocal begin
        part = [str(files[place % len(files)]) for place in range(begin, begin + BARE)]
        begin += BARE
        done = subprocess.run(
            command, cwd=ROOT, input="\n".join(part), text=True, capture_output=True, check=False
        )
        if done.returncode:
            raise ContenderError(f"bare decoding failed:\n{done.stderr[-2000:]}")
        return float(done.stdout) * cores()

    return window


def cold(workspace: Path, images: int) -> Callable[[], float]:
    """Images a second of ``ingest`` that remembers nothing."""

    def window() -> float:
        shutil.rmtree(workspace / "var", ignore_errors=True)
        return images / rescan(workspace).seconds

    return window


def prepare(workspace: Path, images: int, start: int = 0) -> Path:
    """A workspace with these images and no others, and nothing that was made of them."""
    folder = workspace / IMAGES
    make_pictures(folder, images, start)
    for path in folder.rglob("*.jpg"):
        if not start <= int(path.stem) < start + images:
            path.unlink()
    for label in folder.iterdir():  # of another size before
        if not any(label.iterdir()):
            label.rmdir()
    for name in ("artifacts", "reports", "var", ".dvc"):
        shutil.rmtree(workspace / name, ignore_errors=True)
    for name in (f"{IMAGES}.dvc", "dvc.lock"):
        (workspace / name).unlink(missing_ok=True)
    write_json(workspace / "params.yaml", {"data": {"sources": [{"path": IMAGES, "domain": DOMAIN}]}})
    write_json(workspace / "dvc.yaml", STAGES)
    time.sleep(SETTLE)
    return workspace


def by_dvc(workspace: Path, images: int, more: int) -> dict[str, dict[str, float | str]]:
    """Seconds of `dvc add`, of `dvc repro`, and of the scan within it, of all images and after ``more`` came."""
    run(workspace, "dvc", "init", "--quiet", "--no-scm")
    for option in (("core.analytics", "false"), ("cache.type", "hardlink")):  # no second copy of the images
        run(workspace, "dvc", "config", *option)
    shutil.rmtree(workspace / "var", ignore_errors=True)
    found: dict[str, dict[str, float | str]] = {"all": _added(workspace)}
    make_pictures(workspace / IMAGES, more, start=images)
    found["more"] = _added(workspace)
    return found


def _added(workspace: Path) -> dict[str, float | str]:
    added = run(workspace, "dvc", "add", "--quiet", IMAGES)
    time.sleep(SETTLE)
    repro = run(workspace, "dvc", "repro", "scan")
    own = re.search(r"^scan: ([\d.]+) s$", repro.output, re.MULTILINE)
    if own is None:
        raise ContenderError(f"dvc repro ran no scan:\n{repro.output}")
    said = "; ".join(
        line for line in repro.output.splitlines() if " of " in line and line.startswith("scan ")
    )
    return {"dvc add": added.seconds, "dvc repro": repro.seconds, "scan": float(own[1]), "said": said}


def _against_limit(case: str, measure: str, unit: str, value: float, limit: float) -> Row:
    return Row(
        case=case, measure=measure, unit=unit, better="lower", ours="visionloop", rival="the limit", ours_value=value,
        rival_value=limit, ratio=limit / value, ratio_ci95=None, windows=1, headline=True,
    )  # fmt: skip


def _seconds(
    case: str, measure: str, value: float, rival: str, rival_value: float, *, headline: bool = True
) -> Row:
    return Row(
        case=case, measure=measure, unit="s", better="lower", ours="visionloop", rival=rival, ours_value=value,
        rival_value=rival_value, ratio=rival_value / value, ratio_ci95=None, windows=1, headline=headline,
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
    """All of them, recorded."""
    images, more = options.images, max(1, options.images // 100)
    workspace = prepare(work / "workspace", images)
    files = sorted((workspace / IMAGES).rglob("*.jpg"))
    case = f"{images:,} JPEGs of {SIZE[0]} x {SIZE[1]} px"
    with measuring("ingest", what=WHAT, state="warm", force=options.force, results=options.results) as result:
        rivals = {"bare decoding": bare(files), "bare decoding, memory kept": bare(files, kept=True)}
        figures = interleave(
            {"visionloop": cold(workspace, images), **rivals}, state="warm", windows=options.windows
        )
        ours = figures["visionloop"]
        for name in rivals:
            ratio = ratio_of_medians(ours, figures[name])
            result.rows.append(
                Row(case=case, measure="ingest", unit="images/s", better="higher", ours="visionloop",
                    rival=f"{name} x {cores()} cores", ours_value=median(ours), rival_value=median(figures[name]),
                    ratio=ratio.value, ratio_ci95=(ratio.low, ratio.high), windows=options.windows, headline=True)
            )  # fmt: skip
        checked = run(workspace, "pipeline", "validate")
        memory = max(checked.peak_bytes, checked.peak_process_bytes)
        result.rows.append(_against_limit(case, "validate", "s", checked.seconds, SECONDS))
        result.rows.append(_against_limit(case, "validate, memory", "MB", memory / 1e6, BYTES / 1e6))
        make_pictures(workspace / IMAGES, more, start=images)
        again, unchanged = rescan(workspace), rescan(workspace)
        alone = rescan(prepare(work / "few", more, start=images))
        tracked = by_dvc(workspace, images + more, more)
        new = f"{case}, {more:,} more"
        result.rows += [
            _seconds(new, "ingest of what is new", again.seconds, "all of them", images / median(ours)),
            _seconds(new, "ingest of what is new", again.seconds, "those alone", alone.seconds, headline=False),
            _seconds(new, "the same, by dvc repro", float(tracked["more"]["scan"]), "all of them",
                     float(tracked["all"]["scan"])),
        ]  # fmt: skip
        result.details = {
            "figures": figures,
            "validate": {"seconds": checked.seconds, "peak_bytes": memory, "others": checked.others},
            "more": {"images": more, "seconds": again.seconds, "said": again.output.splitlines()[:3]},
            "alone": {"images": more, "seconds": alone.seconds},
            "unchanged": {"seconds": unchanged.seconds},
            "by_dvc": tracked,
        }
        for row in result.rows:
            print(
                f"{row.measure:<24}{row.ours_value:>12.4g} {row.unit:<10}{row.rival}: {row.rival_value:.4g}  ({row.ratio:.2f})"
            )


if __name__ == "__main__":
    sys.exit(ended(main))
