"""Bundles by digest, which of them is champion, and how it came to be: ``var/registry/``.

    python -m pipeline.registry show        # the champion
    python -m pipeline.registry history     # every move of the pointer, oldest first
    python -m pipeline.registry rollback    # back to the champion before (or --to a digest)
    python -m pipeline.registry pin         # champion-pin.json: whom the next verdict compares with

``bundles/<digest>/`` appears whole or not at all. ``champion.json`` is replaced in one rename, under a
lock, after the bundle it will name has been verified. It carries its own line of history, which is
appended afterwards: a process killed between the two leaves a line to be derived from the pointer, never
a line that did not happen. The next reader shows it, the next move writes it down.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from pipeline import history
from pipeline.artifacts import Workspace, sync_folder, write_json
from pipeline.clock import now
from pipeline.errors import IntegrityError, StateError
from pipeline.lock import alone

LOCK_SECONDS = 60.0


class Expect(Enum):
    """``promote(expect=Expect.ANYONE)``: whoever is champion now."""

    ANYONE = "anyone"


@dataclass(frozen=True)
class Champion:
    """What the pointer says: which bundle, since when (UTC, ISO 8601), moved by whom, how and why."""

    digest: str
    since: str
    by: str
    why: str
    action: str = "promote"  # or rollback


class Registry:
    """The registry in ``folder``; every method may be called from several processes at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pointer = folder / "champion.json"
        self.journal = folder / "history.jsonl"

    def champion(self) -> Champion | None:
        """Who answers now; None before the first promotion.

        Raises:
            StateError: champion.json is damaged.
        """
        try:
            raw = self.pointer.read_bytes()
        except FileNotFoundError:
            return None
        try:
            champion = Champion(**json.loads(raw))
            _checked(champion.digest)
        except (ValueError, TypeError, StateError) as error:
            raise StateError(
                f"{self.pointer} is damaged ({error}): python -m pipeline.registry rollback --to <digest>; "
                f"the last line of {self.journal} names the digest"
            ) from error
        return champion

    def bundle_path(self, digest: str) -> Path:
        """Where the bundle named ``digest`` lies, or would lie.

        Raises:
            StateError: ``digest`` is no sha256 in hex; it never becomes a path then.
        """
        return self.folder / "bundles" / _checked(digest)

    def recipe_path(self, digest: str) -> Path:
        """Where the recipe of the bundle lies, if a release kept one (``pipeline.recipe``).

        Raises:
            StateError: as ``bundle_path``.
        """
        return self.folder / "recipes" / _checked(digest)

    def digests(self) -> list[str]:
        """Every bundle in the registry."""
        folder = self.folder / "bundles"
        return sorted(path.name for path in folder.glob("*") if re.fullmatch(r"[0-9a-f]{64}", path.name))

    def add(self, bundle: Path) -> str:
        """Copy a bundle in under its digest, with what it answers to the probe images.

        A whole copy that is here already is left alone; a damaged one is set aside and replaced.

        Raises:
            IntegrityError: ``bundle`` is damaged, or its network answers with nonsense.
        """
        from pipeline.answers import answers
        from pipeline.bundle import verify

        digest = verify(bundle)
        target = self.bundle_path(digest)
        with self._lock():
            if self._whole(digest):
                return digest
            target.parent.mkdir(parents=True, exist_ok=True)
            for leftover in target.parent.glob(".incoming-*"):  # of a process that was killed
                shutil.rmtree(leftover)
            for leftover in self._recorded(digest).parent.glob(".*.tmp"):
                leftover.unlink()
            incoming = Path(tempfile.mkdtemp(dir=target.parent, prefix=".incoming-"))
            try:
                _copy(bundle, incoming)
                if verify(incoming) != digest:
                    raise IntegrityError(f"{bundle} changed while it was copied: add it again")
                write_json(self._recorded(digest), answers(incoming))
                if target.exists():
                    target.rename(target.with_name(f".damaged-{time.time_ns()}-{digest[:12]}"))
                incoming.rename(target)
            finally:
                shutil.rmtree(incoming, ignore_errors=True)
            sync_folder(target.parent)
            sync_folder(self.folder)
        return digest

    def _whole(self, digest: str) -> bool:
        with contextlib.suppress(IntegrityError, StateError):
            return self._verify(digest).is_dir() and self._recorded(digest).exists()
        return False

    def promote(
        self,
        digest: str,
        *,
        by: str,
        why: str,
        expect: str | Expect | None = Expect.ANYONE,
        fence: contextlib.AbstractContextManager[None] | None = None,
    ) -> Champion:
        """Move the pointer to ``digest``; where it stands there already, nothing happens.

        Args:
            expect: the champion (None: nobody) that the decision was made against; if another one has
                come in between, the pointer stays.
            fence: entered around the move, under the registry's lock: what it raises keeps the pointer where
                it is. Whoever works under a lease shows here that it still is theirs.

        Raises:
            StateError: the bundle is not here, or the champion is not the expected one.
            IntegrityError: the bundle is damaged.
        """
        with self._lock():
            current = self.champion()
            standing = current.digest if current else None
            _as_expected(standing, expect)
            self._verify(digest)
            with fence or contextlib.nullcontext():
                if current and current.digest == digest:
                    with contextlib.suppress(OSError):  # a kill may have left this move to the pointer alone
                        history.write(self.journal, self.history())
                    return current
                return self._move(digest, by=by, why=why, action="promote")

    def rollback(
        self,
        *,
        by: str,
        why: str,
        to: str | None = None,
        form: Literal["onnx", "int8"] = "onnx",
        expect: str | Expect | None = Expect.ANYONE,
    ) -> Champion:
        """Move the pointer back, after the bundle has been loaded and has answered as it once did.

        Without ``to``, back to the champion before the one that was promoted last; never forward to one
        that was itself rolled back from. The history keeps everything.

        Args:
            form: ``serve.format``: the network that the service would answer with.
            expect: as for ``promote``.

        Raises:
            StateError: there is nobody to go back to, the bundle is not here, or the champion is not the
                expected one.
            IntegrityError: the bundle is damaged, answers otherwise, or has no network of this form.
        """
        from pipeline.answers import compare

        current: Champion | None = None
        with self._lock():
            if to is None:
                current = self.champion()  # a damaged pointer stops here, and is mended with `to`
                to = history.before(self.history())
                if current is None or to is None:
                    raise StateError(
                        f"no champion before {_short(current.digest if current else None)}: "
                        "python -m pipeline.registry history; rollback --to <digest> goes to any bundle"
                    )
            else:
                with contextlib.suppress(StateError):
                    current = self.champion()
            _as_expected(current.digest if current else None, expect)
            compare(self._verify(to), self._recorded(to), form)
            if current and current.digest == to:
                return current
            return self._move(to, by=by, why=why, action="rollback")

    def history(self) -> list[dict[str, Any]]:
        """Every move of the pointer, oldest first: digest, since, by, why, action.

        Raises:
            StateError: a line of history.jsonl is damaged; a torn last line is not, it never counted.
        """
        champion = None
        with contextlib.suppress(StateError):
            champion = self.champion()  # before the file: a move in between is then in the file
        return history.read(self.journal, asdict(champion) if champion else None)

    def _move(self, digest: str, *, by: str, why: str, action: str) -> Champion:
        """Pointer, then history. The lock is held and the bundle is verified."""
        # What a killed process may have left: a move that is in the pointer alone, a temporary file.
        history.write(self.journal, self.history())
        for leftover in self.folder.glob(".champion.json.*.tmp"):
            leftover.unlink()
        champion = Champion(digest, now().isoformat(timespec="microseconds"), by, why, action)
        write_json(self.pointer, asdict(champion))
        with contextlib.suppress(OSError):  # the pointer has moved and tells the line; the next move retries
            history.write(self.journal, self.history())
        return champion

    def _verify(self, digest: str) -> Path:
        from pipeline.bundle import verify

        path = self.bundle_path(digest)
        if not path.is_dir():
            raise StateError(
                f"{_short(digest)} is not in {self.folder}: it holds {len(self.digests())} bundles"
            )
        found = verify(path)
        if found != digest:
            raise IntegrityError(
                f"{path / 'bundle.json'} has changed: its sha256 is {found[:12]}…, not its folder's name"
            )
        return path

    def _recorded(self, digest: str) -> Path:
        return self.folder / "answers" / f"{_checked(digest)}.json"

    def _lock(self) -> contextlib.AbstractContextManager[None]:
        return alone(self.folder / ".lock", seconds=LOCK_SECONDS)


def pin(workspace: Workspace) -> str | None:
    """Name the champion in champion-pin.json, an input of `dvc repro`; an unchanged pin is not rewritten."""
    champion = Registry(workspace.registry).champion()
    value = {"digest": champion.digest if champion else None}
    try:
        unchanged = json.loads(workspace.champion_pin.read_text(encoding="utf-8")) == value
    except (OSError, ValueError):
        unchanged = False
    if not unchanged:
        write_json(workspace.champion_pin, value)
    return value["digest"]


def _as_expected(standing: str | None, expect: str | Expect | None) -> None:
    if expect is not Expect.ANYONE and standing != expect:
        raise StateError(
            f"the champion is {_short(standing)}, the decision was made against {_short(expect)}: "
            "run `dvc repro` again, the verdict is out of date"
        )


def _copy(source: Path, target: Path) -> None:
    """The bundle's own files, each flushed; what else lies in the folder is not part of it."""
    names = ["bundle.json", *json.loads((source / "bundle.json").read_text(encoding="utf-8"))["files"]]
    for name in names:
        with (source / name).open("rb") as reader, (target / name).open("wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())
    target.chmod(0o755)
    sync_folder(target)


def _checked(digest: str) -> str:
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise StateError(f"{digest!r} is no bundle's digest: that is a sha256, 64 hex digits")
    return digest


def _short(digest: object) -> str:
    return digest[:12] if isinstance(digest, str) else "nobody"


if __name__ == "__main__":
    from pipeline.registry_command import main

    raise SystemExit(main())
