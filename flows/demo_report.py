"""The demo's closing page: one self-contained HTML file, pictures embedded, readable in light and dark."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pipeline.artifacts import write_text

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6570;--line:#d8dee4;--paper:#fff;--card:#f6f8fa;--good:#1a7f37;--bad:#b42318}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa5b1;--line:#30363d;--paper:#0d1117;--card:#161b22;
--good:#3fb950;--bad:#ff7b72}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1000px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin:0 0 .3rem}h2{font-size:1.2rem;margin:2.2rem 0 .4rem}p{margin:.3rem 0 .8rem}.soft{color:var(--soft)}
table{border-collapse:collapse;width:100%;margin:.6rem 0}td,th{border-bottom:1px solid var(--line);padding:.35rem .6rem;text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.good{color:var(--good)}.bad{color:var(--bad)}
img{max-width:100%;border-radius:4px;background:#fff}figure{margin:.8rem 0}figcaption{color:var(--soft);font-size:.9rem}
.two{display:grid;grid-template-columns:1fr 1fr;gap:1rem}@media(max-width:700px){.two{grid-template-columns:1fr}}
pre{background:var(--card);padding:.7rem;overflow:auto;border-radius:4px;white-space:pre-wrap}
"""


@dataclass
class Story:
    """What the report tells; filled in as the demo goes."""

    summary: dict[str, Any]
    classes: list[str]
    samples: dict[str, list[tuple[Path, str]]] = field(default_factory=dict)  # camera → (image, class)
    queue: list[tuple[Path, str, str]] = field(default_factory=list)  # (image, why, answer)
    before: list[tuple[str, str]] = field(default_factory=list)  # (true, answered) on line-b
    after: list[tuple[str, str]] = field(default_factory=list)
    drift: list[tuple[int, float, str]] = field(default_factory=list)  # (images so far, e-value, camera)
    alarm_at: float = 100.0
    why: str = ""
    verdict: str = ""
    checks: list[dict[str, Any]] = field(default_factory=list)
    commands: list[tuple[str, str]] = field(default_factory=list)


def write_report(target: Path, story: Story) -> None:
    """Write the page at ``target``, atomically."""
    seconds = story.summary["seconds"]
    shift, second = story.summary["shift"], story.summary["second"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>visionloop demo</title><style>{STYLE}</style><h1>One turn of the loop</h1>",
        f"<p class=soft>{len(story.classes)} classes, two cameras, {sum(seconds.values()):.0f} s on this machine. "
        "The labels were answered from the sample's ground truth, in place of a person.</p>",
        _headline(story.summary),
        "<h2>1. Two cameras</h2><p>The first model learnt from line-a alone; then line-b's images arrived.</p>",
        "<div class=two>",
        *(
            _figure(_contact_sheet(images), f"{camera}: {_per_class(images)}")
            for camera, images in story.samples.items()
        ),
        "</div><h2>2. Quiet, then an alarm</h2>",
        f"<p>{html.escape(str(shift['explanation']))}</p>",
        _figure(
            _drift_plot(story),
            "Evidence against “production looks like the reference”, after each look at the log",
        ),
        f"<h2>3. What it asked for</h2><p>{len(story.queue)} images, part at random, part chosen.</p>",
        _figure(
            _queue_sheet(story.queue), "Some of the queue: why each image was asked for, and the answer given"
        ),
        "<h2>4. Before and after, on line-b images that nobody labelled</h2>",
        f"<p>Accuracy {_percent(shift['accuracy_new_domain'])} before, "
        f"{_percent(second['accuracy_new_domain'])} after; line-a kept {_percent(second['accuracy_old_domain'])}.</p>",
        "<div class=two>",
        _figure(_confusion(story.before, story.classes), "First champion"),
        _figure(_confusion(story.after, story.classes), "Retrained champion"),
        f"</div><h2>5. The second verdict</h2><p>{html.escape(story.verdict)}</p>",
        _checks(story.checks),
        f"<h2>6. Why it did what it did, the newest first</h2><pre>{html.escape(story.why)}</pre>",
        "<h2>7. Seconds</h2>",
        _seconds(seconds),
        "<h2>8. Look for yourself</h2><pre>"
        + html.escape("\n".join(f"{command}\n    # {what}" for command, what in story.commands))
        + "</pre></html>",
    ]
    write_text(target, "\n".join(parts))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _headline(summary: dict[str, Any]) -> str:
    shift, second = summary["shift"], summary["second"]
    rows = [
        (
            "First verdict, on line-a",
            summary["first"]["decision"],
            f"{_percent(summary['first']['accuracy'])} of line-a",
        ),
        ("Quiet traffic", f"{summary['quiet']['windows']} windows", f"{summary['quiet']['alarms']} alarms"),
        (
            "line-b arrives",
            f"alarm after {shift['images_to_alarm']} images",
            f"{_percent(shift['accuracy_new_domain'])} of line-b",
        ),
        ("Labels", f"{summary['labels']['asked']} asked", f"{summary['labels']['answered']} answered"),
        (
            "Second verdict, on both",
            second["decision"],
            f"{_percent(second['accuracy_new_domain'])} of line-b",
        ),
        ("Rollback, and forward again", "works" if summary["rollback"]["ok"] else "FAILED", ""),
    ]
    body = "".join(f"<tr><td>{a}<td>{html.escape(str(b))}<td class=n>{c}" for a, b, c in rows)
    return f"<table><tr><th>Station<th>Result<th class=n>Accuracy or count{body}</table>"


def _seconds(seconds: dict[str, float]) -> str:
    body = "".join(f"<tr><td>{html.escape(step)}<td class=n>{value:.1f}" for step, value in seconds.items())
    return f"<table><tr><th>Step<th class=n>Seconds{body}</table>"


def _checks(checks: Sequence[dict[str, Any]]) -> str:
    def number(value: Any) -> str:
        return (
            f"{value:.3f}"
            if isinstance(value, float)
            else html.escape(str(value))
            if value is not None
            else ""
        )

    rows = []
    for check in checks:
        tone = {"pass": "good", "fail": "bad"}.get(check["outcome"], "soft")
        interval = check.get("ci95") or []
        shown = " to ".join(f"{edge:.3f}" for edge in interval if edge is not None)
        rows.append(
            f"<tr><td>{html.escape(check['name'])}<td class={tone}>{check['outcome']}"
            f"<td class=n>{number(check.get('value'))}<td class=n>{shown}<td class=n>{number(check.get('bound'))}"
            f"<td class=n>{number(check.get('support'))}"
        )
    head = "<tr><th>Check<th>Outcome<th class=n>Value<th class=n>95 % interval<th class=n>Bound<th class=n>Images"
    return f"<table>{head}{''.join(rows)}</table>"


def _per_class(images: Sequence[tuple[Path, str]]) -> str:
    return ", ".join(html.escape(name) for name in dict.fromkeys(label for _, label in images))


def _figure(data: tuple[str, bytes], caption: str) -> str:
    kind, body = data
    source = f"data:image/{kind};base64,{base64.b64encode(body).decode()}"
    return f"<figure><img alt='{html.escape(caption, quote=True)}' src='{source}'><figcaption>{caption}</figcaption></figure>"


def _tiles(images: Sequence[tuple[Path, str]], columns: int, side: int = 104) -> tuple[str, bytes]:
    rows = max(1, -(-len(images) // columns))
    sheet = Image.new("RGB", (columns * (side + 6), rows * (side + 22)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (path, caption) in enumerate(images):
        x, y = (place % columns) * (side + 6), (place // columns) * (side + 22)
        with Image.open(path) as image:
            sheet.paste(image.convert("RGB").resize((side, side)), (x + 3, y + 3))
        draw.text((x + 4, y + side + 5), caption[:20], fill="black")
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=85)
    return "jpeg", buffer.getvalue()


def _contact_sheet(images: Sequence[tuple[Path, str]]) -> tuple[str, bytes]:
    return _tiles(images, columns=4)


def _queue_sheet(queue: Sequence[tuple[Path, str, str]]) -> tuple[str, bytes]:
    """A row of eight for each reason, as far as three rows go."""
    reasons = dict.fromkeys(why for _, why, _ in queue)
    each = 24 // max(1, len(reasons))
    shown = [entry for reason in reasons for entry in [e for e in queue if e[1] == reason][:each]]
    return _tiles([(path, f"{why}: {answer}") for path, why, answer in shown], columns=8)


def _plot(draw: Any, width: float, height: float) -> tuple[str, bytes]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), dpi=140)
    draw(axes)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pyplot.close(figure)
    return "png", buffer.getvalue()


def _drift_plot(story: Story) -> tuple[str, bytes]:
    def draw(axes: Any) -> None:
        seen = [images for images, _, _ in story.drift]
        values = [max(value, 1e-3) for _, value, _ in story.drift]
        axes.plot(seen, values, color="#57606a", linewidth=1)
        for camera, colour in (("line-a", "#0969da"), ("line-b", "#cf222e")):
            chosen = [place for place, entry in enumerate(story.drift) if entry[2] == camera]
            axes.scatter(
                [seen[i] for i in chosen], [values[i] for i in chosen], color=colour, label=camera, zorder=3
            )
        axes.axhline(story.alarm_at, color="#cf222e", linestyle="--", linewidth=1)
        label = f"alarm at {story.alarm_at:.0f}"
        axes.annotate(
            label, (0.99, story.alarm_at), xycoords=("axes fraction", "data"),
            xytext=(0, 4), textcoords="offset points", ha="right", color="#cf222e",
        )  # fmt: skip
        axes.set(xlabel="production images seen", ylabel="e-value (log scale, up to 10¹²)", yscale="log")
        axes.legend(title="camera", loc="upper left")

    return _plot(draw, 9, 3.4)


def _confusion(answers: Sequence[tuple[str, str]], classes: Sequence[str]) -> tuple[str, bytes]:
    place = {name: index for index, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    for label, answered in answers:
        counts[place[label], place[answered]] += 1

    def draw(axes: Any) -> None:
        share = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        axes.set(xlabel="answered", ylabel="true class")
        for row, column in np.ndindex(counts.shape):
            if counts[row, column]:
                tone = "white" if share[row, column] > 0.5 else "black"
                axes.text(
                    column, row, str(counts[row, column]), ha="center", va="center", color=tone, fontsize=8
                )

    return _plot(draw, 4.6, 4.2)
