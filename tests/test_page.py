"""``var/monitoring/index.html``: whole, inert, without a server, and never in the way of a decision."""

import json
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from monitoring.journal import Episode, Journal, Step
from monitoring.page.chart import Axis
from monitoring.page.points import points, thinned
from monitoring.page.timeline import Move, segments, timeline
from monitoring.page.write import page
from monitoring.publish import publish
from monitoring.traffic import traffic
from monitoring.watch import Outcome, wake
from monitoring.window import Row, Window
from pipeline.artifacts import GAUGES, Workspace, read_json
from tests import monitored
from tests.monitored import START, World, answer, params_for_tests, promote, workspace_at

PARAMS = params_for_tests()
SCRIPT = "<script>alert(1)</script>"
EMPTY = {"meta", "path", "polyline", "polygon", "rect", "br", "link"}


class Read(HTMLParser):
    """Every element, the visible text, and whether what was opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    @property
    def links(self) -> list[str]:
        return [str(attributes["href"]) for tag, attributes in self.tags if tag == "a"]


def inert(text: str) -> Read:
    """The page, read; it has no script, no handler, and asks nobody for anything."""
    found = Read(text)
    assert found.open == []
    names = {tag for tag, _ in found.tags}
    assert not names & {"script", "iframe", "img", "link", "object", "form", "base", "foreignobject", "use"}
    attributes = {name for _, attributes in found.tags for name in attributes}
    assert not {name for name in attributes if name.startswith("on")} | attributes & {"src", "xlink:href"}
    assert not [link for link in found.links if ":" in link or link.startswith("/")]
    assert "url(" not in text
    assert "@import" not in text
    return found


def written(workspace: Workspace) -> Read:
    return inert((workspace.monitoring / "index.html").read_text(encoding="utf-8"))


def drifted(root: Path) -> tuple[Workspace, Outcome]:
    """Two quiet windows, then a dark one that opens an episode."""
    workspace, world = workspace_at(root), World()
    digest = promote(workspace, [world.shot() for _ in range(150)])
    answer(workspace, digest, [world.shot() for _ in range(100)])
    wake(workspace, PARAMS, now=START + timedelta(hours=1), draw=False)
    later = START + timedelta(hours=2)
    answer(workspace, digest, [world.shot(dark=0.6) for _ in range(50)], start=later, writer="b")
    return workspace, wake(workspace, PARAMS, now=later + timedelta(hours=1), draw=False)


def test_without_a_champion_it_says_what_to_run(tmp_path: Path) -> None:
    workspace = workspace_at(tmp_path)
    assert wake(workspace, PARAMS, now=START).report_error is None
    words = written(workspace).words
    assert "There is no champion to watch" in words
    assert "python -m flows.release" in words
    assert "lossy" not in words
    assert read_json(workspace.gauges)["decision"] == "no_champion"
    for text, said in (("log: {mode: lossy}\n", True), ("log: [\n", False)):
        workspace.params.write_text(text, encoding="utf-8")
        assert wake(workspace, PARAMS, now=START).report_error is None
        assert ("The log is lossy (log.mode): answers may be missing" in written(workspace).words) is said


def test_an_open_episode_heads_the_page_with_figures_links_and_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitored, "CLASSES", ("clean", SCRIPT, "scratch"))
    workspace, outcome = drifted(tmp_path)
    assert outcome.report_error is None
    assert outcome.episode is not None
    found = written(workspace)
    assert "Drift: labels are awaited" in found.words
    assert f"python -m monitoring label var/queue/{outcome.episode.id}/queue.csv" in found.words
    assert SCRIPT in found.words  # as text
    for title in (
        "Evidence against",
        "MMD²",
        "Share of each class",
        "Abstentions",
        "Brightness",
        "Sharpness",
        "Volume",
    ):
        assert title in found.words
    assert "estimated accuracy" in found.words
    linked = {(workspace.monitoring / unquote(link)).resolve() for link in found.links}
    assert {path.name for path in linked} == {"contact-sheet.png", "explanation.txt", "README.txt"}
    assert all(path.is_file() for path in linked)
    seen = read_json(workspace.gauges)
    assert tuple(seen) == GAUGES
    assert seen["episode"] == {"id": outcome.episode.id, "state": "awaiting_labels"}
    assert sum(seen["counts"].values()) == seen["images"] == 50
    assert seen["log10_e"] > seen["log10_threshold"]
    (workspace.queue / outcome.episode.id / "manifest.json").write_text("{")
    with Journal(workspace.journal) as journal:
        assert publish(workspace, journal, now=outcome.episode.opened) is None
    assert "Next: python -m monitoring status" in written(workspace).words, "damaged, it costs one line"


def test_accuracies_that_the_journal_holds_are_drawn_with_their_intervals(tmp_path: Path) -> None:
    workspace, _ = drifted(tmp_path)
    estimate = {"method": "confidence", "accuracy": 0.81, "low": 0.77, "high": 0.86}
    labelled = {"n": 20, "accuracy": 0.75, "low": 0.53, "high": 0.89}
    detail = {"estimate": estimate, "labelled": labelled}
    champion = read_json(workspace.registry / "champion.json")["digest"]
    with Journal(workspace.journal) as journal:
        time = START + timedelta(hours=4)
        journal.record(
            Step(time=time, decision="labelled", reason="20 came", champion=champion, detail=detail)
        )
    wake(workspace, PARAMS, now=START + timedelta(hours=5), draw=False)
    words = written(workspace).words
    assert "81 % (77 % to 86 %)" in words
    assert "75 % (53 % to 89 %)" in words
    assert "accuracy on 20 labelled images" in words
    seen = read_json(workspace.gauges)
    assert seen["estimated"] == {"value": 0.81, "low": 0.77, "high": 0.86}
    assert (seen["labelled"]["value"], seen["labels"]) == (0.75, 20)


def test_a_page_that_can_not_be_written_is_told_and_the_decision_stands(tmp_path: Path) -> None:
    workspace = workspace_at(tmp_path)
    (workspace.monitoring / "index.html").mkdir(parents=True)
    outcome = wake(workspace, PARAMS, now=START)
    assert outcome.decision == "no_champion"
    assert outcome.report_error is not None
    assert outcome.report_error.startswith("index.html: ")
    with Journal(workspace.journal) as journal:
        assert [step.decision for step in journal.steps()] == ["no_champion", "report_failed"]
    assert read_json(workspace.gauges)["decision"] == "no_champion"  # one failure does not cost the other


def test_the_timeline_has_every_state_with_its_duration(tmp_path: Path) -> None:
    episode = Episode(
        id="0" * 16, version=9, state="rejected", champion="c" * 64, reference="r", window="w", since=START,
        opened=START + timedelta(hours=3), changed=START + timedelta(hours=8), why=SCRIPT,
    )  # fmt: skip
    # A state that this version has never heard of is a segment like any other; what is only said is none.
    rows = (
        (3, "drift_open"), (3, "asked"), (4, "drifting"), (5, "training"), (6, "evaluating"), (6.5, "training"),
        (7, "quantum_shadow"), (8, "rejected"), (9, "awaiting_labels"), (10, "suppressed"),
    )  # fmt: skip
    steps = [
        Step(time=START + timedelta(hours=hours), decision=decision, reason=SCRIPT, episode=episode.id)
        for hours, decision in rows
    ]
    steps.append(Step(time=START + timedelta(hours=9), decision="promoted", reason="", episode="another"))
    now = START + timedelta(hours=10)
    found = segments(episode, steps, now)
    states = ["drift_open", "awaiting_labels", "training", "evaluating", "quantum_shadow", "rejected"]
    assert [one.state for one in found] == states
    assert [one.end - one.start for one in found] == [timedelta(hours=hours) for hours in (0, 2, 1, 1, 1, 2)]
    moves = [Move(START + timedelta(hours=1), "d" * 64, "rollback", SCRIPT, SCRIPT)]
    drawn = timeline(workspace_at(tmp_path), [episode], steps, moves, Axis(START, now), now)
    words = inert(drawn).words
    assert "quantum shadow 60 min" in words
    assert "rejected, open for 7.0 h" in words
    closed = replace(episode, state="dismissed", changed=now)
    last = segments(closed, steps, now + timedelta(days=9))[-1]
    assert last.state == "dismissed"
    assert last.start == last.end == now  # a closed episode does not grow


def test_a_window_in_a_few_figures() -> None:
    def row(number: int) -> Row:
        shares = np.array([0.9, 0.1], dtype=np.float32)
        return Row(
            request_id=str(number), time=START + timedelta(seconds=number), image_id="i", label="b" if number % 4 else "a",
            source="", kept=None, probabilities=shares, embedding=np.zeros(2, np.float32),
            statistics=np.full(4, number / 100, dtype=np.float32), size=(4, 4), abstained=number < 5, seconds=number / 1000,
        )  # fmt: skip

    found = traffic(Window(tuple(row(number) for number in range(101)), ("a", "b")))
    assert found["counts"] == {"b": 75, "a": 26}
    assert list(found["counts"]) == ["b", "a"]
    assert found["abstained"] == 5
    assert found["means"]["brightness"] == pytest.approx(0.5, abs=1e-6)
    assert found["means"]["confidence"] == pytest.approx(0.9, abs=1e-6)
    assert found["seconds"] == {"p50": 0.05, "p99": 0.099}
    assert found["last"] == (START + timedelta(seconds=100)).isoformat()
    assert json.loads(json.dumps(found)) == found


def a_year(workspace: Workspace) -> list[Step]:
    """Hourly windows, a wake-up every quarter of an hour, an episode every month."""
    rng = np.random.default_rng(0)
    steps = []
    names = ["clean", "pit", "scratch", "dent", "stain", "hole", "burr", "crack", "bent", SCRIPT]
    with Journal(workspace.journal) as journal, journal.transaction():
        for hour in range(24 * 365):
            time = START + timedelta(hours=hour)
            means = {name: float(rng.normal(0.5, 0.02)) for name in ("brightness", "sharpness", "confidence")}
            detail = {
                "log10_threshold": 2.3,
                "traffic": {
                    "first": time.isoformat(), "last": (time + timedelta(minutes=50)).isoformat(), "abstained": 3,
                    "counts": {name: int(rng.integers(5, 20)) for name in names}, "means": means,
                    "seconds": {"p50": 0.01, "p99": float(rng.gamma(4, 0.01))},
                },
                "estimate": {"method": "confidence", "accuracy": 0.9, "low": 0.85, "high": 0.95},
            }  # fmt: skip
            steps.append(
                Step(
                    time=time + timedelta(hours=1), decision="quiet", reason="no drift", champion="c" * 64, window=f"w{hour}",
                    images=100, statistic=float(rng.normal(0, 0.003)), log10_e=5.0 if hour == 5000 else 0.1, detail=detail,
                )
            )  # fmt: skip
            steps += [
                Step(
                    time=time + timedelta(hours=1, minutes=minutes),
                    decision="insufficient_data",
                    reason="few",
                )
                for minutes in (15, 30, 45)
            ]
            if hour % 720 == 719:
                opened = Episode(
                    id=f"{hour:016x}", version=1, state="drift_open", champion="c" * 64, reference="r", window=f"w{hour}",
                    since=time, opened=time, changed=time, why="darker",
                )  # fmt: skip
                journal.begin(opened)
                journal.move(opened, "dismissed", now=time + timedelta(hours=30))
        for step in steps:
            journal.record(step)
    return steps


@pytest.mark.slow
def test_a_year_of_hourly_windows_is_one_small_page(tmp_path: Path) -> None:
    workspace = workspace_at(tmp_path)
    a_year(workspace)
    with Journal(workspace.journal) as journal:
        steps = journal.steps()
        text = page(workspace, journal, steps, now=START + timedelta(days=365))
    assert len(steps) > 35_000
    assert len(text) < 400_000
    found = inert(text)
    assert "2 more" in found.words  # ten classes, eight colours
    few = thinned(points(steps))
    assert len(few) <= 240
    assert max(point.log10_e or 0 for point in few) == 5.0  # thinning hides no alarm
    assert sum(point.images for point in few) == 876_000
