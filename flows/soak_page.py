"""The report of the soaked year as one HTML file that needs nothing else, light and dark."""

import html
from collections.abc import Sequence
from typing import Any

from flows.soak_plot import PLOT_STYLE, plot
from pipeline.verdict_page.style import STYLE

__all__ = ["REAL", "SIMULATED", "page"]

REAL = (
    "every bundle, and what it answers: each decodes every image that it is asked about, by its own ONNX network",
    "the prediction log, written by a process of its own that was killed by kill -9 in the middle of requests",
    "the watch, the policy, the journal, the label queue and the intake of labels",
    "every retrain: dvc's stages, the gate, the Bento, its sandbox, the shadow, the move of the pointer",
)
SIMULATED = (
    "the images: parts and cameras that the sample's generator renders, each regime a population of its own. No photograph "
    "is among them, so the accuracies say how the loop does, not how your images will",
    "the clock: it is set for whoever keeps state, and the watch wakes every six hours of it instead of every 15 minutes",
    "the network: a request is a line on the writer's standard input, not HTTP, and the champion's answer to an image is "
    "computed once, in a batch, and replayed; a challenger in shadow answers each request at once, so that its milliseconds "
    "are not comparable; no dashboard is drawn",
    "the people: they know the true classes, answer late, leave some open and get some wrong",
    "production: a regime is a few hundred images that come in random order; one that was labelled never comes again",
    "retention: images are as old as their files, so log.keep_days never passes",
)


def page(report: dict[str, Any], said: str) -> str:
    """The page of ``report`` (what soak.json holds), ``said`` in a sentence."""
    requests = report["requests"]
    bad = report["wrong_promotions"] or requests["lost"] or requests["doubled"] or requests["read_twice"]
    tone = "bad" if bad else "open" if report["without_alarm"]["real"] else "good"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="UTF-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Soak: a year of the loop</title><style>{STYLE}{PLOT_STYLE}</style></head>
<body><header class="{tone}"><h1>{report["days"]} days of the loop in {report["costs"]["all"]["seconds"] / 60:.0f} minutes</h1>
<p>{html.escape(said)}.</p></header>
{_figures(report)}
<h2>Accuracy by week</h2>
<p>Solid: the champion of the time, with its 95 % interval. Dashed: the first champion, on the same images, as if there were
no loop. Lines mark changes; a shaded one takes its time.</p>
{plot(report)}
<h2>What changed, and what came of it</h2>
{_table(("Change", "Kind", "Day", "Alarm after", "In words"), _change_rows(report))}
{_alarms_without_change(report)}
<h2>Accuracy between the changes</h2>
{_table(("Stretch", "Images", "With the loop", "Without"), _stretches(report))}
<h2>Retrains started</h2>
{_table(("Day", "Why", "Came to", "In words"), [(_day(r["day"]), r["reason"], r["outcome"], r["says"]) for r in report["retrains"]])}
<h2>What could have been done and was not</h2>
{_table(("Days", "Why", "Wake-ups", "In words"), [(f"{_day(s['day'])} to {_day(s['until_day'])}", s["why"], s["wake_ups"], s["says"]) for s in report["suppressed"]])}
<h2>Promotions</h2>
<p>Both models on the images of these days that nobody labelled; wrong is worse by more than the interval.</p>
{_table(("Day", "Champion", "Before", "After", "Difference, 95 %", "Wrong", "In words"), _promotions(report))}
<h2>Requests</h2>
{_definitions(report["requests"])}
<h2>What was done to it</h2>
{_definitions(report["faults"])}
<h2>The people</h2>
{_definitions(report["labels"])}
<h2>What it took</h2>
{_table(("Part", "Seconds", "CPU seconds"), [(part, f"{one['seconds']:.0f}", f"{one['cpu_seconds']:.0f}") for part, one in report["costs"].items()])}
<h2>What is real, and what is not</h2>
<h3>Real</h3>{_list(REAL)}<h3>Simulated</h3>{_list(SIMULATED)}
</body></html>
"""


def _figures(report: dict[str, Any]) -> str:
    year, requests = report["accuracy"]["year"], report["requests"]
    delays = sorted(
        alarm["delay_days"] for alarm in report["alarms"] if alarm["kind"] == "real" and not alarm["repeat"]
    )
    figures = [
        (f"{100 * year['with_loop']:.1f} %", "accuracy with the loop"),
        (f"{100 * year['without_loop']:.1f} %", "without"),
        (str(report["false_alarms"]), f"false alarms, of {len(report['alarms'])}"),
        (
            f"{delays[len(delays) // 2]:g} days" if delays else "none",
            f"from a real shift to its alarm, median of {len(delays)}; {len(report['without_alarm']['real'])} without one",
        ),
        (str(len(report["retrains"])), f"retrains, and {len(report['suppressed'])} times suppressed"),
        (str(report["wrong_promotions"]), f"wrong promotions, of {len(report['promotions'])}"),
        (str(requests["lost"]), f"of {requests['acknowledged']:,} requests lost"),
    ]
    return (
        '<ul class="figures">' + "".join(f"<li><b>{a}</b>{html.escape(b)}</li>" for a, b in figures) + "</ul>"
    )


def _change_rows(report: dict[str, Any]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for change in report["changes"]:
        own = [alarm for alarm in report["alarms"] if alarm["cause"] == change["name"]]
        after = f"{own[0]['delay_days']:g} days, {own[0]['images']} images" if own else "no alarm"
        more = f" ({len(own) - 1} more alarms later)" if len(own) > 1 else ""
        words = own[0]["words"] if own else _silent(report, change["day"])
        rows.append((change["says"], change["kind"], _day(change["day"]), after + more, words))
    return rows


def _silent(report: dict[str, Any], day: float) -> str:
    """Why a change raised no alarm: what the watch said while it was suppressed, or that it was not seen."""
    for run in report["suppressed"]:
        if run["day"] <= day <= run["until_day"]:
            return f"Suppressed: {run['says']}"
    return "The evidence reached no alarm."


def _alarms_without_change(report: dict[str, Any]) -> str:
    false = [alarm for alarm in report["alarms"] if alarm["cause"] is None]
    if not false:
        return "<p>No alarm was raised while nothing had changed.</p>"
    rows = [(_day(alarm["day"]), alarm["words"]) for alarm in false]
    return f"<h3>Alarms while nothing had changed</h3>{_table(('Day', 'In words'), rows)}"


def _stretches(report: dict[str, Any]) -> list[tuple[object, ...]]:
    return [
        (row["name"], row["n"], _share(row, "with_loop"), _share(row, "without_loop"))
        for row in report["accuracy"]["stretches"]
    ]


def _promotions(report: dict[str, Any]) -> list[tuple[object, ...]]:
    return [
        (
            _day(one["day"]),
            one["champion"][:12],
            f"{one['accuracy_before']:.3f}",
            f"{one['accuracy']:.3f} (n = {one['n']})",
            f"{one['difference_ci95'][0]:+.3f} to {one['difference_ci95'][1]:+.3f}",
            "WRONG" if one["wrong"] else "no",
            one["shadow"],
        )
        for one in report["promotions"]
    ]


def _share(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_ci95"]
    return f"{row[name]:.3f} ({low:.3f} to {high:.3f})"


def _day(day: float) -> str:
    return f"{day:.1f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return "<p>None.</p>"
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td data-column="{html.escape(name)}">{html.escape(str(value))}</td>'
            for name, value in zip(head, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    told = ' class="told"' if head[-1] == "In words" else ""
    return f"<table{told}><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _definitions(values: dict[str, Any]) -> str:
    return "<dl>" + "".join(
        f"<dt>{html.escape(name.replace('_', ' '))}</dt><dd>{html.escape(_told(value))}</dd>"
        for name, value in values.items()
    ) + "</dl>"  # fmt: skip


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(f"{entry['episode']}: {entry['why']}" for entry in value) or "none"
    return str(value)


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"
