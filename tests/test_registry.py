"""The registry: whole bundles, one pointer, a history that survives being killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.artifacts import Workspace
from pipeline.bundle import verify
from pipeline.errors import IntegrityError, StateError
from pipeline.registry import Registry, pin
from pipeline.registry_command import main
from tests import tiny_bundle
from tests.live_service import free_port

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "var/registry")


@pytest.fixture
def digests(tmp_path: Path, registry: Registry) -> list[str]:
    """Three bundles, added."""
    found = []
    for index in range(3):
        tiny_bundle.make(tmp_path / f"bundle-{index}", gain=2.0 + index)
        found.append(registry.add(tmp_path / f"bundle-{index}"))
    return found


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_new_registry_has_no_champion(registry: Registry) -> None:
    assert registry.champion() is None
    assert registry.history() == []
    assert registry.digests() == []


def test_add_copies_the_bundle_under_its_digest_and_twice_is_once(tmp_path: Path, registry: Registry) -> None:
    digest = tiny_bundle.make(tmp_path / "bundle")
    (tmp_path / "bundle/notes.txt").write_text("not part of it")
    assert registry.add(tmp_path / "bundle") == digest == registry.add(tmp_path / "bundle")
    assert verify(registry.bundle_path(digest)) == digest
    assert not (registry.bundle_path(digest) / "notes.txt").exists()
    assert registry.digests() == [digest]


def test_a_damaged_bundle_is_not_added(tmp_path: Path, registry: Registry) -> None:
    tiny_bundle.make(tmp_path / "bundle")
    flip(tmp_path / "bundle/model.onnx")
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        registry.add(tmp_path / "bundle")
    assert registry.digests() == []


def test_adding_a_whole_copy_again_replaces_a_damaged_one(tmp_path: Path, registry: Registry) -> None:
    digest = tiny_bundle.make(tmp_path / "bundle")
    registry.add(tmp_path / "bundle")
    flip(registry.bundle_path(digest) / "model.onnx")
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        registry.promote(digest, by="test", why="damaged")
    registry.add(tmp_path / "bundle")
    assert registry.promote(digest, by="test", why="mended").digest == digest


def test_promote_moves_the_pointer_and_keeps_the_history(registry: Registry, digests: list[str]) -> None:
    registry.promote(digests[0], by="ada", why="first", expect=None)
    registry.promote(digests[1], by="ada", why="better", expect=digests[0])
    champion = registry.champion()
    assert champion is not None
    assert (champion.digest, champion.by, champion.why) == (digests[1], "ada", "better")
    assert [move["digest"] for move in registry.history()] == digests[:2]
    lines = (registry.folder / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["digest"] for line in lines] == digests[:2]
    assert set(json.loads((registry.folder / "champion.json").read_text())) >= {
        "digest",
        "since",
        "by",
        "why",
    }


def test_promoting_the_champion_again_changes_nothing(registry: Registry, digests: list[str]) -> None:
    first = registry.promote(digests[0], by="ada", why="first")
    assert registry.promote(digests[0], by="bob", why="again") == first
    assert len(registry.history()) == 1


def test_promote_refuses_when_another_champion_came_in_between(
    registry: Registry, digests: list[str]
) -> None:
    registry.promote(digests[0], by="ada", why="first")
    for expect in (None, digests[2]):
        with pytest.raises(StateError, match="out of date"):
            registry.promote(digests[1], by="bob", why="late", expect=expect)
    champion = registry.champion()
    assert champion is not None
    assert champion.digest == digests[0]


@pytest.mark.parametrize("digest", ["0" * 64, "../../etc", "", "F" * 64])
def test_promote_refuses_what_is_not_in_the_registry(registry: Registry, digest: str) -> None:
    with pytest.raises(StateError):
        registry.promote(digest, by="ada", why="typo")
    assert registry.champion() is None


def test_rollback_goes_down_the_stack_and_never_back_to_the_bad_one(
    registry: Registry, digests: list[str]
) -> None:
    for digest in digests:
        registry.promote(digest, by="ada", why="better")
    assert registry.rollback(by="bob", why="worse").digest == digests[1]
    assert registry.rollback(by="bob", why="worse still").digest == digests[0]
    with pytest.raises(StateError, match="--to"):
        registry.rollback(by="bob", why="nothing left")
    assert registry.rollback(by="bob", why="forward again", to=digests[2]).digest == digests[2]
    assert registry.rollback(by="bob", why="and back").digest == digests[0]
    assert [move["action"] for move in registry.history()] == ["promote"] * 3 + ["rollback"] * 4


def test_rollback_refuses_a_damaged_bundle_and_the_pointer_stays(
    registry: Registry, digests: list[str]
) -> None:
    for digest in digests[:2]:
        registry.promote(digest, by="ada", why="better")
    flip(registry.bundle_path(digests[0]) / "model.onnx")
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        registry.rollback(by="bob", why="worse")
    champion = registry.champion()
    assert champion is not None
    assert champion.digest == digests[1]
    assert len(registry.history()) == 2


def test_rollback_refuses_a_bundle_that_answers_otherwise(registry: Registry, digests: list[str]) -> None:
    for digest in digests[:2]:
        registry.promote(digest, by="ada", why="better")
    recorded = registry.folder / "answers" / f"{digests[0]}.json"
    answers = json.loads(recorded.read_text())
    answers["onnx"][1][0] += 0.01
    recorded.write_text(json.dumps(answers))
    with pytest.raises(IntegrityError, match="answers the probe images otherwise"):
        registry.rollback(by="bob", why="worse")
    champion = registry.champion()
    assert champion is not None
    assert champion.digest == digests[1]


def test_history_is_derived_from_the_pointer_where_the_line_is_missing_or_torn(
    registry: Registry, digests: list[str]
) -> None:
    for digest in digests[:2]:
        registry.promote(digest, by="ada", why="better")
    journal = registry.folder / "history.jsonl"
    first, second = journal.read_bytes().splitlines(keepends=True)
    for torn in (first, first + second[:30]):
        journal.write_bytes(torn)
        assert [move["digest"] for move in registry.history()] == digests[:2]
    registry.promote(digests[2], by="ada", why="best")
    assert [json.loads(line)["digest"] for line in journal.read_bytes().splitlines()] == digests


def test_a_damaged_pointer_is_an_error_and_rollback_to_mends_it(
    registry: Registry, digests: list[str]
) -> None:
    registry.promote(digests[0], by="ada", why="first")
    registry.pointer.write_text('{"digest": "../../x"}')
    for step in (registry.champion, lambda: registry.rollback(by="bob", why="?")):
        with pytest.raises(StateError, match="rollback --to"):
            step()
    assert registry.rollback(by="bob", why="mended", to=digests[0]).digest == digests[0]
    assert registry.champion() is not None


def test_pin_names_the_champion_and_leaves_an_equal_file_alone(tmp_path: Path, digests: list[str]) -> None:
    workspace = Workspace(tmp_path, tmp_path / "var")
    assert pin(workspace) is None
    assert json.loads(workspace.champion_pin.read_text()) == {"digest": None}
    Registry(workspace.registry).promote(digests[0], by="ada", why="first")
    assert pin(workspace) == digests[0]
    before = workspace.champion_pin.stat()
    assert pin(workspace) == digests[0]
    assert workspace.champion_pin.stat().st_ino == before.st_ino


def test_the_commands(
    registry: Registry,
    digests: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VISIONLOOP_HOME", raising=False)
    (tmp_path / "params.yaml").write_text(f"serve: {{port: {free_port()}}}\n")
    assert main(["show"]) == 0
    assert "no champion yet" in capsys.readouterr().out
    registry.promote(digests[0], by="ada", why="first")
    registry.promote(digests[1], by="ada", why="better\x1b[2J")
    assert main(["history"]) == 0
    text = capsys.readouterr().out
    assert "first" in text
    assert "\x1b" not in text
    assert main(["rollback", "--why", "worse", "--by", "bob", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == digests[0]
    assert main(["rollback", "--to", digests[1][:8]]) == 0
    assert main(["show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.split("\n", 1)[1])["digest"] == digests[1]
    assert main(["pin", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"digest": digests[1]}
    assert main(["rollback", "--to", "ffffff"]) == 1
    assert "names 0 bundles" in capsys.readouterr().err
    flip(registry.bundle_path(digests[1]) / "model.onnx")
    assert main(["show"]) == 1
    assert "model.onnx" in capsys.readouterr().err


def test_importing_the_registry_is_light() -> None:
    code = "import sys, pipeline.registry; print([m for m in ('onnxruntime', 'torch', 'PIL') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_asking_a_bundle_leaves_no_trace_of_telemetry(tmp_path: Path) -> None:
    """ONNX Runtime's own telemetry keeps its session in the folder of temporary files."""
    tiny_bundle.make(tmp_path / "bundle")
    (tmp_path / "tmp").mkdir()
    code = "import sys; from pathlib import Path; from pipeline.answers import answers; answers(Path(sys.argv[1]))"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "bundle")],
        cwd=ROOT, env=environment | {"TMPDIR": str(tmp_path / "tmp")}, check=True,
    )  # fmt: skip
    assert list((tmp_path / "tmp").iterdir()) == []
