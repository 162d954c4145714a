"""Great Expectations' Data Docs, made readable on a machine without a network.

Its pages take their styles, icons and scripts from other people's servers: offline they are bare text,
the index is empty, and online they tell those servers who looks. Here the outside references go, a small
style sheet stands in for them, and the index becomes the table of all checks.
"""

import html
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Row", "make_readable"]

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --good: #1a7f37; --bad: #c62828; --warn: #b26a00; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1180px; padding: 0 1rem 3rem; }
h1 { font-size: 1.4rem; margin: 1.5rem 0 .3rem; } h4, h5, h6 { font-size: 1rem; margin: 0; }
a { color: #2563eb; } ol, ul { list-style: none; padding: 0; margin: 0; }
table { border-collapse: collapse; width: 100%; } thead[hidden] { display: none; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem; border-bottom: 1px solid var(--line); }
th { background: var(--soft); font-weight: 600; }
.wide { overflow-x: auto; font-size: .85rem; } .wide th, .wide td { padding: .35rem .45rem; }
.breadcrumb { display: flex; gap: .6rem; padding: .8rem 0; }
.row { display: block; } .sticky { position: static; }
.alert { background: var(--soft); border-left: 4px solid #888; padding: .5rem .8rem; margin-top: 1.4rem; }
.card { border: 1px solid var(--line); border-radius: 4px; margin: .6rem 0; padding: .4rem .8rem; }
#navigation ul { column-width: 15rem; } #navigation a { text-decoration: none; }
.badge { background: #8883; border-radius: 3px; padding: 0 .35rem; }
.text-success, .ok { color: var(--good); } .text-danger, .FAIL { color: var(--bad); } .warn { color: var(--warn); }
.ok, .FAIL, .warn { font-weight: 600; }
i.fas { font-style: normal; font-weight: 700; } i.fa-check-circle::before { content: "\\2713"; }
i.fa-times::before { content: "\\2717"; } i.fa-exclamation-triangle::before { content: "!"; }
.table-bordered { width: auto; margin-top: .5rem; font-size: .9rem; }
#section-1-content-block-3, .sticky > .mb-3, .lead, .cooltip .top, td > .show-scrollbars > br { display: none; }
"""

_OUTSIDE = (
    r"<link\b[^>]*href=\"https?:[^>]*>",
    r"<script\b[^>]*src=\"https?:[^>]*>\s*</script>",
    r"<script\b.*?</script>",  # what is left needs the libraries that went
    r"<footer\b.*?</footer>",
    r"<div class=\"float-left navbar-brand.*?</div>",  # the logo, from elsewhere
)


@dataclass(frozen=True, slots=True)
class Row:
    """One check on the index: ``result`` is ok, warn or FAIL, ``cases`` name images and what is wrong."""

    result: str
    name: str
    says: str
    observed: str
    cases: list[str]


def make_readable(folder: Path, rows: list[Row], more: str = "") -> None:
    """Rewrite the site in ``folder``: its pages free of outside references, its index a table of ``rows``.

    ``more`` is HTML that follows the cases on the index.
    """
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for pattern in _OUTSIDE:
            text = re.sub(pattern, "", text, flags=re.DOTALL)
        text = re.sub(r"<style\b.*?</style>", "", text, flags=re.DOTALL)
        text = re.sub(r"([\d.]+)% null<", r"\1% without a finding<", text)
        page.write_text(text.replace("</head>", f"<style>{STYLE}</style></head>", 1), encoding="utf-8")
    results = sorted(folder.glob("validations/**/*.html"))
    (folder / "index.html").write_text(
        _index(rows, results[-1].relative_to(folder).as_posix(), more), encoding="utf-8"
    )


def _index(rows: list[Row], results: str, more: str) -> str:
    failed, warned = (sum(row.result == result for row in rows) for result in ("FAIL", "warn"))
    table = "\n".join(
        f'<tr><td class="{row.result}">{row.result}</td><td>{html.escape(row.name)}</td>'
        f"<td>{html.escape(row.says)}</td><td>{html.escape(row.observed)}</td></tr>"
        for row in rows
    )
    cases = "\n".join(
        f'<div class="alert"><h5><span class="{row.result}">{row.result}</span> {html.escape(row.name)}: '
        f"{html.escape(row.says)}</h5></div><table>"
        + "".join(f"<tr><td>{html.escape(case)}</td></tr>" for case in row.cases)
        + "</table>"
        for row in rows
        if row.cases
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="UTF-8"><title>Validation of the manifest</title><style>{STYLE}</style></head>
<body><h1>Validation of the manifest: {len(rows) - failed - warned} of {len(rows)} checks hold, {failed} fail, {warned} warn</h1>
<p><a href="{html.escape(results)}">Each check with its values</a> (there, a warning counts as failed)</p>
<table><thead><tr><th>Result</th><th>Check</th><th>What must hold</th><th>Observed</th></tr></thead>
<tbody>
{table}
</tbody></table>
{cases}
{more}
</body></html>
"""
