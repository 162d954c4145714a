"""The commands of ``python -m pipeline.registry``: errors are sentences and exit code 1."""

import argparse
import getpass
import json
import sys
from typing import Any

from pipeline.artifacts import Workspace
from pipeline.errors import StateError, VisionloopError
from pipeline.history import intervals
from pipeline.params import Params
from pipeline.registry import Registry, pin
from pipeline.serving import address, answering


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it did its work, 1 with the reason on standard error when it could not."""
    options = _parser().parse_args(arguments)
    workspace = Workspace.here()
    registry = Registry(workspace.registry)
    try:
        value, text = _COMMANDS[options.command](registry, workspace, options)
    except VisionloopError as error:
        print(f"registry: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"registry: {error.strerror}: {error.filename or workspace.registry}", file=sys.stderr)
        return 1
    print(json.dumps(value, indent=2, ensure_ascii=False) if options.json else text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.registry",
        description="Bundles by digest and the champion pointer, in var/registry.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    texts = {
        "show": "the champion, whether its bundle is whole, and whether the running service answers with it",
        "history": "who was champion from when to when, moved there by whom and why, oldest first",
        "rollback": "move the pointer back, after its bundle has loaded and answered; then ask the running service",
        "pin": "write the champion's digest to champion-pin.json, an input of dvc repro",
    }
    for name, text in texts.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--json", action="store_true", help="for scripts")
        if name == "rollback":
            command.add_argument(
                "--to", metavar="DIGEST", help="or its first 6 digits (default: the champion before)"
            )
            command.add_argument("--by", default=_user(), help="who moves it (default: %(default)s)")
            command.add_argument("--why", default="by hand", help="for the history (default: %(default)s)")
        if name in ("show", "rollback"):
            command.add_argument(
                "--service",
                type=_url,
                metavar="URL",
                help="which to ask afterwards (default: serve.host and serve.port)",
            )
    return parser


def _show(registry: Registry, workspace: Workspace, options: argparse.Namespace) -> tuple[Any, str]:
    from pipeline.bundle import verify

    champion = registry.champion()
    if champion is None:
        return None, "no champion yet: python -m flows.release promotes the first"
    path = registry.bundle_path(champion.digest)
    verify(path)
    info = json.loads((path / "bundle.json").read_text(encoding="utf-8"))
    try:
        url = options.service or address(Params.load(workspace.params).serve)
        service = answering(url).against(champion.digest)
    except VisionloopError as error:
        service = str(error)
    value = {
        **vars(champion),
        "bundle": str(path),
        "classes": info["classes"],
        "service": service,
    }
    return value, "\n".join(f"{name:8}{_plain(text)}" for name, text in value.items())


def _history(registry: Registry, workspace: Workspace, options: argparse.Namespace) -> tuple[Any, str]:
    moves = intervals(registry.history())
    if not moves:
        return moves, "no champion yet: python -m flows.release promotes the first"
    rows = [
        f"{move['since'][:19]:21}{(move['until'] or 'now')[:19]:21}{move['action']:10}{move['digest'][:12]:14}"
        f"{_plain(move['by']):15} {_plain(move['why'])}"
        for move in moves
    ]
    head = f"{'since (UTC)':21}{'until':21}{'action':10}{'digest':14}{'by':15} why"
    return moves, "\n".join([head, *rows])


def _rollback(registry: Registry, workspace: Workspace, options: argparse.Namespace) -> tuple[Any, str]:
    target = _digest(registry, options.to) if options.to else None
    serve = Params.load(workspace.params).serve  # before anything moves: which network, and whom to ask
    champion = registry.rollback(by=options.by, why=options.why, to=target, form=serve.format)
    moved = f"champion is {champion.digest[:12]}: its files are whole, it loads and answers as it did"
    try:
        service = answering(options.service or address(serve)).against(champion.digest)
    except StateError as error:
        raise StateError(f"{moved}. But {error}") from error
    return vars(champion) | {"service": service}, f"{moved}. {service}"


def _pin(registry: Registry, workspace: Workspace, options: argparse.Namespace) -> tuple[Any, str]:
    digest = pin(workspace)
    return {
        "digest": digest
    }, f"{workspace.champion_pin}: {digest or 'nobody, the next verdict stands alone'}"


_COMMANDS = {"show": _show, "history": _history, "rollback": _rollback, "pin": _pin}


def _digest(registry: Registry, start: str) -> str:
    """The one bundle whose digest starts so."""
    found = [digest for digest in registry.digests() if digest.startswith(start.lower())]
    if len(found) != 1 or len(start) < 6:
        names = ", ".join(digest[:12] for digest in found or registry.digests()) or "none"
        raise StateError(f"{start!r} names {len(found)} bundles; give 6 to 64 digits of one of: {names}")
    return found[0]


def _plain(value: object) -> str:
    """For the terminal: whoever wrote the reason does not get to move the cursor."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "".join(character if character.isprintable() else "?" for character in text)


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} does not begin with http:// or https://")
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
