"""The manifest against its expectations, by Great Expectations: a table, a JSON and Data Docs.

    python -m pipeline validate         # exit code 1 when a check of severity fail does not hold

writes reports/validation.json, reports/data_docs/index.html and reports/class_statistics.csv in either case. What
is checked stands in expectations.py, thresholds and severities in params.yaml under ``validate``, and what the
first version looked like in data/expectations.json (profile.py). Data that are bad are a
result; a check that can't be evaluated is an error that names it.
"""

import html
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import MANIFEST, Workspace, read_table, write_json, write_text
from pipeline.class_statistics import class_statistics, statistics_csv, statistics_html
from pipeline.data_docs import Row, make_readable
from pipeline.drifted import DRIFT, drift, read_suite, unlike
from pipeline.errors import DataError, VisionloopError
from pipeline.expectations import Check, checks
from pipeline.facts import facts, suspect_labels
from pipeline.params import Params

__all__ = ["Finding", "run"]

EXAMPLES = 20  # paths named in validation.json
SHOWN = 5  # of them printed
_ONE = {
    "classes": "class",
    "labels": "label",
    "groups": "group",
    "kinds of pixels": "kind of pixels",
    "shortcuts": "shortcut",
    "values": "value",
    "differences": "difference",
}
_TITLES = {(True, "fail"): "ok", (True, "warn"): "ok", (False, "fail"): "FAIL", (False, "warn"): "warn"}


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check, with up to 20 offending paths and what is wrong with each."""

    check: Check
    success: bool
    observed: str
    examples: list[str]
    details: list[str]

    @property
    def title(self) -> str:
        return _TITLES[self.success, self.check.severity]

    @property
    def cases(self) -> list[str]:
        """Each example with what is wrong with it, fit for a terminal and a page."""
        return [f"{_visible(p)}: {_visible(d)}" for p, d in zip(self.examples, self.details, strict=True)]

    def to_row(self) -> Row:
        return Row(
            self.title,
            self.check.name,
            self.check.says,
            _visible(self.observed),
            [] if self.success else self.cases,
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.check.name,
            "success": self.success,
            "severity": self.check.severity,
            "observed": self.observed,
            "examples": self.examples,
        }


def run(workspace: Workspace, params: Params) -> int:
    """Check the manifest; 1 when a check of severity fail does not hold.

    Raises:
        DataError: the manifest is missing or empty.
        ParamsError: ``validate.severity`` names a check that does not exist.
        VisionloopError: a check could not be evaluated.
    """
    suite = read_suite(workspace.expectations)
    known = checks(params.validate, suite)
    manifest = read_table(workspace.manifest, MANIFEST)
    if manifest.num_rows == 0:
        raise DataError(
            f"{workspace.manifest} has no rows: look at data.sources in params.yaml, then run `dvc repro`"
        )
    columns = facts(manifest, params.validate, f"{workspace.relative(workspace.labelled)}/")
    notes: dict[str, str] = {}
    columns["suspect label"], notes["suspect_labels"] = suspect_labels(manifest, workspace)
    if suite is not None:
        columns |= unlike(manifest, suite)
        columns[DRIFT], notes["drift_of_new_images"] = drift(manifest, suite)
    statistics = class_statistics(manifest)
    workspace.data_docs.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=workspace.data_docs.parent, prefix=".data_docs."))
    try:
        results = _evaluate(known, columns, building)
        rows = {_inert(path): row for row, path in enumerate(columns["path"])}
        findings = [
            _finding(check, results[check.name], columns, rows, notes.get(check.name, "")) for check in known
        ]
        make_readable(building, [f.to_row() for f in findings], statistics_html(statistics))
        building.chmod(0o755)
        if workspace.data_docs.exists():
            shutil.rmtree(workspace.data_docs)
        building.rename(workspace.data_docs)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    failed = [f for f in findings if f.title == "FAIL"]
    write_json(workspace.validation, {"success": not failed, "expectations": [f.to_dict() for f in findings]})
    write_text(workspace.class_statistics, statistics_csv(statistics))
    print(_table(findings))
    if suite is None:
        print(
            f"validate: no profile in {workspace.relative(workspace.expectations)}, so nothing is compared with an "
            "earlier version: `python -m pipeline profile` keeps what this one looks like"
        )
    if failed:
        print(
            f"validate: {len(failed)} of {len(findings)} checks fail ({', '.join(f.check.name for f in failed)}). "
            f"Mend the data and run `dvc repro`; every case: {workspace.relative(workspace.data_docs)}/index.html. "
            "A check that should only warn: validate.severity in params.yaml"
        )
    return 1 if failed else 0


def _evaluate(known: list[Check], columns: dict[str, list[Any]], docs: Path) -> dict[str, dict[str, Any]]:
    """Great Expectations' result of each check by name; its Data Docs in the folder ``docs``."""
    import great_expectations as gx
    import pandas as pd
    from great_expectations.checkpoint import UpdateDataDocsAction
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations").setLevel(logging.CRITICAL)  # it logs what its results say as well
    frame = pd.DataFrame({name: _column(values) for name, values in columns.items()})
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_or_update_pandas("images").add_dataframe_asset("manifest")
    suite = gx.ExpectationSuite(name="manifest", expectations=[_expectation(check) for check in known])
    definition = context.validation_definitions.add_or_update(
        gx.ValidationDefinition(
            name="manifest",
            data=asset.add_batch_definition_whole_dataframe("all"),
            suite=context.suites.add_or_update(suite),
        )
    )
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.absolute())}
    context.add_data_docs_site(
        site_name="docs",
        site_config={
            "class_name": "SiteBuilder",
            "store_backend": store,
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "show_how_to_buttons": False,
        },
    )
    checkpoint = context.checkpoints.add_or_update(
        gx.Checkpoint(
            name="manifest",
            validation_definitions=[definition],
            actions=[UpdateDataDocsAction(name="docs", site_names=["docs"])],
            result_format={"result_format": "SUMMARY", "unexpected_index_column_names": ["path"]},
        )
    )
    outcome = checkpoint.run(batch_parameters={"dataframe": frame})
    results = next(iter(outcome.run_results.values())).to_json_dict()["results"]
    return {result["expectation_config"]["meta"]["check"]: result for result in results}


def _expectation(check: Check) -> Any:
    import great_expectations.expectations as gxe

    kinds = {
        "null": gxe.ExpectColumnValuesToBeNull,
        "between": gxe.ExpectColumnValuesToBeBetween,
        "member": gxe.ExpectColumnValuesToBeInSet,
        "distinct": gxe.ExpectColumnUniqueValueCountToBeBetween,
        "columns": gxe.ExpectTableColumnsToMatchSet,
        "quantiles": _serialisable(gxe.ExpectColumnQuantileValuesToBeBetween),
        "rows": gxe.ExpectTableRowCountToBeBetween,
    }
    whole = {"columns": {"exact_match": False}, "rows": {}}
    where = whole.get(check.kind, {"column": check.column})
    return kinds[check.kind](
        **where,
        **check.bounds,
        meta={"check": check.name},
        description=f"{check.name}: {check.says} [{check.severity}]",
        severity="critical" if check.severity == "fail" else "warning",
    )


def _serialisable(kind: Any) -> Any:
    """The quantiles' expectation as 1.24 has it answers with numpy's bool, on which its own store chokes."""

    def validate(self: Any, *arguments: Any, **named: Any) -> Any:
        result = kind._validate(self, *arguments, **named)
        return result | {"success": bool(result["success"])}

    return type(
        kind.__name__, (kind,), {"_validate": validate, "__module__": __name__, "__doc__": kind.__doc__}
    )


def _column(values: list[Any]) -> Any:
    """Numbers as float with NaN; text inert, since Data Docs print values into HTML as they are."""
    import numpy as np

    present = next((value for value in values if value is not None), None)
    if isinstance(present, (int, float)):
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return np.array([None if value is None else _inert(value) for value in values], dtype=object)


def _inert(text: str) -> str:
    """Text that stays text in HTML and in a terminal."""
    return text if text.isalnum() else html.escape(_visible(text))


def _visible(text: str) -> str:
    """Control characters and the like as escapes, so that a name can't move the cursor or hide."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _finding(
    check: Check, result: dict[str, Any], columns: dict[str, list[Any]], rows: dict[str, int], note: str
) -> Finding:
    """One result in our words; ``rows`` finds the row of a path as Great Expectations saw it."""
    trouble = _trouble(result["exception_info"])
    if trouble is not None:
        raise VisionloopError(
            f"the check {check.name!r} could not be evaluated, which says nothing about the data: {trouble}. "
            "Great Expectations may have changed (pyproject.toml pins it), or the manifest is of another version: "
            "run `dvc repro -f ingest`"
        )
    found = result["result"]
    if check.kind == "columns":
        return Finding(check, result["success"], f"{len(found['observed_value'])} columns", [], [])
    if check.kind == "distinct":
        return Finding(check, result["success"], _counted(found["observed_value"], check.noun), [], [])
    if check.kind == "rows":
        return Finding(check, result["success"], f"{found['observed_value']:,} images", [], [])
    if check.kind == "quantiles":
        return Finding(check, result["success"], _quantiles(check, found["observed_value"]), [], [])
    offending = [rows[entry["path"]] for entry in found.get("partial_unexpected_index_list") or []][:EXAMPLES]
    examples = [columns["path"][row] for row in offending]
    details = [_short(columns[check.column][row]) for row in offending]
    count = found["unexpected_count"]
    observed = f"{count:,} of {found['element_count']:,} images against it"
    if check.noun != "images":
        shown = f": {'; '.join(details[:SHOWN])}" if count else ""
        observed = f"{_counted(count, check.noun)} against it{shown}"
    elif check.kind == "between":
        observed += _range(columns[check.column])
    observed = f"{observed} ({note})" if note else observed
    return Finding(check, result["success"], observed, examples, details)


def _trouble(information: Any) -> str | None:
    """The message of an exception in Great Expectations' exception_info, whose shape varies, or None."""
    if not isinstance(information, dict):
        return None
    if information.get("raised_exception"):
        return str(information.get("exception_message"))
    return next((text for value in information.values() if (text := _trouble(value)) is not None), None)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {_ONE[noun] if count == 1 else noun}"


def _quantiles(check: Check, observed: dict[str, list[float]]) -> str:
    """Each quantile beside its bounds, those out of them marked."""
    bounds = check.bounds["quantile_ranges"]["value_ranges"]
    texts = []
    for quantile, value, (low, high) in zip(observed["quantiles"], observed["values"], bounds, strict=True):
        within = (low is None or value >= low) and (high is None or value <= high)
        known = f"{'any' if low is None else _short(low)} to {'any' if high is None else _short(high)}"
        texts.append(f"{quantile:.0%} {value:.4g} {'in' if within else 'OUT OF'} {known}")
    return "; ".join(texts)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _range(values: list[float | None]) -> str:
    present = [value for value in values if value is not None]
    return f" (from {min(present):.4g} to {max(present):.4g})" if present else ""


def _table(findings: list[Finding]) -> str:
    """What a person reads in the terminal: a line a check, then the cases of those that do not hold."""
    width = max(len(f.check.name) for f in findings)
    lines = [f"{'check':<{width}}  result  observed"]
    lines += [f"{f.check.name:<{width}}  {f.title:<6}  {_visible(f.observed)}" for f in findings]
    for f in findings:
        if f.success or not f.examples:
            continue
        lines += ["", f"{f.title} {f.check.name}: {f.check.says}"]
        lines += [f"  {case}" for case in f.cases[:SHOWN]]
        if len(f.examples) > SHOWN:
            lines.append(f"  ... in all {f.observed}")
    return "\n".join(lines)
