"""The child of performance.py: one bundle, asked image by image. It imports no more than a service's worker needs.

Requests and replies are JSON lines on standard input and output.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any, cast

from pipeline.bundle import NETWORKS, Bundle, Form
from pipeline.images import decode

MEGABYTE = 1_000_000


def _serve(path: Path, form: Form, max_pixels: int, max_bytes: int) -> None:
    """The child. One thread: a worker of the service has as many as it is given, cores are shared."""
    has = form if (path / NETWORKS[form]).exists() else "onnx"
    bundle = Bundle.load(path, threads=1, form=has)
    size = sum(
        file.stat().st_size for file in path.iterdir() if file.name in (*bundle.info["files"], "bundle.json")
    )
    for line in sys.stdin:
        request = json.loads(line)
        if "end" in request:
            reply: dict[str, Any] = {"digest": bundle.digest, "form": has}
            reply |= {
                "megabytes": round(size / MEGABYTE, 3),
                "memory_megabytes": round(_peak_bytes() / MEGABYTE, 1),
            }
        else:
            reply = {"seconds": [_timed(bundle, image, max_pixels, max_bytes) for image in request["images"]]}
        print(json.dumps(reply), flush=True)


def _peak_bytes() -> int:
    """The most memory that this process has held. Linux's getrusage would count what its parent held when it forked."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(
            line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM")
        )
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _timed(bundle: Bundle, image: str, max_pixels: int, max_bytes: int) -> float:
    started = time.perf_counter()
    decoded = decode(Path(image).read_bytes(), max_pixels=max_pixels, max_bytes=max_bytes)
    bundle.predict(bundle.preprocessing.view(decoded.image)[None])
    return time.perf_counter() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Started by `python -m pipeline performance`, not by you")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("form", choices=list(NETWORKS))
    parser.add_argument("max_pixels", type=int)
    parser.add_argument("max_bytes", type=int)
    options = parser.parse_args()
    _serve(options.bundle, cast(Form, options.form), options.max_pixels, options.max_bytes)
