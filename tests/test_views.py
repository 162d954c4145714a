"""Decode once: in order, only what is new, safe under kill -9, two processes and a full disk."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.artifacts import Workspace
from pipeline.errors import DataError, StateError
from pipeline.rowstore import RowStore
from pipeline.transforms import Preprocessing
from pipeline.views import views

PREPROCESSING = Preprocessing(
    image_size=24, resize=28, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
LIMITS = {"max_pixels": 1_000_000, "max_bytes": 1_000_000}
CHILD = """
import sys
from pathlib import Path
from tests.test_views import LIMITS, PREPROCESSING
from pipeline.artifacts import Workspace
from pipeline.views import views
root = Path(sys.argv[1])
paths = sorted(path.name for path in root.glob("*.png"))
rows = views(Workspace(root, root / "var"), paths, [p.split(".")[0] for p in paths], PREPROCESSING, **LIMITS)
print(rows.sum(dtype=int))
"""


def draw(root: Path, count: int, start: int = 0) -> tuple[list[str], list[str]]:
    """``count`` images named by their digest; their paths and ids."""
    ids = []
    for number in range(start, start + count):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        path = root / "new.png"
        Image.fromarray(pixels).save(path)
        ids.append(hashlib.sha256(path.read_bytes()).hexdigest())
        path.rename(root / f"{ids[-1]}.png")
    return [f"{name}.png" for name in ids], ids


def read(root: Path, paths: list[str], ids: list[str]) -> np.ndarray:
    return views(Workspace(root, root / "var"), paths, ids, PREPROCESSING, **LIMITS)


def expected(root: Path, paths: list[str]) -> np.ndarray:
    return np.stack([PREPROCESSING.view(Image.open(root / path)) for path in paths])


def test_rows_come_in_the_order_asked_and_are_decoded_once(tmp_path: Path) -> None:
    paths, ids = draw(tmp_path, 12)
    wanted = expected(tmp_path, paths)
    first = read(tmp_path, paths, ids)
    assert isinstance(first, np.memmap)
    np.testing.assert_array_equal(first, wanted)
    more_paths, more_ids = draw(tmp_path, 2, start=12)
    more = expected(tmp_path, more_paths)
    for path in paths:
        (tmp_path / path).unlink()  # so that decoding one again would fail
    order = [5, 0, 11]
    np.testing.assert_array_equal(
        read(tmp_path, [paths[i] for i in order], [ids[i] for i in order]), wanted[order]
    )
    np.testing.assert_array_equal(
        read(tmp_path, paths + more_paths, ids + more_ids), np.concatenate([wanted, more])
    )
    assert len(read(tmp_path, [], [])) == 0


def test_images_that_went_bad_are_named_and_the_others_kept(tmp_path: Path) -> None:
    paths, ids = draw(tmp_path, 5)
    good = (tmp_path / paths[1]).read_bytes()
    (tmp_path / paths[1]).write_bytes(good[:-400])
    (tmp_path / paths[3]).unlink()
    text = b"not an image"
    name = hashlib.sha256(text).hexdigest()
    (tmp_path / "notes.jpg").write_bytes(text)
    with pytest.raises(DataError) as caught:
        read(tmp_path, [*paths, "notes.jpg"], [*ids, name])
    for words in (paths[1], "changed", paths[3], "No such file", "notes.jpg", "3 of 6"):
        assert words in str(caught.value)
    (tmp_path / paths[1]).write_bytes(good)
    for path in (paths[0], paths[2], paths[4]):
        (tmp_path / path).unlink()  # kept from the first call
    assert len(read(tmp_path, paths[:3], ids[:3])) == 3


def test_a_damaged_store_is_made_anew(tmp_path: Path) -> None:
    paths, ids = draw(tmp_path, 4)
    wanted = np.array(read(tmp_path, paths, ids))
    data = next((tmp_path / "var").rglob("rows"))
    os.truncate(data, 100)
    np.testing.assert_array_equal(read(tmp_path, paths, ids), wanted)


def test_another_preprocessing_has_another_store(tmp_path: Path) -> None:
    paths, ids = draw(tmp_path, 2)
    first = np.array(read(tmp_path, paths, ids))
    other = Preprocessing.from_dict(PREPROCESSING.to_dict() | {"resize": 40})
    second = views(Workspace(tmp_path, tmp_path / "var"), paths, ids, other, **LIMITS)
    assert (first != second).any()
    same_pixels = Preprocessing.from_dict(PREPROCESSING.to_dict() | {"mean": [0.1, 0.1, 0.1]})
    assert same_pixels.view_key() == PREPROCESSING.view_key()


def child(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_killed_and_doubled_processes_leave_a_sound_store(tmp_path: Path) -> None:
    paths, ids = draw(tmp_path, 700)
    for _ in range(3):  # each dies a little later, in the middle of its work
        process = child(tmp_path)
        while not list((tmp_path / "var").rglob("rows")) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(0.08)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    both = [child(tmp_path), child(tmp_path)]
    sums = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    store = RowStore(next((tmp_path / "var").rglob("rows")).parent, (24, 24, 3), np.uint8)
    assert store.known().keys() == set(ids)
    found = store.read(ids)
    assert [int(total) for total in sums] == [int(found.sum(dtype=int))] * 2
    np.testing.assert_array_equal(found[::50], expected(tmp_path, paths[::50]))


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from pipeline.errors import StateError
from pipeline.rowstore import RowStore
store = RowStore(Path(sys.argv[1]), (1000,), np.uint8)
with store.writing() as writer:
    for number in range(20):
        writer.append(f"a{number}", np.full(1000, number, np.uint8))
resource.setrlimit(resource.RLIMIT_FSIZE, (25_500, resource.RLIM_INFINITY))  # the file can't grow beyond
try:
    with store.writing() as writer:
        for number in range(20):
            writer.append(f"b{number}", np.zeros(1000, np.uint8))
except StateError as error:
    print(error)
"""


def test_a_full_disk_is_an_error_with_a_way_out_and_loses_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "VISIONLOOP_HOME" in done.stdout
    rows = RowStore(tmp_path, (1000,), np.uint8)
    assert len(rows.known()) >= 20
    assert rows.read(["a3", "a19"])[:, 0].tolist() == [3, 19]


@pytest.mark.parametrize("how", ["zeros", "a bit", "names"])
def test_damaged_rows_are_made_anew_and_never_answered_with(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, ids = draw(tmp_path, 6)
    decoded = np.array(read(tmp_path, paths, ids))
    rows = next((tmp_path / "var").rglob("rows"))
    data = bytearray(rows.read_bytes())
    if how == "zeros":
        rows.write_bytes(bytes(len(data)))
    elif how == "a bit":
        data[len(data) // 2] ^= 1
        rows.write_bytes(data)
    else:  # two rows under each other's names
        names = rows.with_name("names.txt")
        lines = names.read_text().splitlines(keepends=True)
        names.write_text("".join([lines[1], lines[0], *lines[2:]]))
    np.testing.assert_array_equal(read(tmp_path, paths, ids), decoded)
    assert "is damaged" in capsys.readouterr().err
    np.testing.assert_array_equal(read(tmp_path, paths, ids), decoded)
    assert "is damaged" not in capsys.readouterr().err, "it is whole again"


def test_a_row_of_another_shape_is_a_mistake(tmp_path: Path) -> None:
    store = RowStore(tmp_path, (4,), np.float32)
    with store.writing() as writer, pytest.raises(ValueError, match="the store holds"):
        writer.append("a", np.zeros(5, np.float32))


def test_a_home_that_is_no_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file where the folder should be")
    paths, ids = draw(tmp_path, 1)
    with pytest.raises(StateError, match="VISIONLOOP_HOME"):
        read(tmp_path, paths, ids)
