"""``python -m pipeline <verb>``: one stage, read from and written to the workspace in the current folder.

Each verb imports only what it needs: ``python -m pipeline split`` does not pay for torch.
"""

import argparse
import atexit
import gc
import importlib
import importlib.util
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import NoReturn

VERBS = {
    "sample": "generate the embedded data set into data/sample",
    "scan": "decode one source's images once: hash, sizes, statistics, perceptual hash",
    "ingest": "join the scanned sources and the labels that came back into the manifest",
    "validate": "check the manifest with Great Expectations; exit code 1 when a check fails",
    "profile": "keep what this version of the data looks like: data/expectations.json, for validate to compare with",
    "split": "assign every group to train, validation or test, for good",
    "balance": "support and imbalance by class, and the sampling plan",
    "select": "which backbone? several side by side: probe accuracy, time, size, licence, and which to take",
    "train": "transfer the backbone: probe, fine-tuning, or the better of both",
    "bundle": "export what ships: ONNX, calibration, preprocessing, reference, digests",
    "compress": "smaller versions of the bundle's network, and what each costs in accuracy",
    "leak": "test images that are copies of images trained on, now or in an earlier version of the data",
    "evaluate": "run the bundle, and the champion's, over the held-out images",
    "stress": "the bundle, and the champion's, on corrupted and on foreign images",
    "performance": "latency, cold start, memory and size of the bundle, beside the champion's",
    "suspects": "images whose label is probably wrong, for a person to look at",
    "gate": "the verdict: PROMOTE, REJECT or INSUFFICIENT_EVIDENCE",
    "cache": "hash every object of DVC's cache that is needed here, and mend what is damaged",
    "reproduce": "make a released bundle again in a fresh folder, and certify whether it is the same",
}
MODULES = {"scan": "pipeline.ingest"}  # a verb's module where it is not named like the verb
# What a verb imports once it runs, since its own module is read without torch, too.
LATER = {"bundle": "pipeline.transfer.export", "select": "pipeline.selection.trial"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    for verb, text in VERBS.items():
        command = verbs.add_parser(verb, help=text, description=text)
        if verb == "scan":
            command.add_argument("domain", help="the source's domain, as named in params.yaml")
        if verb == "reproduce":
            command.add_argument(
                "bundle", help="its digest or how that begins, a tag release/<digest>, or a Bento's tag"
            )
            command.add_argument(
                "--into",
                type=Path,
                metavar="FOLDER",
                help="a new folder (default: var/reproductions/<digest>)",
            )
        if verb == "select":
            _select_arguments(command)
    return parser


def _select_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "candidates",
        nargs="*",
        metavar="candidate",
        help="an architecture's name, a path (a timm local-dir, or a safetensors file with its config.json), "
        "name=path for a file without one, or bundled; default: model.candidates in params.yaml, else the current model",
    )
    command.add_argument(
        "--weights",
        choices=("hub", "none"),
        default="hub",
        help="of candidates that are names (default: hub)",
    )


def _use_project_environment() -> None:
    """Hand over to the workspace's .venv when started by an interpreter that lacks the dependencies.

    ``.venv/bin/dvc repro`` runs ``python`` from PATH, which need not be the environment that dvc is in.
    """
    own = Path(".venv/bin/python")
    if (
        importlib.util.find_spec("pyarrow") is None
        and own.exists()
        and not os.environ.get("VISIONLOOP_HANDED_OVER")
    ):
        os.environ["VISIONLOOP_HANDED_OVER"] = "1"
        os.execv(own, [str(own), "-m", "pipeline", *sys.argv[1:]])


def imported(name: str) -> ModuleType:
    """A module, imported without the garbage collector, which takes a quarter of the time that torch needs.

    It would look through all that has been imported so far again and again, and nothing of it is garbage.
    """
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.enable()
        gc.freeze()


def load(verb: str) -> ModuleType:
    """A verb's module, with all that running it takes long to import."""
    if verb in LATER:
        imported(LATER[verb])
    return imported(MODULES.get(verb, f"pipeline.{verb}"))


def leave(code: int) -> NoReturn:
    """End the process once exit handlers have run: taking torch's modules apart takes a second, and to no end."""
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on: Python's own code for it
        code = 120
    os._exit(code)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; 0 when it did its work, 1 when it refused, with the reason on standard error."""
    options = _parser().parse_args(arguments)
    from pipeline.artifacts import Workspace
    from pipeline.errors import VisionloopError
    from pipeline.params import Params

    workspace = Workspace.here()
    started = time.perf_counter()
    try:
        params = Params.load(workspace.params)
        if os.environ.get("DVC_STAGE"):  # by hand, a file may well be newer than dvc.lock
            from pipeline.stored import require_whole

            require_whole(workspace, options.verb, params, getattr(options, "domain", None))
        module = load(options.verb)
        if options.verb == "scan":
            code = module.scan_stage(workspace, params, options.domain)
        elif options.verb == "select":
            code = module.run(workspace, params, options.candidates, options.weights)
        elif options.verb == "reproduce":
            code = module.run(workspace, options.bundle, options.into)
        else:
            code = module.run(workspace, params)
    except VisionloopError as error:
        print(f"{options.verb}: {error}", file=sys.stderr)
        return 1
    print(f"{options.verb}: {time.perf_counter() - started:.1f} s", flush=True)
    return int(code)


if __name__ == "__main__":
    _use_project_environment()
    leave(main())
