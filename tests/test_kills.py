"""kill -9, at every step and at random moments: the pointer names a whole bundle, and the next command goes on.

A few here; ``python -m benchmarks.kills`` kills 300 of the registry's steps and 24 whole releases.
"""

from pathlib import Path

import pytest

from benchmarks.registry_kills import STEPS, Watched, kill_at_each_file, kill_at_random
from benchmarks.release_kills import kill_releases
from tests.prefect_server import PrefectServer

pytestmark = pytest.mark.slow

RANDOM_KILLS = 60
RELEASE_KILLS = 4


def test_kills_at_random_moments_of_the_registry_s_steps(tmp_path: Path) -> None:
    done = kill_at_random(tmp_path, RANDOM_KILLS)
    assert done.faults == []
    assert done.kills == RANDOM_KILLS == done.fell.total()
    assert done.moved > 0, "the children did move the pointer"
    assert set(STEPS) <= set(done.fell)


@pytest.mark.parametrize("name", STEPS)
def test_a_kill_before_every_file_that_a_step_touches(tmp_path: Path, name: str) -> None:
    done = kill_at_each_file(tmp_path, name)
    assert done.faults == []
    assert done.kills >= 15, "from the lock to the last flush"
    assert done.finished == 1


def test_a_champion_that_is_not_whole_is_seen(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    assert watched.look() == []
    network = watched.registry.bundle_path(watched.digests[0]) / "model.onnx"
    network.chmod(0o644)
    network.write_bytes(network.read_bytes()[:-1])
    assert len(watched.look()) == 1
    watched.known.append("a move that is not in the history")
    assert "the history does not say what it said before" in watched.look()


@pytest.mark.timeout(1200)
def test_kills_at_random_moments_of_a_whole_release(tmp_path: Path, prefect_server: PrefectServer) -> None:
    """Each challenger's release, which builds its Bento and serves it in the sandbox, is killed once."""
    done = kill_releases(tmp_path, RELEASE_KILLS, prefect_server.environment)
    assert done.faults == []
    assert done.kills == RELEASE_KILLS == done.fell.total()
    assert len(done.fell) > 1, "not all in one place"
    assert [one["pointer"] for one in done.rounds].count("moved") == done.moved < len(done.rounds)
