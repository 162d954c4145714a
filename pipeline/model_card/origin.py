"""What a network was made from: images, weights, parameters, code, and their licences."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import yaml

from pipeline.artifacts import digest_json
from pipeline.assignments import SPLITS
from pipeline.model_card.facts import Facts
from pipeline.model_card.markdown import escaped, names, table
from pipeline.params import Params
from pipeline.transfer.papers import chosen

__all__ = ["data", "licences", "training"]


def data(facts: Facts) -> str:
    domains = [source.domain for source in facts.params.data.sources]
    size = facts.info["preprocessing"]["image_size"]
    lines = [
        "## Intended data",
        "",
        f"Images like those of {names(domains)}, each of exactly one of the classes, brought to {size} × {size} px.",
        "",
        f"Groups: {_groups(facts.params)}",
    ]
    if facts.split is None:
        return "\n".join([*lines, "", "The images by split are not on record where this card was made."])
    rows = [
        row for row in facts.split.select(["label", "domain", "split"]).to_pylist() if row["split"] in SPLITS
    ]
    for column in ("label", "domain"):
        lines += [
            "",
            _counts("class" if column == "label" else column, [(row[column], row["split"]) for row in rows]),
        ]
    if facts.manifest is not None:
        lines += ["", _sizes(facts.manifest, facts.split)]
    return "\n".join(lines)


def _groups(params: Params) -> str:
    near = ", and near-duplicates share one" if params.split.near_duplicates == "join" else ""
    if params.data.group_pattern is None:
        return f"each image is its own, unless the data name one{near}; a group lies in one split."
    pattern = f"`{params.data.group_pattern}`" if "`" not in params.data.group_pattern else "a pattern"
    return f"images whose paths match {pattern} alike (`data.group_pattern`) belong together{near}; a group lies in one split."


def _counts(title: str, cells: Sequence[tuple[str, str]]) -> str:
    """Images by name and split."""
    counted, total = Counter(cells), Counter(split for _, split in cells)
    rows = [
        (escaped(name), *(f"{counted[name, split]:,}" for split in SPLITS))
        for name in sorted({name for name, _ in cells})
    ]
    return table((title, *SPLITS), [*rows, ("all", *(f"{total[split]:,}" for split in SPLITS))])


def _sizes(manifest: pa.Table, split: pa.Table) -> str:
    used = {
        row["image_id"] for row in split.select(["image_id", "split"]).to_pylist() if row["split"] in SPLITS
    }
    columns = manifest.select(["image_id", "width", "height", "format"]).to_pylist()
    rows = [row for row in columns if row["image_id"] in used and row["width"]]
    if not rows:
        return "Image sizes are not on record."
    width, height = (_range(sorted(row[side] for row in rows)) for side in ("width", "height"))
    formats = sorted({row["format"] for row in rows})
    return f"As they came they were {width} wide and {height} high, of the formats {', '.join(map(escaped, formats))}."


def _range(sides: Sequence[int]) -> str:
    if sides[0] == sides[-1]:
        return f"{sides[0]:,} px"
    return f"{sides[0]:,} to {sides[-1]:,} px (median {sides[len(sides) // 2]:,})"


def training(facts: Facts) -> str:
    info, weights = facts.info, facts.info.get("weights") or {}
    code, digests = info.get("code") or {}, info.get("digests") or {}
    train = info.get("train") or {}
    commit = f"`{code['commit']}`" if code.get("commit") else "not recorded"
    lines = [
        "## Training",
        "",
        f"- strategy: {escaped(info.get('strategy'))}, over {train.get('n') or 'an unrecorded number of'} images, "
        f"{train.get('steps') or 'no'} steps",
        f"- backbone: {escaped(info.get('backbone'))}",
        f"- pretrained weights: {escaped(weights.get('name'))}, from {escaped(weights.get('source') or 'nowhere recorded')}, "
        f"sha256 `{weights.get('digest')}`",
        f"- code: commit {commit}{', with uncommitted changes' if code.get('dirty') else ''}",
        *(f"- {name}: sha256 `{value}`" for name, value in digests.items() if name != "weights" and value),
    ]
    if info.get("report"):
        lines += ["", f"What was tried, and why this was kept: {escaped(info['report'])}"]
    said = chosen(facts.params)
    if digest_json(said) != digests.get("params"):
        return "\n".join([*lines, "", "params.yaml is no longer the one that it was trained with."])
    shown = yaml.safe_dump({name: said[name] for name in ("seed", "model", "train")}, sort_keys=False)
    return "\n".join([*lines, "", "~~~~~~yaml", shown.rstrip(), "~~~~~~"])


def licences(facts: Facts) -> str:
    weights = (facts.info.get("weights") or {}).get("licence")
    data = facts.params.data.licence
    return "\n".join(
        [
            "## Licences",
            "",
            f"- pretrained weights: {escaped(weights) if weights else 'not stated'}",
            f"- training data: {escaped(data) if data else 'not stated (`data.licence` in params.yaml)'}",
            "",
            "What is made from both is bound by both.",
        ]
    )
