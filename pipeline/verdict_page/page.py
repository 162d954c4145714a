"""The whole page, and how the gate writes it.

It needs nothing but itself: no script, no other file, no network, and it says so to the browser. The same inputs
give the same bytes, so no date is on it.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifacts import Workspace, write_text
from pipeline.params import Params
from pipeline.verdict_page.decision import TITLES, head, is_sound
from pipeline.verdict_page.paired import Parts, answers, pairs, section
from pipeline.verdict_page.pictures import changed, confident_errors, thumbnails
from pipeline.verdict_page.style import STYLE
from pipeline.verdict_page.table import tables
from pipeline.verdict_page.words import escaped, name

__all__ = ["Judged", "page", "write"]

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
UNSOUND = "The predictions can't be used, so nothing is drawn from them: mend what fails, then <code>dvc repro gate</code>."

LATER = (
    "Not in this table: whether the built Bento answers as the bundle does here. <code>python -m flows.release</code> tries "
    "that before the pointer moves and writes it down as <code>infra_validation</code>, in "
    "<code>var/registry/releases/</code>."
)


@dataclass(frozen=True)
class Judged:
    """What the verdict was passed on.

    Attributes:
        info: bundle.json, empty where the bundle is damaged.
        ours: the challenger's predictions (PREDICTIONS schema); of them the test images are shown.
        theirs: the champion's, empty where there is none.
        known: the champion's classes, in the order of its probabilities.
        masks: kind of slice → slice → which of the test images are in it [n, bool].
    """

    info: dict[str, Any]
    ours: pa.Table
    theirs: pa.Table
    known: Sequence[str]
    masks: Mapping[str, Mapping[str, np.ndarray]]


def write(workspace: Workspace, params: Params, verdict: dict[str, Any], judged: Judged) -> None:
    """``reports/verdict.html``, arguments as for :func:`page`. The page is not judged: where it can't be drawn, it says why."""
    try:
        text = page(workspace.root, params, verdict, judged)
    except Exception as error:  # whatever breaks a drawing must not cost the verdict
        print(f"warning: reports/verdict.html could not be drawn: {error!r}", file=sys.stderr)
        text = _document(
            verdict["decision"],
            f"<header><h1>{escaped(verdict['decision'])}</h1>\n<p>This page could not be drawn ({name(repr(error))}). "
            "The verdict itself is whole: <code>reports/verdict.json</code>.</p></header>",
        )
    write_text(workspace.verdict_page, text)


def page(root: Path, params: Params, verdict: dict[str, Any], judged: Judged) -> str:
    """The page as HTML.

    Args:
        root: where the images' relative paths begin.
        verdict: what verdict.json holds; its checks may be of kinds that this version does not know.
    """
    info, ours = judged.info, judged.ours
    sound = is_sound(verdict["checks"])
    test = ours.filter(pc.equal(ours["split"], "test")) if sound else ours.slice(0, 0)
    groups = len(set(test["group"].to_pylist()))
    said = answers(test, info.get("classes", []))
    found = pairs(said, judged.theirs, judged.known) if sound else []
    thumbnail = thumbnails(root, max_pixels=params.data.max_pixels, max_bytes=params.data.max_bytes)
    parts = [
        head(verdict, info, test.num_rows, groups),
        f"<h2>All checks</h2>\n{tables(verdict['checks'])}\n<p>{LATER}</p>",
    ]
    if not sound:
        parts.append(f"<h2>Challenger and champion</h2>\n<p>{UNSOUND}</p>")
    else:
        if verdict.get("champion"):
            parts.append(
                f"<h2>Challenger and champion</h2>\n{section(verdict['checks'], found, len(said) - len(found), _members(test, judged.masks))}"
            )
            parts.append(f"<h2>Images that changed their answer</h2>\n{changed(found, thumbnail)}")
        else:
            parts.append(
                "<h2>Challenger and champion</h2>\n<p>There is no champion yet: nothing to compare with.</p>"
            )
        parts.append(f"<h2>Most confident errors</h2>\n{confident_errors(said, found, thumbnail)}")
    parts.append(f"<h2>Where it comes from</h2>\n{_origin(verdict, info, params)}")
    return _document(verdict["decision"], "\n".join(parts))


def _members(test: pa.Table, masks: Mapping[str, Mapping[str, np.ndarray]]) -> Parts:
    """The images of each slice, and of each class."""
    ids, labels = (np.array(test[column].to_pylist(), dtype=object) for column in ("image_id", "label"))
    parts = {kind: {part: set(ids[rows]) for part, rows in slices.items()} for kind, slices in masks.items()}
    return parts | {"class": {label: set(ids[labels == label]) for label in set(labels)}}


def _document(decision: str, body: str) -> str:
    title = TITLES.get(decision, (decision, ""))[0]
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="UTF-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{escaped(POLICY)}"><meta name="referrer" content="no-referrer">
<title>{escaped(title)}</title><style>{STYLE}</style></head>
<body>
{body}
</body></html>
"""


def _origin(verdict: dict[str, Any], info: dict[str, Any], params: Params) -> str:
    weights, code, digests = (info.get(key) or {} for key in ("weights", "code", "digests"))
    trained = info.get("train") or {}
    commit = code.get("commit")
    dirty = ", with uncommitted changes" if code.get("dirty") else ""
    sources = ", ".join(f"{source.path} ({source.domain})" for source in params.data.sources)
    rows = {
        "challenger": verdict["challenger"],
        "champion": verdict.get("champion") or "none",
        "trained on": f"{trained['n']:,} images" if trained.get("n") else "not recorded",
        "code": f"commit {commit}{dirty}" if commit else "no git commit recorded",
        "data": sources,
        "licence of the data": params.data.licence or "not stated (data.licence in params.yaml)",
        "weights": f"{weights.get('name', 'not recorded')}, from {weights.get('source') or 'a place not recorded'}",
        "licence of the weights": weights.get("licence") or "not stated",
        **{f"digest of the {key}": value for key, value in digests.items() if value},
    }
    items = "".join(f"<dt>{escaped(key)}</dt><dd>{name(value)}</dd>" for key, value in rows.items())
    return (
        f"<dl>{items}</dl>\n<p>The same, for programs: <code>reports/verdict.json</code>, <code>reports/metrics.json</code>, "
        "<code>artifacts/predictions.parquet</code>.</p>"
    )
