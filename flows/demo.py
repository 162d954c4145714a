"""The whole story on the embedded sample, with real processes: ``make demo``.

Runs in its own workspace, ``var/demo/workspace`` (a copy of this checkout with its own git history and
state), so that neither your data nor your champion are touched. Writes ``var/demo/summary.json`` and a
self-contained ``var/demo/report.html``. Two cameras play: ``line-a`` is what the first model learns
from; ``line-b`` stands for a second line whose images start to arrive in production.
"""

import argparse
import csv
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from flows.demo_report import Story, write_report
from flows.demo_shadow import in_shadow
from flows.demo_stage import Stage, accuracy, send
from flows.demo_workspace import (
    WINDOW,
    answer_from,
    as_shipped,
    copy_checkout,
    images_of,
    line_b,
    serve_at,
)
from flows.server import free_port
from pipeline.artifacts import read_json, write_json
from pipeline.errors import StateError, VisionloopError
from pipeline.params import Params

QUIET = {"clean": 80, "scratch": 48, "pit": 37, "patch": 31, "crack": 28, "inclusion": 26}
"""Production images of line-a that nobody trained on: 250, in the sample's own mixture of classes."""


def first_model(stage: Stage, root: Path) -> dict[str, Any]:
    """Steps 1 to 3: the sample becomes a bundle, a verdict and a champion. Returns the summary's ``first``."""
    with stage.step("set_up", "A workspace of its own, and a Prefect server for the flows"):
        copy_checkout(root, stage.workspace)
        as_shipped(stage.workspace)
        serve_at(stage.workspace, free_port())
        stage.start_prefect()
    with stage.step(
        "first_repro", "sample → ingest → validate → split → balance → train → bundle → evaluate → gate"
    ):
        stage.run("dvc", "repro", "gate")
    verdict = read_json(stage.workspace / "reports/verdict.json")
    metrics = read_json(stage.workspace / "reports/metrics.json")
    with stage.step(
        "first_release",
        "Release: the Bento is built, started in a sandbox and queried; then the pointer moves",
    ):
        stage.wait_prefect()
        stage.run("python", "-m", "flows.release")
    return {"decision": verdict["decision"], "accuracy": metrics["test"]["accuracy"]}


def quiet_traffic(stage: Stage, url: str) -> dict[str, Any]:
    """Step 4: images of line-a that nobody has seen; nothing may happen."""
    from pipeline.sample import generate

    with stage.step("quiet_traffic", "Quiet traffic: new images from line-a, several windows, no alarm"):
        fresh = stage.workspace.parent / "production"
        generate(fresh, seed=1, counts={"line-a": QUIET})
        answers = send(url, images_of(fresh / "line-a"), "line-a", a_second=WINDOW)
        print(f"  {len(answers)} images sent, {100 * accuracy(answers):.1f} % answered correctly")
        # The next look draws these windows too: each drawing pays for Evidently's import.
        stage.run("python", "-m", "flows.watch", "--no-dashboard")
    steps = [step for step in journal_steps(stage) if step.window]
    alarms = sum(step.decision == "drift_open" for step in steps)
    return {"windows": len(steps), "alarms": alarms}


def shifted_traffic(stage: Stage, url: str) -> tuple[dict[str, Any], str]:
    """Step 5: line-b arrives between two looks at the log; (the summary's ``shift``, the episode)."""
    sent, _ = line_b(stage.workspace)
    with stage.step("shift", "The other camera: line-b's images arrive"):
        answers = send(url, sent, "line-b", a_second=WINDOW)
        print(f"  {len(answers)} images sent, {100 * accuracy(answers):.1f} % answered correctly")
        stage.run("python", "-m", "flows.watch")
    alarms = [step for step in journal_steps(stage) if step.decision == "drift_open"]
    if not alarms:
        raise StateError(f"no alarm after {len(sent)} images of line-b: see `python -m monitoring why`")
    images = alarms[0].detail["alarm_at"] - sum(QUIET.values())
    return {"images_to_alarm": images, "explanation": alarms[0].reason}, str(alarms[0].episode)


def journal_steps(stage: Stage) -> list[Any]:
    from monitoring.journal import Journal

    with Journal(stage.workspace / "var/journal.sqlite") as journal:
        return journal.steps()


def ask_champion(workspace: Path, images: list[tuple[Path, str]]) -> list[tuple[str, str]]:
    """(true class, the champion's answer), beside the service: its log holds production's images alone."""
    from pipeline.bundle import Bundle
    from pipeline.images import decode

    digest = read_json(workspace / "var/registry/champion.json")["digest"]
    bundle = Bundle.load(workspace / "var/registry/bundles" / digest)
    pictures = (decode(path.read_bytes()).image for path, _ in images)
    views = np.stack([bundle.preprocessing.view(picture) for picture in pictures])
    answers = bundle.predict(views).probabilities.argmax(axis=1)
    return [(label, bundle.classes[answer]) for (_, label), answer in zip(images, answers, strict=True)]


def labels_and_retrain(stage: Stage, episode: str) -> tuple[dict[str, int], dict[str, Any]]:
    """Steps 6 and 7: the queue is answered, the labels taken back, a challenger trained and judged."""
    queue = stage.workspace / "var/queue" / episode
    with stage.step(
        "labels", "Labels: the queue is answered (from the sample's ground truth, in place of a person)"
    ):
        with (queue / "queue.csv").open(encoding="utf-8", newline="") as stream:
            asked = sum(1 for _ in csv.DictReader(stream))
        answered = answer_from(images_of(stage.workspace / "data/sample/line-b"), queue)
        stage.run("python", "-m", "monitoring", "label", str(queue / "answered.csv"), "--domain", "line-b")
    with stage.step("retrain", "Retrain: the original data and the new labels, the same stages again"):
        stage.run("python", "-m", "flows.watch", "--act")
    verdict = read_json(stage.workspace / "reports/verdict.json")
    return {"asked": asked, "answered": answered}, verdict


def there_and_back(stage: Stage, url: str) -> dict[str, Any]:
    """Step 9: back to the first champion and forward again, the pointer verified each time."""
    pointer = stage.workspace / "var/registry/champion.json"
    second = read_json(pointer)["digest"]
    with stage.step("rollback", "Rollback, and forward again"):
        rollback = ("python", "-m", "pipeline.registry", "rollback", "--service", url)
        stage.run(*rollback, "--why", "the demo goes back")
        first = read_json(pointer)["digest"]
        stage.run(*rollback, "--to", second, "--why", "and forward again")
    return {"ok": first != second and read_json(pointer)["digest"] == second}


def play(stage: Stage, root: Path) -> Story:
    """The story, from an empty folder to the second champion."""
    summary: dict[str, Any] = {"seconds": stage.seconds}
    summary["first"] = first_model(stage, root)
    story = Story(summary, sorted(QUIET))
    url = serve_champion(stage)
    summary["quiet"] = quiet_traffic(stage, url)
    summary["shift"], episode = shifted_traffic(stage, url)
    _, held_out = line_b(stage.workspace)
    with stage.step(
        "measure_before", "How well the first champion answers on line-b images that it is never sent"
    ):
        story.before = ask_champion(stage.workspace, held_out)
    summary["shift"]["accuracy_new_domain"] = accuracy(story.before)
    summary["labels"], verdict = labels_and_retrain(stage, episode)
    summary["shadow"] = in_shadow(stage, url)
    stage.stop("service")
    url = serve_champion(stage)
    with stage.step("measure_after", "How well the new champion answers on the same images"):
        story.after = send(url, held_out, "measurement")
    stage.stop("service")
    metrics = read_json(stage.workspace / "reports/metrics.json")
    summary["second"] = {
        "decision": verdict["decision"],
        "accuracy_new_domain": accuracy(story.after),
        "accuracy_old_domain": metrics["by_domain"]["line-a"]["accuracy"],
    }
    summary["rollback"] = there_and_back(stage, url)
    story.verdict, story.checks = verdict["summary"], verdict["checks"]
    story.why = stage.run("python", "-m", "monitoring", "why", "--last", "20")
    return story


def serve_champion(stage: Stage) -> str:
    """Serve the Bento that the release built, from the store; returns its address."""
    pointer = read_json(stage.workspace / "var/registry/champion.json")
    release = read_json(stage.workspace / "var/registry/releases" / f"{pointer['digest']}.json")
    port = Params.load(stage.workspace / "params.yaml").serve.port
    with stage.step("service", "The service: the built Bento, from BentoML's store"):
        url = f"http://127.0.0.1:{port}"
        command = ("bentoml", "serve", release["bento"], "--host", "127.0.0.1", "--port", str(port))
        stage.serve("service", *command, ready=f"{url}/readyz")
    return url


def tell(story: Story, stage: Stage, folder: Path) -> None:
    """The closing page, the summary and the table."""
    workspace = stage.workspace
    sent, _ = line_b(workspace)
    firsts = {label: path for path, label in reversed(images_of(workspace / "data/sample/line-a"))}
    story.samples["line-a"] = [(firsts[label], label) for label in story.classes]
    firsts = {label: path for path, label in reversed(sent)}
    story.samples["line-b"] = [(firsts[label], label) for label in story.classes]
    story.drift, story.alarm_at = drift_over_time(stage)
    story.queue = answered_images(workspace)
    here = workspace.relative_to(Path.cwd()) if workspace.is_relative_to(Path.cwd()) else workspace
    story.commands = [
        (f"cd {here} && source .venv/bin/activate", "the demo's workspace, with its history and state"),
        (
            "evidently ui --workspace var/evidently --host 127.0.0.1 --port 8011",
            "drift dashboards: http://127.0.0.1:8011",
        ),
        (
            "PREFECT_HOME=$PWD/var/prefect prefect server start",
            "the flows' runs and artifacts: http://127.0.0.1:4200",
        ),
        ("dvc plots show --open", "confusion matrix, recall with intervals, reliability, learning curve"),
        ("dvc metrics show", "the champion's figures"),
        (
            "python -m http.server --bind 127.0.0.1 -d reports/data_docs 8012",
            "Data Docs: http://127.0.0.1:8012",
        ),
        ("python -m monitoring why", "why the loop did what it did"),
        ("python -m pipeline.registry history", "who was champion when, and why"),
    ]
    write_json(folder / "summary.json", story.summary)
    write_report(folder / "report.html", story)


def drift_over_time(stage: Stage) -> tuple[list[tuple[int, float, str]], float]:
    """(images seen, e-value, camera) after each window, and the e-value that raises the alarm."""
    from monitoring.drift import log10_threshold

    points, seen, camera = [], 0, "line-a"
    for step in journal_steps(stage):
        if step.window and step.log10_e is not None:
            seen += step.images
            camera = "line-b" if seen > sum(QUIET.values()) else "line-a"
            points.append((seen, 10.0 ** min(step.log10_e, 12.0), camera))
    alpha = Params.load(stage.workspace / "params.yaml").watch.alpha
    return points, 10 ** log10_threshold(alpha)


def answered_images(workspace: Path) -> list[tuple[Path, str, str]]:
    """(image, why it was asked for, the answer) of every image in the queue."""
    found = []
    for table in sorted((workspace / "var/queue").glob("*/answered.csv")):
        with table.open(encoding="utf-8", newline="") as stream:
            found += [
                (table.parent / row["file"], row["why"], row["label"]) for row in csv.DictReader(stream)
            ]
    return found


def closing_table(story: Story, folder: Path) -> str:
    """What a person wants to know when the demo has run."""
    s = story.summary
    rows = [
        ("first verdict (line-a)", f"{s['first']['decision']}, accuracy {s['first']['accuracy']:.3f}"),
        ("quiet traffic", f"{s['quiet']['windows']} windows, {s['quiet']['alarms']} alarms"),
        ("line-b arrives", f"alarm after {s['shift']['images_to_alarm']} images"),
        ("labels", f"{s['labels']['asked']} asked, {s['labels']['answered']} answered"),
        ("second verdict", s["second"]["decision"]),
        ("in shadow", s["shadow"].removeprefix("in shadow ")),
        (
            "accuracy on line-b",
            f"{s['shift']['accuracy_new_domain']:.3f} → {s['second']['accuracy_new_domain']:.3f}",
        ),
        ("accuracy on line-a", f"{s['first']['accuracy']:.3f} → {s['second']['accuracy_old_domain']:.3f}"),
        ("rollback and forward", "ok" if s["rollback"]["ok"] else "FAILED"),
        ("seconds", f"{sum(s['seconds'].values()):.0f}"),
        ("report", str(folder / "report.html")),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def interrupted(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; 0 when every station did its part."""
    parser = argparse.ArgumentParser(prog="python -m flows.demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("var/demo"),
        help="where it works and reports (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, interrupted)
    stage = Stage(folder / "workspace", folder / "logs")
    try:
        story = play(stage, Path.cwd())
        tell(story, stage, folder)
    except (VisionloopError, KeyboardInterrupt) as error:
        print(f"\ndemo: {error or 'interrupted'}\nThe servers' logs are in {stage.logs}", file=sys.stderr)
        return 1
    finally:
        stage.close()
    print(f"\n{closing_table(story, folder)}\n\nLook for yourself:")
    for command, what in story.commands:
        print(f"  {command}\n      {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
