"""params.yaml: what is refused, and with which words."""

from pathlib import Path

import pytest
import yaml
from ruamel.yaml import YAML

from pipeline.errors import ParamsError
from pipeline.params import Params
from pipeline.params.yaml_1_2 import parse

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
        ("train: {folds: 2}\nseed: 1\ntrain: {epochs: 2}", ["not YAML", "'train' is there twice"]),
        ("seed: -1", ["seed is -1", "between 0 and 4294967295"]),
        ("seed: 4294967296", ["seed is 4294967296"]),
        ("train: {batch_size: big}", ["train.batch_size is 'big'", "a whole number or auto"]),
        ("train: {learning_rate: .nan}", ["train.learning_rate is nan", "finite"]),
        ("train: {learning_rate: fast}", ["must be a number or null"]),
        ("release: {git_commit: yes}", ["release.git_commit is 'yes'", "true or false"]),
        ("train: {mix: 1.0e-300}", ["train.mix is 1e-300"]),
        ("train: {target: ''}", ["train.target is empty"]),
        ("model: {weights: ''}", ["model.weights is empty"]),
        ("data: {sources: [{path: ''}]}", ["path is empty"]),
        ("bundle: {max_parity_error: -1}", ["bundle.max_parity_error is -1"]),
        ("release: {sandbox_timeout_seconds: -5}", ["release.sandbox_timeout_seconds"]),
        ("serve: {max_pixels: 0}", ["serve.max_pixels must be at least 1"]),
        ("log: {max_bytes: -1}", ["log.max_bytes"]),
        ("validate: {severity: {label_set: loud}}", ["loud", "fail or warn"]),
    ],
)
def test_bad_params_are_refused_with_the_way_out(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ParamsError) as caught:
        load(tmp_path, text)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"), [("5e-05", 5e-5), ("1e-3", 1e-3), ("2.0e-4", 2e-4), ("1", 1.0), (".5", 0.5)]
)
def test_numbers_are_read_as_dvc_reads_and_writes_them(tmp_path: Path, text: str, value: float) -> None:
    assert load(tmp_path, f"train: {{learning_rate: {text}}}").train.learning_rate == value


@pytest.mark.parametrize("word", ["on", "off", "auto", "'off'"])
def test_a_word_stays_a_word_where_yaml_1_1_has_a_truth_value(tmp_path: Path, word: str) -> None:
    assert load(tmp_path, f"train: {{compile: {word}}}").train.compile == word.strip("'")


def test_every_value_that_dvc_can_write_is_read_as_dvc_reads_it() -> None:
    for text in (
        "5e-05",
        "1e30",
        "5.",
        "-3",
        "1_000",
        "010",
        "0x1F",
        "0o17",
        "1:30",
        "-.inf",
        "~",
        "yes",
        "'1'",
    ):
        ours, dvcs = parse(text), YAML(typ="safe").load(text)
        assert (ours, type(ours)) == (dvcs, type(dvcs)), text


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="run from the workspace's root"):
        Params.load(tmp_path / "params.yaml")
