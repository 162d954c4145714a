"""Compaction: every row is somewhere, once for whoever reads, wherever the run is killed."""

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from monitoring.archive import Archive, alone, every_row
from monitoring.archived_rows import typed
from monitoring.compact import compact
from monitoring.journal import Journal
from monitoring.watch import wake
from monitoring.window import Log as Reader
from pipeline.artifacts import Workspace, decode_log_line, encode_log_row
from pipeline.errors import DataError, ParamsError, StateError
from pipeline.params import Log
from services.prediction_log import PredictionLog
from services.retention import prune
from tests import tiny_s3
from tests.monitored import (
    CLASSES,
    SIZE,
    START,
    World,
    answer,
    log_row,
    params_for_tests,
    promote,
    workspace_at,
)
from tests.nursery import ROOT, Nursery

MODEL, OTHER = "a" * 64, "b" * 64
NOW = START + timedelta(days=3)
LOG = Log()


def requests(workspace: Workspace, url: str | None = None) -> Counter[str]:
    return Counter(row["request_id"] for row in every_row(workspace.log, url) if row is not None)


def archived(workspace: Workspace) -> Counter[str]:
    """As anybody else would read it."""
    # Temporary files, of writes that were killed, begin with a dot: engines pass them over.
    table = ds.dataset(workspace.log / "archive", partitioning="hive").to_table()
    return Counter(table["request_id"].to_pylist()) if "request_id" in table.column_names else Counter()


def segments(workspace: Workspace) -> list[Path]:
    return sorted(workspace.log.glob("[0-9]*/*.log"))


def logged(root: Path) -> Workspace:
    """Two days, three writers, two models: 46 rows."""
    workspace, world = workspace_at(root), World()
    answer(workspace, MODEL, [world.shot() for _ in range(20)], writer="a-0")
    answer(
        workspace, OTHER, [world.shot() for _ in range(5)], writer="a-0", start=START + timedelta(minutes=1)
    )
    answer(workspace, MODEL, [world.shot() for _ in range(9)], writer="b-0", kept=False)
    answer(workspace, MODEL, [world.shot() for _ in range(12)], writer="a-1", start=START + timedelta(days=1))
    return workspace


def reader(workspace: Workspace, cursor: dict[str, Any] | None = None, **options: Any) -> Reader:
    return Reader(workspace.log, MODEL, CLASSES, SIZE, cursor=cursor or {}, **options)


def drained(log: Reader) -> list[str]:
    window = log.next_window(1000, 1)
    return [row.request_id for row in window.rows] if window else []


def test_closed_segments_become_parquet_partitions_and_every_field_comes_back(tmp_path: Path) -> None:
    workspace = logged(tmp_path)
    before = [
        row for path in segments(workspace) for line in path.read_bytes().splitlines(True)
        if (row := decode_log_line(line))
    ]  # fmt: skip
    done = compact(workspace, LOG, now=NOW)
    assert (done.segments, done.rows, done.damaged, done.torn, done.open) == (3, 46, 0, 0, 0)
    assert not segments(workspace)
    table = ds.dataset(workspace.log / "archive", partitioning="hive").to_table()
    shares = Counter(zip(table["date"].to_pylist(), table["model"].to_pylist(), strict=True))
    assert shares == {("2026-03-01", MODEL): 29, ("2026-03-01", OTHER): 5, ("2026-03-02", MODEL): 12}
    found = {row["request_id"]: row for row in every_row(workspace.log, None) if row}
    assert len(found) == len(before) == 46
    for row in before:
        stored = found[row["request_id"]]
        assert datetime.fromisoformat(stored.pop("time")) == datetime.fromisoformat(row.pop("time"))
        assert stored == row
    odd = typed(before[0] | {"time": NOW.isoformat(), "seen": [1, {"a": None}]}, 7)
    assert odd is not None
    assert json.loads(odd["extra"]) == {"seen": [1, {"a": None}]}, "a field without a column is kept, too"
    again = compact(workspace, LOG, now=NOW)
    assert (again.segments, again.rows) == (0, 0)
    assert sum(archived(workspace).values()) == 46


def test_what_a_service_writes_stays_and_damage_is_counted_not_archived(tmp_path: Path) -> None:
    workspace = logged(tmp_path)
    first, second, _ = segments(workspace)
    lines = first.read_bytes().splitlines(True)
    good = decode_log_line(lines[0]) or {}
    nonsense = [
        {"time": "yesterday"},
        {"label": "\ud800"},
        {"statistics": {"width": 2**40}},
        {"embedding": "A"},
    ]
    odd = b"".join(encode_log_row(good | one) for one in nonsense)
    first.write_bytes(b"".join([lines[0].replace(b"label", b"lab_l"), odd, b" " * 80 + b"\n", *lines[1:]]))
    second.write_bytes(second.read_bytes()[:-7])
    live = PredictionLog(workspace.log, LOG)
    row = log_row(World().shot(), MODEL, "live", datetime.now(UTC), source="", kept=False)
    live.append(row | {"kept": None}, b"").result(10)
    done = compact(workspace, LOG, now=datetime.now(UTC))
    assert (done.segments, done.rows, done.damaged, done.torn, done.open) == (3, 44, 5, 1, 1)
    assert "5 damaged lines" in done.text
    assert "1 segments are being written" in done.text
    assert len(segments(workspace)) == 1
    assert requests(workspace)["live"] == 1
    live.close()
    assert compact(workspace, LOG, now=datetime.now(UTC)).rows == 1
    assert requests(workspace)["live"] == 1


def test_the_watch_reads_on_where_it_was_whatever_was_compacted(tmp_path: Path) -> None:
    workspace = logged(tmp_path)
    wanted = drained(reader(workspace))
    seen: list[str] = []
    cursor: dict[str, Any] = {}
    for size in (7, 11, 5):
        log = reader(workspace, cursor)
        window = log.next_window(size, 1)
        assert window is not None
        seen += [row.request_id for row in window.rows]
        log.waiting(4)  # looked at, not taken
        cursor = log.position()
        compact(workspace, LOG, now=NOW)
    log = reader(workspace, cursor)
    seen += drained(log)
    assert seen == wanted
    assert drained(reader(workspace, log.position())) == []
    # New rows come in a segment beside the archive, and old windows are read again from it.
    answer(workspace, MODEL, [World(9).shot()], writer="c-0", start=START + timedelta(days=2))
    assert len(drained(reader(workspace, log.position()))) == 1
    early = reader(workspace, since=START + timedelta(days=1)).next_window(12, 12)
    assert early is not None
    assert [row.request_id for row in early.rows] == wanted[-12:]


@pytest.mark.slow
def test_a_watch_decides_the_same_whatever_was_compacted_in_between(tmp_path: Path) -> None:
    told = []
    for name in ("as it is", "compacted"):
        workspace, world = workspace_at(tmp_path / name), World()
        digest = promote(workspace, [world.shot() for _ in range(150)])
        batches = [(70, 1.0), (45, 1.0), (60, 0.6), (30, 0.6)]
        for hour, (count, dark) in enumerate(batches):
            shots = [world.shot(dark=dark) for _ in range(count)]
            start = START + timedelta(hours=2 * hour)
            answer(workspace, digest, shots, start=start, writer=f"w-{hour}")
            if name == "compacted" and hour % 2:
                compact(workspace, LOG, now=NOW)  # before the watch has seen them
            wake(workspace, params_for_tests(), now=start + timedelta(hours=1), draw=False)
            if name == "compacted":
                compact(workspace, LOG, now=NOW)  # and after
        with Journal(workspace.journal) as journal:
            told.append([(s.decision, s.window, s.images, s.statistic, s.log10_e) for s in journal.steps()])
            assert journal.open_episode() is not None
    assert told[0] == told[1]
    assert not segments(workspace)


def test_a_segment_that_goes_while_it_is_read_is_found_in_the_archive(tmp_path: Path) -> None:
    workspace = logged(tmp_path)
    wanted = drained(reader(workspace))
    log = reader(workspace)
    window = log.next_window(3, 1)
    assert window is not None
    compact(workspace, LOG, now=NOW)  # the second day is listed, and not opened yet
    assert [row.request_id for row in window.rows] + drained(log) == wanted


@pytest.mark.parametrize("url", ["memory://bucket/log", "file://{}/elsewhere", "{}/plain path"])
def test_the_archive_lies_where_a_url_says(tmp_path: Path, url: str) -> None:
    url = url.format(tmp_path)
    workspace = logged(tmp_path / "w")
    wanted = drained(reader(workspace))
    done = compact(workspace, replace(LOG, archive=url), now=NOW)
    assert done.rows == 46
    assert not (workspace.log / "archive").exists()
    files, root = fsspec.url_to_fs(url)
    assert len(files.glob(f"{root}/date=*/model=*/*.parquet")) == 4
    assert drained(reader(workspace, archive=url)) == wanted
    part = Archive(workspace.log, url).parts(MODEL)[0]
    assert Archive(workspace.log, url).drop(part, {wanted[0]}) == 1
    assert set(drained(reader(workspace, archive=url))) == set(wanted[1:])
    files.rm(root, recursive=True)


@pytest.mark.slow
def test_s3_is_spoken_by_arrow_s_own_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, url = logged(tmp_path / "w"), "s3://bucket/log"
    wanted = drained(reader(workspace))
    with tiny_s3.store() as (host, store):
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}", "AWS_REGION": "eu-west-1",
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        assert drained(reader(workspace, archive=url)) == wanted, "a bucket that is empty yet"
        assert compact(workspace, replace(LOG, archive=url), now=NOW).rows == 46
        assert segments(workspace) == []
        assert sorted(name.rsplit("/", 2)[0] for name in store.objects) == [
            *["bucket/log/date=2026-03-01"] * 3, "bucket/log/date=2026-03-02",
        ]  # fmt: skip
        assert drained(reader(workspace, archive=url)) == wanted
        part = Archive(workspace.log, url).parts(MODEL)[0]
        assert Archive(workspace.log, url).drop(part, {wanted[0]}) == 1
        assert set(drained(reader(workspace, archive=url))) == set(wanted[1:])
        expired = compact(workspace, replace(LOG, archive=url, archive_days=1), now=NOW).expired
        assert len(expired) == 4
        assert drained(reader(workspace, archive=url)) == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense://x", r"log\.archive 'nonsense://x'"),
        (
            "abfs://box/log",
            r"log\.archive 'abfs://box/log' can't be used: Install adlfs .* Arrow's own client",
        ),
    ],
)
def test_a_url_that_can_not_be_used_is_named_and_what_it_wants(tmp_path: Path, url: str, says: str) -> None:
    with pytest.raises(ParamsError, match=says):
        Archive(tmp_path, url)


def test_a_store_that_does_not_answer_is_an_error_not_an_empty_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(self: object, path: str, **options: object) -> list[str]:
        raise TimeoutError(f"no answer for {path}")

    monkeypatch.setattr(MemoryFileSystem, "ls", silent)
    with pytest.raises(StateError, match=r"can't be listed: no answer for /bucket"):
        reader(logged(tmp_path), archive="memory://bucket")


def test_a_damaged_part_is_an_error_not_a_gap(tmp_path: Path) -> None:
    workspace = logged(tmp_path)
    compact(workspace, LOG, now=NOW)
    part = next((workspace.log / "archive").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(DataError, match="can't be read"):
        requests(workspace)


def test_days_past_their_time_leave_the_archive(tmp_path: Path) -> None:
    workspace = logged(tmp_path)
    done = compact(workspace, replace(LOG, archive_days=2), now=START + timedelta(days=3))
    assert len(done.expired) == 3
    assert sum(archived(workspace).values()) == 12


def test_retention_takes_parts_for_want_of_room_alone_and_the_oldest_first(tmp_path: Path) -> None:
    workspace = logged(tmp_path)
    compact(workspace, LOG, now=NOW)
    parts = sorted((workspace.log / "archive").rglob("*.parquet"), key=lambda path: path.stat().st_mtime)
    images = list((workspace.log / "images").rglob("*.png"))
    later = max(path.stat().st_mtime for path in images) + 40 * 86_400
    assert set(prune(workspace.log, keep_days=30, max_bytes=10**9, now=later)) == set(images)
    assert (
        prune(workspace.log, keep_days=30, max_bytes=sum(path.stat().st_size for path in parts[1:]))
        == parts[:1]
    )


def test_where_the_archive_cannot_be_written_the_segments_stay(tmp_path: Path) -> None:
    workspace = logged(tmp_path)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        compact(workspace, replace(LOG, archive=str(tmp_path / "file/archive")), now=NOW)
    assert len(segments(workspace)) == 3


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    workspace = logged(tmp_path)
    with alone(workspace.log), pytest.raises(StateError, match="run the command again"):
        compact(workspace, LOG, now=NOW)


KILLED = """
import os, signal, sys
from datetime import datetime, UTC
from pathlib import Path
from monitoring.compact import compact
from pipeline.artifacts import Workspace
from pipeline.params import Log

def work(text):
    place, left = text.split()
    left = int(left)

    def count(event, arguments):
        nonlocal left
        if event.startswith("fcntl.") or any(str(argument).startswith(place) for argument in arguments[:2]):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    compact(Workspace(Path(place), Path(place) / "var"), Log(), now=datetime.now(UTC))
"""


@pytest.mark.slow
def test_a_kill_before_every_file_that_a_compaction_touches(tmp_path: Path) -> None:
    """Until the first file, then in what that left until the second, and so on, through to its end."""
    workspace = logged(tmp_path)
    (workspace.log / "archive").mkdir()
    wanted = requests(workspace)
    order = drained(reader(workspace))
    started = reader(workspace)
    started.next_window(8, 1)
    cursor = started.position()
    assert sum(wanted.values()) == len(wanted) == 46
    kills, code = 0, -9
    with Nursery(KILLED, cwd=ROOT, errors=tmp_path / "errors") as nursery:
        while code:
            nursery.bear(f"{tmp_path} {kills}")
            code = nursery.bury()
            assert code in (0, -9), nursery.said()
            assert max(archived(workspace).values(), default=1) == 1, "in the archive, no row is there twice"
            assert requests(workspace) == wanted
            assert drained(reader(workspace)) == order
            assert drained(reader(workspace, cursor)) == order[8:]
            kills += 1
    assert kills > 25
    assert not segments(workspace)
    assert archived(workspace) == wanted
    sizes = [pq.read_metadata(path).num_rows for path in (workspace.log / "archive").rglob("[!.]*.parquet")]
    assert sorted(sizes) == [5, 9, 12, 20]
