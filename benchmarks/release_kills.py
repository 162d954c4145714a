"""kill -9 of a whole release, from its first step to the moved pointer, with its build and its sandbox.

Each challenger's release is killed once; the moments are spread evenly over the time that an undisturbed one takes.
"""

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.errors import ContenderError
from benchmarks.registry_kills import KILLED, Killed
from pipeline.artifacts import Workspace
from pipeline.bundle import verify
from pipeline.errors import VisionloopError
from pipeline.registry import Registry
from tests import tiny_workspace
from tests.nursery import Nursery

LOCK = ".lock"
FIRST, STEP = 1.0, 0.1  # gain of the first challenger, and by how much the next ones differ
PATIENCE = 5  # releases that may end too early, beside as many as are killed
_RELEASE = """
import services.bento, onnxruntime, pipeline.answers
import flows.release
doing = os.open({doing!r}, os.O_WRONLY | os.O_CREAT, 0o644)
step = flows.release.step

def noted(name, work):
    os.pwrite(doing, name.ljust(40).encode(), 0)
    result = step(name, work)
    os.pwrite(doing, ("after " + name).ljust(40).encode(), 0)
    return result

flows.release.step = noted

def work(text):
    state = flows.release.release(why=text, return_state=True)
    print(state.message, flush=True, file=sys.stderr)
    if not state.is_completed():
        os._exit(1)
"""


def kill_releases(
    folder: Path,
    kills: int,
    environment: dict[str, str],
    *,
    seed: int = 1,
    say: Callable[[str], None] = print,
) -> Killed:
    """Kill the releases of ``kills`` challengers, one each, and release one more undisturbed.

    Args:
        environment: with which a Prefect server is found.

    Raises:
        ContenderError: a release that nobody disturbs does not make its challenger champion.
    """
    workspace = tiny_workspace.make(folder / "workspace")
    temporary, doing, mark = folder / "tmp", folder / "doing", str(folder)
    temporary.mkdir()
    registry, chance = Registry(workspace.registry), random.Random(seed)  # noqa: S311
    done, started = Killed(), time.monotonic()
    with Nursery(
        _RELEASE.format(doing=str(doing)), cwd=workspace.root, errors=folder / "errors",
        environment=environment | {"VISIONLOOP_MARK": mark, "TMPDIR": str(temporary)},
    ) as nursery:  # fmt: skip
        _released(nursery, workspace, FIRST)  # the first one also fills what later ones find
        seconds = _released(nursery, workspace, FIRST + STEP)
        say(f"a release takes {seconds:.1f} s here")
        parts = list(range(kills))
        chance.shuffle(parts)
        while parts:
            moment = seconds * (parts[-1] + chance.random()) / kills
            before, number = registry.champion(), done.kills + done.finished
            challenger = _challenge(workspace, FIRST + STEP * (2 + number))
            doing.write_bytes(b"")
            nursery.bear(f"round {number}")
            time.sleep(moment)
            if nursery.kill() == KILLED:
                where = doing.read_text(encoding="utf-8").strip() or "before the first step"
                done.kills += 1
                done.fell[where] += 1
                parts.pop()
            else:  # too late: the same part again, of a shorter time
                where = "no step: it had ended"
                done.finished += 1
                seconds = moment
                if done.finished > PATIENCE + kills:
                    raise ContenderError(f"releases end before they can be killed:\n{nursery.said()}")
            champion = registry.champion()
            moved = champion != before
            done.moved += moved
            done.rounds.append(
                {"after": round(moment, 2), "where": where, "pointer": "moved" if moved else "stayed"}
            )
            faults = _pointer(registry, {challenger, before.digest if before else None})
            if left := _gone(mark, {nursery.pid}):  # what it had started ends with it
                faults.append(f"still alive: {'; '.join(left)}")
            done.faults += [f"round {number}, {where}: {fault}" for fault in faults]
            say(
                f"{done.kills} of {kills}: after {moment:.1f} s, {where}; the pointer {done.rounds[-1]['pointer']}"
            )
        _released(nursery, workspace, FIRST + STEP * (2 + done.kills + done.finished))
        done.faults += [f"still alive: {line}" for line in _gone(mark, {nursery.pid})]
    done.faults += _leftovers(workspace, temporary)
    done.seconds = time.monotonic() - started
    return done


def _pointer(registry: Registry, allowed: set[str | None]) -> list[str]:
    champion = registry.champion()
    if champion is None:
        return ["there is no champion"]
    found = []
    if champion.digest not in allowed:
        found.append(f"{champion.digest} is champion, which is neither the old one nor the challenger")
    if registry.history()[-1]["since"] != champion.since:
        found.append("the history does not end where the pointer stands")
    try:
        if verify(registry.bundle_path(champion.digest)) != champion.digest:
            found.append("the champion has another digest")
    except VisionloopError as error:
        found.append(str(error))
    return found


def _leftovers(workspace: Workspace, temporary: Path) -> list[str]:
    """What is still there of the killed ones once a whole release has gone through."""
    folders = {
        "releasing": [path.name for path in (workspace.home / "releasing").iterdir() if path.name != LOCK],
        "temporary files": [path.name for path in temporary.iterdir()],
        "registry": [path.name for path in workspace.registry.rglob(".*") if path.name != LOCK],
        "half Bentos": [
            path.name
            for path in (workspace.home / "bentoml/bentos/visionloop").iterdir()
            if path.name != "latest" and not (path / "bento.yaml").exists()
        ],
    }
    return [f"left behind, {what}: {', '.join(names)}" for what, names in folders.items() if names]


def _alive(mark: str, besides: set[int]) -> list[str]:
    """Command lines of the processes that carry ``mark`` in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in besides and process.environ().get("VISIONLOOP_MARK") == mark:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def _gone(mark: str, besides: set[int], seconds: float = 15.0) -> list[str]:
    """Wait until nothing is alive any more; what still is after ``seconds``."""
    deadline = time.monotonic() + seconds
    while (left := _alive(mark, besides)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _challenge(workspace: Workspace, gain: float) -> str:
    """Another bundle, judged against today's champion: PROMOTE."""
    champion = Registry(workspace.registry).champion()
    digest = tiny_workspace.new_challenger(
        workspace, gain=gain, champion=champion.digest if champion else None
    )
    for name in ("artifacts/bundle", "artifacts/checkpoint"):
        shutil.rmtree(workspace.root / name, ignore_errors=True)
    tiny_workspace.reproduced(workspace)
    return digest


def _released(nursery: Nursery, workspace: Workspace, gain: float) -> float:
    """A release that nobody disturbs makes its challenger champion; the seconds that it took."""
    challenger, started = _challenge(workspace, gain), time.monotonic()
    nursery.bear("undisturbed")
    code = nursery.bury()
    champion = Registry(workspace.registry).champion()
    if code or champion is None or champion.digest != challenger:
        raise ContenderError(f"a release that nobody disturbed ended with {code}:\n{nursery.said()}")
    return time.monotonic() - started
