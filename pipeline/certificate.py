"""Is the bundle that was made again the same one? Artifact after artifact, in the pipeline's order."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline import timeless
from pipeline.answers import answers
from pipeline.artifacts import PREDICTIONS, Workspace, digest_file, digest_json, read_json, read_table
from pipeline.bundle import verify
from pipeline.environment import against_lock, difference, environment
from pipeline.errors import VisionloopError
from pipeline.recipe import Recipe
from pipeline.registry import Registry

BIT_EQUAL, TOLERATED, DIVERGED = "bit-equal", "equal within tolerance", "diverged"
TOLERANCE = 0.005  # of a metric: half a percentage point of accuracy
PROBABILITY = 0.01  # of any class of any held-out image, and of the probe images
# Other data are no small difference, nor is another verdict.
EXACT = ("data", "manifest", "split", "verdict")


def certify(workspace: Workspace, recipe: Recipe, fresh: Workspace) -> dict[str, Any]:
    """Compare the bundle of ``recipe`` with what ``fresh`` made.

    Returns:
        {"outcome", "bundle", "reproduced", "artifacts": each with what was expected and found, "first_difference",
        "metrics": those that differ, "largest_probability_difference", "environment": the one that it ran in, and in
        words where that is not the one that trained the bundle and not the lock's}.
    """
    original = Registry(workspace.registry).bundle_path(recipe.digest)
    rows = [
        *_data(recipe, fresh, original),
        *_checkpoint(recipe, fresh),
        *_files(original, fresh.bundle),
        *_results(recipe, fresh),
        *_verdict(recipe, fresh),
    ]
    differing = [row for row in rows if not row["equal"]]
    metrics = _metrics(recipe, fresh)
    worst, here = _probabilities(recipe, fresh), environment()
    probes = _probes(original, fresh.bundle)
    tolerated = (
        not any(row["kind"] in EXACT for row in differing)
        and worst <= PROBABILITY
        and probes <= PROBABILITY
        and all(gap is not None and gap <= TOLERANCE for _, _, gap in metrics.values())
    )
    return {
        "outcome": TOLERATED if differing and tolerated else DIVERGED if differing else BIT_EQUAL,
        "bundle": recipe.digest,
        "reproduced": verify(fresh.bundle),
        "commit": recipe.commit,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "first_difference": differing[0]["artifact"] if differing else None,
        "artifacts": rows,
        "tolerance": {"metric": TOLERANCE, "probability": PROBABILITY},
        "metrics": {
            name: dict(zip(("expected", "found", "difference"), row, strict=True))
            for name, row in metrics.items()
        },
        "largest_probability_difference": None if worst == np.inf else worst,
        # The stages ran in the interpreter that asked for it: nothing was installed.
        "environment": {
            "ran_in": here | {"packages": len(here["packages"])},
            "difference": difference(recipe.environment, here),
            "lock": against_lock(fresh.root / "requirements.lock"),
        },
    }


def summary(certificate: dict[str, Any]) -> str:
    """The certificate in a few lines."""
    same = sum(row["equal"] for row in certificate["artifacts"])
    lines = [
        f"{certificate['outcome']}: {certificate['bundle'][:12]}, made again from {certificate['commit'][:12]} in "
        f"{certificate['seconds']:.0f} s as {certificate['reproduced'][:12]}; {same} of {len(certificate['artifacts'])} "
        "artifacts have the same bits"
    ]
    ran = certificate["environment"]["ran_in"]
    lines.append(
        f"  it ran in this environment, Python {ran['python']} on {ran['platform']} with {ran['packages']} packages; none was "
        "installed for it"
    )
    said = [*certificate["environment"]["difference"], *certificate["environment"]["lock"]]
    environment = [f"  environment: {line}" for line in said] or [
        "  environment: no difference from the one that trained the bundle, nor from the lock"
    ]
    if certificate["outcome"] == BIT_EQUAL:
        return "\n".join([*lines, *environment])
    lines.append(f"  the first that differs: {certificate['first_difference']}")
    metrics = {name: row for name, row in certificate["metrics"].items() if row["difference"] is not None}
    for name, row in sorted(metrics.items(), key=lambda item: -item[1]["difference"])[:5]:
        lines.append(f"  {name}: {row['expected']:.6g}, here {row['found']:.6g}")
    lines.append(f"  metrics that differ: {len(certificate['metrics'])}; largest difference of a probability: "
                 f"{certificate['largest_probability_difference']}")  # fmt: skip
    for row in certificate["artifacts"]:
        for name, (before, now) in row.get("differ", {}).items():
            lines.append(f"  verdict, {name}: {before}, here {now}")
    return "\n".join([*lines, *environment])


def _outs(lock: Path) -> dict[str, str]:
    if not lock.exists():
        return {}
    stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def _row(kind: str, artifact: str, expected: str | None, found: str | None) -> dict[str, Any]:
    return {
        "artifact": artifact,
        "kind": kind,
        "equal": expected == found,
        "expected": expected,
        "found": found,
    }


def _data(recipe: Recipe, fresh: Workspace, original: Path) -> list[dict[str, Any]]:
    """Images that a stage makes and tables of them, by the md5 of dvc.lock; manifest and split by bundle.json."""
    before, now = _outs(recipe.folder / "dvc.lock"), _outs(fresh.root / "dvc.lock")
    names = [name for name in before if name == "data/sample" or name.startswith("artifacts/sources/")]
    papers = read_json(original / "bundle.json").get("digests", {})
    return [
        *(_row("data", name, before[name], now.get(name)) for name in sorted(names, reverse=True)),
        _row("manifest", "artifacts/manifest.parquet", papers.get("manifest"), digest_file(fresh.manifest)),
        _row("split", "artifacts/split.parquet", papers.get("split"), digest_file(fresh.split)),
    ]


def _files(original: Path, made: Path) -> list[dict[str, Any]]:
    """The bundle's own files; weights before the network made from them, bundle.json last."""
    before, now = (read_json(path / "bundle.json")["files"] for path in (original, made))
    order = sorted({*before, *now}, key=lambda name: (not name.endswith(".safetensors"), name))
    rows = [_row("bundle", f"artifacts/bundle/{name}", before.get(name), now.get(name)) for name in order]
    papers = [digest_file(path / "bundle.json") for path in (original, made)]
    return [*rows, _row("bundle", "artifacts/bundle/bundle.json", *papers)]


def _checkpoint(recipe: Recipe, fresh: Workspace) -> list[dict[str, Any]]:
    """What training wrote; none where the recipe is older than that it keeps it."""
    now = timeless.checkpoint(fresh.checkpoint) if recipe.checkpoint else {}
    order = sorted({*recipe.checkpoint, *now}, key=lambda name: (not name.endswith(".safetensors"), name))
    aside = {"checkpoint.json": " (without seconds and machine)"}
    return [
        _row(
            "checkpoint",
            f"artifacts/checkpoint/{name}{aside.get(name, '')}",
            recipe.checkpoint.get(name),
            now.get(name),
        )
        for name in order
    ]


def _verdict(recipe: Recipe, fresh: Workspace) -> list[dict[str, Any]]:
    """Decision and outcomes; none where the recipe is older than that it keeps them."""
    before = timeless.verdict(recipe.folder / "reports/verdict.json")
    if before is None:
        return []
    one, other = timeless.compared(before, timeless.verdict(fresh.verdict) or {})
    names = [name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name)]
    row = _row(
        "verdict",
        "reports/verdict.json (decision and outcomes, without timings)",
        digest_json(one),
        digest_json(other),
    )
    return [row | {"differ": {name: [one.get(name), other.get(name)] for name in names}}]


def _results(recipe: Recipe, fresh: Workspace) -> list[dict[str, Any]]:
    before = recipe.folder / "artifacts/predictions.parquet"
    metrics = [_flat(path) for path in (recipe.folder / "reports/metrics.json", fresh.metrics)]
    return [
        _row(
            "predictions",
            "artifacts/predictions.parquet",
            digest_file(before),
            digest_file(fresh.predictions),
        ),
        _row("metrics", "reports/metrics.json (without seconds)", *map(digest_json, metrics)),
    ]


def _metrics(recipe: Recipe, fresh: Workspace) -> dict[str, tuple[Any, Any, float | None]]:
    """name → expected, found, difference (None where one of them is no number) of every metric that differs."""
    before, now = _flat(recipe.folder / "reports/metrics.json"), _flat(fresh.metrics)
    found: dict[str, tuple[Any, Any, float | None]] = {}
    for name in dict.fromkeys([*before, *now]):
        one, other = before.get(name), now.get(name)
        if one != other:
            numbers = isinstance(one, int | float) and isinstance(other, int | float)
            found[name] = (one, other, abs(one - other) if numbers else None)  # type: ignore[operator]
    return found


def _flat(path: Path) -> dict[str, Any]:
    """metrics.json as ``test.per_class.pit.recall`` → value."""
    return timeless.flat(read_json(path))


def _probabilities(recipe: Recipe, fresh: Workspace) -> float:
    """The largest difference over all held-out images and classes; infinite where the images are not the same."""
    paths = (recipe.folder / "artifacts/predictions.parquet", fresh.predictions)
    before, now = (read_table(path, PREDICTIONS) for path in paths)
    if before["image_id"].to_pylist() != now["image_id"].to_pylist():
        return float("inf")
    return _gap(before["probabilities"].to_pylist(), now["probabilities"].to_pylist())


def _probes(original: Path, made: Path) -> float:
    """The same for three images that no data set holds: do the networks themselves answer alike?"""
    try:
        before, now = answers(original), answers(made)
    except VisionloopError:
        return float("inf")
    return max((_gap(rows, now.get(form)) for form, rows in before.items()), default=float("inf"))


def _gap(before: list[list[float]], now: list[list[float]] | None) -> float:
    one, other = np.asarray(before), np.asarray(now if now is not None else [])
    return float(np.abs(one - other).max()) if one.shape == other.shape and one.size else float("inf")
