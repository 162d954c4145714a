"""Releasing: what is refused, what the sandbox catches, what is written down, and that twice is once."""

import http.server
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from flows import lineage
from flows.listening import listening
from flows.release import Challenger, examine, main
from flows.sandbox import Golden, ask, golden_images, sandbox
from flows.scratch import scratch
from pipeline.artifacts import PREDICTIONS, Workspace, read_json, read_table, write_json, write_table
from pipeline.errors import DataError, IntegrityError, RefusedError, StateError
from pipeline.params import Params
from pipeline.registry import Registry
from tests import tiny_bundle, tiny_workspace
from tests.prefect_server import PrefectServer

GUARD = Path(__file__).resolve().parent.parent / "pipeline/guard.py"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace after `dvc repro`: a challenger, its predictions, and PROMOTE."""
    workspace = tiny_workspace.make(tmp_path / "workspace")
    tiny_workspace.reproduced(workspace)
    monkeypatch.chdir(workspace.root)
    monkeypatch.delenv("VISIONLOOP_HOME", raising=False)
    return workspace


def judged(workspace: Workspace, **changes: Any) -> None:
    write_json(workspace.verdict, tiny_workspace.verdict(workspace) | changes)
    tiny_workspace.lock(workspace)


def check(outcome: str, **more: Any) -> dict[str, Any]:
    return {
        "name": "accuracy",
        "outcome": outcome,
        "value": None,
        "ci95": None,
        "bound": 0.8,
        "support": 3,
    } | more


def refused(workspace: Workspace, words: str, approve: str | None = None) -> None:
    with pytest.raises(RefusedError, match=words):
        examine(workspace, approve)
    assert Registry(workspace.registry).champion() is None


# What may be released


def test_a_promoted_challenger_may_be_released(workspace: Workspace) -> None:
    digest = tiny_workspace.verdict(workspace)["challenger"]
    found = examine(workspace)
    assert found == Challenger(digest, tiny_workspace.verdict(workspace), None, None)


def test_a_rejected_one_is_refused_whatever_anybody_says(workspace: Workspace) -> None:
    judged(workspace, decision="REJECT", checks=[check("fail")])
    refused(workspace, r"REJECT: accuracy \(fail\)")
    refused(workspace, "with or without --approve", approve="I want it")


def test_where_approval_is_required_promote_takes_a_person_too(workspace: Workspace) -> None:
    with pytest.raises(RefusedError, match=r"release.approval is required.*--approve"):
        examine(workspace, always=True)
    with pytest.raises(RefusedError, match=r"release.approval is required"):
        examine(workspace, "  ", always=True)
    found = examine(workspace, "seen on the line", by="ann", always=True)
    assert found.approved == {"by": "ann", "why": "seen on the line"}
    assert examine(workspace, "seen on the line").approved is None, "a word that nobody asked for"
    (workspace.root / "params.yaml").write_text("release: {approval: required}\n")
    assert main([]) == 1
    assert Registry(workspace.registry).champion() is None
    judged(workspace, decision="REJECT", checks=[check("fail")])
    with pytest.raises(RefusedError, match="with or without --approve"):
        examine(workspace, "I want it", always=True)


def test_insufficient_evidence_takes_a_person_on_record(workspace: Workspace) -> None:
    judged(workspace, decision="INSUFFICIENT_EVIDENCE", checks=[check("unknown")])
    refused(workspace, "--approve")
    refused(workspace, "--approve", approve="  ")
    assert examine(workspace, "seen on the line").approved == {
        "by": lineage.account(),
        "why": "seen on the line",
    }


def test_approval_does_not_cover_integrity(workspace: Workspace) -> None:
    broken = check("unknown", name="integrity_predictions", kind="integrity")
    judged(workspace, decision="INSUFFICIENT_EVIDENCE", checks=[broken])
    refused(workspace, "integrity_predictions.*does not cover", approve="never mind")


@pytest.mark.parametrize("decision", ["PROMOTE", "APPROVED", "promote"])
def test_a_decision_that_does_not_follow_from_its_checks_is_refused(
    workspace: Workspace, decision: str
) -> None:
    judged(workspace, decision=decision, checks=[check("fail")])
    refused(workspace, "does not follow", approve="it says so")


def test_a_verdict_about_another_bundle_is_refused(workspace: Workspace) -> None:
    judged(workspace, challenger="0" * 64)
    refused(workspace, "the verdict is about 000000000000")


def test_a_tampered_bundle_is_refused(workspace: Workspace) -> None:
    weights = workspace.bundle / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match=r"model\.safetensors has changed"):
        examine(workspace)


def test_a_verdict_against_yesterdays_champion_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    registry = Registry(workspace.registry)
    tiny_bundle.make(tmp_path / "other", gain=2.0)
    registry.promote(registry.add(tmp_path / "other"), by="test", why="meanwhile")
    with pytest.raises(RefusedError, match=r"compares with nobody, but the champion is .*flows\.retrain"):
        examine(workspace)


def test_half_a_verdict_is_refused(workspace: Workspace) -> None:
    write_json(workspace.verdict, {"decision": "PROMOTE"})
    with pytest.raises(DataError, match=r"lacks.*challenger"):
        examine(workspace)


def test_what_dvc_lock_does_not_vouch_for_is_refused(workspace: Workspace) -> None:
    lock = workspace.root / "dvc.lock"
    honest = lock.read_text()
    lock.write_text("schema: '2.0'\nstages: {}\n")
    refused(
        workspace, r"artifacts/bundle and reports/verdict\.json are not in dvc\.lock", approve="never mind"
    )
    lock.unlink()
    refused(workspace, r"dvc\.lock.*is missing.*dvc repro gate", approve="never mind")
    lock.write_text(honest)
    write_json(workspace.verdict, tiny_workspace.verdict(workspace) | {"summary": "fine"})
    refused(workspace, r"verdict\.json is not what dvc\.lock names")


def test_a_gate_of_ones_own_must_be_that_of_the_commit(workspace: Workspace) -> None:
    """Nobody but its author can judge again what it judged."""
    pipeline = workspace.root / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("sh inputs/gate.sh", "sh -c true"))
    refused(workspace, "the gate of dvc.yaml is 'sh -c true', which is not what git's last commit holds")
    tiny_workspace.git(workspace.root, "commit", "--quiet", "--all", "--message", "Another gate")
    assert examine(workspace).digest


def test_a_verdict_is_judged_again_where_the_gate_is_ours(workspace: Workspace) -> None:
    pipeline = workspace.root / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("sh inputs/gate.sh", "python -m pipeline gate"))
    with pytest.raises(DataError, match="missing"):  # there is no evidence here to judge
        examine(workspace)


def test_a_refusal_on_the_command_line_is_one_plain_sentence(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    judged(workspace, decision="REJECT", checks=[check("fail")])
    assert main([]) == 1
    said = capsys.readouterr().err
    assert said.startswith("release: the verdict is REJECT")
    assert "Traceback" not in said


def test_releasing_the_champion_again_says_so_and_does_nothing(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = Registry(workspace.registry)
    registry.promote(registry.add(workspace.bundle), by="test", why="first")
    judged(workspace, decision="REJECT", checks=[check("fail")])
    assert main([]) == 0
    assert "is the champion already" in capsys.readouterr().out
    assert len(registry.history()) == 1


def test_a_commit_that_a_kill_prevented_is_made_by_the_next_release(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.params.write_text("release: {git_commit: true}\n")
    tiny_workspace.git(workspace.root, "commit", "--quiet", "--all", "--message", "Commit releases")
    (workspace.root / "dvc.lock").write_text("schema: '2.0'\n")
    registry = Registry(workspace.registry)
    digest = registry.add(workspace.bundle)
    target = lineage.record(
        workspace, tiny_workspace.verdict(workspace), bento="b", sandbox={}, by="t", why="w", approved=None, before=None
    )  # fmt: skip
    registry.promote(digest, by="t", why="w")  # and here it was killed
    assert main([]) == 0
    assert f"tagged it release/{digest[:12]}" in capsys.readouterr().out
    tagged = tiny_workspace.git(workspace.root, "rev-parse", f"release/{digest[:12]}").strip()
    assert read_json(target)["git"]["commit"] == tagged
    assert main([]) == 0
    assert "tagged" not in capsys.readouterr().out, "once is enough"


# Golden images


def test_golden_images_are_spread_over_the_classes(workspace: Workspace) -> None:
    golden = golden_images(workspace, Params.load(workspace.params))
    assert len(golden) == 4  # release.golden_images
    assert {image.label for image in golden} == set(tiny_bundle.CLASSES)
    assert all(image.path.is_file() for image in golden)
    assert all(abs(sum(image.probabilities.values()) - 1) < 1e-5 for image in golden)


def test_an_image_that_has_changed_is_not_golden(workspace: Workspace) -> None:
    path = golden_images(workspace, Params.load(workspace.params))[0].path
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match="has changed since it was evaluated"):
        golden_images(workspace, Params.load(workspace.params))


def test_without_images_there_is_no_sandbox(workspace: Workspace) -> None:
    for path in (workspace.root / "data/images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no test image that lies in the workspace"):
        golden_images(workspace, Params.load(workspace.params))


# The sandbox


def processes(folder: Path) -> set[int]:
    """Processes of a sandbox that has its files below ``folder``."""
    found = set()
    mark = f"{folder}".encode()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                line = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if b"bentoml" in line and mark in (process / "environ").read_bytes():
                found.add(int(process.name))
    return found


@pytest.fixture
def tidy(tmp_path: Path) -> Callable[[], bool]:
    """Is every process of this test's sandboxes gone?"""
    return lambda: not processes(tmp_path)


def test_the_guard_ends_its_command_when_the_parent_is_killed(tmp_path: Path) -> None:
    code = f"""
import subprocess, sys, time
guard = [sys.executable, "-I", {str(GUARD)!r}, "sh", "-c", "echo $$ > pid; exec sleep 60"]
subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True)
time.sleep(60)"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 120
    while not (pid.exists() and pid.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while Path(f"/proc/{pid.read_text().strip()}/exe").exists():
        assert time.monotonic() < deadline, "the command outlived its parent"
        time.sleep(0.02)


def test_what_leaves_the_group_ends_with_the_guard_s_parent_too(tmp_path: Path) -> None:
    command = "setsid sh -c 'echo $$ > pid; exec sleep 60' & wait"
    guard = subprocess.Popen(
        [sys.executable, "-I", GUARD, "sh", "-c", command], cwd=tmp_path, stdin=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    pid, deadline = tmp_path / "pid", time.monotonic() + 120
    while not (pid.exists() and pid.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert guard.stdin
    guard.stdin.close()
    guard.wait(30)
    assert not Path(f"/proc/{pid.read_text().strip()}/exe").exists()


def test_two_releases_at_once_are_one_too_many(workspace: Workspace) -> None:
    with scratch(workspace) as place:
        (place / "half a Bento").touch()
        with pytest.raises(StateError, match="another release is at work"), scratch(workspace):
            pass
        assert place.exists(), "whoever is refused takes nothing away"
    assert not place.exists()


@pytest.mark.slow
def test_a_bento_that_does_not_start_says_why_and_leaves_nothing(
    tmp_path: Path, tidy: Callable[[], bool]
) -> None:
    with pytest.raises(StateError, match=r"nope:1 ended with code \d+(.|\n)*not found"):
        sandbox("nope:1", tmp_path / "bentoml", seconds=120, scratch=tmp_path).__enter__()
    assert tidy()


@pytest.mark.slow
def test_release_from_refusal_to_champion(
    workspace: Workspace, prefect_server: PrefectServer, tidy: Callable[[], bool]
) -> None:
    """One built Bento: first it seems to answer differently, then it is promoted, then nothing is left to do."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.release import release

    params = workspace.root / "params.yaml"
    params.write_text("release: {golden_images: 4, git_commit: true}\ndata: {licence: CC-BY-4.0}\n")
    tiny_workspace.git(workspace.root, "commit", "--quiet", "--all", "--message", "Commit releases")
    digest = tiny_workspace.verdict(workspace)["challenger"]
    registry = Registry(workspace.registry)
    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        honest = read_table(workspace.predictions, PREDICTIONS)
        write_table(workspace.predictions, _otherwise(honest))
        state = release(return_state=True)
        assert state.is_failed()
        assert "max_golden_error allows 0.0001" in str(state.message)
        assert registry.champion() is None
        tried = read_json(workspace.registry / f"releases/{digest}.infra.json")
        assert (tried["outcome"], tried["value"], tried["support"]) == ("fail", None, 4)
        assert "max_golden_error allows 0.0001" in tried["detail"]
        assert tidy()

        write_table(workspace.predictions, honest)
        tiny_workspace.lock(workspace)
        state = release(why="a better one", return_state=True)
        assert state.is_completed(), state.message
        champion = registry.champion()
        assert champion is not None
        assert (champion.digest, champion.why) == (digest, "a better one")
        assert tidy()
        assert "already" in str(release(return_state=True).message)
    assert not (workspace.home / "log").exists(), "the sandbox's questions are not production's"
    assert len(registry.history()) == 1
    _recorded(workspace, digest)


def _otherwise(predictions: pa.Table) -> pa.Table:
    """As if the bundle had said something a little else offline."""
    moved = [[p[0] * 0.998, p[1] + p[0] * 0.002, *p[2:]] for p in predictions["probabilities"].to_pylist()]
    column = pa.array(moved, type=PREDICTIONS.field("probabilities").type)
    return predictions.set_column(PREDICTIONS.get_field_index("probabilities"), "probabilities", column)


def _recorded(workspace: Workspace, digest: str) -> None:
    """What `releases/<digest>.json` and git know afterwards."""
    record = read_json(workspace.registry / f"releases/{digest}.json")
    built = workspace.home / "bentoml/bentos" / record["bento"].replace(":", "/")
    readme = (built / "README.md").read_text()  # what BentoML shows of a Bento
    assert readme.startswith("# Model card: probe on mean-colour\n")
    assert f"Bundle `{digest}`, judged PROMOTE" in readme
    assert "training data: CC-BY-4.0" in readme
    assert tiny_workspace.HOSTILE not in readme
    assert "\\<script\\>" in readme, "the hostile class is named, as text"
    assert record["bento"].startswith(f"visionloop:{digest[:12]}")
    assert record["verdict"]["decision"] == "PROMOTE"
    tried = record["sandbox"]
    assert (tried["name"], tried["outcome"], tried["support"]) == ("infra_validation", "pass", 4)
    assert 0 <= tried["value"] <= tried["bound"] == 1e-4
    assert tried == read_json(workspace.registry / f"releases/{digest}.infra.json")
    assert record["by"] == lineage.account()
    assert record["before"] is None
    git = record["git"]
    assert git["tag"] == f"release/{digest[:12]}"
    assert tiny_workspace.git(workspace.root, "rev-parse", git["tag"]).strip() == git["commit"]
    changed = tiny_workspace.git(workspace.root, "show", "--name-only", "--format=", "HEAD").split()
    assert changed == ["dvc.lock"]


class Impostor(http.server.BaseHTTPRequestHandler):
    """A service that says ``model`` and ``reply`` whatever it is asked."""

    model = "a" * 64
    reply: ClassVar[dict[str, Any]] = {}
    status = 200

    def do_GET(self) -> None:
        self._say({"digest": self.model})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say(self.reply)

    def _say(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"probabilities": {"red": 0.90009, "green": 0.09991}}, None),
        (
            {"probabilities": {"red": 0.9003, "green": 0.0997}},
            r"'(red|green)' differs by 0\.0003.*allows 0\.0001",
        ),
        ({"label": "green"}, "says 'green'.*offline it was 'red'"),
        ({"model": "b" * 64}, "answers with bbbbbbbbbbbb"),
        ({"probabilities": {"red": 0.9, "violet": 0.1}}, "'violet' differs by inf"),
    ],
)
def test_an_answer_that_differs_from_offline_is_caught(
    tmp_path: Path, changes: dict[str, Any], words: str | None
) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(b"any")
    golden = [Golden(image, "red", {"red": 0.9, "green": 0.1})]
    honest = {"model": "a" * 64, "label": "red", "probabilities": {"red": 0.9, "green": 0.1}}
    with _impostor(reply=honest | changes) as url:
        if words is None:
            assert ask(url, golden, digest="a" * 64, limit=1e-4) <= 1e-4
        else:
            with pytest.raises(IntegrityError, match=words):
                ask(url, golden, digest="a" * 64, limit=1e-4)


@pytest.mark.slow
def test_another_bundle_or_a_refusal_is_caught(tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(b"any")
    golden = [Golden(image, "red", {"red": 1.0})]
    with (
        _impostor(reply={}) as url,
        pytest.raises(IntegrityError, match=r"serves aaaaaaaaaaaa.*about bbbbbbbbbbbb"),
    ):
        ask(url, golden, digest="b" * 64, limit=1e-4)
    refusal = _impostor(reply={"error": "truncated"}, status=400)
    with refusal as url, pytest.raises(IntegrityError, match=r"refuses .*image\.png: 400.*truncated"):
        ask(url, golden, digest="a" * 64, limit=1e-4)


def _impostor(**answers: Any) -> AbstractContextManager[str]:
    return listening(type("Impostor", (Impostor,), answers))


# Git


def test_other_changes_keep_git_from_being_touched(workspace: Workspace) -> None:
    (workspace.root / "notes.txt").write_text("mine")
    (workspace.root / "dvc.lock").write_text("schema: '2.0'\n")
    with pytest.raises(StateError, match=r"other changes \(notes\.txt\)"):
        lineage.commit(workspace, "a" * 64)
    assert tiny_workspace.git(workspace.root, "tag") == ""


def test_committing_twice_gives_the_same_commit_and_tag(workspace: Workspace) -> None:
    (workspace.root / "dvc.lock").write_text("schema: '2.0'\n")
    first = lineage.commit(workspace, "a" * 64)
    assert lineage.commit(workspace, "a" * 64) == first
    assert tiny_workspace.git(workspace.root, "status", "--porcelain") == ""


def test_outside_of_a_checkout_there_is_nothing_to_commit(workspace: Workspace, tmp_path: Path) -> None:
    bare = Workspace(tmp_path / "bare", tmp_path / "bare/var")
    bare.root.mkdir()
    with pytest.raises(StateError, match="git"):
        lineage.commit(bare, "a" * 64)
    assert lineage.head(bare.root) is None
    inside = Workspace(workspace.root / "data", workspace.home)
    with pytest.raises(StateError, match="not the root of a git checkout"):
        lineage.commit(inside, "a" * 64)
