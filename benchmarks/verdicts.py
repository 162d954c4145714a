"""How often the gate's verdict is wrong: whole verdicts by ``pipeline.gate.judge`` on drawn test sets.

The absolute bounds are set where they can't decide, except in the cases that are about recall and about the whole
gate: what is measured is the comparison with the champion, and what is said of twenty classes. The whole gate is
judged as it ships: its own bounds, every kind of slice, and a stress table of both.
"""

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from benchmarks.populations import Change, Population
from benchmarks.versions import Versions, stress
from pipeline import artifacts
from pipeline.evaluate import summarise
from pipeline.evidence import Evidence
from pipeline.gate import Verdict, judge
from pipeline.intervals import wilson
from pipeline.params import Evaluate, Gate, Params
from pipeline.slices import Masks
from pipeline.transforms import Preprocessing

Event = Literal["PROMOTE", "REJECT", "class fails", "recall fails"]
OURS, THEIRS = "c" * 64, "a" * 64
STRESSED = Evaluate().stress_images
# No interval that is bootstrapped takes part in a decision.
SMALLEST = Evaluate(bootstrap=100)
COMPARISON = Gate(
    min_accuracy=0,
    min_macro_f1=0,
    min_class_recall=0,
    max_ece=1,
    max_nll=100,
    min_slice_accuracy=0,
    max_slice_gap=1,
)


@dataclass(frozen=True)
class Case:
    """A challenger whose truth is known, what must be rare, and how rare."""

    name: str
    population: Population
    change: Change | None  # None: there is no champion
    event: Event
    at_most: float
    n: int = 500
    recall_bound: float = 0.0
    domains: bool = True
    whole: Gate | None = None  # the bounds of the whole gate, with every kind of slice
    versions: Versions | None = None  # and how the two answer to corrupted images

    @property
    def params(self) -> Params:
        limits = asdict(COMPARISON) | {"min_class_recall": self.recall_bound}
        return Params(evaluate=SMALLEST, gate=self.whole or Gate(**limits))


def rates(case: Case, draws: int, seed: int) -> dict[str, Any]:
    """Decisions over ``draws`` test sets, and the share of what must be rare with its Wilson interval."""
    generator = np.random.default_rng(seed)
    decisions = {"PROMOTE": 0, "REJECT": 0, "INSUFFICIENT_EVIDENCE": 0}
    count = 0
    for _ in range(draws):
        verdict = draw(case, generator)
        decisions[verdict.decision] += 1
        count += _happened(case.event, verdict)
    low, high = wilson(count, draws)
    return {
        "case": case.name,
        "population": case.population.name,
        "n": case.n,
        "truth": asdict(case.change) if case.change else f"recall {case.recall_bound:g} in every class",
        "event": case.event,
        "at_most": case.at_most,
        "draws": draws,
        "count": count,
        "share": round(count / draws, 4),
        "ci95": [round(low, 4), round(high, 4)],
        "met": count / draws <= case.at_most,
        "decisions": decisions,
    }


def draw(case: Case, generator: np.random.Generator) -> Verdict:
    """One verdict on one drawn test set."""
    population = case.population
    rows, groups = population.draw(case.n, generator)
    theirs = population.probabilities[rows]
    ours = population.changed(rows, groups, case.change, generator) if case.change else theirs
    champion = None
    if case.change:
        champion = population.table(rows, groups, theirs, THEIRS, domains=case.domains)
    table = population.table(rows, groups, ours, OURS, domains=case.domains)
    info = _papers(tuple(population.classes))
    bundles = [OURS, THEIRS] if case.change else [OURS]
    evidence = Evidence(
        challenger=OURS,
        damage=None,
        info=info,
        predictions=table,
        origin={"bundle": OURS, "classes": population.classes},
        metrics=summarise(table, info, case.params),
        validation={"success": True},
        champion=THEIRS if case.change else None,
        champion_predictions=artifacts.PREDICTIONS.empty_table() if champion is None else champion,
        champion_origin={"bundle": THEIRS, "classes": population.classes} if case.change else {},
        champion_labels={},
        form="onnx",
        references={"onnx": reference(table)},
        head=(np.eye(len(population.classes)), np.zeros(len(population.classes))),
        sources={},
        masks=masks(table) | (_thirds(population.groups[rows]) if case.whole else {}),
        stress=_stress(case, groups, generator),
        stress_origin={"bundles": bundles},
        performance={"challenger": _timed(OURS), "champion": _timed(THEIRS) if case.change else None},
        leak=None,
        alike=frozenset(),
        peek=1,
    )
    verdict = judge(evidence, case.params)
    broken = [check.name for check in verdict.checks if check.kind == "integrity" and check.outcome == "fail"]
    if broken:
        raise RuntimeError(f"the drawn evidence of {case.name} is not consistent: {broken}")
    return verdict


def _stress(case: Case, groups: np.ndarray, generator: np.random.Generator) -> pa.Table:
    """Of some of the test images, whose ids are their places."""
    if case.versions is None:
        return artifacts.STRESS.empty_table()  # what is drawn are predictions; corruption is not
    chosen = np.sort(generator.permutation(len(groups))[:STRESSED])
    ours, theirs = case.versions.draw(groups[chosen], generator)
    return stress(chosen.astype(str).tolist(), ours, theirs if case.change else None, (OURS, THEIRS))


def _thirds(groups: np.ndarray) -> Masks:
    """Image size and brightness, in three each, which have nothing to do with the answers; by group."""
    kinds = {"image_size": 40503, "brightness": 2654435761}
    parts = {kind: groups * factor % 997 % 3 for kind, factor in kinds.items()}
    return {kind: {str(third): part == third for third in range(3)} for kind, part in parts.items()}


@cache
def _papers(classes: tuple[str, ...]) -> dict[str, Any]:
    """A bundle.json with which nothing is wrong."""
    preprocessing = Preprocessing(
        image_size=32, resize=32, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    return {
        "classes": list(classes),
        "preprocessing": preprocessing.to_dict(),
        "fingerprint": preprocessing.fingerprint(),
        "temperature": 1.0,
        "parity": {"error": 0.0, "limit": 1e-3},
        "validation": {"method": "temperature"},
        "weights": {"licence": "none"},
        "digests": dict.fromkeys(("manifest", "split", "params", "lock", "weights"), "0" * 64),
        "code": {"commit": "0" * 40, "dirty": False},
    }


def reference(table: pa.Table) -> pa.Table:
    """Stored answers that agree with the predictions; the embedding is the logits, the head the identity."""
    probabilities = np.array(table["probabilities"].to_pylist())
    columns: dict[str, Any] = {name: [None] * table.num_rows for name in artifacts.REFERENCE.names}
    columns |= {
        name: table[name].to_pylist() for name in ("image_id", "domain", "group", "label", "predicted")
    }
    columns |= {
        "probabilities": list(probabilities),
        "embedding": list(np.log(np.maximum(probabilities, 1e-12))),
    }
    arrays = {field.name: pa.array(columns[field.name], field.type) for field in artifacts.REFERENCE}
    return pa.table(arrays, schema=artifacts.REFERENCE)


def masks(table: pa.Table) -> Masks:
    """The slices of a table of test images: by domain, where there are several."""
    domains = np.array(table["domain"].to_pylist(), dtype=object)
    found = {name: domains == name for name in sorted(set(domains))}
    return {"domain": found} if len(found) > 1 else {}


def _timed(digest: str) -> dict[str, Any]:
    return {
        "digest": digest,
        "megabytes": 1.0,
        "memory_megabytes": 1.0,
        "cold_start_seconds": 1.0,
        "milliseconds": {"median": 1.0, "p95": 1.0},
        "by_round": [1.0] * 12,
    }


def _happened(event: Event, verdict: Verdict) -> bool:
    if event in ("PROMOTE", "REJECT"):
        return verdict.decision == event
    prefix = "recall/" if event == "recall fails" else "noninferiority/class/"
    return any(check.name.startswith(prefix) and check.outcome == "fail" for check in verdict.checks)


def at_the_bound(classes: int, bound: float, seed: int) -> Population:
    """Single images of ``classes`` equal classes, each of which has a recall of exactly ``bound``."""
    each = 2000
    labels = np.tile(np.arange(classes), each)
    right = np.repeat(np.arange(each) < bound * each, classes)
    named = np.where(right, labels, (labels + 1) % classes)
    probabilities = np.full((len(labels), classes), 0.4 / (classes - 1))
    probabilities[np.arange(len(labels)), named] = 0.6
    order = np.random.default_rng(seed).permutation(len(labels))
    name = f"simulated, recall {bound:g} in each of {classes} classes, single images"
    return Population(name, labels[order], probabilities[order], np.arange(len(labels)))
