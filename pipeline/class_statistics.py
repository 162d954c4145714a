"""How the images of each class look, in numbers: reports/class_statistics.csv and the same in Data Docs."""

import csv
import html
import io
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts import STATISTICS, safe_cell

__all__ = ["class_statistics", "statistics_csv", "statistics_html"]

MEASURES = (*STATISTICS, "width", "height", "bytes")
SHOWN = 200  # classes on the page; the table has all


def class_statistics(manifest: pa.Table) -> list[dict[str, Any]]:
    """A row per domain and class: images, groups, undecodable files, formats, and 10 %, 50 % and 90 % quantiles."""
    codes: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(
        zip(manifest["domain"].to_pylist(), manifest["label"].to_pylist(), strict=True)
    ):
        codes.setdefault(key, []).append(row)
    sound = np.asarray(manifest["error"].is_null())
    numbers = {name: manifest[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in MEASURES}
    groups, formats = manifest["group"].to_pylist(), manifest["format"].to_pylist()
    table = []
    for (domain, label), rows in sorted(codes.items(), key=lambda item: (item[0][0], item[0][1] or "")):
        good = np.array([row for row in rows if sound[row]], dtype=np.int64)
        kinds = Counter(formats[row] for row in good)
        line: dict[str, Any] = {
            "domain": domain,
            "label": label,
            "images": len(rows),
            "share": round(len(rows) / manifest.num_rows, 6),
            "groups": len({groups[row] for row in rows}),
            "undecodable": len(rows) - len(good),
            "formats": " ".join(f"{name}:{count}" for name, count in sorted(kinds.items())),
        }
        for name in MEASURES:
            found = np.quantile(numbers[name][good], (0.1, 0.5, 0.9)) if len(good) else (None, None, None)
            for mark, value in zip(("p10", "median", "p90"), found, strict=True):
                line[f"{name}_{mark}"] = None if value is None else float(f"{value:.5g}")
        table.append(line)
    return table


def statistics_csv(table: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table[0])
    for line in table:
        writer.writerow([safe_cell(value) if isinstance(value, str) else value for value in line.values()])
    return stream.getvalue()


def statistics_html(table: list[dict[str, Any]]) -> str:
    """The counts and medians as a section of a page; texts stay texts."""
    names = [
        "domain",
        "label",
        "images",
        "groups",
        "undecodable",
        "formats",
        *(f"{name}_median" for name in MEASURES),
    ]
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in names)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{_cell(line[name])}</td>" for name in names) + "</tr>"
        for line in table[:SHOWN]
    )
    more = f" (the first {SHOWN} of {len(table):,})" if len(table) > SHOWN else ""
    return (
        f'<div class="alert"><h5>Statistics by class{more}</h5></div><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return html.escape("".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in value))
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
