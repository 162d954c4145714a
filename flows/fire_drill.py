"""Inject faults into a real run, and see which gate refuses: ``python -m flows.fire_drill`` (or ``make fire-drill``).

    python -m flows.fire_drill                  # all of them: reports/fire_drill.json and a table
    python -m flows.fire_drill nan_weights ...  # some: reports/fire_drill_part.json, the last whole one stays
    python -m flows.fire_drill --list
    python -m benchmarks.fire_drill             # keeps a whole one in benchmarks/results

A workspace of its own with a part of the embedded sample is trained twice by `dvc repro`: the first model
becomes the champion, the second is the control, which must be promoted. Each fault is then planted in a copy of
the control, and the verbs after it run as DVC would run them. The gate that must refuse, and its words, are
written down beside each fault; a fault that another gate catches, or none, fails the drill. Exit code 1 then.
"""

import argparse
import importlib
import re
import shutil
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from flows import lineage
from flows.drill_workspace import CHAIN, SOURCE, Fault, prepare
from flows.release import examine
from flows.stale_service import ask_stale_service
from pipeline.artifacts import Workspace, read_json, write_json
from pipeline.errors import VisionloopError
from pipeline.params import Params

__all__ = ["Refusal", "Result", "all_faults", "drill", "judged", "refusal", "told"]

PART = "fire_drill_part.json"
HARDEST_TO_CATCH = (
    "A worse model under another one's verdict with dvc.lock made to agree: everything lies as it should, and only judging "
    "the evidence again tells. Next: the champion's weights in another network, which only the champion's bundle tells, and "
    "a service with the champion's answers under the challenger's digest, which only the probabilities tell."
)
HARDEST_ESCAPE = "wrong_in_both"
NOT_PLANTED = (
    "A first model whose weights were loaded into another network (a lost pad_type): export, reference and service all agree "
    "with it; only a lower accuracy tells, where it falls below gate.min_accuracy.",
    "Answers edited in artifacts/stress.parquet before the verdict: like the timings, they are asked for once.",
    "A cropped copy of an image that has left the data, where the cache no longer holds its view: bytes, hash and thumbnail "
    "are compared, and the verdict counts such images (past_images).",
    "Labels by a rule that training and test share, such as the camera or the day: validate warns of shortcuts in borders, "
    "corners and thumbnails, and refuses none.",
    "Whoever may change the code, params.yaml and git's history changes what is judged: the commit and the digest of the "
    "parameters are in the bundle, and a reviewer has to read them.",
)


@dataclass(frozen=True)
class Refusal:
    """Who refused, in which words."""

    gate: str
    words: str


@dataclass(frozen=True)
class Result:
    """What became of one fault."""

    fault: str
    says: str
    expected: str | None
    refused_by: list[str]
    words: str
    as_expected: bool
    seconds: float


def refusal(workspace: Workspace, start: str) -> list[Refusal]:
    """Run the verbs from ``start`` to the gate; who refused first, [] where nobody did.

    A verdict refuses by all of its checks that did not pass and count, so there may be several. Release and
    sandbox are asked only where the fault lies with them: what the verbs wrote here without DVC, dvc.lock
    would refuse in any case.
    """
    params = Params.load(workspace.params)
    verbs = CHAIN[CHAIN.index(start) : CHAIN.index("release")] or (start,)
    for verb in verbs:
        try:
            if verb == "release":
                examine(workspace)
                continue
            if verb == "sandbox":
                ask_stale_service(workspace, params)
                continue
            module = importlib.import_module("pipeline.ingest" if verb == "scan" else f"pipeline.{verb}")
            if verb == "scan":
                code = max(
                    module.scan_stage(workspace, params, source.domain) for source in params.data.sources
                )
            else:
                code = module.run(workspace, params)
        except VisionloopError as error:
            return [Refusal(verb, str(error))]
        if code and verb == "validate":
            return _findings(workspace)
        if verb == "gate":
            refused = _checks(workspace)
            if refused:
                return refused
    return []


def _findings(workspace: Workspace) -> list[Refusal]:
    return [
        Refusal(f"validate: {found['name']}", f"{found['observed']} {found['examples']}")
        for found in read_json(workspace.validation)["expectations"]
        if not found["success"] and found["severity"] == "fail"
    ]


def _checks(workspace: Workspace) -> list[Refusal]:
    verdict = read_json(workspace.verdict)
    if verdict["decision"] == "PROMOTE":
        return []
    return [
        Refusal(f"gate: {check['name']}", f"{check['outcome']}; {check['detail']}; {check['would_flip']}")
        for check in verdict["checks"]
        if check["outcome"] == "fail" or (check["outcome"] == "unknown" and check["decides"])
    ]


def drill(root: Path, faults: list[Fault], reports: Path) -> list[Result]:
    """The control and then ``faults``; the report is written to ``reports`` as they come in, a whole one at its end.

    Raises:
        StateError: the control itself was not promoted, so that no refusal would mean anything.
    """
    base = prepare(root)
    log = root / "log.txt"  # what the verbs say
    results: list[Result] = []
    for fault in faults:
        started = time.perf_counter()
        workspace = base.copy(fault.name)
        with log.open("a", encoding="utf-8") as said, redirect_stdout(said), redirect_stderr(said):
            print(f"--- {fault.name}: {fault.says}", flush=True)
            fault.plant(workspace)
            refused = refusal(workspace.workspace, fault.start)
        place = f"{workspace.workspace.root}/"
        refused = [replace(found, words=found.words.replace(place, "")) for found in refused]
        results.append(judged(fault, refused, time.perf_counter() - started))
        shutil.rmtree(workspace.workspace.root)
        write_json(reports / PART, told(results))
        print(_line(results[-1]), flush=True)
    if told(results)["whole"]:
        (reports / PART).replace(reports / "fire_drill.json")
    return results


def judged(fault: Fault, refused: list[Refusal], seconds: float) -> Result:
    """Did who refused, and how, agree with who must?"""
    named = [found for found in refused if found.gate == fault.gate]
    as_expected = (
        not refused if fault.gate is None else bool(named and re.search(fault.words, named[0].words))
    )
    words = (named or refused or [Refusal("", "nobody refused")])[0].words
    return Result(
        fault.name,
        fault.says,
        fault.gate,
        [found.gate for found in refused],
        words,
        as_expected,
        round(seconds, 1),
    )


def told(results: list[Result]) -> dict[str, object]:
    """What fire_drill.json holds: when, of which commit, who refused what, and in prose what nobody refuses."""
    every = {fault.name: fault for fault in all_faults()}
    escaped = [result for result in results if not result.refused_by]
    hardest = every[HARDEST_ESCAPE]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": lineage.head(SOURCE),
        "whole": {result.fault for result in results} == every.keys(),
        "control": "PROMOTE",
        "faults": sum(result.expected is not None for result in results),
        "refused": sum(bool(result.refused_by) for result in results if result.expected is not None),
        "as_expected": sum(result.as_expected for result in results),
        "hardest_to_catch": HARDEST_TO_CATCH,
        "hardest_escape": f"{hardest.says}: {hardest.escapes}",
        "not_caught": [
            f"{result.says}: {every[result.fault].escapes or 'not known to escape'}" for result in escaped
        ]
        + list(NOT_PLANTED),
        "results": [asdict(result) for result in results],
    }


def _line(result: Result) -> str:
    sign = "ok  " if result.as_expected else "WRONG"
    by = ", ".join(result.refused_by[:3]) or "nobody"
    wanted = "" if result.as_expected else f" (expected {result.expected})"
    return f"{sign} {result.says}: refused by {by}{wanted}: {' '.join(result.words.split())[:160]}"


def all_faults() -> list[Fault]:
    """Every fault, in the order of the pipeline."""
    from flows import data_faults, model_faults, release_faults, report_faults

    return [*data_faults.FAULTS, *model_faults.FAULTS, *report_faults.FAULTS, *release_faults.FAULTS]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m flows.fire_drill", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("faults", nargs="*", metavar="fault", help="only these; default: all")
    parser.add_argument("--list", action="store_true", help="name the faults and end")
    options = parser.parse_args(arguments)
    known = {fault.name: fault for fault in all_faults()}
    if options.list:
        print("\n".join(f"{name}: {fault.says}" for name, fault in known.items()))
        return 0
    unknown = sorted(set(options.faults) - known.keys())
    if unknown:
        print(f"fire-drill: there is no fault {', '.join(unknown)}; --list names them", file=sys.stderr)
        return 1
    workspace = Workspace.here()
    reports = workspace.root / "reports"
    chosen = [known[name] for name in options.faults] or list(known.values())
    try:
        results = drill(workspace.home / "fire-drill", chosen, reports)
    except VisionloopError as error:
        print(f"fire-drill: {error}", file=sys.stderr)
        return 1
    wrong = [result.fault for result in results if not result.as_expected]
    escaped = [result.says for result in results if result.expected is None]
    report = reports / ("fire_drill.json" if len(chosen) == len(known) else PART)
    print(
        f"control: PROMOTE. {len(results) - len(escaped)} faults, {len(results) - len(wrong) - len(escaped)} refused by "
        f"the gate that must. Known not to be caught: {'; '.join(escaped) or 'none tried'}. {workspace.relative(report)}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
