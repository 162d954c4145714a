"""DVC's own experiments on this pipeline: what they run, what they share with the checkout, what they show."""

import json
import re
import shlex
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests import tiny_training
from tests.conftest import ROOT, Checkout

pytestmark = [pytest.mark.slow]

PER_CLASS = 36  # enough for what decodes or extracts to show its progress
SECONDS = 450.0  # to wait for the queue, on a busy machine


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A checkout with a tiny network and drawings, both outside of it; committed, nothing reproduced yet."""
    from flows.demo_workspace import copy_checkout

    folder = tmp_path_factory.mktemp("experiments")
    generator = np.random.default_rng(0)
    for label in tiny_training.CLASSES:
        (folder / "images" / label).mkdir(parents=True)
        for number in range(PER_CLASS):
            picture = tiny_training.picture(label, generator)
            (folder / "images" / label / f"{number:03}.png").write_bytes(picture)
    weights = tiny_training.save_weights(folder / "weights")
    copy_checkout(ROOT, folder / "workspace")
    checkout = Checkout(folder / "workspace")
    del checkout.environment["VISIONLOOP_HOME"]  # where it is set, nothing could go wrong
    checkout.params(
        {
            "data": {"sources": [{"path": str(folder / "images"), "domain": "drawn"}], "group_pattern": None},
            "split": {"near_duplicates": "ignore"},
            "model": {"weights": str(weights)},
            "train": {"strategy": "probe"},
            "evaluate": {"bootstrap": 200},
        }
    )
    checkout.run("dvc", "remove", "sample")  # `dvc exp apply` wants every stage's output
    for name, value in (("user.name", "t"), ("user.email", "t@localhost")):
        checkout.run("git", "config", name, value)  # DVC asks for one too, and a fresh machine has none
    checkout.run("git", "commit", "-q", "-a", "-m", "Drawings")
    yield checkout
    checkout.run("dvc", "queue", "stop", "--kill")


def shown(checkout: Checkout) -> dict[str, dict[str, Any]]:
    """Of ``dvc exp show``: experiment → state, parameters, metrics by file."""
    output = checkout.run("dvc", "exp", "show", "--json")
    _, baseline = json.loads(output[output.index("[") :])
    found = {}
    for experiment in baseline["experiments"]:
        last, executor = experiment["revs"][0], experiment["executor"]
        data = last["data"]
        found[last["name"]] = {
            "state": executor["state"] if executor else "success",
            "params": data["params"]["params.yaml"]["data"],
            "metrics": {name: file.get("data") for name, file in (data.get("metrics") or {}).items()},
        }
    return found


def test_an_experiment_shows_by_what_to_judge_it(workspace: Checkout) -> None:
    settings = ("-S", "train.strategy=partial", "-S", "train.epochs=2", "-S", "train.views=2")
    one = (
        "-S",
        "bundle.calibration=temperature",
    )  # a vector of scales may name other classes than were judged
    output = workspace.run("dvc", "exp", "run", "--name", "top", *settings, *one, "gate")
    assert "decode" in output
    found = shown(workspace)["top"]
    assert found["params"]["train"]["strategy"] == "partial"
    score, tested = (found["metrics"][f"reports/{name}.json"] for name in ("training", "metrics"))
    assert set(score) == {"kept", "validation_images", "validation_accuracy", "validation_log_loss"}
    assert score["kept"] == tested["strategy"] == "partial"
    # What the recipe is judged by is what the bundle does, measured later and by other code.
    assert score["validation_images"] == tested["validation"]["n"]
    assert score["validation_accuracy"] == pytest.approx(tested["validation"]["accuracy"], abs=1e-4)
    assert 0 < tested["test"]["accuracy"] <= 1
    curves = found["metrics"]["reports/dvclive/metrics.json"]
    assert curves["step"] > 0
    assert set(curves) == {"probe", "partial", "step"}
    plotted = workspace.root / "reports/dvclive/plots/metrics"
    assert [folder.name for folder in plotted.iterdir()] == ["partial"]  # a probe is a point, no curve


def queue_of_the_readme() -> list[str]:
    """Its command that queues a grid."""
    (command,) = re.findall(
        r"^dvc exp run --queue .*?(?=  #|$)", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    return shlex.split(command)


def test_a_queue_works_with_the_caches_of_the_checkout(workspace: Checkout) -> None:
    *command, target = queue_of_the_readme()
    output = workspace.run(*command, "--name", "grid", "-S", "train.epochs=1", target)
    assert output.count("Queued experiment") == 4
    workspace.run("dvc", "queue", "remove", "grid-2", "grid-3")
    workspace.run("dvc", "queue", "start")
    deadline = time.monotonic() + SECONDS
    while re.search("Running|Queued|[1-9] active", status := workspace.run("dvc", "queue", "status")):
        assert time.monotonic() < deadline, status
        time.sleep(3)  # a look takes a core for a second or two
    found = shown(workspace)
    assert {name: found[name]["state"] for name in ("grid-1", "grid-4")} == dict.fromkeys(
        ("grid-1", "grid-4"), "success"
    ), workspace.run("dvc", "queue", "logs", "grid-1")
    for name, rate, share in (("grid-1", 5e-4, 0.25), ("grid-4", 2e-3, 0.5)):
        params, score = found[name]["params"]["train"], found[name]["metrics"]["reports/training.json"]
        assert (params["strategy"], params["learning_rate"], params["unfreeze"]) == ("finetune", rate, share)
        assert score["kept"] == "finetune"
    log = workspace.run("dvc", "queue", "logs", "grid-4")
    assert "Running stage 'train'" in log
    assert "Running stage 'scan" not in log
    assert "decode" not in log
    assert "features (" not in log
    scores = [
        found[name]["metrics"]["reports/training.json"]["validation_log_loss"]
        for name in ("grid-1", "grid-4")
    ]
    assert scores[0] != scores[1]
    workspace.run("dvc", "exp", "apply", "grid-4")
    assert (
        json.loads((workspace.root / "reports/training.json").read_text())["validation_log_loss"] == scores[1]
    )
    assert "Running stage" not in workspace.run("dvc", "repro", target)
