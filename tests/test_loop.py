"""One whole turn of the loop, as `make demo` runs it: real processes, the embedded sample."""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from flows.demo_workspace import SHADOWED
from tests.conftest import ROOT, Checkout

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    output = Checkout(ROOT).run("python", "-m", "flows.demo", "--folder", str(folder), timeout=1500)
    (folder / "output.txt").write_text(output)
    return folder


@pytest.mark.timeout(1700)
def test_the_loop_closes(demo: Path) -> None:
    summary = json.loads((demo / "summary.json").read_text())
    assert summary["first"]["decision"] == "PROMOTE"
    assert summary["first"]["accuracy"] >= 0.8
    assert summary["quiet"]["windows"] >= 3
    assert summary["quiet"]["alarms"] == 0
    assert summary["shift"]["images_to_alarm"] <= 200
    assert summary["shift"]["accuracy_new_domain"] <= summary["first"]["accuracy"] - 0.15
    assert summary["shift"]["explanation"]
    assert summary["labels"]["answered"] == summary["labels"]["asked"] > 0
    assert summary["second"]["decision"] == "PROMOTE"
    # More than were wanted may have been answered by the time the log shows them.
    compared = re.search(r"agreed with the champion on \d+ of (\d+) .* 0 errors", summary["shadow"])
    assert compared is not None
    assert int(compared[1]) >= SHADOWED
    assert summary["second"]["accuracy_new_domain"] >= summary["shift"]["accuracy_new_domain"] + 0.15
    assert summary["second"]["accuracy_old_domain"] >= summary["first"]["accuracy"] - 0.05
    assert summary["rollback"]["ok"] is True


@pytest.mark.timeout(1700)
def test_a_person_can_read_what_happened(demo: Path) -> None:
    page = (demo / "report.html").read_text()
    assert page.count("data:image/") >= 6
    assert "http-equiv" not in page
    assert "src='http" not in page
    output = (demo / "output.txt").read_text()
    assert "evidently ui" in output
    assert "alarm after" in output


@pytest.mark.timeout(1700)
def test_nothing_is_left_running_and_the_checkout_is_untouched(demo: Path) -> None:
    left = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if int(folder.name) != os.getpid() and str(demo).encode() in environment:
            left.append((folder / "cmdline").read_bytes().replace(b"\0", b" "))
    assert left == []


@pytest.mark.timeout(1700)
def test_a_second_repro_runs_nothing_and_a_fresh_clone_pulls_instead_of_computing(
    demo: Path, tmp_path: Path
) -> None:
    workspace, clone = Checkout(demo / "workspace"), Checkout(tmp_path / "clone")
    remote = ("dvc", "remote", "modify", "--local", "local", "url", str(tmp_path / "remote"))
    # The service is not running any more and the pointer has moved: still nothing to do.
    assert "Running stage" not in workspace.run("dvc", "repro", "gate")
    workspace.run("git", "add", "-A")
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    workspace.run("git", *identity, "commit", "-q", "-m", "after the demo")
    workspace.run(*remote)
    workspace.run("dvc", "push", "-q")
    workspace.run("git", "clone", "-q", str(workspace.root), str(clone.root))
    clone.run(*remote)
    clone.run("dvc", "pull", "-q")
    assert "Running stage" not in clone.run("dvc", "repro", "gate")
    workspace.run("dvc", "remote", "modify", "--local", "--unset", "local", "url")


@pytest.mark.timeout(1700)
def test_the_second_champion_is_made_again_bit_by_bit(demo: Path, tmp_path: Path) -> None:
    """With the labels that came back, the split as it was, and the first champion to compare with."""
    workspace = Checkout(demo / "workspace")
    digest = json.loads((workspace.home / "registry/champion.json").read_text())["digest"]
    place = tmp_path / "again"
    said = workspace.run("python", "-m", "pipeline", "reproduce", digest[:12], "--into", str(place))
    assert f"bit-equal: {digest[:12]}" in said
    certificate = json.loads((place / "certificate.json").read_text())
    assert certificate["reproduced"] == digest
    assert certificate["images"] == {"data/labelled": "DVC"}
    shutil.rmtree(place)


NEEDS_MORE = (
    "make ", "curl ", "export ", "prefect ", "python -m flows.automation",
    "python -m monitoring queue", "python -m pipeline.registry rollback", "python -m flows.replay", "dvc exp run --queue", "dvc queue start",
    "python -m pipeline compress",
)  # fmt: skip
"""Commands of the README that want a server, an open episode, somebody to go back to, or minutes; other tests run those."""


def readme_commands() -> list[str]:
    """The README's shell lines, comments cut off, that end by themselves and hold no placeholder."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    lines = [
        line for block in blocks for line in block.splitlines() if line and "runs until stopped" not in line
    ]
    commands = [line.split("  #")[0].strip() for line in lines]
    return [command for command in commands if "<" not in command and not command.startswith(NEEDS_MORE)]


@pytest.mark.timeout(1700)
def test_the_readme_s_commands_do_what_it_says(demo: Path, tmp_path: Path) -> None:
    workspace = Checkout(demo / "workspace")
    workspace.environment["HOME"] = str(tmp_path)
    del workspace.environment["VISIONLOOP_HOME"]  # the README sets none
    commands = readme_commands()
    assert len(commands) >= 10
    for command in commands:
        workspace.run(*shlex.split(command), timeout=600)
    assert (tmp_path / ".local/share/visionloop/dvc-remote").is_dir()
