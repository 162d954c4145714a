"""After a promotion: the new champion is watched more closely, rolled back by itself where it is worse, else let go."""

import csv
import hashlib
import io
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from monitoring import label_queue, observation
from monitoring.accuracy import Hits, difference, hits_of
from monitoring.episodes import mark_promoted
from monitoring.journal import Episode, Journal
from monitoring.label_intake import take
from monitoring.labels import Label, append_labels
from monitoring.watch import Outcome, wake
from pipeline.artifacts import Workspace, encode_embedding, encode_log_row, write_json
from pipeline.bundle import Bundle
from pipeline.images import statistics
from pipeline.params import Label as LabelParams
from pipeline.params import Params, Watch
from pipeline.registry import Registry
from tests import tiny_bundle

E = "0123456789abcdef"
PARAMS = Params(
    watch=Watch(window=40, min_window=10, permutations=99, observe_images=40),
    label=LabelParams(budget=20, min_labels=12),
)


def picture(rng: np.random.Generator, colour: int) -> bytes:
    pixels = rng.integers(0, 120, (48, 48, 3), dtype=np.uint8)
    pixels[:, :, colour] += 110
    stream = io.BytesIO()
    Image.fromarray(np.kron(pixels[::6, ::6], np.ones((6, 6, 1), dtype=np.uint8))).save(stream, format="PNG")
    return stream.getvalue()


class Line:
    """A production line whose champion was just replaced by a challenger with ``classes`` as its outputs."""

    def __init__(self, root: Path, classes: tuple[str, ...]) -> None:
        self.workspace, self.rng = Workspace(root, root / "var"), np.random.default_rng(0)
        self.truth: dict[str, str] = {}
        registry = Registry(self.workspace.registry)
        for name, outputs in (("old", tiny_bundle.CLASSES), ("new", classes)):
            held_out = [self._held_out(root, number) for number in range(60)]
            tiny_bundle.make(root / name, gain=3.0, classes=outputs, held_out=held_out)
            registry.promote(registry.add(root / name), by="test", why=name)
        self.registry = registry
        self.old, self.new = (move["digest"] for move in registry.history())
        self.promoted = datetime.fromisoformat(registry.history()[-1]["since"])
        self._episode()

    def _held_out(self, root: Path, number: int) -> tuple[Path, dict[str, Any]]:
        colour = number % 3
        path = root / f"held-{number}.png"
        path.write_bytes(picture(self.rng, colour))
        measured = statistics(Image.open(path)) | {"width": 48, "height": 48}
        label = tiny_bundle.CLASSES[colour]
        return path, measured | {
            "image_id": f"{number:064x}",
            "domain": "a",
            "group": str(number),
            "label": label,
            "split": "test",
        }

    def _episode(self) -> None:
        """The old champion was right on 18 of 20 random images of the drift."""
        items = [
            {"image_id": f"{900 + n:064x}", "file": "", "random": True, "why": "", "predicted": "red" if n < 18 else "blue",
             "confidence": 1.0, "domain_score": 0.0, "source": "", "dhash": "0"}
            for n in range(20)
        ]  # fmt: skip
        write_json(self.workspace.queue / E / "manifest.json", {"champion": self.old, "items": items})
        self.workspace.labels.parent.mkdir(parents=True)
        time = self.promoted - timedelta(hours=1)
        labels = [Label(str(item["image_id"]), "p", "red", "b", "g", "train", "ann", time) for item in items]
        append_labels(self.workspace.labels, labels)
        episode = Episode(
            id=E, version=1, state="infra_validating", champion=self.old, reference="r", window="w", since=time,
            opened=time, changed=time, why="darker", challenger=self.new, signature="sensor: brightness down",
        )  # fmt: skip
        with Journal(self.workspace.journal) as journal:
            journal.begin(episode)
            mark_promoted(journal, E, challenger=self.new, now=self.promoted)

    def answers(self, digest: str, count: int, start: datetime) -> None:
        """Rows of the log as the service writes them."""
        bundle = Bundle.load(self.registry.bundle_path(digest))
        for number in range(count):
            colour = int(self.rng.integers(3))
            data, time = picture(self.rng, colour), start + timedelta(seconds=number)
            image = Image.open(io.BytesIO(data))
            said = bundle.predict(bundle.preprocessing.view(image)[None])
            image_id = hashlib.sha256(data).hexdigest()
            self.truth[image_id] = tiny_bundle.CLASSES[colour]
            shares = said.probabilities[0]
            row: dict[str, Any] = {
                "request_id": f"{start:%H%M%S}-{number}", "time": time.isoformat(), "model": digest, "image_id": image_id,
                "label": bundle.classes[int(np.argmax(shares))], "abstain": False,
                "probabilities": dict(zip(bundle.classes, map(float, shares), strict=True)),
                "embedding": encode_embedding(said.embedding[0]),
                "statistics": statistics(image) | {"width": 48, "height": 48}, "source": "line-b",
                "kept": f"{image_id[:2]}/{image_id}.png", "seconds": 0.01,
            }  # fmt: skip
            segment = self.workspace.log / f"{time:%Y-%m-%d}/w-0.log"
            segment.parent.mkdir(parents=True, exist_ok=True)
            with segment.open("ab") as stream:
                stream.write(encode_log_row(row))
            kept = self.workspace.log / "images" / row["kept"]
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(data)

    def wake(self, minutes: float) -> Outcome:
        return wake(self.workspace, PARAMS, now=self.promoted + timedelta(minutes=minutes), draw=False)

    def label(self, outcome: Outcome, minutes: float, most: int | None = None) -> int:
        """Answer the queue, or the first images of it, with the truth."""
        assert outcome.queue is not None
        with (outcome.queue / "queue.csv").open(encoding="utf-8", newline="") as stream:
            asked = [row["image_id"] for row in csv.DictReader(stream)][:most]
        answers = self.workspace.root / "answers.csv"
        lines = [f"{image_id},{self.truth[image_id]}" for image_id in asked]
        answers.write_text("\n".join(["image_id,label", *lines]) + "\n")
        now = self.promoted + timedelta(minutes=minutes)
        take(self.workspace, PARAMS, answers, by="ann", now=now, domain="line-b")
        return len(asked)


@pytest.mark.slow
def test_a_worse_champion_is_rolled_back_by_itself_and_that_is_said(tmp_path: Path) -> None:
    line = Line(tmp_path, ("green", "blue", "red"))
    line.answers(line.new, 30, line.promoted)
    first = line.wake(1)
    assert first.decision == "observing"
    assert [len(seen.window) for seen in first.windows] == [10, 10, 10]
    assert first.windows[0].decision.images == 10, "evidence of its own, from nothing"
    assert first.queue == line.workspace.queue / observation.queue_of(line_episode(line))
    line.answers(line.new, 20, line.promoted + timedelta(minutes=2))
    asked = line.wake(3)
    assert "50 of 40 images" in asked.reason
    assert "0 of 12 asked labels back" in asked.reason
    manifest = label_queue.items_of(line.workspace, observation.queue_of(line_episode(line)))
    assert len(manifest) == 12
    assert all(item.random for item in manifest)
    assert line.label(asked, 4) == 12
    outcome = line.wake(5)
    assert outcome.decision == "rolled_back"
    assert "0 of 12" in outcome.reason
    assert "the old one's 18 of 20" in outcome.reason
    moves = line.registry.history()
    assert [move["action"] for move in moves] == ["promote", "promote", "rollback"]
    assert (moves[-1]["digest"], moves[-1]["by"]) == (line.old, "watch")
    episode = line_episode(line)
    assert episode.state == "rolled_back"
    assert episode.refused is not None, "and drift of its kind waits for a person"
    with Journal(line.workspace.journal) as journal:
        assert journal.steps(1)[0].decision == "rolled_back"
    assert line.wake(6).decision == "insufficient_data"


@pytest.mark.slow
def test_a_rollback_that_is_killed_before_its_row_is_found_out(tmp_path: Path) -> None:
    line = Line(tmp_path, tiny_bundle.CLASSES)
    line.wake(1)
    line.registry.rollback(by="watch", why="worse", to=line.old)
    assert line.wake(2).decision == "insufficient_data"
    assert line_episode(line).state == "rolled_back"


@pytest.mark.slow
def test_a_good_champion_s_observation_ends_after_its_number_and_its_labels(tmp_path: Path) -> None:
    line = Line(tmp_path, tiny_bundle.CLASSES)
    line.answers(line.new, 50, line.promoted)
    asked = line.wake(1)
    assert asked.decision == "observing", "its labels are not back"
    line.label(asked, 2, most=9)
    assert line.wake(2.5).decision == "observing", "nor enough of them"
    line.label(asked, 2.6, most=10)  # two that nobody can tell
    outcome = line.wake(3)
    assert outcome.decision == "monitoring"
    assert "not worse than the old one by more than the interval" in outcome.reason
    assert "the old one's 18 of 20 (0.90, 95 %: 0.70 to 0.97) on other images" in outcome.reason
    assert line_episode(line).state == "monitoring"
    champion = line.registry.champion()
    assert champion is not None
    assert champion.digest == line.new
    assert line.wake(4).decision == "insufficient_data"


def line_episode(line: Line) -> Episode:
    with Journal(line.workspace.journal) as journal:
        return journal.episode(E)


def test_the_interval_of_a_difference_is_newcombe_s() -> None:
    """Newcombe (1998), table II: 56/70 less 48/80 by method 10 is 0.0524 to 0.3339."""
    low, high = difference(Hits(56, 70), Hits(48, 80))
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)
    assert hits_of(Workspace(Path("nowhere"), Path("nowhere")), "c" * 64) == Hits(0, 0)
    assert Hits(0, 0).interval() == (0.0, 1.0)
