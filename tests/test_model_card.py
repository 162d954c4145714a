"""The model card: what it says is what lies in the workspace, and no name in it acts."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from markdown_it import MarkdownIt

from pipeline import artifacts
from pipeline.artifacts import Workspace, digest_file, digest_json
from pipeline.errors import DataError, ParamsError
from pipeline.model_card.card import card, gather
from pipeline.model_card.markdown import escaped
from pipeline.params import Data, Params, Serve, Source, Split
from pipeline.transfer.papers import chosen
from tests import tiny_bundle

HOSTILE = [
    "<script>alert(1)</script>",
    "[x](http://evil.example)",
    "![x](data:text/html,hi)",
    "http://evil.example/a_b_c",
    "www.evil.example",
    "someone@evil.example",
    "a | b | c",
    "`code`",
    "**bold** _it_ ~~gone~~",
    "first\n\n# second\n<img src=x onerror=alert(1)>",
    "&lt;b&gt;",
    "back\\slash \\[x]",
    "rtl\u202eevil",
]
PARAMS = Params(
    data=Data(
        sources=(Source(path="a", domain="line-a"), Source(path="b", domain="line-b")),
        group_pattern=r"(part-\d+)",
        licence="CC-BY-4.0",
    )
)


def markdown(text: str) -> str:
    """As GitHub and most viewers render it, HTML let through and plain addresses made links."""
    return str(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def split_rows() -> list[dict[str, Any]]:
    """12 red training images on line-a, 3 green on line-b, two test images of each."""
    rows = [("red", "line-a", "train")] * 12 + [("green", "line-b", "train")] * 3
    rows += (
        [("red", "line-a", "test")] * 2 + [("green", "line-b", "test")] * 2 + [("red", "line-a", "excluded")]
    )
    return [
        {"image_id": str(n), "path": f"{n}.png", "label": label, "domain": domain, "group": str(n),
         "split": split, "reason": "assigned", "width": 40 + n, "height": 30, "format": "PNG"}
        for n, (label, domain, split) in enumerate(rows)
    ]  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """What a release finds: a bundle with its papers, the verdict, the metrics, and the data it was made from."""
    workspace = Workspace(tmp_path, tmp_path / "var")
    rows = split_rows()
    for path, schema in ((workspace.split, artifacts.SPLIT), (workspace.manifest, artifacts.MANIFEST)):
        columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
        artifacts.write_table(path, pa.table(columns, schema=schema))
    tiny_bundle.make(workspace.bundle)
    seal(workspace)
    row = {"support": 2, "precision": 0.9, "recall": 0.8, "f1": 0.85, "recall_ci95": [0.5, 0.95]}
    metrics = {
        "test": {"n": 4, "groups": 4, "accuracy": 0.75, "accuracy_ci95": [0.3, 0.95], "ece": 0.125, "nll": 0.5,
                 "per_class": {"red": row, "green": row}},
        "by_domain": {"line-a": {"n": 2, "accuracy": 1.0, "accuracy_ci95": [0.34, 1.0]}},
    }  # fmt: skip
    artifacts.write_json(workspace.metrics, metrics)
    return workspace


def seal(workspace: Workspace, **changes: Any) -> str:
    """Write the bundle's papers and a verdict about it; its digest."""
    path = workspace.bundle / "bundle.json"
    digests = {name: digest_file(getattr(workspace, name)) for name in ("manifest", "split")}
    papers = {
        "digests": digests | {"params": digest_json(chosen(PARAMS)), "lock": None},
        "weights": {"name": "net", "licence": "apache-2.0", "source": "hub:timm/net", "digest": "f" * 64},
        "code": {"commit": "e" * 40, "dirty": True},
        "train": {"n": 15, "steps": 30},
        "report": "The probe was kept.",
        "validation": {"method": "vector", "n": 7},
    }
    artifacts.write_json(path, artifacts.read_json(path) | papers | changes)
    digest = digest_file(path)
    checks = [
        check("accuracy", "pass"),
        check("recall/green", "unknown", would_flip="18 more test images"),
        check("slice/brightness/low", "pass", kind="slice", value=0.625),
        check("robustness/fog", "pass", kind="robustness", value=-0.0625),
    ]
    verdict = {
        "decision": "PROMOTE",
        "summary": "PROMOTE: 3 of 4 checks pass.",
        "challenger": digest,
        "champion": None,
    }
    artifacts.write_json(workspace.verdict, verdict | {"checks": checks})
    return digest


def check(name: str, outcome: str, **more: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("value", "ci95", "bound", "support", "would_flip"))
    return (
        empty | {"name": name, "outcome": outcome, "kind": "absolute", "decides": False, "detail": ""} | more
    )


def made(workspace: Workspace, params: Params = PARAMS, approval: str | None = None) -> str:
    digest = artifacts.read_json(workspace.verdict)["challenger"]
    return card(gather(workspace, params, digest, approval))


def test_it_says_what_the_network_is_for_and_was_made_from(workspace: Workspace) -> None:
    text = made(workspace)
    data, training = section(text, "Intended data"), section(text, "Training")
    assert text.startswith("# Model card: probe on mean-colour")
    assert "red, green, blue" in text
    assert "| red | 12 | 0 | 2 |" in data
    assert "| green | 3 | 0 | 2 |" in data
    assert "| line-b | 3 | 0 | 2 |" in data
    assert "| all | 15 | 0 | 4 |" in data
    assert "40 to 58 px (median 49) wide and 30 px high, of the formats PNG" in data
    assert r"`(part-\d+)`" in data
    assert "strategy: probe, over 15 images, 30 steps" in training
    assert f"sha256 `{'f' * 64}`" in training
    assert f"commit `{'e' * 40}`, with uncommitted changes" in training
    assert "strategy: auto" in training
    assert "The probe was kept." in training


def test_it_says_what_the_network_is_worth_and_where_it_ends(workspace: Workspace) -> None:
    text = made(workspace)
    metrics, limits = section(text, "Metrics"), section(text, "Limits")
    assert "| accuracy | 0.750 | 0.300 to 0.950 |" in metrics
    assert "| line-a | 2 | 1.000 | 0.340 to 1.000 |" in metrics
    assert "| red | 2 | 0.800 | 0.500 to 0.950 | 0.900 | 0.850 |" in metrics
    assert "slice/brightness/low | 0.625" in metrics
    assert "a scale and a bias for each class" in section(text, "Calibration and abstention")
    assert "green (3), red (12)" in limits
    assert "line-a, line-b alone" in limits
    assert "Too few test images (under 20) to say much of: red, green" in limits
    assert "| recall/green |  |  |  |  | unknown; would flip it: 18 more test images |" in limits
    assert "robustness/fog | -0.062" in limits
    assert "never abstains" in text
    careful = Params(data=PARAMS.data, serve=Serve(abstain_below=0.7))
    assert "abstains below a confidence of 0.7" in made(workspace, careful)


def test_licences_are_stated_or_said_not_to_be(workspace: Workspace) -> None:
    licences = section(made(workspace), "Licences")
    assert "pretrained weights: apache-2.0" in licences
    assert "training data: CC-BY-4.0" in licences
    unstated = section(made(workspace, Params()), "Licences")
    assert "training data: not stated" in unstated
    seal(workspace, weights={"name": "net", "licence": None})
    assert "pretrained weights: not stated" in section(made(workspace), "Licences")
    with pytest.raises(ParamsError, match=r"data\.licence is empty"):
        Data(licence=" ")


def test_stating_a_licence_makes_no_other_network() -> None:
    assert chosen(PARAMS) == chosen(
        Params(data=Data(sources=PARAMS.data.sources, group_pattern=PARAMS.data.group_pattern))
    )
    assert chosen(PARAMS) != chosen(Params())


def test_counts_of_other_data_are_not_taken_for_its_own(workspace: Workspace) -> None:
    digests = {"manifest": "0" * 64, "split": "1" * 64, "params": "2" * 64}
    seal(workspace, digests=digests)
    text = made(workspace, Params(split=Split(test=0.3)))
    assert "not on record" in section(text, "Intended data")
    assert "| red | 12" not in text
    assert "no longer the one that it was trained with" in section(text, "Training")
    workspace.split.unlink()
    assert "not on record" in made(workspace)


def test_who_took_it_upon_themselves_is_told_why_not_by_whom(workspace: Workspace) -> None:
    assert "in spite of that: seen \\<b\\> on the line" in section(
        made(workspace, approval="seen <b> on the line"), "Verdict"
    )
    assert "in spite of" not in made(workspace)


def test_a_verdict_about_another_bundle_is_refused(workspace: Workspace) -> None:
    with pytest.raises(DataError, match="about another bundle than 999999999999"):
        gather(workspace, PARAMS, "9" * 64)


def test_the_same_facts_give_the_same_card(workspace: Workspace) -> None:
    assert made(workspace) == made(workspace)
    assert not re.search(r"20\d\d-\d\d-\d\d", made(workspace))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_the_same_text_everywhere(name: str) -> None:
    shown = "".join(sign for sign in " ".join(name.split()) if sign.isprintable())
    for context in (f"of {escaped(name)}.", f"- {escaped(name)}", f"| a |\n| --- |\n| {escaped(name)} |"):
        html = markdown(context)
        assert not re.search(r"<(?!/?(p|ul|li|table|thead|tbody|tr|th|td)\b)", html), html
        text = re.sub(r"<[^>]*>", "", html)
        for entity, sign in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
            text = text.replace(entity, sign)
        assert shown in text
    assert "://" not in escaped(name), "no viewer makes a link of it"


def test_a_card_of_hostile_names_holds_no_markup(workspace: Workspace) -> None:
    metrics = artifacts.read_json(workspace.metrics)
    row = metrics["test"]["per_class"]["red"]
    artifacts.write_json(
        workspace.metrics, metrics | {"test": metrics["test"] | {"per_class": dict.fromkeys(HOSTILE, row)}}
    )
    seal(workspace, classes=HOSTILE, backbone=HOSTILE[0], report=HOSTILE[9], strategy=HOSTILE[1])
    params = Params(data=Data(licence=HOSTILE[0], sources=PARAMS.data.sources))
    html = markdown(made(workspace, params, approval=HOSTILE[9]))
    assert not re.search(r"<(script|img|a|b|strong|em|s)\b", html)
    assert html.count("<h1>") == 1
    assert html.count("<th>class</th>") == 2
    assert len(re.findall(r"<tr>", html.split("<th>precision</th>")[1].split("</table>")[0])) == len(HOSTILE)
