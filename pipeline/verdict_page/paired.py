"""Challenger and champion, image by image: who changed to right, who to wrong, over all and by part."""

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.metrics import probability_matrix
from pipeline.verdict_page.plots import COUNTS, difference, shares, span
from pipeline.verdict_page.words import Check, escaped, interval, name, number, outcome, rank, tone

__all__ = ["Answer", "Pair", "Parts", "answers", "pairs", "section"]

SHOWN = 8  # parts of a kind that are not folded
WHERE = "How much better (right) or worse (left)"

Parts = Mapping[str, Mapping[str, Container[str]]]  # kind of part → part → the ids of its images


@dataclass(frozen=True)
class Answer:
    """What one network said of one image."""

    image_id: str
    path: str
    label: str
    domain: str
    predicted: str
    confidence: float
    truth: float  # probability of the label
    right: bool


@dataclass(frozen=True)
class Pair:
    """What both said of one image."""

    champion: Answer
    challenger: Answer

    @property
    def kind(self) -> str:
        """One of :data:`COUNTS`."""
        if self.champion.right == self.challenger.right:
            return "both right" if self.challenger.right else "both wrong"
        return "newly right" if self.challenger.right else "newly wrong"

    @property
    def shift(self) -> float:
        """By how much the probability of the label has changed, 0 to 1."""
        return abs(self.challenger.truth - self.champion.truth)


def answers(test: pa.Table, classes: Sequence[str]) -> list[Answer]:
    """The rows of ``test`` (PREDICTIONS schema, all labels among ``classes``)."""
    place = {label: code for code, label in enumerate(classes)}
    shares_ = probability_matrix(test) if test.num_rows else ()
    columns = ("image_id", "path", "label", "domain", "predicted", "confidence", "correct")
    rows = zip(*(test[column].to_pylist() for column in columns), shares_, strict=True)
    return [
        Answer(image_id, path, label, domain, predicted, confidence, float(share[place[label]]), right)
        for image_id, path, label, domain, predicted, confidence, right, share in rows
    ]


def pairs(challenger: Iterable[Answer], champion: pa.Table, known: Sequence[str]) -> list[Pair]:
    """Both answers to each image of the classes that the champion ``known``; the others were never its task."""
    table = champion.take(
        pa.array([row for row, label in enumerate(champion["label"].to_pylist()) if label in set(known)], pa.int64())
    )  # fmt: skip
    theirs = {answer.image_id: answer for answer in answers(table, known)}
    return [Pair(theirs[ours.image_id], ours) for ours in challenger if ours.image_id in theirs]


def section(checks: Sequence[Check], found: Sequence[Pair], left_out: int, parts: Parts) -> str:
    """The comparison over all images and by part; ``left_out`` images are of classes that the champion does not know."""
    compared = [check for check in checks if str(check["name"]).split("/")[0] == "noninferiority"]
    if not found or not compared:
        return "<p>There is no test image of a class that the champion knows: nothing can be compared.</p>"
    new = f" {left_out:,} more are of classes that the champion does not know." if left_out else ""
    return "\n".join(
        [
            f"<p>Both were asked about the same {len(found):,} test images.{new}</p>",
            _overall(found),
            _parts(compared, found, parts),
        ]
    )


def _count(found: Iterable[Pair]) -> list[int]:
    kinds = [pair.kind for pair in found]
    return [kinds.count(kind) for kind in COUNTS]


def _overall(found: Sequence[Pair]) -> str:
    counts = _count(found)
    legend = "".join(
        f'<li><i class="{kind.replace(" ", "-")}"></i><b>{count:,}</b> {kind}</li>'
        for kind, count in zip(COUNTS, counts, strict=True)
    )
    return (
        f'{shares(counts)}<ul class="legend">{legend}</ul>\n'
        "<p><small>A dashed line is the margin, a thin one no difference; left is worse. All images are judged by the one-sided 95 % bound, which is nearer than the drawn interval's end; a part "
        "counts against the challenger only where a loss beyond the margin is likely or proven.</small></p>"
    )


def _parts(compared: Sequence[Check], found: Sequence[Pair], parts: Parts) -> str:
    reach = span(compared)
    kinds: dict[str, list[Check]] = {}
    for check in compared:
        kinds.setdefault(check["name"].split("/", 2)[1] if "/" in check["name"] else "", []).append(check)
    text = []
    for kind, members in kinds.items():
        ordered = sorted(members, key=lambda check: (rank(check), check.get("value") or 0.0))
        rows = [_row(check, found, parts, reach) for check in ordered]
        title = f"By {kind.replace('_', ' ')}" if kind else "Over all images"
        text.append(f"<h3>{escaped(title)}</h3>\n{_table(rows[:SHOWN], ordered[0], reach)}")
        if rows[SHOWN:]:
            folded = _table(rows[SHOWN:], ordered[0], reach)
            text.append(f"<details><summary>{len(rows) - SHOWN} more</summary>\n{folded}</details>")
    return "\n".join(text)


def _table(rows: Sequence[str], check: Check, reach: float) -> str:
    head = "".join(
        f'<th scope="col">{column}</th>'
        for column in (
            "Part",
            "Outcome",
            "Newly right",
            "Newly wrong",
            "Both right",
            "Both wrong",
            "Difference (95 % interval)",
        )
    )
    margin = f"margin {number(check['bound'], signed=True)}" if check.get("bound") is not None else ""
    scale = (
        f"<span>{number(-reach, signed=True)}</span><span>0</span><span>{number(reach, signed=True)}</span>"
    )
    head += f'<th scope="col" class="axis">{WHERE}; dashed: {margin}<div>{scale}</div></th>'
    return f'<table class="paired"><thead><tr>{head}</tr></thead><tbody>\n{"".join(rows)}\n</tbody></table>'


def _row(check: Check, found: Sequence[Pair], parts: Parts, reach: float) -> str:
    _, kind, part = (*str(check["name"]).split("/", 2), "", "")[:3]
    counts = _counts_of(kind, part, check, found, parts)
    title = name(part) if part else "All images"
    support = f" <small>{check['support']:,} images</small>" if check.get("support") is not None else ""
    cells = [f'<td data-column="Outcome">{escaped(outcome(check))}</td>']
    cells += [
        f'<td class="count" data-column="{column.capitalize()}">{"" if count is None else f"{count:,}"}</td>'
        for column, count in counts
    ]
    value, ends = number(check.get("value"), signed=True), interval(check.get("ci95"), signed=True)
    cells.append(f'<td data-column="Difference">{value} <small>{ends}</small></td>')
    cells.append(f'<td data-column="{WHERE}">{difference(check, reach)}</td>')
    return f'<tr class="{tone(check)}"><th scope="row">{title}{support}</th>{"".join(cells)}</tr>\n'


def _counts_of(
    kind: str, part: str, check: Check, found: Sequence[Pair], parts: Parts
) -> list[tuple[str, int | None]]:
    """Newly right, newly wrong, both right, both wrong; where the part's images are not named, what the check says."""
    order = ("newly right", "newly wrong", "both right", "both wrong")
    members = parts.get(kind, {}).get(part)
    if kind and members is None:
        said = re.fullmatch(r"(\d+) newly right, (\d+) newly wrong", str(check.get("detail", "")))
        known: list[int | None] = [int(count) for count in said.groups()] if said else [None, None]
        return list(zip(order, [*known, None, None], strict=True))
    chosen = [pair for pair in found if members is None or pair.challenger.image_id in members]
    counts = dict(zip(COUNTS, _count(chosen), strict=True))
    return [(column, counts[column]) for column in order]
