"""The tables of README.md and benchmarks/README.md, written from benchmarks/results/*.json.

    python -m benchmarks.table            # rewrite what stands between the markers
    python -m benchmarks.table --check    # exit code 1 where that differs from the results

README.md gets the headline rows; benchmarks/README.md all of them, with the machine and the versions.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.errors import TableError, ended
from benchmarks.record import ON_GPU, RESULTS, disturbed
from benchmarks.sets import ROOT

BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
HEAD = ("on", "what", "ours", "rival", "times better (95 %)", "accuracy, ours − rival (95 %)")
NOTHING = "No result is recorded yet: `make bench` measures."


def load(results: Path = RESULTS) -> list[dict[str, Any]]:
    """Every recorded result, by name; the cases of one that was measured on a GPU say so."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    for result in found:
        if result["name"].endswith(ON_GPU):
            for row in result["rows"]:
                row["case"] += f", {result['machine']['gpu']}"
    return found


def headlines(results: Sequence[dict[str, Any]]) -> str:
    """One table of the rows that matter most, and where they were measured."""
    rows = [row for result in results for row in result["rows"] if row["headline"]]
    if not rows:
        return NOTHING
    origins = list(dict.fromkeys(_origin(result) for result in results if _has_headline(result)))
    return "\n".join([_table(rows), "", *origins])


def everything(results: Sequence[dict[str, Any]]) -> str:
    """A section for each result."""
    sections = []
    for result in results:
        if result["rows"]:
            sections += [
                f"### {result['name']}",
                "",
                result["what"],
                "",
                _table(result["rows"]),
                "",
                *_own_table(result.get("details", {}).get("table")),
                _origin(result),
                "",
            ]
    return "\n".join(sections).rstrip() or NOTHING


def replaced(page: str, table: str) -> str:
    """``page`` with ``table`` between its markers.

    Raises:
        TableError: the markers are missing, doubled or in the wrong order.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise TableError(f"the page must hold {BEGIN} and then {END}, once each")
    return f"{page[: page.index(BEGIN)]}{BEGIN}\n{table}\n{page[page.index(END) :]}"


def _has_headline(result: dict[str, Any]) -> bool:
    return any(row["headline"] for row in result["rows"])


def _table(rows: Sequence[dict[str, Any]]) -> str:
    return _lines(HEAD, [_cells(row) for row in rows])


def _own_table(table: dict[str, Any] | None) -> list[str]:
    """What a benchmark shows besides its comparisons: {"head", "rows"} of texts, in its details."""
    return [] if table is None else [_lines(table["head"], table["rows"]), ""]


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---" for _ in head], *rows])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    accuracy = row["accuracy"]
    return (
        row["case"],
        row["measure"],
        f"{_number(row['ours_value'])} {row['unit']} ({row['ours']})",
        f"{_number(row['rival_value'])} {row['unit']} ({row['rival']})",
        f"**{row['ratio']:.2f}**" + _interval(row["ratio_ci95"], "{:.2f}"),
        "" if accuracy is None else _accuracy(accuracy),
    )


def _accuracy(accuracy: dict[str, Any]) -> str:
    both = f"{accuracy['ours']:.3f} − {accuracy['rival']:.3f} = {accuracy['difference']:+.3f}"
    return f"{both}{_interval(accuracy['difference_ci95'], '{:+.3f}')}, n = {accuracy['n']:,}"


def _interval(interval: Sequence[float] | None, form: str) -> str:
    return "" if interval is None else f" ({form.format(interval[0])} to {form.format(interval[1])})"


def _number(value: float) -> str:
    """Three significant digits, thousands apart."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


def _origin(result: dict[str, Any]) -> str:
    """Where, when and by which code a result came about, in one line."""
    machine, ours, rivals = result["machine"], result["versions"]["ours"], result["versions"]["rivals"]
    code = (ours["commit"] or "no commit")[:12] + (" with uncommitted changes" if ours["dirty"] else "")
    theirs = ", ".join(f"{name} {rivals[name]}" for name in ("fastai", "timm", "torch") if rivals.get(name))
    busy = " The machine was at other work." if disturbed(result) else ""
    return (
        f"`{result['name']}`: {result['date'][:10]}, {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['gpu'] or 'no GPU'}, Python {result['versions']['python']}, torch {ours['torch']}, commit {code}; "
        f"rivals: {theirs or 'no environment'}; {result['state']} start.{busy}"
    )


def main(arguments: list[str] | None = None, root: Path = ROOT, results: Path = RESULTS) -> int:
    """Write the tables, or say which page is not what the results give."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.table", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 where a page differs"
    )
    options = parser.parse_args(arguments)
    found = load(results)
    stale = []
    for page, table in (("README.md", headlines(found)), ("benchmarks/README.md", everything(found))):
        path = root / page
        before = path.read_text(encoding="utf-8")
        after = replaced(before, table)
        if after != before:
            stale.append(page)
            if not options.check:
                path.write_text(after, encoding="utf-8")
    if stale and options.check:
        print(
            f"{', '.join(stale)} differ from benchmarks/results: run `python -m benchmarks.table`",
            file=sys.stderr,
        )
        return 1
    print(f"written: {', '.join(stale) or 'nothing, all is up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
