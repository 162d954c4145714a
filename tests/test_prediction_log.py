"""The prediction log: what was acknowledged is there, once, whatever happened to the process or the disk."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.log_kills import kill_services, kill_writers
from pipeline.artifacts import decode_log_line, encode_embedding
from pipeline.errors import StateError
from pipeline.params import Log
from services.prediction_log import PredictionLog, keeps, kept_name
from services.retention import prune

ROOT = Path(__file__).resolve().parent.parent
LOG_KILLS = int(os.environ.get("VISIONLOOP_LOG_KILLS", "60"))
SERVICE_KILLS = int(os.environ.get("VISIONLOOP_SERVICE_KILLS", "2"))


def row(number: int, kept: str | None = None) -> dict[str, Any]:
    return {
        "request_id": f"{number:032x}",
        "time": "2026-11-20T12:00:00.000000+00:00",
        "model": "f" * 64,
        "image_id": hashlib.sha256(str(number).encode()).hexdigest(),
        "label": "scratch",
        "abstain": False,
        "probabilities": {"scratch": 0.9, "clean": 0.1},
        "embedding": encode_embedding(np.arange(64)),
        "statistics": {"brightness": 0.5},
        "source": None,
        "kept": kept,
        "seconds": 0.01,
    }


def read(folder: Path) -> list[str]:
    """The request ids of every whole row, in no order."""
    found = []
    for path in folder.glob("????-??-??/*.log"):
        rows = [decode_log_line(line) for line in path.read_bytes().splitlines(keepends=True)]
        found += [entry["request_id"] for entry in rows if entry is not None]
    return found


def damaged(folder: Path) -> int:
    lines = [line for path in folder.glob("*/*.log") for line in path.read_bytes().splitlines(keepends=True)]
    return sum(decode_log_line(line) is None for line in lines)


@pytest.fixture
def counts() -> Counter[str]:
    return Counter()


def test_a_row_is_on_disk_when_its_future_resolves(tmp_path: Path, counts: Counter[str]) -> None:
    log = PredictionLog(tmp_path, Log(), lambda event, count: counts.update({event: count}))
    log.append(row(1), b"image").result(10)
    assert read(tmp_path) == [row(1)["request_id"]]
    log.close()
    assert counts == {"written": 1}


def test_no_row_is_acknowledged_before_the_flush_that_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, flushing, go = os.fdatasync, threading.Event(), threading.Event()

    def slow(file: int) -> None:
        flushing.set()
        assert go.wait(10)
        flush(file)

    monkeypatch.setattr(os, "fdatasync", slow)
    log = PredictionLog(tmp_path, Log())
    future = log.append(row(1), b"")
    assert flushing.wait(10)
    assert read(tmp_path) == [row(1)["request_id"]], "written"
    assert not future.done(), "and not flushed yet"
    go.set()
    future.result(10)
    log.close()


def test_rows_of_many_threads_share_flushes_and_all_arrive_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, flushes = os.fdatasync, list[int]()

    def counted(file: int) -> None:
        time.sleep(0.005)  # as a disk takes
        flush(file)
        flushes.append(file)

    monkeypatch.setattr(os, "fdatasync", counted)
    log = PredictionLog(tmp_path, Log())

    def client(start: int) -> None:
        for number in range(start, start + 40):
            log.append(row(number), b"").result(10)

    threads = [threading.Thread(target=client, args=(1000 * index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert Counter(read(tmp_path)) == Counter(
        row(1000 * t + n)["request_id"] for t in range(16) for n in range(40)
    )
    assert damaged(tmp_path) == 0
    assert len(flushes) < 16 * 40 / 4


def test_two_processes_never_share_a_segment(tmp_path: Path) -> None:
    logs = [PredictionLog(tmp_path, Log()) for _ in range(2)]
    for number, log in enumerate(logs):
        log.append(row(number), b"").result(10)
    assert len(list(tmp_path.glob("*/*.log"))) == 2
    for log in logs:
        log.close()


def test_segments_rotate_by_size(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, Log(), segment_bytes=4096)
    for number in range(60):
        log.append(row(number), b"").result(10)
    log.close()
    segments = sorted(tmp_path.glob("*/*.log"))
    assert len(segments) > 5
    assert len(read(tmp_path)) == 60
    assert [path.name[-10:-4] for path in segments] == [f"{index:06d}" for index in range(len(segments))]


def test_close_writes_what_waits_and_later_rows_are_refused(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, Log())
    waiting = [log.append(row(number), b"") for number in range(300)]
    log.close()
    assert all(future.done() and future.exception() is None for future in waiting)
    assert len(read(tmp_path)) == 300
    with pytest.raises(StateError, match="closed"):
        log.append(row(301), b"").result(1)


def test_a_kept_image_lies_under_its_hash(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, Log())
    data = os.urandom(5000)
    image_id = hashlib.sha256(data).hexdigest()
    name = kept_name(image_id, ".jpg")
    for number in range(2):
        log.append(row(number, name), data).result(10)
    log.append(row(3), b"not kept").result(10)
    log.close()
    files = [path for path in (tmp_path / "images").rglob("*") if path.is_file()]
    assert files == [tmp_path / "images" / image_id[:2] / f"{image_id}.jpg"]
    assert files[0].read_bytes() == data


def test_the_same_images_are_kept_always_at_the_stated_rate() -> None:
    ids = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(4000)]
    kept = [image_id for image_id in ids if keeps(image_id, 0.25)]
    assert 0.2 < len(kept) / len(ids) < 0.3
    assert kept == [image_id for image_id in ids if keeps(image_id, 0.25)]
    assert set(kept) <= {image_id for image_id in ids if keeps(image_id, 0.5)}
    assert all(keeps(image_id, 1.0) and not keeps(image_id, 0.0) for image_id in ids)


def test_a_client_that_hangs_up_leaves_the_writer_alone(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, Log())
    for number in range(50):
        log.append(row(number), b"").cancel()
    log.append(row(50), b"").result(10)
    log.close()
    assert len(read(tmp_path)) == 51


def test_lossy_resolves_at_once_and_still_writes(tmp_path: Path, counts: Counter[str]) -> None:
    log = PredictionLog(tmp_path, Log(mode="lossy"), lambda event, count: counts.update({event: count}))
    assert all(log.append(row(number), b"").done() for number in range(100))
    log.close()
    assert len(read(tmp_path)) == 100
    assert counts == {"written": 100}


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves ``leave`` bytes of the disk."""
    status = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * max(0, status.f_bavail * status.f_frsize - leave))
    return ballast


def test_a_full_disk_fails_the_row_leaves_no_torn_line_and_heals(
    small_disk: Path, counts: Counter[str]
) -> None:
    log = PredictionLog(small_disk / "log", Log(), lambda event, count: counts.update({event: count}))
    log.append(row(0), b"").result(10)
    fill(small_disk, 16_384)
    acknowledged, refused = {row(0)["request_id"]}, list[str]()
    for number in range(1, 200):
        try:
            log.append(row(number), b"").result(10)
            acknowledged.add(row(number)["request_id"])
        except StateError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert set(refused) == {"the prediction log can't be written (No space left on device)"}
    assert Counter(read(small_disk / "log")) == Counter(acknowledged), "acknowledged, and nothing else"
    assert damaged(small_disk / "log") == 0
    (small_disk / "ballast").unlink()
    log.append(row(200), b"").result(10)
    log.close()
    assert Counter(read(small_disk / "log")) == Counter({*acknowledged, row(200)["request_id"]})
    assert counts == {"written": len(acknowledged) + 1, "failed": len(refused)}


LIMITED = """
import resource, sys
from pathlib import Path
from pipeline.errors import StateError
from pipeline.params import Log
from services.prediction_log import PredictionLog
from tests.test_prediction_log import row
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
log = PredictionLog(Path(sys.argv[1]), Log())
for number in range(200):
    try:
        log.append(row(number), b"").result(10)
        print(row(number)["request_id"])
    except StateError as error:
        print("refused", error)
try:
    log.append(row(200, "ab/abc.png"), b"x" * 30_000).result(10)
except StateError as error:
    print("refused", error)
log.close()
"""


def test_a_write_that_ends_half_way_is_refused_and_the_next_row_is_whole(tmp_path: Path) -> None:
    """As on a full disk, by the limit on a file's size: it needs no rights, so it runs everywhere."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    refused = [line for line in lines if line.startswith("refused")]
    assert set(refused) == {"refused the prediction log can't be written (File too large)"}
    assert 2 <= len(refused) < 20, "each time a segment was full, and the image"
    assert Counter(read(tmp_path)) == Counter(line for line in lines if line not in refused)
    assert damaged(tmp_path) == 0
    assert not list((tmp_path / "images").rglob("*.*"))


def test_a_full_disk_refuses_the_image_whole_too(small_disk: Path) -> None:
    log = PredictionLog(small_disk / "log", Log())
    fill(small_disk, 32_768)
    data = os.urandom(100_000)
    name = kept_name(hashlib.sha256(data).hexdigest(), ".png")
    with pytest.raises(StateError, match="No space left"):
        log.append(row(1, name), data).result(10)
    log.append(row(2), b"").result(10)
    log.close()
    assert read(small_disk / "log") == [row(2)["request_id"]]
    assert [path for path in (small_disk / "log/images").rglob("*") if path.is_file()] == []


def test_lossy_answers_on_a_full_disk_and_counts_what_it_lost(small_disk: Path, counts: Counter[str]) -> None:
    log = PredictionLog(
        small_disk / "log", Log(mode="lossy"), lambda event, count: counts.update({event: count})
    )
    fill(small_disk, 8_192)
    assert all(log.append(row(number), b"").done() for number in range(200))
    log.close()
    assert counts["failed"] > 0
    assert counts["written"] + counts["failed"] == 200
    assert len(read(small_disk / "log")) == counts["written"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_of_a_process_that_writes_lose_and_double_no_acknowledged_row(tmp_path: Path) -> None:
    """60 here, 1,000 with ``VISIONLOOP_LOG_KILLS=1000`` or in ``python -m benchmarks.durability``."""
    done = kill_writers(tmp_path, LOG_KILLS)
    assert done.acknowledged > LOG_KILLS, "there was load, however slow the machine"
    assert done.archived > 0, "a compaction ran beside it"
    assert (done.lost, done.doubled, done.without_image) == ([], [], [])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_of_the_whole_service_lose_and_double_no_answer(tmp_path: Path) -> None:
    """Twice here, 30 times with ``VISIONLOOP_SERVICE_KILLS=30`` or in ``python -m benchmarks.durability``."""
    done = kill_services(tmp_path, SERVICE_KILLS)
    assert done.acknowledged > 10 * SERVICE_KILLS, "there was load"
    assert (done.lost, done.doubled, done.without_image) == ([], [], [])


def aged(path: Path, size: int, days: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    stamp = time.time() - days * 86_400
    os.utime(path, (stamp, stamp))
    return path


def test_images_go_after_their_days_and_rows_stay(tmp_path: Path) -> None:
    old = aged(tmp_path / "images/ab/abc.jpg", 10, days=31)
    new = aged(tmp_path / "images/cd/cde.jpg", 10, days=29)
    rows = aged(tmp_path / "2026-01-01/w-000000.log", 10, days=300)
    assert prune(tmp_path, keep_days=30, max_bytes=10**9) == [old]
    assert new.exists()
    assert rows.exists()


def test_over_the_size_the_oldest_go_first(tmp_path: Path) -> None:
    files = [
        aged(tmp_path / "2026-01-01/w-000000.log", 400, days=4),
        aged(tmp_path / "images/ab/abc.jpg", 400, days=3),
        aged(tmp_path / "2026-01-02/w-000001.log", 400, days=2),
        aged(tmp_path / "images/cd/cde.jpg", 400, days=1),
    ]
    assert prune(tmp_path, keep_days=30, max_bytes=1000) == files[:2]
    assert not (tmp_path / "2026-01-01").exists(), "nor is an empty day left"
    assert prune(tmp_path, keep_days=30, max_bytes=1000) == []


def test_a_segment_in_use_is_left_alone(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, Log(), segment_bytes=10**6)
    log.append(row(1), b"").result(10)
    assert prune(tmp_path, keep_days=0, max_bytes=1) == []
    log.close()
    assert len(prune(tmp_path, keep_days=0, max_bytes=1)) == 1


def test_two_retentions_at_once_do_not_trip_over_each_other(tmp_path: Path) -> None:
    files = [aged(tmp_path / f"images/ab/{n:04d}.jpg", 10, days=40) for n in range(400)]
    removed: list[Path] = []
    threads = [
        threading.Thread(target=lambda: removed.extend(prune(tmp_path, keep_days=30, max_bytes=10**9)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(removed) == sorted(files)


def test_the_log_stays_within_its_size_while_it_is_written(tmp_path: Path) -> None:
    limit = 200_000
    log = PredictionLog(tmp_path, Log(max_bytes=limit), segment_bytes=20_000, retention_seconds=0.05)
    for number in range(150):
        data = os.urandom(4000)
        log.append(row(number, kept_name(hashlib.sha256(data).hexdigest(), ".jpg")), data).result(10)
    time.sleep(0.3)
    log.close()
    total = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert total <= limit
    assert row(149)["request_id"] in read(tmp_path)
