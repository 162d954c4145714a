"""The log is read in time order, each row once, whatever is torn, doubled or still being written."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from monitoring.window import Log, kept_file
from pipeline.artifacts import Workspace, encode_log_row
from tests.monitored import CLASSES, SIZE, START, World, answer, log_row, workspace_at

MODEL = "m" * 64


def opened(workspace: Workspace, cursor: dict | None = None, **since: object) -> Log:
    return Log(workspace.log, MODEL, CLASSES, SIZE, cursor=cursor or {}, **since)  # type: ignore[arg-type]


def ids(log: Log, size: int, least: int = 1) -> list[str]:
    window = log.next_window(size, least)
    return [row.request_id for row in window.rows] if window else []


def test_rows_of_several_writers_come_in_time_order(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    answer(workspace, MODEL, [world.shot() for _ in range(5)], start=START, writer="a")
    answer(workspace, MODEL, [world.shot() for _ in range(5)], start=START + timedelta(seconds=2), writer="b")
    answer(workspace, MODEL, [world.shot()], start=START + timedelta(days=1), writer="a")
    window = opened(workspace).next_window(100, 1)
    assert window is not None
    times = [row.time for row in window.rows]
    assert times == sorted(times)
    assert len(times) == 11
    assert window.embeddings.shape == (11, SIZE)
    assert window.probabilities.sum(axis=1).round(3).tolist() == [1.0] * 11


def test_a_row_that_was_written_after_midnight_comes_in_its_time(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    for day, writer, seconds in (
        ("2026-03-01", "a", (-9, -1)),
        ("2026-03-02", "b", (-5, 3)),
        ("2026-03-02", "c", (1, 9)),
    ):
        folder = workspace.log / day
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            log_row(
                world.shot(), MODEL, str(second), midnight + timedelta(seconds=second), source="", kept=False
            )
            for second in seconds
        ]
        (folder / f"{writer}-0.log").write_bytes(b"".join(encode_log_row(row) for row in rows))
    log = opened(workspace)
    assert ids(log, 1) == ["-9"]
    log = opened(workspace, log.position())
    assert ids(log, 3) == ["-5", "-1", "1"]
    assert ids(opened(workspace, log.position()), 9) == ["3", "9"]


def test_the_cursor_takes_every_row_once(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    answer(workspace, MODEL, [world.shot() for _ in range(30)], writer="a")
    answer(workspace, MODEL, [world.shot() for _ in range(25)], writer="b")
    seen: list[str] = []
    cursor: dict = {}
    for size in (7, 20, 3):
        log = opened(workspace, cursor)
        seen += ids(log, size)
        log.waiting(15)  # looked at, not taken: it comes again
        cursor = log.position()
    answer(workspace, MODEL, [world.shot() for _ in range(10)], start=START + timedelta(hours=1), writer="c")
    log = opened(workspace, cursor)
    seen += ids(log, 100)
    assert len(seen) == len(set(seen)) == 65
    assert ids(opened(workspace, log.position()), 100) == []


def test_torn_and_damaged_lines_are_dropped_and_counted(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    answer(workspace, MODEL, [world.shot() for _ in range(4)])
    segment = next(workspace.log.glob("*/*.log"))
    whole = segment.read_bytes()
    first = whole.split(b"\n")[0] + b"\n"
    segment.write_bytes(first.replace(b'"label"', b'"lab_l"') + whole + b"0000 not a row\n" + whole[:40])
    log = opened(workspace)
    assert len(ids(log, 100)) == 4
    assert log.dropped == {"damaged": 2, "torn": 1, "duplicates": 0, "others": 0}
    # The writer finishes its line: it is a row now, and nothing else comes again.
    row = log_row(world.shot(), MODEL, "finished", START, source="", kept=False)
    segment.write_bytes(segment.read_bytes()[:-40] + encode_log_row(row))
    assert ids(opened(workspace, log.position()), 100) == ["finished"]


def test_a_row_with_a_sound_checksum_and_nonsense_in_it_is_damaged(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    good = log_row(world.shot(), MODEL, "good", START, source="", kept=False)
    broken = [
        good | {"request_id": "1", "embedding": "!!"},
        good | {"request_id": "2", "embedding": "AAAA"},
        good | {"request_id": "3", "time": "yesterday"},
        good | {"request_id": "4", "statistics": {"brightness": 1.0}},
        good | {"request_id": "5", "label": "of another model"},
        good | {"request_id": "6", "statistics": good["statistics"] | {"contrast": float("nan")}},
    ]
    folder = workspace.log / "2026-03-01"
    folder.mkdir(parents=True)
    (folder / "w-0.log").write_bytes(b"".join(encode_log_row(row) for row in [*broken, good]))
    log = opened(workspace)
    assert ids(log, 100) == ["good"]
    assert log.damaged == len(broken)


def test_a_request_that_was_logged_twice_counts_once_even_across_windows(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    shots = [world.shot() for _ in range(6)]
    answer(workspace, MODEL, shots, writer="a")
    log = opened(workspace)
    assert len(ids(log, 100)) == 6
    segment = next(workspace.log.glob("*/*.log"))
    (segment.parent / "b-0.log").write_bytes(segment.read_bytes())
    again = opened(workspace, log.position())
    assert ids(again, 100) == []
    assert again.duplicates == 6


def test_only_the_champion_is_watched(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    answer(workspace, MODEL, [world.shot() for _ in range(3)], writer="a")
    answer(workspace, "o" * 64, [world.shot() for _ in range(5)], writer="b")
    log = opened(workspace)
    assert len(ids(log, 100)) == 3
    assert log.others == 5


def test_too_few_rows_wait_for_the_next_wake_up(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    answer(workspace, MODEL, [world.shot() for _ in range(9)])
    log = opened(workspace)
    assert log.next_window(50, 10) is None
    assert log.waiting(10) == 9
    answer(workspace, MODEL, [world.shot()], start=START + timedelta(minutes=5), writer="b")
    assert len(ids(opened(workspace, log.position()), 50, 10)) == 10


def test_rows_before_a_time_are_left_out(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    answer(workspace, MODEL, [world.shot() for _ in range(10)])
    log = opened(workspace, since=START + timedelta(seconds=4))
    assert len(ids(log, 100)) == 6


def test_a_kept_name_is_a_path_only_if_it_is_the_images_own(tmp_path: Path) -> None:
    workspace, world = workspace_at(tmp_path), World()
    answer(workspace, MODEL, [world.shot() for _ in range(3)])
    segment = next(workspace.log.glob("*/*.log"))
    shot = world.shot()
    (tmp_path / "secret.png").write_bytes(b"x")
    hostile = log_row(shot, MODEL, "hostile", START + timedelta(hours=1), source="", kept=True)
    with segment.open("ab") as stream:
        stream.write(encode_log_row(hostile | {"kept": "../../../secret.png"}))
    window = opened(workspace).next_window(100, 1)
    assert window is not None
    found = [kept_file(workspace.log / "images", row) for row in window.rows]
    assert [path is not None for path in found] == [True, True, True, False]
