"""The demo's own workspace: a copy of the checkout as shipped, its images, and its answers to a queue."""

import csv
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.artifacts import digest_file

WINDOW = 50  # images; more points for the plots than the default gives
SHADOWED = 20  # requests that the challenger answers beside the champion; what is shipped asks for more
SENT_SHARE = 0.6  # of line-b's parts that production sends; the rest measures the accuracy before and after


def copy_checkout(root: Path, workspace: Path) -> None:
    """A fresh copy of the checkout (tracked and new files, nothing ignored) with a history of its own."""
    if workspace.exists():
        shutil.rmtree(workspace)
    workspace.mkdir(parents=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, target = root / name, workspace / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    # The demo's story starts from the product as shipped: no labels yet, no champion.
    (workspace / "champion-pin.json").write_text('{"digest": null}\n', encoding="utf-8")
    (workspace / ".venv").symlink_to(Path(sys.prefix).absolute())
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=workspace, check=True)
    commit(workspace, "Demo workspace")


def commit(workspace: Path, message: str) -> None:
    """All changes of the workspace; a verdict promotes no network made of code that no commit holds."""
    identity = ["-c", "user.name=visionloop demo", "-c", "user.email=demo@localhost"]
    subprocess.run(["git", "add", "-A"], cwd=workspace, check=True)
    subprocess.run(["git", *identity, "commit", "-q", "-m", message], cwd=workspace, check=True)


def images_of(folder: Path) -> list[tuple[Path, str]]:
    """(path, class) of an ImageFolder, parts in a fixed shuffled order, shots of a part side by side."""
    found = [(path, path.parent.name) for path in sorted(folder.glob("*/*.jpg"))]
    return sorted(found, key=lambda entry: (digest_text(part_of(entry[0])), entry[0].name))


def part_of(path: Path) -> str:
    return path.stem.rsplit("_", 1)[0]


def digest_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def answer_from(truth_images: list[tuple[Path, str]], queue: Path) -> int:
    """Fill in a queue's labels from known images, as an inspector would: ``answered.csv``; returns how many."""
    truth = {digest_file(path): label for path, label in truth_images}
    with (queue / "queue.csv").open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        fields = list(reader.fieldnames or [])
        rows = list(reader)
    answered = 0
    for row in rows:
        row["label"] = truth.get(row["image_id"], "")
        answered += bool(row["label"])
    with (queue / "answered.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fields)
        writer.writeheader()
        writer.writerows(rows)
    return answered


def as_shipped(workspace: Path) -> None:
    """The embedded sample, whatever this checkout's params.yaml and labels say by now."""
    import yaml

    path = workspace / "params.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["data"] |= {
        "sources": [{"path": "data/sample/line-a", "domain": "line-a"}],
        "group_pattern": r"(part-\d+)",
    }
    content["split"] |= {"pattern": None}
    content["model"] |= {"backbone": "auto", "weights": "bundled", "image_size": None}
    content["train"] |= {"strategy": "probe"}  # minutes, not tens of minutes, on two cores
    content["watch"] |= {"window": WINDOW}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    labels = workspace / "data/labels.csv"
    labels.write_text(labels.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    for name in ("dvc.lock", "data/labelled.dvc"):
        (workspace / name).unlink(missing_ok=True)


def serve_at(workspace: Path, port: int) -> None:
    """The demo's service listens at ``port``, and a challenger answers beside it for a few images."""
    import yaml

    path = workspace / "params.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["serve"] |= {"host": "127.0.0.1", "port": port}
    content["release"] |= {"shadow_images": SHADOWED}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def line_b(workspace: Path) -> tuple[list[tuple[Path, str]], list[tuple[Path, str]]]:
    """(images that production sends, images held out to measure with): no part in both."""
    images = images_of(workspace / "data/sample/line-b")
    parts = list(dict.fromkeys(part_of(path) for path, _ in images))
    sent = set(parts[: int(SENT_SHARE * len(parts))])
    return [i for i in images if part_of(i[0]) in sent], [i for i in images if part_of(i[0]) not in sent]
