"""Atomic writes, tables with a schema, and the log's line format."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import artifacts
from pipeline.errors import DataError

ROW = dict.fromkeys(artifacts.LOG_FIELDS) | {
    "request_id": "r",
    "label": "<script>",
    "probabilities": {"a": 0.5},
}


@pytest.mark.slow
def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "state.json"
    code = (
        "import sys; from pathlib import Path; from pipeline.artifacts import write_json\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1; write_json(Path(sys.argv[1]), {'n': n, 'padding': [n] * 2000})\n"
    )
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", code, str(target)])
        while not target.exists():
            time.sleep(0.01)
        time.sleep(0.15)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        state = artifacts.read_json(target)
        assert state["padding"] == [state["n"]] * 2000


def test_a_failed_write_keeps_the_old_file_and_leaves_no_rubbish(tmp_path: Path) -> None:
    target = tmp_path / "state.json"
    artifacts.write_json(target, {"n": 1})
    with pytest.raises(ValueError, match="JSON"):
        artifacts.write_json(target, {"n": float("nan")})
    assert artifacts.read_json(target) == {"n": 1}
    assert list(tmp_path.iterdir()) == [target]


def test_a_table_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    with pytest.raises(DataError, match="dvc repro"):
        artifacts.read_table(path, artifacts.MANIFEST)
    artifacts.write_table(path, pa.table({"image_id": ["a"]}))
    with pytest.raises(DataError, match="lacks the columns"):
        artifacts.read_table(path, artifacts.MANIFEST)
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[:4] + b"\xff" * 30 + whole[34:]):  # its footer, its first page
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            artifacts.read_table(path, artifacts.MANIFEST)


def test_a_log_line_comes_back_and_any_torn_or_flipped_one_does_not() -> None:
    line = artifacts.encode_log_row(ROW)
    assert artifacts.decode_log_line(line) == ROW
    assert line.count(b"\n") == 1
    for cut in range(len(line)):
        assert artifacts.decode_log_line(line[:cut]) is None
    for place in range(len(line)):
        flipped = bytearray(line)
        flipped[place] ^= 0x01
        assert artifacts.decode_log_line(bytes(flipped)) is None


def test_an_embedding_survives_the_log_to_half_precision() -> None:
    embedding = np.linspace(-3, 3, 64, dtype=np.float32)
    back = artifacts.decode_embedding(artifacts.encode_embedding(embedding))
    np.testing.assert_allclose(back, embedding, atol=2e-3)


def test_an_experiment_in_a_copy_has_the_checkouts_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    copy = checkout / ".dvc/tmp/exps/tmp1a2b3c"
    copy.mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.delenv("VISIONLOOP_HOME", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(checkout))  # as DVC sets it for every stage
    for folder, home in ((copy, checkout), (checkout, checkout), (elsewhere, elsewhere)):
        monkeypatch.chdir(folder)
        assert artifacts.Workspace.here() == artifacts.Workspace(folder, home / "var")
    monkeypatch.chdir(copy)
    for name, home in (("state", checkout / "state"), (str(elsewhere), elsewhere)):
        monkeypatch.setenv("VISIONLOOP_HOME", name)
        assert artifacts.Workspace.here() == artifacts.Workspace(copy, home)
