"""What the watch did, the labels back, and what becomes of the prediction log: ``python -m monitoring <verb>``.

The watch itself is woken by ``python -m flows.watch``.
"""

import argparse
import getpass
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.artifacts import Workspace
from pipeline.clock import now
from pipeline.errors import StateError, VisionloopError

HELP = {
    "status": "the champion, the last windows, the open episode, and what to run next",
    "why": "why didn't it retrain last night? The last decisions in words, with figures",
    "queue": "where the open episode's label queue lies and how to answer it",
    "label": "take labels back: a queue's CSV, a folder of class folders, or Label Studio's JSON export",
    "dismiss": "close the open episode: the drift needs no new model",
    "approve": "let the episode that waits for a person go on: retrain, or release its challenger",
    "compact": "move the prediction log's closed segments into the archive (log.archive), as partitioned Parquet",
    "forget": "remove requests or images from log, archive and queues, by id",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m monitoring", description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    commands = {verb: verbs.add_parser(verb, help=text, description=text) for verb, text in HELP.items()}
    commands["why"].add_argument(
        "--last", type=int, default=5, metavar="N", help="how many decisions (default 5)"
    )
    label = commands["label"]
    label.add_argument("answers", type=Path, help="queue.csv, a folder <class>/<image>, or export.json")
    label.add_argument(
        "--domain", help="name of the images' domain; by default their source's or the episode's"
    )
    label.add_argument(
        "--new-class", action="append", default=[], metavar="NAME", help="a class not seen before"
    )
    label.add_argument("--by", default=None, help="who labelled (default: the user's name)")
    for verb in ("dismiss", "approve"):
        commands[verb].add_argument("--why", required=True, help="for the journal")
    commands["approve"].add_argument("--by", default=None, help="who (default: the user's name)")
    forget = commands["forget"]
    forget.add_argument(
        "ids",
        nargs="+",
        metavar="id",
        help="a request_id, or an image's sha256: of the file as it was sent, or as it is kept",
    )
    forget.add_argument("--why", required=True, help="for the list of deletions")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; 0 when it did its work, 1 with the reason on standard error."""
    options = _parser().parse_args(arguments)
    verbs: dict[str, Callable[[Workspace, argparse.Namespace], str]] = {
        "status": _status,
        "why": _why,
        "queue": _queue,
        "label": _label,
        "dismiss": _dismiss,
        "approve": _approve,
        "compact": _compact,
        "forget": _forget,
    }
    try:
        print(verbs[options.verb](Workspace.here(), options))
    except BrokenPipeError:  # the reader of `... | head` has seen enough
        sys.stderr.close()
    except (VisionloopError, OSError) as error:
        print(f"{options.verb}: {error}", file=sys.stderr)
        return 1
    return 0


def _status(workspace: Workspace, _: argparse.Namespace) -> str:
    from monitoring.journal import Journal
    from monitoring.log_mode import lossy
    from monitoring.words import status

    said = lossy(workspace)
    note = f"Log       {said}\n" if said else ""
    if not workspace.journal.exists():
        return (
            f"{note}Nothing was watched yet: {workspace.journal} is not there.\nNext: python -m flows.watch"
        )
    with Journal(workspace.journal) as journal:
        return note + status(workspace, journal)


def _why(workspace: Workspace, options: argparse.Namespace) -> str:
    from monitoring.journal import Journal
    from monitoring.words import why

    if not workspace.journal.exists():
        return f"No decision was taken yet: {workspace.journal} is not there.\nNext: python -m flows.watch"
    with Journal(workspace.journal) as journal:
        return why(journal, max(1, options.last))


def _queue(workspace: Workspace, _: argparse.Namespace) -> str:
    from monitoring import label_queue
    from monitoring.journal import Journal
    from monitoring.labels import read_labels
    from monitoring.observation import queue_of

    with Journal(workspace.journal) as journal:
        episode = journal.open_episode()
    if episode is None:
        return "No episode is open, so nothing is asked."
    folder = label_queue.folder_of(workspace, queue_of(episode))
    readme = folder / "README.txt"
    if not readme.exists():
        raise StateError(f"the queue of episode {episode.id} is not written yet: run `python -m flows.watch`")
    asked = label_queue.items_of(workspace, queue_of(episode))
    known = {label.image_id for label in read_labels(workspace.labels)}
    back = sum(item.image_id in known for item in asked)
    return f"{workspace.relative(folder)}: {len(asked)} asked, {back} labels back.\n\n{readme.read_text(encoding='utf-8')}"


def _label(workspace: Workspace, options: argparse.Namespace) -> str:
    from monitoring.label_intake import take
    from pipeline.params import Params

    taken = take(
        workspace,
        Params.load(workspace.params),
        options.answers,
        by=options.by or getpass.getuser(),
        now=now(),
        domain=options.domain,
        new_classes=options.new_class,
    )
    return f"{taken.text}\nNext: python -m flows.watch --act"


def _dismiss(workspace: Workspace, options: argparse.Namespace) -> str:
    from monitoring.episodes import dismiss
    from monitoring.journal import Journal

    with Journal(workspace.journal) as journal:
        episode = journal.open_episode()
        if episode is None:
            raise StateError("no episode is open, so there is nothing to dismiss")
        if not dismiss(journal, episode.id, why=options.why, now=now()):
            raise StateError(
                f"episode {episode.id} is {episode.state}: its challenger is champion. Roll that back with `python -m "
                "pipeline.registry rollback`, or let the observation end"
            )
    return f"Episode {episode.id} is dismissed. The next alarm needs evidence of its own."


def _approve(workspace: Workspace, options: argparse.Namespace) -> str:
    from monitoring.episodes import approve, silent
    from monitoring.journal import Journal
    from pipeline.registry import Registry

    champion = Registry(workspace.registry).champion()
    with Journal(workspace.journal) as journal:
        episode = journal.open_episode() or (silent(journal, champion.digest) if champion else None)
        if episode is None:
            raise StateError("no episode waits for anybody: see `python -m monitoring status`")
        by = options.by or getpass.getuser()
        after = approve(journal, episode.id, by=by, why=options.why, now=now())
    if not after.is_open:
        return (
            f"Approved: drift like that of episode {after.id} may open another. Next: python -m flows.watch"
        )
    return f"Approved: episode {after.id} is {after.state}. Next: python -m flows.watch --act"


def _compact(workspace: Workspace, _: argparse.Namespace) -> str:
    from monitoring.compact import compact
    from pipeline.params import Params

    return compact(workspace, Params.load(workspace.params).log, now=now()).text


def _forget(workspace: Workspace, options: argparse.Namespace) -> str:
    from monitoring.forget import forget
    from pipeline.params import Params

    log = Params.load(workspace.params).log
    return forget(workspace, log, options.ids, why=options.why, by=getpass.getuser(), now=now()).text


if __name__ == "__main__":
    sys.exit(main())
