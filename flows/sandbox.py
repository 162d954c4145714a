"""The built Bento, started and asked, before anybody is served by it.

It runs from BentoML's store on a free loopback port, in a process group of its own, with a temporary
folder as its state, and sees nothing of this checkout. Real held-out images go in as a client would send
them; the answers must be those that were made offline, when the verdict was reached. It is stopped
whatever happens, also when the process that started it is killed.
"""

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from flows.server import answers, end, free_port
from pipeline import guard
from pipeline.artifacts import PREDICTIONS, Workspace, digest_file, read_json, read_table
from pipeline.errors import DataError, IntegrityError, StateError
from pipeline.params import Params

# What would make the built Bento answer with something else than what is packed in it.
NOT_FOR_THE_BENTO = ("VISIONLOOP_BUNDLE", "VISIONLOOP_TOKEN", "PYTHONPATH", "BENTOML_CONFIG")
ROUNDING = 1e-6  # the service gives probabilities with six digits


@dataclass(frozen=True)
class Golden:
    """One held-out image and what the bundle said of it offline: the label, and each class's probability."""

    path: Path
    label: str
    probabilities: dict[str, float]


def golden_images(workspace: Workspace, params: Params) -> list[Golden]:
    """Up to ``release.golden_images`` test images of predictions.parquet, spread over the classes.

    Images between two classes are passed over: there the label may flip within the error allowed.

    Raises:
        DataError: none can be used, or a file is not what it was when the predictions were made.
    """
    classes = read_json(workspace.bundle / "bundle.json")["classes"]
    rows = [
        row for row in read_table(workspace.predictions, PREDICTIONS).to_pylist() if row["split"] == "test"
    ]
    by_class: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["image_id"]):
        first, second = sorted([*row["probabilities"], 0.0], reverse=True)[:2]
        path = workspace.root / row["path"]
        size = path.stat().st_size if path.is_file() else 0
        if first - second > 10 * params.release.max_golden_error and 0 < size <= params.serve.max_body_bytes:
            by_class[row["label"]].append(row)
    chosen = [row for turn in _turns(by_class) for row in turn][: params.release.golden_images]
    if not chosen:
        raise DataError(
            f"{workspace.predictions} names no test image that lies in the workspace and can be sent to the sandbox "
            f"({len(rows)} test images): run `dvc repro` where the images are"
        )
    for row in chosen:
        if digest_file(workspace.root / row["path"]) != row["image_id"]:
            raise DataError(f"{row['path']} has changed since it was evaluated: run `dvc repro`")
    return [
        Golden(
            workspace.root / row["path"],
            row["predicted"],
            dict(zip(classes, row["probabilities"], strict=True)),
        )
        for row in chosen
    ]


def _turns(by_class: dict[str, list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    """One image of each class, then the next of each."""
    for turn in range(max(map(len, by_class.values()), default=0)):
        yield [by_class[label][turn] for label in sorted(by_class) if turn < len(by_class[label])]


@contextmanager
def sandbox(bento: str, store: Path, *, seconds: float, scratch: Path) -> Iterator[str]:
    """Serve the Bento ``bento`` of the BentoML home ``store``; gives its address once it is ready.

    Its state and temporary files lie in a folder below ``scratch``.

    Raises:
        StateError: it ended, or was not ready within ``seconds``; its log's last lines are in the message.
    """
    with tempfile.TemporaryDirectory(prefix="visionloop-sandbox-", dir=scratch) as folder:
        place = Path(folder)
        port = free_port()
        environment = {name: value for name, value in os.environ.items() if name not in NOT_FOR_THE_BENTO}
        environment |= {
            "BENTOML_HOME": str(store),
            "VISIONLOOP_HOME": str(place / "home"),
            "TMPDIR": folder,
            "PYTHONUNBUFFERED": "1",
        }
        guarded = [sys.executable, "-I", guard.__file__]
        serve = [
            str(Path(sys.prefix) / "bin/bentoml"),
            "serve",
            bento,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(
                [*guarded, *serve],
                cwd=place, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True,
                start_new_session=True,
            )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, url, place / "log", bento, seconds)
            yield url
        finally:
            end(process)


def _wait_until_ready(
    process: subprocess.Popen[str], url: str, log: Path, bento: str, seconds: float
) -> None:
    if answers(f"{url}/readyz", process, seconds):
        return
    how = (
        f"ended with code {process.poll()}"
        if process.poll() is not None
        else f"was not ready within {seconds:g} s"
    )
    raise StateError(
        f"the built Bento {bento} {how} (release.sandbox_timeout_seconds); nothing was promoted. Its log ends:\n"
        + log.read_text(errors="replace")[-2000:]
    )


def ask(url: str, golden: list[Golden], *, digest: str, limit: float) -> float:
    """Send every golden image to the service at ``url``; the largest difference of a probability.

    Raises:
        IntegrityError: it serves another bundle, refuses an image, gives another label, or differs by
            more than ``limit``.
    """
    worst = 0.0
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        served = client.get("/v1/model").json().get("digest")
        if served != digest:
            raise IntegrityError(
                f"the built Bento serves {str(served)[:12]}, the verdict is about {digest[:12]}"
            )
        for image in golden:
            answer = client.post("/v1/predict", content=image.path.read_bytes())
            if answer.status_code != 200:
                raise IntegrityError(
                    f"the built Bento refuses {image.path}: {answer.status_code} {answer.text[:300]}"
                )
            worst = max(worst, _difference(image, answer.json(), digest, limit))
    return worst


def _difference(image: Golden, reply: dict[str, Any], digest: str, limit: float) -> float:
    if reply["model"] != digest:
        raise IntegrityError(
            f"the built Bento answers with {reply['model'][:12]}, the verdict is about {digest[:12]}"
        )
    gaps = {
        name: abs(value - image.probabilities.get(name, float("inf")))
        for name, value in reply["probabilities"].items()
    }
    name = max(gaps, key=lambda name: gaps[name])
    if reply["label"] != image.label or gaps[name] > limit + ROUNDING:
        raise IntegrityError(
            f"the built Bento says {reply['label']!r} of {image.path}, offline it was {image.label!r}; the probability "
            f"of {name!r} differs by {gaps[name]:.2g}, release.max_golden_error allows {limit:g}"
        )
    return gaps[name]
