"""The main job on real photographs and a real pretrained backbone; skipped where they are not beside the project."""

import asyncio
import csv
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from pipeline import bundle, train
from pipeline.artifacts import SPLIT, Workspace, read_json, read_table
from pipeline.params import Params
from services.engine import Engine
from tests.conftest import BIN, ROOT, Checkout

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(1500)]
RealData = Callable[[str], Path]


def weights(real_data: RealData) -> dict[str, object]:
    return {
        "backbone": "auto",
        "weights": str(real_data("weights") / "mobilenetv2_100_tf2ptq"),
        "image_size": None,
    }


def test_groceries_by_their_official_split(checkout: Checkout, real_data: RealData) -> None:
    """Smartphone photos of 20 products; the official split keeps near-alike shots out of the test set."""
    checkout.params(
        {
            "data": {
                "sources": [{"path": str(real_data("grocery20") / "grocery20"), "domain": "grocery"}],
                "group_pattern": None,
            },
            "split": {"pattern": r"/(train|val|test)_"},
            "model": weights(real_data),
            "train": {"strategy": "probe"},
            "evaluate": {"stress_images": 24},
        }
    )
    checkout.run("dvc", "repro", "gate", timeout=1400)
    metrics = json.loads((checkout.root / "reports/metrics.json").read_text())
    print(json.dumps(metrics["test"] | {"per_class": "…"}))
    assert metrics["test"]["n"] == 526
    assert metrics["test"]["accuracy"] >= 0.82
    low, high = metrics["test"]["accuracy_ci95"]
    assert low < metrics["test"]["accuracy"] < high
    verdict = json.loads((checkout.root / "reports/verdict.json").read_text())
    outcomes = {check["name"]: check["outcome"] for check in verdict["checks"]}
    assert outcomes["accuracy"] == "pass"
    assert sum(name.startswith("recall/") for name in outcomes) == 20


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, real_data: RealData) -> Checkout:
    """A checkout on the photos of pacs3 at 96 px, divided and planned; the strategies share its caches."""
    from flows.demo_workspace import copy_checkout

    checkout = Checkout(copied(tmp_path_factory.mktemp("photos") / "workspace", copy_checkout))
    pacs = real_data("pacs3")
    folder = (pacs / "pacs3" if (pacs / "pacs3").exists() else pacs) / "photo"
    checkout.params(
        {
            "data": {"sources": [{"path": str(folder), "domain": "photo"}], "group_pattern": None},
            "model": weights(real_data) | {"image_size": 96},
            "train": {"epochs": 1, "compile": "off"},
        }
    )
    for verb in ("scan photo", "ingest", "validate", "split", "balance"):
        checkout.run("python", "-m", "pipeline", *verb.split())
    return checkout


def copied(root: Path, copy: Callable[[Path, Path], object]) -> Path:
    copy(ROOT, root)
    return root


@pytest.mark.parametrize("strategy", ["probe", "partial", "finetune", "progressive", "lora", "adapt", "auto"])
def test_each_strategy_learns_photos_and_answers_in_the_service(
    strategy: str, photos: Checkout, real_data: RealData, monkeypatch: pytest.MonkeyPatch
) -> None:
    pacs = real_data("pacs3")
    paintings = (pacs / "pacs3" if (pacs / "pacs3").exists() else pacs) / "art_painting"
    photos.params({"train": {"strategy": strategy, "target": str(paintings)}})
    workspace = Workspace(photos.root, photos.home)
    params = Params.load(workspace.params)
    assert train.run(workspace, params) == 0
    assert bundle.run(workspace, params) == 0
    info = read_json(workspace.checkpoint / "checkpoint.json")
    assert info["strategy"] == strategy or strategy == "auto"
    assert info["strategy"] in ("probe", "partial") or strategy != "auto"
    rows = [row for row in read_table(workspace.split, SPLIT).to_pylist() if row["split"] == "test"]
    monkeypatch.setenv("VISIONLOOP_BUNDLE", str(workspace.bundle))
    engine = Engine(params, workspace)
    try:
        assert asyncio.run(engine.until_ready())
        told = [
            asyncio.run(engine.answer((photos.root / row["path"]).read_bytes(), "test"))["label"]
            for row in rows
        ]
    finally:
        engine.close()
    accuracy = sum(label == row["label"] for label, row in zip(told, rows, strict=True)) / len(rows)
    print(strategy, info["strategy"], len(rows), accuracy)
    assert accuracy >= 0.8  # 7 classes; 0.95 and less in an epoch at 96 px


@contextmanager
def service(checkout: Checkout) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (checkout.root / "service.log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "bentoml", "serve", "services.classifier:Classifier", "--host", "127.0.0.1", "--port", str(port)],
            cwd=checkout.root, env=checkout.environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        for _ in range(300):
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def answers(url: str, images: list[tuple[Path, str]], source: str) -> float:
    """Share of the images that the service answers correctly."""
    with httpx.Client(base_url=url, timeout=60) as client:
        right = 0
        for path, label in images:
            reply = client.post("/v1/predict", content=path.read_bytes(), headers={"X-Source": source})
            assert reply.status_code == 200, reply.text
            right += reply.json()["label"] == label
    return right / len(images)


def test_paintings_arrive_at_a_model_of_photos(checkout: Checkout, real_data: RealData) -> None:
    """Train on photos, serve, send paintings: the alarm, the queue, 60 labels, and accuracy regained."""
    from flows.demo_workspace import answer_from, images_of

    pacs = real_data("pacs3")
    domains = pacs / "pacs3" if (pacs / "pacs3").exists() else pacs
    checkout.params(
        {
            "data": {"sources": [{"path": str(domains / "photo"), "domain": "photo"}], "group_pattern": None},
            "model": weights(real_data) | {"image_size": 128},
            "train": {"strategy": "probe"},
            "evaluate": {"stress_images": 24},
            "label": {"budget": 60},
            "gate": {"min_accuracy": 0.75, "min_macro_f1": 0.7, "min_class_recall": 0.3, "max_ece": 0.2},
        }
    )
    checkout.run("dvc", "repro", "gate", timeout=1400)
    photo = json.loads((checkout.root / "reports/metrics.json").read_text())["test"]
    checkout.run("python", "-m", "flows.release")
    paintings = images_of(domains / "art_painting")
    random.Random(0).shuffle(paintings)
    sent, held_out = paintings[:220], paintings[220:]
    with service(checkout) as url:
        answers(url, sent, "paintings")
        before = answers(url, held_out, "paintings")
        output = checkout.run("python", "-m", "flows.watch")
    assert "drift_open" in output
    queues = list((checkout.home / "queue").iterdir())
    assert len(queues) == 1
    with (queues[0] / "queue.csv").open(newline="") as stream:
        assert sum(1 for _ in csv.DictReader(stream)) == 60
    assert answer_from(paintings, queues[0]) == 60
    checkout.run(
        "python", "-m", "monitoring", "label", str(queues[0] / "answered.csv"), "--domain", "paintings"
    )
    checkout.run("python", "-m", "flows.watch", "--act")
    verdict = json.loads((checkout.root / "reports/verdict.json").read_text())
    after = json.loads((checkout.root / "reports/metrics.json").read_text())["by_domain"]
    assert set(after) == {"photo", "paintings"}
    assert verdict["champion"] is not None
    assert verdict["decision"] != "REJECT", verdict["checks"]
    if verdict["decision"] == "INSUFFICIENT_EVIDENCE":
        # Some hundred test images rarely prove that nothing got worse: a person decides, on record.
        why = "paintings are to stay, and the loss on photos is within what so few images can tell"
        checkout.run("python", "-m", "flows.release", "--approve", why)
    with service(checkout) as url:
        regained = answers(url, held_out, "paintings")
    print(
        "verdict", verdict["decision"], "| photo test set", photo["accuracy"], "→", after["photo"]["accuracy"]
    )
    print(
        "paintings never labelled",
        len(held_out),
        before,
        "→",
        regained,
        "| their test set",
        after["paintings"],
    )
    assert after["photo"]["accuracy"] >= photo["accuracy"] - 0.05
    assert regained > before
