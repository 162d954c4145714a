"""The profile of a first version: silent about another draw of the same data, loud about what has changed."""

import json
import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flows.first_profile import keep_first_profile
from pipeline.artifacts import MANIFEST, Workspace, digest_file, read_json, write_json, write_table
from pipeline.drifted import drift, read_suite, unlike
from pipeline.errors import DataError, ParamsError
from pipeline.expectations import checks
from pipeline.params import Params, Validate
from pipeline.profile import profile, run
from pipeline.registry import Registry
from tests import tiny_bundle

great_expectations = pytest.mark.filterwarnings("ignore")


def manifest(seed: int, groups: int = 150, shots: int = 4, **changes: Any) -> pa.Table:
    """Shots of one part are nearly alike; ``changes`` replace columns, by a value or a function of the old one."""
    rng = np.random.default_rng(seed)
    rows = []
    for group in range(groups):
        label, light = "abc"[rng.integers(3)], rng.normal(0.5, 0.08)
        for shot in range(shots):
            row: dict[str, Any] = dict.fromkeys(MANIFEST.names)
            name = f"{seed}-{group}-{shot}"
            row |= {
                "image_id": rng.bytes(32).hex(), "path": f"data/{label}/{name}.jpg", "label": label, "domain": "line",
                "group": f"line/part-{seed}-{group}", "width": 640, "height": 480, "mode": "RGB", "format": "JPEG",
                "orientation": 1, "bits": 8, "bytes": 50_000, "dhash": rng.bytes(32).hex(),
                "thumbnail": rng.bytes(256), "border": rng.bytes(192), "corners": rng.bytes(192),
                "brightness": float(np.clip(light + rng.normal(0, 0.005), 0, 1)), "contrast": float(rng.normal(0.2, 0.03)),
                "sharpness": float(rng.normal(2, 0.2)), "saturation": float(rng.normal(0.3, 0.05)),
            }  # fmt: skip
            row |= {key: change(row[key]) if callable(change) else change for key, change in changes.items()}
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=MANIFEST)


def broken(table: pa.Table, suite: dict[str, Any]) -> set[str]:
    """The checks of the suite that do not hold: what Great Expectations would say, without its start."""
    found = {
        f"profile of {column.split(',')[0]}" for column, texts in unlike(table, suite).items() if any(texts)
    }
    for expectation in suite["expectations"]:
        wanted = expectation["kwargs"]
        if "quantile_ranges" not in wanted:
            continue
        values = table[wanted["column"]].to_numpy()
        ranges = wanted["quantile_ranges"]
        for quantile, (low, high) in zip(ranges["quantiles"], ranges["value_ranges"], strict=True):
            value = np.quantile(values, quantile)
            if (low is not None and value < low) or (high is not None and value > high):
                found.add(f"profile of {wanted['column']}")
    return found


def differences(table: pa.Table, suite: dict[str, Any]) -> list[str]:
    return [text for text in drift(table, suite)[0] if text]


def test_another_draw_of_the_same_data_is_seldom_warned_of() -> None:
    suite_wrong = new_wrong = 0
    for seed in range(60):
        suite = profile(manifest(2 * seed))
        other = manifest(2 * seed + 1)
        suite_wrong += bool(broken(other, suite))
        new_wrong += bool(differences(other, suite))
    assert suite_wrong <= 2
    assert new_wrong <= 3


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("brightness", lambda value: value * 0.85),
        ("sharpness", lambda value: value - 0.3),
        ("width", 320),
        ("format", "WEBP"),
        ("bits", 16),
        ("label", lambda label: "a" if label == "c" and random.Random(1).random() < 2 else label),
        ("label", "new class"),
    ],
)
def test_what_has_changed_is_found_in_the_whole_and_in_the_new(column: str, change: Any) -> None:
    suite = profile(manifest(0))
    later = manifest(1, **{column: change})
    assert broken(later, suite) == {f"profile of {column}"}
    said = differences(later, suite)
    assert said
    assert all(text.startswith(column) for text in said), said
    assert all("p " in text for text in said)


def test_few_dark_images_among_many_are_found_as_new_ones_only() -> None:
    first = manifest(0, groups=400)
    suite = profile(first)
    assert drift(first, suite) == ([None] * first.num_rows, "0 images in 0 groups are new since the profile")
    both = pa.concat_tables([first, manifest(1, groups=25, brightness=lambda value: value * 0.7)])
    assert not broken(both, suite)
    texts, what = drift(both, suite)
    assert what == "100 images in 25 groups are new since the profile"
    (text,) = filter(None, texts)
    assert text.startswith("brightness: median 0.3")
    assert "deviations" in text
    assert texts.index(text) >= first.num_rows  # the image that shows it is a new one


def test_shots_of_few_parts_are_too_few_to_say() -> None:
    """A hundred dark shots of five parts are five dark parts."""
    both = pa.concat_tables([(first := manifest(0)), manifest(1, groups=5, shots=20, brightness=0.1)])
    texts, what = drift(both, profile(first))
    assert not any(texts)
    assert "too few to say" in what


def test_a_class_that_is_gone_is_named() -> None:
    suite = profile(manifest(0))
    later = manifest(1, label=lambda label: "b" if label == "c" else label)
    texts = [text for text in unlike(later, suite)["label, unlike the profile"] if text]
    assert any("'c' is gone" in text for text in texts)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    place = Workspace(tmp_path, tmp_path / "var")
    write_json(place.params, {"data": {"sources": [{"path": "data", "domain": "line"}]}})
    return place


def test_only_a_version_that_passed_is_profiled_and_one_with_enough_groups(workspace: Workspace) -> None:
    params = Params.load(workspace.params)
    write_table(workspace.manifest, manifest(0, groups=19))
    with pytest.raises(DataError, match="dvc repro"):
        run(workspace, params)
    write_json(workspace.validation, {"success": False, "expectations": []})
    with pytest.raises(DataError, match="checks fail"):
        run(workspace, params)
    write_json(workspace.validation, {"success": True, "expectations": []})
    with pytest.raises(DataError, match="19 groups"):
        run(workspace, params)
    assert not workspace.expectations.exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda suite: suite.pop("expectations"), "not a profile"),
        (lambda suite: suite["meta"].pop("members"), "not a profile"),
        (lambda suite: suite["expectations"][0].pop("meta"), "not a profile"),
        (
            lambda suite: suite["expectations"][0].update(type="expect_column_to_exist"),
            "not one that validate",
        ),
    ],
)
def test_a_file_that_is_no_profile_is_refused(
    workspace: Workspace, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    suite = profile(manifest(0))
    edit(suite)
    write_json(workspace.expectations, suite)
    with pytest.raises(DataError, match=message):
        read_suite(workspace.expectations)


def test_an_empty_suite_is_no_profile(workspace: Workspace) -> None:
    assert read_suite(workspace.expectations) is None
    write_json(workspace.expectations, {"name": "profile", "expectations": [], "meta": {}})
    assert read_suite(workspace.expectations) is None


def test_the_first_champion_s_data_are_profiled_and_no_later_ones(workspace: Workspace) -> None:
    said: list[tuple[int, str]] = []
    empty = {"name": "profile", "expectations": [], "meta": {}}

    def champion(table: pa.Table, gain: float) -> str:
        """A release of what was made of ``table``."""
        write_table(workspace.manifest, table)
        registry, folder = Registry(workspace.registry), workspace.root / f"bundle-{gain}"
        tiny_bundle.make(folder, gain=gain, digests={"manifest": digest_file(workspace.manifest)})
        digest = registry.add(folder)
        registry.promote(digest, by="test", why="x")
        return digest

    def keep(digest: str) -> int:
        write_json(workspace.expectations, empty)
        keep_first_profile(workspace, digest, lambda level, text: said.append((level, text)))
        return len(read_json(workspace.expectations)["expectations"])

    first = champion(manifest(0, groups=19), 1.0)
    assert keep(first) == 0
    assert said.pop()[0] == logging.WARNING, "too few groups: said, and the release stands"
    write_table(workspace.manifest, manifest(0))
    assert keep(first) == 0, "the workspace has moved on to other data"
    shutil.rmtree(workspace.home)
    first = champion(manifest(0), 2.0)
    assert keep(first) == 11
    assert "look through it and commit it" in said.pop()[1]
    suite = json.loads(json.dumps(profile(manifest(1))))
    write_json(workspace.expectations, suite)
    keep_first_profile(workspace, first, lambda *_: None)
    assert read_json(workspace.expectations) == suite, "what a person keeps is not overwritten"
    assert keep(champion(manifest(2), 3.0)) == 0, "not the first champion"
    assert said == []


def test_a_severity_of_the_profiles_checks_may_be_set_before_there_is_one() -> None:
    assert checks(Validate(severity={"profile_brightness": "fail"}))
    with pytest.raises(ParamsError, match="profile_brightness"):
        checks(Validate(severity={"profile_brightnes": "fail"}))


@pytest.mark.slow
@great_expectations
def test_the_suite_is_great_expectations_and_validate_holds_later_versions_against_it(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    import great_expectations as gx

    from pipeline.validate import run as validate

    params = Params.load(workspace.params)
    write_table(workspace.manifest, manifest(0))
    assert validate(workspace, params) == 0
    assert "python -m pipeline profile" in capsys.readouterr().out
    assert run(workspace, params) == 0
    suite = read_json(workspace.expectations)
    loaded = gx.ExpectationSuite(name=suite["name"], expectations=suite["expectations"], meta=suite["meta"])
    assert len(loaded.expectations) == len(suite["expectations"]) == 11
    assert validate(workspace, params) == 0
    assert all(entry["success"] for entry in read_json(workspace.validation)["expectations"])

    write_table(workspace.manifest, manifest(1, groups=60, brightness=lambda value: value * 0.7))
    assert validate(workspace, params) == 0  # warnings
    found = {entry["name"]: entry for entry in json.loads(workspace.validation.read_text())["expectations"]}
    wrong = {name for name, entry in found.items() if not entry["success"]}
    assert wrong == {"profile_images", "profile_brightness", "drift_of_new_images"}
    assert "OUT OF" in found["profile_brightness"]["observed"]
    assert "240 images in 60 groups are new" in found["drift_of_new_images"]["observed"]
    severity = {"validate": {"severity": {"profile_brightness": "fail"}}}
    write_json(workspace.params, read_json(workspace.params) | severity)
    assert validate(workspace, Params.load(workspace.params)) == 1
