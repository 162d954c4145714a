"""Logged requests through champion and challenger: what would change, what can't be asked, what is shown."""

import hashlib
import html
import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows.replay import main, replay
from pipeline.artifacts import Workspace, encode_embedding, encode_log_row, read_json
from pipeline.bundle import Bundle
from pipeline.images import decode
from pipeline.params import Params
from pipeline.registry import Registry
from tests import tiny_bundle

HOSTILE = "<script>alert(1)</script>"
START = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A champion, and a challenger that has another word for what the champion calls green."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VISIONLOOP_HOME", raising=False)
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    workspace = Workspace(tmp_path, tmp_path / "var")
    tiny_bundle.make(tmp_path / "champion")
    registry = Registry(workspace.registry)
    registry.promote(registry.add(tmp_path / "champion"), by="test", why="first")
    tiny_bundle.make(workspace.bundle, classes=("red", HOSTILE, "blue"))
    return workspace


def picture(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(stream, "PNG")
    return stream.getvalue()


def log(workspace: Workspace, sent: list[bytes], *, kept: bool = True, by: str | None = None) -> None:
    """As the service writes it: answered by the champion (or ``by``), the images beside the rows."""
    champion = Registry(workspace.registry).champion()
    assert champion is not None
    bundle = Bundle.load(Registry(workspace.registry).bundle_path(champion.digest))
    segment = workspace.log / "2026-03-01/w-1.log"
    segment.parent.mkdir(parents=True, exist_ok=True)
    lines = segment.read_bytes() if segment.exists() else b""
    for number, data in enumerate(sent):
        image_id = hashlib.sha256(data).hexdigest()
        answer = bundle.predict(bundle.preprocessing.view(decode(data).image)[None])
        shares = dict(zip(bundle.classes, (round(float(p), 6) for p in answer.probabilities[0]), strict=True))
        if kept:
            file = workspace.log / "images" / image_id[:2] / f"{image_id}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        row: dict[str, Any] = {
            "request_id": f"r{len(lines)}-{number}",
            "time": (START + timedelta(seconds=number)).isoformat(),
            "model": by or champion.digest,
            "image_id": image_id,
            "label": max(shares, key=lambda name: shares[name]),
            "abstain": False,
            "probabilities": shares,
            "embedding": encode_embedding(np.zeros(3)),
            "statistics": {},
            "source": "<b>line</b>",
            "kept": f"{image_id}.png" if kept else None,
            "seconds": 0.01,
        }
        lines += encode_log_row(row)
    segment.write_bytes(lines)


def greens(count: int) -> list[bytes]:
    """Ever surer ones: the more sure the champion is, the larger the change."""
    return [picture((90, 140 + 20 * number, 90)) for number in range(count)]


def test_changed_answers_are_shown_with_the_largest_change_first(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    reds = [picture((200 + number, 20, 20)) for number in range(5)]
    log(workspace, [*greens(4), *reds, reds[0]])
    assert main([]) == 0
    assert "4 of 9 images get another answer" in capsys.readouterr().out
    report = read_json(workspace.replay)
    assert (report["requests"], report["images"], report["asked"], report["changed_answers"]) == (10, 9, 9, 4)
    changes = [row["change"] for row in report["changed"]]
    assert changes == sorted(changes, reverse=True)
    assert changes[0] > changes[-1] > 0.3
    order = [hashlib.sha256(data).hexdigest() for data in reversed(greens(4))]
    assert [row["image_id"] for row in report["changed"]] == order
    assert report["changed_by_labels"] == [{"from": "green", "to": HOSTILE, "images": 4}]
    assert report["champion_answers_otherwise_than_logged"] == 0
    page = workspace.replay.with_suffix(".html").read_text()
    assert re.findall(r'data-image="(\w+)"', page) == order
    assert page.count("data:image/jpeg") == 4
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<b>line" not in page


def test_what_was_not_kept_or_is_damaged_is_counted(workspace: Workspace) -> None:
    log(workspace, greens(3))
    log(workspace, [picture((1, 2, 200)), picture((1, 2, 201))], kept=False)
    damaged = next((workspace.log / "images").rglob("*.png"))
    damaged.write_bytes(damaged.read_bytes() + b"x")
    report = replay(workspace, Params.load(workspace.params))
    assert (report["images"], report["images_not_kept"], report["unreadable"], report["asked"]) == (
        5,
        2,
        1,
        2,
    )
    text = html.unescape(workspace.replay.with_suffix(".html").read_text())
    assert "2 images were not kept, 1 can't be read any more" in text


def test_a_torn_line_and_a_name_that_leads_elsewhere_do_no_harm(workspace: Workspace) -> None:
    log(workspace, greens(2))
    segment = workspace.log / "2026-03-01/w-1.log"
    segment.write_bytes(segment.read_bytes() + b"00000000 {torn")
    secret = workspace.root / "secret.png"
    secret.write_bytes(picture((9, 9, 9)))
    (workspace.log / "2026-03-01/w-2.log").write_bytes(
        encode_log_row(
            dict.fromkeys(("request_id", "time", "model", "label", "source"), "x")
            | dict.fromkeys(("abstain", "embedding", "statistics", "seconds"), 0)
            | {"image_id": "f" * 64, "kept": "../../../secret.png", "probabilities": {}}
        )
    )
    report = replay(workspace, Params.load(workspace.params))
    assert (report["damaged_lines"], report["images_not_kept"], report["asked"]) == (1, 1, 2)


def test_a_champion_that_no_longer_answers_as_logged_is_told(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    log(workspace, greens(2))
    log(workspace, [picture((200, 1, 1))], by="0" * 64)  # another model's answer says nothing about it
    segment = workspace.log / "2026-03-01/w-1.log"
    from pipeline.artifacts import decode_log_line

    first, *others = segment.read_bytes().splitlines(keepends=True)
    row = decode_log_line(first)
    assert row is not None
    row["probabilities"]["green"] -= 0.01
    segment.write_bytes(encode_log_row(row) + b"".join(others))
    assert main([]) == 0
    assert "The champion itself answers 1 of them otherwise" in capsys.readouterr().out


def test_a_challenger_from_the_registry(workspace: Workspace) -> None:
    digest = tiny_bundle.make(workspace.root / "other", gain=1.0)
    Registry(workspace.registry).add(workspace.root / "other")
    log(workspace, greens(2))
    report = replay(workspace, Params.load(workspace.params), digest[:8])
    assert (report["challenger"], report["changed_answers"]) == (digest, 0)
    assert report["largest_change_of_the_others"] > 0.05
    assert "No answer changes" in workspace.replay.with_suffix(".html").read_text()


@pytest.mark.parametrize(
    ("given", "words"),
    [([], "holds no image that could be asked"), (["--challenger", "ffffff"], "names 0 bundles")],
)
def test_what_can_t_be_compared_is_a_plain_sentence(
    workspace: Workspace, given: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given) == 1
    assert words in capsys.readouterr().err
    champion = Registry(workspace.registry).champion()
    assert champion is not None
    assert main(["--challenger", champion.digest]) == 1
    assert "is the champion itself" in capsys.readouterr().err


def test_without_a_champion_there_is_nothing_to_compare_with(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    Registry(workspace.registry).pointer.unlink()
    assert main([]) == 1
    assert "no champion yet" in capsys.readouterr().err
