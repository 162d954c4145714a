"""kill -9 of whatever writes the prediction log, at random moments under load: what was acknowledged must be there, once.

``kill_writers`` ends a process that writes the log from eight threads; ``kill_services`` a whole `bentoml serve`, its
supervisor and two workers, behind clients on real connections. A compaction runs beside them now and then.
"""

import hashlib
import http.client
import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.errors import ContenderError
from benchmarks.sets import ROOT
from monitoring.archive import every_row
from monitoring.compact import compact
from pipeline.artifacts import Workspace, encode_embedding
from pipeline.params import Log
from services.prediction_log import PredictionLog, kept_name
from tests.live_service import LiveService, make_workspace

CLIENTS = 8
COMPACT_EVERY = 10  # kills
EARLY = 0.1  # of the kills come at any moment from the writer's start on, the others under load
SEGMENT_BYTES = 65_536  # small, so that kills meet segments that begin and end


@dataclass
class Killed:
    """What the kills left. ``lost`` and ``doubled`` must be empty."""

    kills: int = 0
    acknowledged: int = 0
    rows: int = 0  # found, acknowledged or not
    archived: int = 0  # of them, in the archive by then
    damaged: int = 0  # lines whose checksum is wrong, a torn tail among them
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    without_image: list[str] = field(
        default_factory=list
    )  # acknowledged, but the kept image is not there, or is another
    seconds: float = 0.0

    @property
    def whole(self) -> bool:
        return not (self.lost or self.doubled or self.without_image)

    def to_dict(self) -> dict[str, Any]:
        lists = {name: len(getattr(self, name)) for name in ("lost", "doubled", "without_image")}
        return vars(self) | lists | {"seconds": round(self.seconds, 1)}


def kill_writers(folder: Path, kills: int, *, seed: int = 0, say: Callable[[str], None] = print) -> Killed:
    """Kill a process ``kills`` times while eight threads of it append rows, a third of them with an image."""
    chance, workspace = random.Random(seed), Workspace(folder, folder / "var")  # noqa: S311
    code = "import sys; from benchmarks.log_kills import write_until_killed; write_until_killed(sys.argv[1])"
    acknowledged: list[str] = []
    started, archived = time.monotonic(), 0
    with subprocess.Popen(
        [sys.executable, "-c", code, str(workspace.log)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as nursery:  # fmt: skip
        if nursery.stdin is None or nursery.stdout is None:
            raise ContenderError("the process that writes the log has no pipes")
        for round_ in range(kills):
            print(round_, file=nursery.stdin, flush=True)
            line = nursery.stdout.readline()
            while not line.startswith("child"):
                if not line:
                    raise ContenderError("the process that writes the log has ended by itself")
                acknowledged.append(line.strip())
                line = nursery.stdout.readline()
            child, early = int(line.split()[1]), chance.random() < EARLY
            if not early:  # there is load once the first row is acknowledged
                acknowledged.append(nursery.stdout.readline().strip())
                if acknowledged[-1] == "gone":
                    raise ContenderError("the process that writes the log has ended by itself")
            killer = threading.Timer(chance.uniform(0.0, 0.12), os.kill, (child, signal.SIGKILL))
            killer.start()
            if round_ % COMPACT_EVERY == 1:
                archived += compact(workspace, Log(), now=datetime.now(UTC)).rows
            while (line := nursery.stdout.readline()) != "gone\n":
                acknowledged.append(line.strip())
            killer.join()
            if round_ % 100 == 99:
                say(f"{round_ + 1} kills, {len(acknowledged):,} rows acknowledged")
        nursery.stdin.close()
    done = checked(workspace, acknowledged, kills)
    done.archived, done.seconds = archived, time.monotonic() - started
    return done


def write_until_killed(folder: str) -> None:
    """For each line of standard input, a child that writes until it is killed; its acknowledged rows on standard output."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _write(Path(folder), int(line))
        os.write(1, b"child %d\n" % child)
        os.waitpid(child, 0)
        os.write(1, b"gone\n")


def _write(folder: Path, round_: int) -> None:
    log = PredictionLog(folder, Log(), segment_bytes=SEGMENT_BYTES)
    door = threading.Lock()

    def client(number: int) -> None:
        while True:
            data = os.urandom(3000) if number % 3 == 0 else b""
            log.append(_row(number, data), data).result()
            with door:
                os.write(1, b"%032x\n" % number)
            number += 1

    for index in range(CLIENTS):
        threading.Thread(target=client, args=((round_ * CLIENTS + index) * 10**6,), daemon=True).start()
    threading.Event().wait()


def _row(number: int, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data or str(number).encode()).hexdigest()
    return {
        "request_id": f"{number:032x}", "time": datetime.now(UTC).isoformat(timespec="microseconds"), "model": "f" * 64,
        "image_id": digest, "label": "scratch", "abstain": False, "probabilities": {"scratch": 0.9, "clean": 0.1},
        "embedding": encode_embedding(np.arange(64)), "statistics": {"brightness": 0.5, "width": 64, "height": 48},
        "source": None, "kept": kept_name(digest, ".png") if data else None, "seconds": 0.01,
    }  # fmt: skip


def kill_services(folder: Path, kills: int, *, seed: int = 0, say: Callable[[str], None] = print) -> Killed:
    """Start the service, let clients ask it, kill all of its processes within 2 s of work, ``kills`` times."""
    chance, workspace = random.Random(seed), make_workspace(folder, workers=2)  # noqa: S311
    acknowledged: list[str] = []
    started, archived = time.monotonic(), 0
    for round_ in range(kills):
        service = LiveService(workspace.root)
        with service.start():
            clients = [
                threading.Thread(
                    target=_ask, args=(service.port, seed + round_ * CLIENTS + index, acknowledged)
                )
                for index in range(CLIENTS)
            ]
            for client in clients:
                client.start()
            time.sleep(chance.uniform(0.05, 2.0))
            if round_ % COMPACT_EVERY == 1:
                archived += compact(workspace, Log(), now=datetime.now(UTC)).rows
            service.kill()
            for client in clients:
                client.join()
        say(f"{round_ + 1} of {kills} kills of the service, {len(acknowledged):,} answers with status 200")
    done = checked(workspace, acknowledged, kills)
    done.archived, done.seconds = archived, time.monotonic() - started
    return done


def _ask(port: int, seed: int, acknowledged: list[str]) -> None:
    """One client on one connection, an image after the other, until the connection breaks."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        for image in pictures(seed):
            connection.request("POST", "/v1/predict", image)
            answer = connection.getresponse()
            text = answer.read().decode()
            if answer.status == 200:
                acknowledged.append(text.partition('"request_id":"')[2][:32])
    except (OSError, http.client.HTTPException):
        return
    finally:
        connection.close()


def pictures(seed: int) -> Iterator[bytes]:
    """JPEGs of 96 x 64 px, no two alike."""
    generator = np.random.default_rng(seed)
    while True:
        cells = generator.integers(0, 256, (8, 12, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(cells).resize((96, 64)).save(stream, "JPEG")
        yield stream.getvalue()


def checked(workspace: Workspace, acknowledged: list[str], kills: int) -> Killed:
    """Read the log as monitoring does, and look for every acknowledged row and its image."""
    done = Killed(kills=kills, acknowledged=len(acknowledged))
    found: Counter[str] = Counter()
    kept: dict[str, str | None] = {}
    for row in every_row(workspace.log, None):
        if row is None:
            done.damaged += 1
            continue
        found[row["request_id"]] += 1
        kept[row["request_id"]] = row["kept"]
    done.rows = found.total()
    done.lost = [one for one in acknowledged if found[one] == 0]
    done.doubled = [one for one, times in found.items() if times > 1]
    done.without_image = [
        one for one in acknowledged if (name := kept.get(one)) and not _sound(workspace.log, name)
    ]
    return done


def _sound(log: Path, name: str) -> bool:
    path = log / "images" / name
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
