"""What it costs that an answer waits for its row to be on disk: the real service, durable beside lossy and beside no log.

    python -m benchmarks.log_cost                          # some 4 minutes → benchmarks/results/log_cost.json
    python -m benchmarks.log_cost --seconds 1 --windows 2 --force --results /tmp/look

Three services side by side, of one worker each, answer closed-loop clients on kept-open connections, in turn (A-B-B-A).
Every request is another JPEG of 640 x 480 px, and every image is kept (log.keep_images: 1), so an answer of the durable
service waits for two files. The network is as small as can be: with a real one, the log is a smaller share.
"""

import argparse
import contextlib
import http.client
import itertools
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import yaml

from benchmarks.errors import ContenderError, ended
from benchmarks.interleave import WINDOWS, interleave, ratio_of_medians
from benchmarks.pictures import make_pictures
from benchmarks.record import RESULTS, Row, measuring
from tests.live_service import DEVELOPMENT, LiveService, make_workspace

CLIENTS = (1, 4, 16)
SECONDS = 3.0
CASE = "640 x 480 px JPEGs, all kept, {} clients"
WHAT = (
    "Answers a second, and the slowest of a hundred, of the real service whose answers wait for the log (durable), beside "
    "one that does not wait (lossy) and one that keeps no log at all."
)
MODES = {
    "durable": ("durable", DEVELOPMENT),
    "lossy": ("lossy", DEVELOPMENT),
    "no log": ("lossy", "benchmarks.unlogged:Classifier"),
}
_TABLES = b"\xff\xdb"


class Client:
    """Asks a service from so many connections at once; ``window`` gives answers a second."""

    def __init__(self, service: LiveService, log: Path, image: bytes, seconds: float) -> None:
        self._service, self._log, self._image, self._seconds = service, log, image, seconds
        self._numbers = itertools.count()
        self.waits: dict[int, list[np.ndarray]] = {}  # clients → ms of each answer, by window

    def window(self, clients: int) -> float:
        shutil.rmtree(self._log / "images", ignore_errors=True)
        found: list[list[float]] = [[] for _ in range(clients)]
        errors: list[Exception] = []
        until = time.perf_counter() + self._seconds
        threads = [threading.Thread(target=self._ask, args=(one, until, errors)) for one in found]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - started
        if errors:
            raise ContenderError(f"a request failed: {errors[0]!r}\n{self._service.printed()[-2000:]}")
        waits = np.concatenate([np.asarray(one) for one in found])
        self.waits.setdefault(clients, []).append(waits * 1000)
        return len(waits) / seconds

    def _ask(self, found: list[float], until: float, errors: list[Exception]) -> None:
        try:
            with contextlib.closing(
                http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=30)
            ) as line:
                while (started := time.perf_counter()) < until:
                    line.request("POST", "/v1/predict", another(self._image, next(self._numbers)))
                    answer = line.getresponse()
                    answer.read()
                    if answer.status != 200:
                        raise ContenderError(f"status {answer.status}")
                    found.append(time.perf_counter() - started)
        except (OSError, http.client.HTTPException, ContenderError) as error:
            errors.append(error)

    def slowest(self, clients: int, windows: int) -> list[float]:
        """ms that 99 of 100 answers stay below, window by window, warm-up left out."""
        return [float(np.quantile(waits, 0.99)) for waits in self.waits[clients][-windows:]]

    def middle(self, clients: int, windows: int) -> float:
        """ms, median over all windows but the warm-up."""
        return float(np.median(np.concatenate(self.waits[clients][-windows:])))


def another(image: bytes, number: int) -> bytes:
    """The same picture with other quantisation of its three finest waves: another file with other pixels."""
    start = image.index(_TABLES) + 5 + 61  # a table is FFDB, its length, its number, 64 values
    digits = (number // 255**place % 255 + 1 for place in range(3))
    return image[:start] + bytes(digits) + image[start + 3 :]


@contextlib.contextmanager
def services(work: Path, seconds: float) -> Iterator[dict[str, Client]]:
    """All of them, ready."""
    make_pictures(work / "pictures", 1)
    image = next((work / "pictures").rglob("*.jpg")).read_bytes()
    with contextlib.ExitStack() as stack:
        clients = {}
        for name, (mode, target) in MODES.items():
            workspace = make_workspace(work / name.replace(" ", "-"), workers=1)
            content = yaml.safe_load(workspace.params.read_text()) | {
                "log": {"mode": mode, "max_bytes": 20_000_000_000}
            }
            workspace.params.write_text(yaml.safe_dump(content))
            service = stack.enter_context(LiveService(workspace.root, target))
            clients[name] = Client(service, workspace.log, image, seconds)
        yield clients


def measure(clients: dict[str, Client], windows: int) -> tuple[list[Row], dict[str, object]]:
    """The rows, and every figure behind them."""
    rows: list[Row] = []
    details: dict[str, object] = {}
    for count in CLIENTS:
        contenders = {name: partial(client.window, count) for name, client in clients.items()}
        print(f"{count} clients, answers a second", flush=True)
        rates = interleave(contenders, state="warm", windows=windows)
        slow = {name: client.slowest(count, windows) for name, client in clients.items()}
        middle = {name: round(client.middle(count, windows), 3) for name, client in clients.items()}
        details[f"{count} clients"] = {"answers_per_second": rates, "p99_ms": slow, "p50_ms": middle}
        for rival in ("lossy", "no log"):
            rate = ratio_of_medians(rates["durable"], rates[rival])
            wait = ratio_of_medians(slow[rival], slow["durable"])
            rows += [
                _row(
                    count, "answers", "answers/s", "higher", rates, rival, (rate.value, rate.low, rate.high)
                ),
                _row(
                    count,
                    "99 of 100 answers within",
                    "ms",
                    "lower",
                    slow,
                    rival,
                    (wait.value, wait.low, wait.high),
                ),
            ]
    return rows, details


def _row(
    count: int, what: str, unit: str, better: str, figures: dict[str, list[float]], rival: str,
    ratio: tuple[float, float, float],
) -> Row:  # fmt: skip
    return Row(
        case=CASE.format(count), measure=what, unit=unit, better=better, ours="durable", rival=rival,  # type: ignore[arg-type]
        ours_value=median(figures["durable"]), rival_value=median(figures[rival]), ratio=ratio[0], ratio_ci95=ratio[1:],
        windows=len(figures[rival]), headline=rival == "lossy" and count == CLIENTS[-1],
    )  # fmt: skip


def checked(clients: dict[str, Client]) -> None:
    """
    Raises:
        ContenderError: a service did not do what it is measured for.
    """
    for name, client in clients.items():
        written = client._service.metric('visionloop_log_rows_total{outcome="written"}')
        answers = client._service.metric('visionloop_requests_total{status="200"}')
        if written != (0 if name == "no log" else answers):
            raise ContenderError(f"{name}: {answers:.0f} answers, but {written:.0f} rows were written")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.log_cost", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a window (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=WINDOWS, help="of each (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="measure on a busy machine all the same")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as work,
        measuring(
            "log_cost", what=WHAT, state="warm", force=options.force, results=options.results
        ) as result,
        services(Path(work), options.seconds) as clients,
    ):
        result.rows, result.details = measure(clients, options.windows)
        checked(clients)
        for row in result.rows:
            print(
                f"{row.case:<44}{row.measure:<26}{row.ours_value:>9.4g} {row.unit:<10}{row.rival}: {row.rival_value:.4g}  ({row.ratio:.2f})"
            )
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
