"""The champion pointer's history: a line of JSON a move, append-only, reconciled with the pointer.

The pointer is moved first and carries its own line. So at most one line is missing from the file, that
of a process killed between the two, and it is derived from the pointer: no line ever tells of a move
that did not happen.
"""

import json
import os
from pathlib import Path
from typing import Any

from pipeline.artifacts import sync_folder
from pipeline.errors import StateError

Move = dict[str, Any]  # digest, since, by, why, action


def read(journal: Path, pointer: Move | None) -> list[Move]:
    """Every move, oldest first. ``pointer`` is the champion's line, read before this file is.

    Raises:
        StateError: a line is damaged; a torn last line is not, its move is in the pointer.
    """
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    try:
        moves: list[Move] = [json.loads(line) for line in lines if line.endswith(b"\n")]
        known = {move["since"] for move in moves}
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{journal} is damaged ({error}): mend or remove the line") from error
    if pointer and pointer["since"] not in known:
        moves.append(pointer)
    return moves


def write(journal: Path, moves: list[Move]) -> None:
    """Append what ``moves`` has beyond the file's whole lines, durably."""
    descriptor = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "r+b") as stream:
        raw = stream.read()
        whole = raw.rfind(b"\n") + 1
        stream.seek(whole)
        stream.truncate()  # the torn line of a power cut
        for move in moves[raw[:whole].count(b"\n") :]:
            stream.write(json.dumps(move, ensure_ascii=False).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(journal.parent)


def before(moves: list[Move]) -> str | None:
    """The digest to go back to: promotions stack up, a rollback takes off what it went back from."""
    stack: list[str] = []
    for move in moves:
        if move["action"] == "rollback" and move["digest"] in stack:
            del stack[stack.index(move["digest"]) + 1 :]
        elif not stack or stack[-1] != move["digest"]:
            stack.append(move["digest"])
    return stack[-2] if len(stack) > 1 else None


def intervals(moves: list[Move]) -> list[Move]:
    """Each move with ``until``: when the next one ended its champion's time; None for whoever stands there now."""
    ends = [*(move["since"] for move in moves[1:]), None]
    return [move | {"until": end} for move, end in zip(moves, ends, strict=False)]
