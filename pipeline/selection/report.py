"""What select says: reports/select.json, the table and the sentence."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.selection.latency import THREADS
from pipeline.selection.recommendation import pareto, ranks, recommended
from pipeline.selection.scoring import Images
from pipeline.selection.trial import Failure, Trial

__all__ = ["report", "sentence", "table"]

COLUMNS = (
    ("", "candidate"),
    ("accuracy", "± s.e."),
    ("95 %", "interval"),
    ("", "ms/image"),
    ("million", "parameters"),
    ("MB", "(ONNX)"),
    ("", "LogME"),
    ("rank by", "probe"),
    ("rank by", "LogME"),
    ("rank by", "size"),
    ("", "licence"),
)
UNSTEADY = 0.3  # of the lower quartile; how far the upper one may lie above it before a note says so


def report(images: Images, trials: Sequence[Trial], failures: Sequence[Failure]) -> dict[str, Any]:
    """reports/select.json; ``recommended`` and ``sentence`` are null where nothing could be measured.

    ``rank.size`` is 1 for the most parameters. Where published comparisons set transferability scores such as
    LogME against this list, which knows nothing of the data, the list was hard to beat (Singh, Hess and
    Vanschoren 2025, arXiv 2510.06448): so both stand beside the probe's own score.
    """
    measured = [trial.measured for trial in trials]
    front = pareto(measured)
    rank = {
        "accuracy": ranks([one.accuracy for one in measured]),
        "logme": ranks([trial.score.logme for trial in trials]),
        "size": ranks([trial.parameters for trial in trials]),
    }
    rows = [
        _figures(trial)
        | {"pareto": place in front, "rank": {name: values[place] for name, values in rank.items()}}
        for place, trial in enumerate(trials)
    ]
    return {
        "images": len(images.labels),
        "groups": len(set(images.groups)),
        "classes": len(images.classes),
        "folds": images.folds,
        "threads": THREADS,
        "candidates": rows,
        "failed": [
            {"candidate": one.candidate.label, **_model(one.candidate.model), "reason": one.reason}
            for one in failures
        ],
        "recommended": rows[recommended(measured)[0]]["candidate"] if rows else None,
        "sentence": sentence(trials) if rows else None,
        "notes": _notes(rows),
    }


def _notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What makes the figures less sure than they look."""
    notes = []
    unsteady = [
        row["candidate"]
        for row in rows
        if row["milliseconds_quartiles"][1] > (1 + UNSTEADY) * row["milliseconds_quartiles"][0]
    ]
    if unsteady:
        notes.append(
            f"the machine was busy: the middle half of the times of {'; '.join(unsteady)} spans more than {UNSTEADY:.0%}; "
            "run it again when it is idle"
        )
    firsts = {
        name: [row["candidate"] for row in rows if row["rank"][name] == 1] for name in ("accuracy", "logme")
    }
    if rows and not set(firsts["accuracy"]) & set(firsts["logme"]):
        notes.append(
            f"the probe puts {firsts['accuracy'][0]} first, LogME {firsts['logme'][0]}: too close to call on these images, or "
            "shots of one thing lie in several folds (data.group_pattern keeps them together)"
        )
    return notes


def _figures(trial: Trial) -> dict[str, Any]:
    quartiles = np.percentile(trial.times, [25, 75])
    return {
        "candidate": trial.candidate.label,
        **_model(trial.candidate.model),
        "architecture": trial.architecture,
        "image_size": trial.image_size,
        "digest": trial.weights["digest"],
        "licence": trial.weights["licence"],
        "accuracy": round(trial.score.accuracy, 6),
        "standard_error": round(trial.score.standard_error, 6),
        "accuracy_ci95": [round(end, 6) for end in trial.score.interval],
        "milliseconds": round(trial.milliseconds, 3),
        "milliseconds_quartiles": [round(float(value), 3) for value in quartiles],
        "runs": len(trial.times),
        "parameters": trial.parameters,
        "onnx_bytes": trial.onnx_bytes,
        "logme": round(trial.score.logme, 6),
    }


def _model(model: Any) -> dict[str, str]:
    """What to write into params.yaml to take this one."""
    return {
        name: value for name, value in dataclasses.asdict(model).items() if name in ("backbone", "weights")
    }


def sentence(trials: Sequence[Trial]) -> str:
    """Which one to take, why, and how, in one sentence."""
    take, best = recommended([trial.measured for trial in trials])
    chosen, first = trials[take], trials[best]
    name, accuracy = chosen.candidate.label, f"{chosen.score.accuracy:.3f}"
    if len(trials) == 1:
        why = f"Only {name} was measured: accuracy {accuracy}"
    elif take == best:
        why = (
            f"Take {name}: it is the most accurate ({accuracy}), and no faster one comes within its standard error "
            f"({first.score.standard_error:.3f})"
        )
    else:
        why = (
            f"Take {name}: its accuracy ({accuracy}) is within one standard error ({first.score.standard_error:.3f}) of "
            f"the best ({first.candidate.label}, {first.score.accuracy:.3f}), and it is the fastest of which that holds"
        )
    model = chosen.candidate.model
    return (
        f"{why}; {chosen.milliseconds:.1f} ms an image; "
        f"in params.yaml, model: {{backbone: {model.backbone}, weights: {model.weights}}}"
    )


def table(found: dict[str, Any]) -> str:
    """The report for a terminal: the most accurate first, the failed ones with their reasons last."""
    lines = [[head for head, _ in COLUMNS], [name for _, name in COLUMNS]]
    rows = sorted(found["candidates"], key=lambda row: -row["accuracy"])
    lines += [_cells(row, row["candidate"] == found["recommended"]) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    text = [
        "  ".join(
            cell.ljust(width) if place in (0, len(COLUMNS) - 1) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    text += [f"  {one['candidate']}  failed: {one['reason']}" for one in found["failed"]]
    text += [
        f"accuracy: {found['folds']}-fold cross-validated probe on {found['images']} training images "
        f"({found['groups']} groups, {found['classes']} classes); time: ONNX Runtime, batch 1, "
        f"{found['threads']} thread, median; size: the plain list by parameters; → taken, · on the Pareto front"
    ]
    text += [f"note: {note}" for note in found["notes"]]
    return "\n".join(text)


def _cells(row: dict[str, Any], taken: bool) -> list[str]:
    mark = "→ " if taken else "· " if row["pareto"] else "  "
    low, high = row["accuracy_ci95"]
    return [
        mark + row["candidate"],
        f"{row['accuracy']:.3f} ± {row['standard_error']:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{row['milliseconds']:.2f}",
        f"{row['parameters'] / 1e6:.2f}",
        f"{row['onnx_bytes'] / 1e6:.1f}",
        f"{row['logme']:.3f}",
        *(str(row["rank"][name]) for name in ("accuracy", "logme", "size")),
        row["licence"] or "not stated",
    ]
