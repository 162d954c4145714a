"""The soaked year in short: real log, kills, a full disk, the real watch and intake; and its bookkeeping."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.demo_stage import Stage
from flows.soak_account import cause_of, suppressions
from flows.soak_audit import Logged, audit
from flows.soak_costs import Costs
from flows.soak_page import page
from flows.soak_pool import Pools
from flows.soak_workspace import Disk
from flows.soak_world import DIRTY, START, STATIONS, World
from flows.soak_year import Year
from monitoring.episodes import advance, mark_retrain_started, promoting
from monitoring.journal import Journal, Step
from monitoring.leases import give_back, take
from monitoring.shadow import begin
from pipeline.artifacts import STATISTICS, Workspace
from pipeline.registry import Registry
from tests import tiny_bundle
from tests.monitored import workspace_at

DAYS, SHADOW = 18, 30
CLASSES = ("clean", "scratch", "pit", "patch", "crack", "inclusion")


def day(days: float) -> datetime:
    return START + timedelta(days=days)


def test_the_year_has_its_shifts_and_a_source_is_bad_until_somebody_mends_it() -> None:
    world = World(365, 0, 10)
    kinds = [change.kind for change in world.changes]
    assert (kinds.count("real"), kinds.count("harmless"), kinds.count("bad source")) == (3, 2, 1)
    assert world.shares(day(1), DIRTY) == {"first": 1.0}
    lens = next(change for change in world.changes if change.kind == "bad source")
    assert world.shares(day(lens.day + 1), DIRTY) == {"dirty": 1.0}
    assert all(
        world.shares(day(lens.day + 1), other) == {"first": 1.0} for other in STATIONS if other != DIRTY
    )
    world.mended = day(lens.day + 2)
    assert world.shares(day(lens.day + 3), DIRTY) == {"first": 1.0}
    fading = world.shares(day(298), DIRTY)
    assert len(fading) == 2
    assert sum(fading.values()) == pytest.approx(1.0)
    assert world.shares(day(364), DIRTY) == {"winter": 1.0}


def test_an_image_comes_again_only_after_all_others_and_never_once_it_is_labelled() -> None:
    world = World(365, 0, 12)
    hours = (request for hour in range(24 * 7) for request in world.requests(START + timedelta(hours=hour)))
    drawn = [request.index for request in hours]
    assert len(set(drawn[:12])) == 12
    world.retire("first", 3)
    later = [r.index for hour in range(200, 300) for r in world.requests(START + timedelta(hours=hour))]
    assert 3 not in later
    assert set(later) <= set(range(12))


def test_an_alarm_is_false_only_while_nothing_has_changed_that_the_champion_does_not_know() -> None:
    world = World(365, 0, 10)
    assert cause_of(world, START, day(20)) is None
    assert getattr(cause_of(world, START, day(30)), "name", None) == "lens"
    assert cause_of(world, START, day(50)) is None  # clean again
    assert getattr(cause_of(world, START, day(65)), "name", None) == "camera"
    assert cause_of(world, day(63), day(100)) is None  # its labels are of the new camera
    # The light goes on fading after the labels were drawn: what came later is not known.
    assert getattr(cause_of(world, day(300), day(310)), "name", None) == "season"


def rows(count: int, model: str = "m") -> list[Logged]:
    return [Logged(day(0) + timedelta(hours=hour), f"r{hour}", model) for hour in range(count)]


def window(taken: list[Logged], name: str | None = None) -> Step:
    from flows.soak_audit import _name

    detail = {"first": taken[0].time.isoformat()}
    return Step(
        time=day(1), decision="quiet", reason="", champion="m", window=name or _name(taken), images=len(taken), detail=detail
    )  # fmt: skip


def test_the_audit_finds_what_is_lost_doubled_read_twice_or_not_at_all() -> None:
    log = rows(10)
    fine = audit([row.id for row in log], log, [window(log[:4]), window(log[4:8])])
    assert (fine["lost"], fine["doubled"], fine["read"], fine["read_twice"]) == (0, 0, 8, 0)
    assert fine["not_read"] == {"after_the_last_window": 2}
    assert audit(["r0", "gone"], log, [])["lost"] == 1
    assert audit(["r0"], [log[0], log[0]], [])["doubled"] == 1
    assert audit(["r1"], log, [window(log[:3]), window(log[1:4])])["read_twice"] == 1
    assert audit(["r1"], log, [window(log[:3], "20270101T000000-00000000")])["unknown_windows"] == 1
    assert audit(["r1"], log, [window(log[4:6])])["not_read"] == {"dropped_with_an_episode": 1}


def test_suppressions_are_told_once_for_a_run_of_wake_ups() -> None:
    cooldown = Step(time=day(1), decision="suppressed", reason="the cooldown of 24 h leaves 3 h", episode="e")
    steps = [cooldown, replace(cooldown, time=day(1.25)), replace(cooldown, time=day(2), decision="retrain")]
    steps += [replace(cooldown, time=day(3), reason="an episode was dismissed at noon", episode=None)]
    found = suppressions(steps)
    assert [(run["why"], run["wake_ups"]) for run in found] == [("cooldown", 2), ("dismissed", 1)]


class Stand(Stage):
    """Retrains by putting a bundle that is there already through the episode's states, as flows.retrain does, with a shadow."""

    def __init__(self, workspace: Workspace, next_bundle: Path) -> None:
        super().__init__(workspace.root, workspace.home / "logs")
        self.state, self.next_bundle = workspace, next_bundle

    def run(self, *command: str, show: bool = True, accept: tuple[int, ...] = (0,)) -> str:
        episode, now = (
            command[command.index("--episode") + 1],
            datetime.fromisoformat(self.environment["VISIONLOOP_NOW"]),
        )
        registry = Registry(self.state.registry)
        digest = registry.add(self.next_bundle)
        with Journal(self.state.journal) as journal:
            if journal.episode(episode).state == "shadow":
                again = take(journal, episode)
                assert again is not None
                fence = promoting(journal, again, challenger=digest, now=now)
                registry.promote(digest, by="test", why="drift", fence=fence)
                return ""
            lease = mark_retrain_started(journal, episode, now=now, labels=40)
            assert lease is not None
            for state in ("training", "evaluating"):
                advance(journal, lease, state, now=now, why="a stage begins")
            advance(journal, lease, "infra_validating", now=now, why="PROMOTE", challenger=digest)
            begin(self.state, digest, SHADOW, now)
            advance(journal, lease, "shadow", now=now, why="it answers beside the champion")
            give_back(journal, lease)
        return ""


@pytest.fixture
def year(tmp_path: Path, mount_point: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Year]:
    disk = Disk(mount_point / "home")
    disk.mount()
    workspace = Workspace(workspace_at(tmp_path / "workspace").root, disk.place)
    workspace.params.write_text(
        "label: {budget: 60, min_labels: 20}\nwatch: {permutations: 99, window: 60, observe_images: 60}\n"
        f"release: {{shadow_images: {SHADOW}}}\n"
    )
    world, pools = World(DAYS, 0, 90), Pools(tmp_path / "pools", 90, 0)
    pools.render(world.regimes)
    held_out = Pools(tmp_path / "held-out", 90, 1)
    held_out.render(world.regimes)
    monkeypatch.setenv("VISIONLOOP_NOW", START.isoformat())
    first = bundle(tmp_path / "first", held_out, ["first"], gain=4.0)
    second = bundle(tmp_path / "second", held_out, ["first", "camera"], gain=5.0)
    registry = Registry(workspace.registry)
    registry.promote(registry.add(first), by="test", why="the first")
    yield Year(workspace, Stand(workspace, second), disk, world, pools, Costs())
    disk.unmount()


def bundle(folder: Path, pools: Pools, regimes: list[str], gain: float) -> Path:
    """A network that looks at the mean colour, its reference made of ``regimes``."""
    held_out: list[tuple[Path, dict[str, Any]]] = []
    for regime in regimes:
        for number, image in enumerate(pools.images(regime)):
            path = folder.with_name(f"{folder.name}-{regime}-{number}.jpg")
            path.write_bytes(image["data"])
            named = {name: image["statistics"][name] for name in (*STATISTICS, "width", "height")}
            row = {
                "image_id": image["image_id"],
                "domain": regime,
                "group": image["image_id"],
                "label": image["label"],
            }
            held_out.append((path, row | named))
    tiny_bundle.make(folder, gain=gain, classes=CLASSES, held_out=held_out)
    return folder


@pytest.mark.slow
def test_a_short_soak_loses_nothing_and_says_what_it_saw(year: Year) -> None:
    year.live()
    report = year.report() | {"costs": year.costs.report()}
    requests = report["requests"]
    assert requests["acknowledged"] > 1000
    assert (
        requests["lost"] == requests["doubled"] == requests["read_twice"] == requests["unknown_windows"] == 0
    )
    assert requests["read"] > 0.8 * requests["acknowledged"]
    assert requests["refused"] > 0
    assert "can't be written" in requests["refusal"]
    assert report["faults"]["writer_kills"] >= 1
    assert [alarm["cause"] for alarm in report["alarms"]][:1] == ["camera"]
    assert report["false_alarms"] == 0
    assert report["alarms"][0]["delay_days"] < 3
    assert [retrain["outcome"] for retrain in report["retrains"]] == ["promoted"]
    (promotion,) = report["promotions"]
    assert re.match(
        rf"in shadow the challenger agreed with the champion on \d+ of {SHADOW} ", promotion["shadow"]
    )
    assert report["labels"]["given"] >= 20
    assert sum(week["n"] for week in report["accuracy"]["weeks"]) == requests["acknowledged"]
    before, after = report["accuracy"]["stretches"]
    assert before["with_loop"] == before["without_loop"]
    assert (before["name"], after["name"]) == ("before any change", "after camera")
    shown = page(json.loads(json.dumps(report)), "Said")
    assert "<svg" in shown
    assert "color-scheme" in shown
    assert "all stations get another camera" in shown
