"""params.yaml: what is refused, and with which words."""

from pathlib import Path

import pytest
import yaml

from pipeline.errors import ParamsError
from pipeline.params import Params

ROOT = Path(__file__).resolve().parent.parent


def load(tmp_path: Path, text: str) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return Params.load(path)


def test_the_shipped_file_loads_and_names_every_key(tmp_path: Path) -> None:
    import dataclasses

    params = Params.load(ROOT / "params.yaml")
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section in dataclasses.fields(Params):
        if section.name != "seed":
            names = {entry.name for entry in dataclasses.fields(getattr(params, section.name))}
            assert set(shipped[section.name]) == names, section.name


def test_left_out_sections_take_their_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "seed: 3\n").gate.min_accuracy == 0.8
    assert load(tmp_path, "gate: {min_accuracy: 1}\n").gate.min_accuracy == 1.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trian: {}", ["trian", "did you mean 'train'"]),
        ("train: {epoch: 3}", ["train", "epoch", "did you mean 'epochs'"]),
        ("train: {strategy: finetun}", ["train.strategy", "did you mean 'finetune'"]),
        ("train: {epochs: many}", ["train.epochs", "many"]),
        ("train: {epochs: true}", ["train.epochs"]),
        ("gate: {min_accuracy: 80}", ["gate.min_accuracy", "between 0 and 1"]),
        ("gate: {min_accuracy: .nan}", ["gate.min_accuracy", "finite"]),
        ("split: {validation: 0.6, test: 0.6}", ["leave room for train"]),
        ("split: {pattern: 'no-group'}", ["split.pattern", "group in parentheses"]),
        ("split: {pattern: '('}", ["split.pattern", "regular expression"]),
        ("data: {sources: []}", ["data.sources is empty"]),
        ("data: {sources: [{domain: x}]}", ["data.sources[0]", "'path' is missing"]),
        ("data: {sources: [{path: a, domain: ../x}]}", ["../x"]),
        ("data: {sources: [{path: a, domain: x}, {path: b, domain: x}]}", ["share a domain"]),
        ("data: [1]", ["data must be a mapping"]),
        ("watch: {alpha: 0}", ["watch.alpha"]),
        ("a: [", ["not YAML"]),
        ("validate: {severity: {label_set: loud}}", ["loud", "fail or warn"]),
    ],
)
def test_bad_params_are_refused_with_the_way_out(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ParamsError) as caught:
        load(tmp_path, text)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="run from the workspace's root"):
        Params.load(tmp_path / "params.yaml")
