"""Taking labels back: ``python -m monitoring label <csv, folder or Label Studio export>``.

All or nothing: every answer is checked before the first is taken. What is taken is copied to
``data/labelled/`` under its hash, appended to ``data/labels.csv`` with its split decided for good, and
versioned with DVC. The new test images come from the random part of a queue alone; the same file a second
time changes nothing.
"""

import contextlib
import fcntl
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from monitoring.answers import read_answers
from monitoring.journal import Episode, Journal, Step
from monitoring.label_checks import Image, classes_of, clean_bytes, images_of, in_data_set, one_each
from monitoring.label_split import Newcomer, assign
from monitoring.labels import Label, append_labels, read_labels
from monitoring.second_look import Judged, second_looks
from pipeline.artifacts import Workspace, atomic_path
from pipeline.errors import DataError, ImageError, StateError
from pipeline.images import decode, dhash
from pipeline.params import Params


@dataclass
class Taken:
    """What came of one file of answers."""

    domain: str = ""
    episode: str | None = None
    labels: list[Label] = field(default_factory=list)
    empty: int = 0
    hints: int = 0
    known: int = 0
    trained: int = 0
    left_out: list[str] = field(default_factory=list)
    second_looks: list[str] = field(default_factory=list)
    versioned: str = ""

    @property
    def text(self) -> str:
        """For people: what was taken, what not and why."""
        splits = Counter(label.split for label in self.labels)
        counted = ", ".join(f"{splits[name]} {name}" for name in ("train", "validation", "test"))
        lines = [f"{len(self.labels)} labels taken for the domain {self.domain!r} ({counted})."]
        if not self.labels:
            lines = ["No new labels."]
        notes = [
            (self.empty, "left empty or skipped"),
            (self.hints, "left out: annotations that Label Studio made of the hints, which nobody looked at"),
            (self.known, "already in data/labels.csv"),
            (self.trained, "skipped: the image is in the data set already"),
        ]
        lines += [f"{count} {what}." for count, what in notes if count]
        lines += [f"Left out: {reason}" for reason in self.left_out]
        if self.second_looks:
            lines.append("Taken, but worth a second look (a wrong one is corrected in data/labels.csv):")
            lines += [f"  {reason}" for reason in self.second_looks]
        return "\n".join([*lines, self.versioned] if self.versioned else lines)


def take(
    workspace: Workspace,
    params: Params,
    given: Path,
    *,
    by: str,
    now: datetime,
    domain: str | None = None,
    new_classes: Sequence[str] = (),
) -> Taken:
    """Check the answers in ``given`` and take them.

    Raises:
        DataError: an unknown class or image, an image with two labels, bytes that are not the id's, a
            file that can't be read; nothing was taken then.
        StateError: another intake is at work.
    """
    with _alone(workspace.home):
        answers = read_answers(given)
        taken = Taken(
            empty=sum(not answer.label and not answer.hint for answer in answers),
            hints=sum(answer.hint for answer in answers),
        )
        existing = read_labels(workspace.labels)
        answers = one_each(answers, existing, classes_of(workspace, existing), new_classes)
        known = {label.image_id for label in existing}
        taken.known = sum(answer.image_id in known for answer in answers)
        answers = [answer for answer in answers if answer.image_id not in known]
        trained = in_data_set(workspace)
        taken.trained = sum(answer.image_id in trained for answer in answers)
        images = images_of(
            workspace, params, [answer for answer in answers if answer.image_id not in trained]
        )
        # Taken before metadata were removed, or in the data set with its metadata: the same image under two ids.
        again = sum(image.received in known | trained for image in images)
        images = [image for image in images if image.received not in known | trained]
        taken.trained += again
        episode = _episode(workspace)
        taken.episode = episode.id if episode else None
        taken.domain = domain or _domain(params, images, episode, existing)
        _checked_domain(taken.domain)
        _take(workspace, params, images, existing, taken, by=by, now=now)
    return taken


def _take(
    workspace: Workspace,
    params: Params,
    images: list[Image],
    existing: list[Label],
    taken: Taken,
    *,
    by: str,
    now: datetime,
) -> None:
    newcomers = [Newcomer(image.answer.image_id, image.dhash, image.random) for image in images]
    hashes = {label.image_id: _dhash_of(workspace, label) for label in existing}
    splits, taken.left_out = assign(newcomers, existing, hashes, taken.domain, params)
    taken.second_looks = second_looks(
        [
            Judged(one.answer.image_id, one.answer.label, one.dhash, one.predicted, one.confidence)
            for one in images
        ],
        params.validate.near_duplicate_bits,
    )
    for image in images:
        image_id = image.answer.image_id
        if image_id not in splits:
            continue
        target = workspace.labelled / image_id[:2] / f"{image_id}{image.extension}"
        with atomic_path(target) as temporary:
            temporary.write_bytes(clean_bytes(image, params))
        split, group = splits[image_id]
        path = workspace.relative(target)
        who = image.answer.by or by
        taken.labels.append(Label(image_id, path, image.answer.label, taken.domain, group, split, who, now))
    if taken.labels:
        append_labels(workspace.labels, taken.labels)
    if taken.labels or taken.known:  # known ones too: a kill may have come before their versioning
        taken.versioned = version(workspace)
    if taken.labels:
        with Journal(workspace.journal) as journal:
            reason = taken.text.split("\n")[0]
            step = Step(
                time=now, decision="labelled", reason=reason, episode=taken.episode, images=len(taken.labels)
            )
            journal.record(step)


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    with (home / "label.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError("labels are being taken by another process: run the command again") from error
        yield


def _episode(workspace: Workspace) -> Episode | None:
    if not workspace.journal.exists():
        return None
    with Journal(workspace.journal) as journal:
        return journal.open_episode()


def _domain(
    params: Params, images: Sequence[Image], episode: Episode | None, existing: Sequence[Label]
) -> str:
    """The one source that all images came from, if it names no domain yet; else one named after the episode."""
    sources = {image.source for image in images}
    taken = {source.domain for source in params.data.sources}
    if len(sources) == 1:
        source = sources.pop()
        if source not in taken and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", source):
            return source
    if episode is not None:
        return f"production-{episode.id[:8]}"
    if not images:
        return existing[-1].domain if existing else "production"
    raise DataError("no episode is open that would name the images' domain: say --domain <name>")


def _checked_domain(domain: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", domain):
        raise DataError(f"the domain {domain!r} may hold letters, digits, '.', '_' and '-' only")


def _dhash_of(workspace: Workspace, label: Label) -> str | None:
    """Of an image taken earlier; None where it is not here (`dvc pull data/labelled.dvc` brings it)."""
    with contextlib.suppress(OSError, ImageError):
        return dhash(decode((workspace.root / label.path).read_bytes()).image)
    return None


def version(workspace: Workspace) -> str:
    """`dvc add data/labelled` where the workspace is DVC's; what came of it, in a sentence."""
    if not (workspace.root / ".dvc").is_dir():
        return "The workspace is no DVC repository: data/labelled is not versioned."
    beside = Path(sys.executable).with_name("dvc")
    command = [str(beside) if beside.exists() else "dvc", "add", "--quiet", "data/labelled"]
    try:
        done = subprocess.run(command, cwd=workspace.root, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"The labels are taken, but dvc can't be started ({error}): run `dvc add data/labelled`."
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip()).split("\n")[-1]
        return f"The labels are taken, but `dvc add data/labelled` failed ({reason}): run it again."
    return "Versioned in data/labelled.dvc: commit it with data/labels.csv, and `dvc push`."
