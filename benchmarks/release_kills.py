"""kill -9 of a whole release, from its first step to the moved pointer, with its build and its sandbox.

Each challenger's release is killed once, in each of its steps and between them, at a random moment of the time that
this takes undisturbed; further kills go where a release spends its time.
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
LONGEST = 300.0  # s until a release gets to a part of it
START = "before the first step"
PATIENCE = 5  # releases that may end too early, beside as many as are killed
_RELEASE = """
import time
import services.bento, onnxruntime, pipeline.answers
import flows.release
doing = os.open({doing!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
step = flows.release.step

def mark(name):
    os.write(doing, f"{{time.monotonic()}} {{name}}\\n".encode())

def noted(name, work):
    mark(name)
    result = step(name, work)
    mark("after " + name)
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
        _released(nursery, workspace, doing, FIRST)  # the first one also fills what later ones find
        phases = _released(nursery, workspace, doing, FIRST + STEP)
        say(f"a release takes {sum(phases.values()):.1f} s here, in {len(phases)} parts")
        parts = _parts(phases, kills, chance)
        while parts:
            part, longest = parts[-1], phases[parts[-1]]
            before, number = registry.champion(), done.kills + done.finished
            challenger = _challenge(workspace, FIRST + STEP * (2 + number))
            doing.write_bytes(b"")
            born = time.monotonic()
            nursery.bear(f"round {number}")
            if not _reached(doing, part):
                raise ContenderError(f"a release did not get to {part!r}:\n{nursery.said()}")
            time.sleep(chance.uniform(0.0, longest))
            moment = time.monotonic() - born
            if nursery.kill() == KILLED:
                where = _marks(doing)[-1][1]
                done.kills += 1
                done.fell[where] += 1
                parts.pop()
            else:  # too late: the same part again, at an earlier moment
                where = "it had ended"
                done.finished += 1
                phases[part] = longest / 2
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
        _released(nursery, workspace, doing, FIRST + STEP * (2 + done.kills + done.finished))
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


def _released(nursery: Nursery, workspace: Workspace, doing: Path, gain: float) -> dict[str, float]:
    """A release that nobody disturbs makes its challenger champion; its parts in their order, and the seconds of each."""
    challenger, started = _challenge(workspace, gain), time.monotonic()
    doing.write_bytes(b"")
    nursery.bear("undisturbed")
    code = nursery.bury()
    ended = time.monotonic()
    champion = Registry(workspace.registry).champion()
    if code or champion is None or champion.digest != challenger:
        raise ContenderError(f"a release that nobody disturbed ended with {code}:\n{nursery.said()}")
    marks = _marks(doing)
    times = [started, *(at for at, _ in marks[1:]), ended]
    return {name: times[place + 1] - times[place] for place, (_, name) in enumerate(marks)}


def _parts(phases: dict[str, float], kills: int, chance: random.Random) -> list[str]:
    """Each part of a release once, if so many are wanted, and further ones by the time that they take; in random order."""
    names = list(phases)
    chance.shuffle(names)
    names = names[:kills]
    names += chance.choices(list(phases), list(phases.values()), k=kills - len(names))
    chance.shuffle(names)
    return names


def _marks(doing: Path) -> list[tuple[float, str]]:
    """When each part began (of the first: 0), and its name."""
    lines = [line.split(" ", 1) for line in doing.read_text(encoding="utf-8").splitlines()]
    return [(0.0, START), *((float(at), name) for at, name in lines)]


def _reached(doing: Path, part: str) -> bool:
    deadline = time.monotonic() + LONGEST
    while part not in [name for _, name in _marks(doing)] and time.monotonic() < deadline:
        time.sleep(0.005)
    return part in [name for _, name in _marks(doing)]
